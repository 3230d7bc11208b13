"""What differs between model families; a new family costs a row here."""

from __future__ import annotations

from collections.abc import Iterable

from ertacache.errors import ArgumentError

_FIRST, _SECOND = (0, 1), (1, 0)

BLOCK_OUTPUTS: dict[str, tuple[int, int]] = {
    "FluxTransformerBlock": _SECOND,
    "FluxSingleTransformerBlock": _SECOND,
    "Flux2TransformerBlock": _SECOND,
    "JointTransformerBlock": _SECOND,
    "QwenImageTransformerBlock": _SECOND,
    "CogVideoXBlock": _FIRST,
    "CogView4TransformerBlock": _FIRST,
    "HunyuanVideoTransformerBlock": _FIRST,
    "HunyuanVideoSingleTransformerBlock": _FIRST,
    "HunyuanVideoTokenReplaceTransformerBlock": _FIRST,
    "HunyuanVideoTokenReplaceSingleTransformerBlock": _FIRST,
    "HunyuanImageTransformerBlock": _FIRST,
    "HunyuanImageSingleTransformerBlock": _FIRST,
    "MochiTransformerBlock": _FIRST,
    "ChromaTransformerBlock": _SECOND,
    "OvisImageTransformerBlock": _SECOND,
    "OvisImageSingleTransformerBlock": _SECOND,
    "LongCatImageTransformerBlock": _SECOND,
    "LongCatImageSingleTransformerBlock": _SECOND,
    "AuraFlowJointTransformerBlock": _SECOND,
    "CogView3PlusTransformerBlock": _FIRST,
    "GlmImageTransformerBlock": _FIRST,
}
"""For a block class that returns a tuple, where in it the hidden states and the text are; see `register_block`."""


def register_block(kind: type | str, *, hidden: int, text: int) -> None:
    """Make level ``hidden`` serve models of blocks that return a tuple of hidden states and text.

    Args:
        kind: the block's class, or its name.
        hidden: where in the tuple the hidden states are, 0 or 1.
        text: where the text is, the other one.

    Raises:
        ArgumentError: if the two are not 0 and 1, in any order.
    """
    if {hidden, text} != {0, 1}:
        raise ArgumentError(
            "a block returns hidden states and text, one at place 0 and one at place 1",
            given=f"hidden={hidden!r}, text={text!r}",
            cure="Pass hidden=0, text=1 or hidden=1, text=0.",
        )
    BLOCK_OUTPUTS[kind if isinstance(kind, str) else kind.__name__] = (hidden, text)


TEXT_FIRST = ("Flux2SingleTransformerBlock", "ChromaSingleTransformerBlock", "AuraFlowSingleTransformerBlock")
"""Block classes that work on text and hidden states in one sequence, the text first."""

CHANNEL_AXIS: dict[str, int] = {
    "CogVideoXTransformer3DModel": 2,
    "ConsisIDTransformer3DModel": 2,
    "UNetSpatioTemporalConditionModel": 2,
    "AnyFlowFARTransformer3DModel": 2,
    "Kandinsky5Transformer3DModel": 4,
    "StableAudioDiTModel": 1,
    "StableAudio3DiTModel": 1,
}
"""For a denoiser class, which axis of the latents the channels are, where it is not the usual one."""


def channel_axis(classes: Iterable[str], ndim: int) -> int:
    """The channel axis of the latents of a pipeline with these denoiser classes.

    Usually 1, or 2 of packed tokens (batch, tokens, channels).
    """
    return next((CHANNEL_AXIS[name] for name in classes if name in CHANNEL_AXIS), 2 if ndim == 3 else 1)
