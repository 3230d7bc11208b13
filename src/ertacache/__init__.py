"""ERTACache: make a diffusion pipeline two to three times faster, and see what it costs.

Calibrate a policy once on a few prompts and save it; then let calls of the pipeline follow it:

>>> policy = ertacache.calibrate(pipe, prompts, num_inference_steps=30, speedup=2)  # doctest: +SKIP
>>> policy.save("policy.safetensors")  # doctest: +SKIP

>>> policy = ertacache.Policy.load("policy.safetensors")  # doctest: +SKIP
>>> with ertacache.accelerated(pipe, policy) as run:  # doctest: +SKIP
...     image = pipe("a red star", num_inference_steps=30).images[0]
>>> print(run.report)  # doctest: +SKIP

`profile` makes policies for many budgets at once. `enable` and `disable` switch a policy on and off without a ``with``
block, and `disabled` makes single calls in full. `draft` makes a check that flags pictures which may have turned out
bad. `transferred` adapts a policy to other guidance or adapters. `doctor` says in advance whether a pipeline is served.
All errors are in `ertacache.errors` and derive from `ERTACacheError`.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from ertacache._version import __version__
from ertacache.errors import ERTACacheError

__all__ = [
    "Acceleration",
    "Diagnosis",
    "Draft",
    "ERTACacheError",
    "Method",
    "Policy",
    "Profile",
    "__version__",
    "accelerated",
    "calibrate",
    "disable",
    "disabled",
    "doctor",
    "draft",
    "enable",
    "profile",
    "transferred",
]

if TYPE_CHECKING:
    from ertacache.accelerate import accelerated, enable
    from ertacache.acceleration import Acceleration, disable, disabled
    from ertacache.calibration.calibrate import calibrate
    from ertacache.calibration.make_draft import draft
    from ertacache.calibration.make_profile import profile
    from ertacache.calibration.profile import Profile
    from ertacache.diagnosis import Diagnosis, doctor
    from ertacache.method.named_methods import Method
    from ertacache.policy import Policy
    from ertacache.runtime.guidance_transfer import transferred
    from ertacache.watching.draft import Draft
else:  # torch and diffusers take seconds to import, and wait until something is asked for that needs them
    _PARTS = {
        "accelerate": ("accelerated", "enable"),
        "acceleration": ("Acceleration", "disable", "disabled"),
        "calibration": ("Profile", "calibrate", "draft", "profile"),
        "diagnosis": ("Diagnosis", "doctor"),
        "method.named_methods": ("Method",),
        "policy": ("Policy",),
        "runtime.guidance_transfer": ("transferred",),
        "watching": ("Draft",),
    }

    def __getattr__(name):
        for part, names in _PARTS.items():
            package = part.partition(".")[0]
            if name in (*names, package):
                module = import_module(f"ertacache.{part}")
                globals()[name] = getattr(module, name) if name in names else import_module(f"ertacache.{package}")
                if "ertacache.policy" in sys.modules:
                    import_module("ertacache.sharing")  # which gives policies push_to_hub() and from_pretrained()
                return globals()[name]
        raise AttributeError(f"module 'ertacache' has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})
