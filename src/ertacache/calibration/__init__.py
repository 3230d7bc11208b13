"""From a pipeline, prompts and a budget to a policy, or to a profile that answers to any budget."""

from ertacache.calibration.calibrate import calibrate
from ertacache.calibration.draft import draft
from ertacache.calibration.profile import Profile, profile

__all__ = ["Profile", "calibrate", "draft", "profile"]
