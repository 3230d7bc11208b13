"""What a policy's repository on the Hugging Face Hub holds: its files, and the figures that its card shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a plain install has no metrics, but can share a policy without figures
    from ertacache.evaluation.harness import Measured

POLICY_FILE = "policy.safetensors"
CARD_FILE = "README.md"
EVALUATION_FILE = "evaluation.json"
PROMPTS_FILE = "prompts.txt"


@dataclass(frozen=True)
class Figures:
    """What was measured of one policy, and of fewer steps beside it, without paths of the machine that measured.

    Args:
        version: of the ertacache that measured.
        model: the name of an embedded pipeline or a Hub id; None for a folder, which means nothing elsewhere.
        arguments: of every call, without the number of steps.
        prompts: their texts.
        seed: of the first prompt; each prompt's seed is one higher than that of the one before.
        device: the kind of device: cpu, cuda, mps.
        dtype: float32, bfloat16 or float16.
        rows: the policy's first.
        offload: whether the pipeline's parts were on the device only while they ran.
        image: the picture that all calls began with: the name of its ``file``, and its ``sha256``; or None.
        loras: of each LoRA its ``place``, a Hub id or the name of a file or folder, its ``scale``, and perhaps its
            ``sha256``.
        own_arguments: for each prompt the arguments that it alone had, pictures as above; empty if none had any.
    """

    version: str
    model: str | None
    arguments: Mapping[str, Any]
    prompts: Sequence[str]
    seed: int
    device: str
    dtype: str
    rows: Sequence[Measured]
    offload: bool = False
    image: Mapping[str, str] | None = None
    loras: Sequence[Mapping[str, Any]] = ()
    own_arguments: Sequence[Mapping[str, Any]] = ()
