"""The policy and its parts: immutable, validated, saved in one file; independent of diffusers and `torch.nn`."""

from ertacache.policy.envelope import Envelope
from ertacache.policy.error_model import Rectification
from ertacache.policy.origin import Denoiser, Origin, Weights
from ertacache.policy.policy import Policy
from ertacache.policy.record import CalibrationRecord

__all__ = ["CalibrationRecord", "Denoiser", "Envelope", "Origin", "Policy", "Rectification", "Weights"]
