"""From a pipeline, prompts and a budget to a policy."""

from ertacache.calibration.calibrate import calibrate

__all__ = ["calibrate"]
