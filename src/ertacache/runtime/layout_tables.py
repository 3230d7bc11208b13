"""Tables of what differs between model families: a new family needs a row here at most."""

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
"""The places of hidden states and text in the tuples that block classes return, by class name; see `register_block`."""


def register_block(kind: type | str, *, hidden: int, text: int) -> None:
    """Make level ``hidden`` support a block class that returns a tuple of hidden states and text.

    Args:
        kind: the block's class, or the name of the class.
        hidden: the place of the hidden states in the tuple, 0 or 1.
        text: the place of the text in the tuple, 0 or 1.

    Raises:
        ArgumentError: if the two places are not 0 and 1, in either order.
    """
    if {hidden, text} != {0, 1}:
        raise ArgumentError(
            "a block returns hidden states and text, one at place 0 and one at place 1",
            given=f"hidden={hidden!r}, text={text!r}",
            cure="Pass hidden=0, text=1 or hidden=1, text=0.",
        )
    BLOCK_OUTPUTS[kind if isinstance(kind, str) else kind.__name__] = (hidden, text)


TEXT_FIRST = ("Flux2SingleTransformerBlock", "ChromaSingleTransformerBlock", "AuraFlowSingleTransformerBlock")
"""Names of block classes that take text and hidden states as one sequence, the text first."""

CHANNEL_AXIS: dict[str, int] = {
    "CogVideoXTransformer3DModel": 2,
    "ConsisIDTransformer3DModel": 2,
    "UNetSpatioTemporalConditionModel": 2,
    "AnyFlowFARTransformer3DModel": 2,
    "Kandinsky5Transformer3DModel": 4,
    "StableAudioDiTModel": 1,
    "StableAudio3DiTModel": 1,
}
"""The channel axis of the latents, by denoiser class name, if it is not the usual one."""


def channel_axis(classes: Iterable[str], ndim: int) -> int:
    """Find the channel axis of a pipeline's latents: usually 1, or 2 for packed tokens (batch, tokens, channels).

    Args:
        classes: the names of the pipeline's denoiser classes.
        ndim: how many axes the latents have, the batch axis included.
    """
    return next((CHANNEL_AXIS[name] for name in classes if name in CHANNEL_AXIS), 2 if ndim == 3 else 1)
