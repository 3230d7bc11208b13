"""The report of a run: which steps it computed and cached, and what the user should know."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Report:
    """What a run did.

    Args:
        computed_steps: the steps at which the denoiser ran, in order; a call that samples twice lists both runs.
        cached_steps: the steps at which the denoiser was skipped, likewise.
        denoiser_calls: how often the denoiser ran in all.
        notes: where the run departed from the policy, and why.
        audit: of a call that ran in full to be audited, how far what the policy in force would have made is from it:
            the relative error of the final latent, 0 or more. None for all other calls.
    """

    computed_steps: list[int] = field(default_factory=list)
    cached_steps: list[int] = field(default_factory=list)
    denoiser_calls: int = 0
    notes: list[str] = field(default_factory=list)
    audit: float | None = None

    def note(self, text: str) -> None:
        """Add a note, unless it is there already."""
        if text not in self.notes:
            self.notes.append(text)

    def __str__(self) -> str:
        total = len(self.computed_steps) + len(self.cached_steps)
        lines = [f"{len(self.computed_steps)} of {total} steps computed, {self.denoiser_calls} denoiser calls"]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])
