"""Where skipping steps is hardly worth it: limits that were seen on the small pipelines of this project."""

from __future__ import annotations

FEW_STEPS = 10
"""So many steps or fewer are few: each changes the latent much, so none can be skipped for little.

Measured are 4 steps, where 2x is far from the full run, and 20, where it is near (docs/how-to/few-step-models.md);
this is between them.
"""
LARGE_ERROR = 0.1
"""A relative error of the final latent; beyond it pictures differ visibly: they were 20 to 35 dB from the full run."""


def few_steps_note(steps: int) -> str:
    """What to know of a run of so few steps."""
    return (
        f"{steps} steps leave little to skip, and models of few steps gain little: compare with the full run and with "
        "as many plain steps, or ask for a lower speedup"
    )
