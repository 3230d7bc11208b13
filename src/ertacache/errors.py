"""The errors of this library: one family, each message saying what failed, what was given, and the cure."""

from __future__ import annotations


class ERTACacheError(Exception):
    """What went wrong, with what was given and how to cure it.

    Args:
        what: what failed, in a few words.
        given: what was given, as the user wrote it.
        cure: what to do about it.
    """

    def __init__(self, what: str, *, given: object, cure: str) -> None:
        self.what, self.given, self.cure = what, given, cure
        super().__init__(f"{what} (given: {given}). {cure}")


class ArgumentError(ERTACacheError, TypeError, ValueError):
    """An argument of the wrong type, or a value that it cannot have."""


class BudgetError(ERTACacheError, ValueError):
    """No budget, two budgets, or one that cannot be met."""


class CalibrationError(ERTACacheError, RuntimeError):
    """Calibration met something that it must not build a policy on, such as NaN."""


class GuardError(ERTACacheError, ValueError):
    """A guard that does not exist, or one for a policy without an envelope."""


class MethodError(ERTACacheError, ValueError):
    """A method that does not exist, or a combination of its parts that makes no sense."""


class MetricError(ERTACacheError, ValueError):
    """Pictures or clips that a metric cannot compare."""


class OutputError(ERTACacheError, OSError):
    """A file that cannot be written."""


class PolicyFileError(ERTACacheError, ValueError):
    """A file of a policy, profile or draft that is damaged, foreign or of an unknown schema, or no valid policy."""


class PolicyMismatchError(ERTACacheError, ValueError):
    """A policy used on a pipeline, or in a call, that it was not made for."""


class PipelineError(ERTACacheError, TypeError):
    """A pipeline that cannot be accelerated: no denoiser, or a scheduler that is not supported."""


class RunError(ERTACacheError, RuntimeError):
    """Something that would make the output of the running call wrong, so the call is stopped."""


class SharingError(ERTACacheError, RuntimeError):
    """A policy that could not be uploaded to the Hub or fetched from it."""
