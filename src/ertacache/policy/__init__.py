"""The policy and its parts: immutable, validated, saved in one file; independent of diffusers and `torch.nn`."""

from ertacache.policy.calibration_record import CalibrationRecord
from ertacache.policy.drift_envelope import Envelope
from ertacache.policy.origin import Denoiser, Origin, StreamOrigin, Weights
from ertacache.policy.policy import Policy
from ertacache.policy.rectification import Rectification

__all__ = ["CalibrationRecord", "Denoiser", "Envelope", "Origin", "Policy", "Rectification", "StreamOrigin", "Weights"]
