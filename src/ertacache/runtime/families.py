"""What differs between model families. Today only where the channels are; a new family costs a row here."""

from __future__ import annotations


def channel_axis(ndim: int) -> int:
    """The channel axis of what the scheduler steps: last for packed tokens (batch, tokens, channels), else 1."""
    return 2 if ndim == 3 else 1
