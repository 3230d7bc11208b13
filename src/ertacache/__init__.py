"""ERTACache: make a diffusion pipeline two to three times faster, and see what it costs."""

from ertacache._version import __version__
from ertacache.acceleration import Acceleration, accelerated, disable, enable
from ertacache.calibration import Profile, calibrate, profile
from ertacache.drafting import Draft, draft
from ertacache.errors import ERTACacheError
from ertacache.method.named import Method
from ertacache.policy import Policy
from ertacache.runtime.transferring import transferred

__all__ = [
    "Acceleration",
    "Draft",
    "ERTACacheError",
    "Method",
    "Policy",
    "Profile",
    "__version__",
    "accelerated",
    "calibrate",
    "disable",
    "draft",
    "enable",
    "profile",
    "transferred",
]
