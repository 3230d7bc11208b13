"""What differs between model families; a new family costs a row here."""

from __future__ import annotations

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
}
"""For a block class that returns a tuple, where in it the hidden states and the text are."""

TEXT_FIRST = ("Flux2SingleTransformerBlock",)
"""Block classes that work on text and hidden states in one sequence, the text first."""
