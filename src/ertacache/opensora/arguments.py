"""Checks of the arguments of `OpenSoraPipeline.__call__`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ertacache.opensora.errors import OpenSoraError

_OUTPUT_TYPES = ("np", "pil", "pt", "latent")


@dataclass(frozen=True)
class Captions:
    """The captions of a call, as text or as embeddings; for the fields see `OpenSoraPipeline.__call__`."""

    prompt: str | Sequence[str] | None
    negative_prompt: str | Sequence[str] | None
    prompt_embeds: Tensor | None
    prompt_attention_mask: Tensor | None
    negative_prompt_embeds: Tensor | None
    negative_prompt_attention_mask: Tensor | None

    @property
    def num_prompts(self) -> int:
        """How many prompts there are."""
        if isinstance(self.prompt, str):
            return 1
        return len(self.prompt if self.prompt_embeds is None else self.prompt_embeds)  # type: ignore[arg-type]


def check_captions(captions: Captions) -> None:
    """Refuse captions that contradict each other.

    Raises:
        OpenSoraError: if a caption is missing or given twice, or embeddings come without their mask, or there are not
            as many negative prompts as prompts.
    """
    if (captions.prompt is None) == (captions.prompt_embeds is None):
        raise OpenSoraError(
            "one of prompt and prompt_embeds is needed",
            given="none" if captions.prompt is None else "both",
            cure="Give exactly one.",
        )
    if captions.negative_prompt is not None and captions.negative_prompt_embeds is not None:
        raise OpenSoraError(
            "only one of negative_prompt and negative_prompt_embeds can be used",
            given="both",
            cure="Give one, or neither for the null caption.",
        )
    for name, states, mask in (
        ("prompt", captions.prompt_embeds, captions.prompt_attention_mask),
        ("negative_prompt", captions.negative_prompt_embeds, captions.negative_prompt_attention_mask),
    ):
        if (states is None) != (mask is None):
            raise OpenSoraError(
                f"{name}_embeds and {name}_attention_mask go together",
                given="one of them",
                cure="Give both, as encode_text returns them.",
            )
    for negatives in (captions.negative_prompt, captions.negative_prompt_embeds):
        if negatives is not None and not isinstance(negatives, str) and len(negatives) != captions.num_prompts:
            raise OpenSoraError(
                "there must be as many negative prompts as prompts",
                given=f"{len(negatives)} and {captions.num_prompts}",
                cure="Give one for each prompt, or a single string for all.",
            )


def check_clip(height: int, width: int, num_frames: int, smallest_side: int) -> None:
    """Refuse clips that are too small.

    Args:
        height, width: in pixels.
        num_frames: of the clip.
        smallest_side: the least height and width, in pixels.

    Raises:
        OpenSoraError: if a side is too small, or there is no frame.
    """
    if min(height, width) < smallest_side or num_frames < 1:
        raise OpenSoraError(
            "the clip is too small",
            given=f"height={height}, width={width}, num_frames={num_frames}",
            cure=f"Height and width must be at least {smallest_side}, num_frames at least 1.",
        )


def check_outputs(output_type: str, callback_tensors: Sequence[str], possible_tensors: Sequence[str]) -> None:
    """Refuse output types and callback tensors that do not exist.

    Args:
        output_type: of the call.
        callback_tensors: names of the tensors that the callback asks for.
        possible_tensors: names of the tensors that it can have.

    Raises:
        OpenSoraError: if one of them does not exist.
    """
    if output_type not in _OUTPUT_TYPES:
        raise OpenSoraError("unknown output_type", given=output_type, cure=f"Use one of {', '.join(_OUTPUT_TYPES)}.")
    unknown = [name for name in callback_tensors if name not in possible_tensors]
    if unknown:
        raise OpenSoraError(
            "the callback cannot be given these tensors", given=unknown, cure=f"Ask for some of {possible_tensors}."
        )
