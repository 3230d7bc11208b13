"""What a call of the pipeline must not be given."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ertacache.opensora.errors import OpenSoraError

_OUTPUT_TYPES = ("np", "pil", "pt", "latent")


def check_call(
    *,
    prompt: str | Sequence[str] | None,
    negative_prompt: str | Sequence[str] | None,
    prompt_embeds: Tensor | None,
    prompt_attention_mask: Tensor | None,
    negative_prompt_embeds: Tensor | None,
    negative_prompt_attention_mask: Tensor | None,
    height: int,
    width: int,
    num_frames: int,
    output_type: str,
    smallest_side: int,
    callback_tensors: Sequence[str],
    possible_tensors: Sequence[str],
) -> None:
    """Refuse arguments of `OpenSoraPipeline.__call__` that make no sense.

    Args:
        smallest_side: the least height and width in pixels.
        callback_tensors: the tensors that the callback asks for,
        possible_tensors: and those that there are.

    Raises:
        OpenSoraError: saying which.
    """
    if (prompt is None) == (prompt_embeds is None):
        raise OpenSoraError(
            "one of prompt and prompt_embeds is needed",
            given="none" if prompt is None else "both",
            cure="Give exactly one.",
        )
    if negative_prompt is not None and negative_prompt_embeds is not None:
        raise OpenSoraError(
            "only one of negative_prompt and negative_prompt_embeds can be used",
            given="both",
            cure="Give one, or neither for the null caption.",
        )
    for name, states, mask in (
        ("prompt", prompt_embeds, prompt_attention_mask),
        ("negative_prompt", negative_prompt_embeds, negative_prompt_attention_mask),
    ):
        if (states is None) != (mask is None):
            raise OpenSoraError(
                f"{name}_embeds and {name}_attention_mask go together",
                given="one of them",
                cure="Give both, as encode_text returns them.",
            )
    prompts = 1 if isinstance(prompt, str) else len(prompt if prompt_embeds is None else prompt_embeds)  # type: ignore[arg-type]
    for negatives in (negative_prompt, negative_prompt_embeds):
        if negatives is not None and not isinstance(negatives, str) and len(negatives) != prompts:
            raise OpenSoraError(
                "there must be as many negative prompts as prompts",
                given=f"{len(negatives)} and {prompts}",
                cure="Give one for each prompt, or a single string for all.",
            )
    if min(height, width) < smallest_side or num_frames < 1:
        raise OpenSoraError(
            "the clip is too small",
            given=f"height={height}, width={width}, num_frames={num_frames}",
            cure=f"Height and width must be at least {smallest_side}, num_frames at least 1.",
        )
    if output_type not in _OUTPUT_TYPES:
        raise OpenSoraError("unknown output_type", given=output_type, cure=f"Use one of {', '.join(_OUTPUT_TYPES)}.")
    unknown = [name for name in callback_tensors if name not in possible_tensors]
    if unknown:
        raise OpenSoraError(
            "the callback cannot be given these tensors", given=unknown, cure=f"Ask for some of {possible_tensors}."
        )
