"""The errors of this library. Each message says what failed, what was given, and the cure."""

from __future__ import annotations

from typing import NamedTuple


class ERTACacheError(Exception):
    """The base of all errors of this library; the message reads ``what (given: given). cure``.

    Its subclasses are in `ertacache.errors`: ArgumentError, BudgetError, CalibrationError, GuardError, MethodError,
    MetricError, OutputError, PipelineError, PolicyFileError, PolicyMismatchError, RunError and SharingError. Loading a
    file that does not exist raises Python's own FileNotFoundError, which is not among them.

    The three arguments are also attributes of the error.

    Args:
        what: what failed, in a few words.
        given: what was given, as the user wrote it.
        cure: what to do about it, in one or more sentences.
    """

    def __init__(self, what: str, *, given: object, cure: str) -> None:
        self.what, self.given, self.cure = what, given, cure
        super().__init__(f"{what} (given: {given}). {cure}")

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle it with its three parts, ``given`` as text: errors travel from workers."""
        return _restored, (type(self), self.what, str(self.given), self.cure)


class ArgumentError(ERTACacheError, TypeError, ValueError):
    """An argument of the wrong type, or with a value that is not allowed."""


class BudgetError(ERTACacheError, ValueError):
    """No budget, two budgets, or one that cannot be met."""


class CalibrationError(ERTACacheError, RuntimeError):
    """Calibration met something that no policy can be built on, such as NaN."""


class GuardError(ERTACacheError, ValueError):
    """A guard that does not exist or that the policy has no envelope for, or a draft that does not fit."""


class MethodError(ERTACacheError, ValueError):
    """A method that does not exist, or parts of a method that do not go together."""


class MetricError(ERTACacheError, ValueError):
    """Pictures, clips or numbers that a metric cannot be computed for."""


class OutputError(ERTACacheError, OSError):
    """A file that cannot be written."""


class PolicyFileError(ERTACacheError, ValueError):
    """A file that is damaged, of another kind or of another schema; or values that are no valid policy or profile."""


class Difference(NamedTuple):
    """What differs between a call and the calibration of its policy, for engines that word the cure themselves.

    Attributes:
        field: its name, such as ``"num_inference_steps"``.
        expected: its value in calibration, as text.
        actual: its value now.
    """

    field: str
    expected: str
    actual: str


class PolicyMismatchError(ERTACacheError, ValueError):
    """A policy used on a pipeline, or in a call, that it was not made for.

    Attributes:
        difference: what differs; None if it is no single value. Errors that come from workers have none.
    """

    difference: Difference | None = None


class PipelineError(ERTACacheError, TypeError):
    """A pipeline that cannot be accelerated: no denoiser, or a scheduler that is not supported."""


class RunError(ERTACacheError, RuntimeError):
    """A call was stopped, since going on would have given a wrong output."""


class SharingError(ERTACacheError, RuntimeError):
    """A policy that could not be uploaded to the Hub or downloaded from it."""


def _restored(kind: type[ERTACacheError], what: str, given: str, cure: str) -> ERTACacheError:
    return kind(what, given=given, cure=cure)
