"""Begin a call of a pipeline to see how it follows a policy, and end it before it costs much."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ertacache.runtime.driver import Step, Stop
from ertacache.runtime.policy_driver import PolicyDriver
from ertacache.runtime.policy_for_call import Resolved
from ertacache.runtime.policy_source import PolicySource
from ertacache.runtime.preserving import preserved
from ertacache.runtime.randomness import RandomState
from ertacache.runtime.repeatable_call import silence
from ertacache.runtime.run import Run
from ertacache.runtime.unwrap import is_modular


class BegunCall(PolicyDriver):
    """Follows a policy until all noise levels are laid, or to its first step, where it ends the call.

    Args:
        resolved: the policy as the call follows it.
        with_first_step: whether the call goes on to its first step, whose denoiser calls are made.

    Attributes:
        first: the first step; None if the call ended before it.
    """

    def __init__(self, resolved: Resolved, with_first_step: bool) -> None:
        super().__init__(resolved)
        self._goes_on = with_first_step
        self.first: Step | None = None

    def open_segment(self, scheduler: Any) -> list[float] | None:
        """See `PolicyDriver`."""
        levels = super().open_segment(scheduler)
        if not self._goes_on:
            raise Stop
        return levels

    def model_output(self, step: Step) -> Tensor:
        """See `PolicyDriver`."""
        super().model_output(step)
        self.first = step
        raise Stop


def begun(pipe: Any, source: PolicySource, arguments: Mapping[str, Any], *, with_first_step: bool) -> BegunCall:
    """Begin a call, and end it; all checks on the way are those of a whole call.

    Args:
        pipe: the pipeline, not accelerated; left as it was found, and so is the global random state.
        source: gives the call its policy.
        arguments: the keyword arguments of the call.
        with_first_step: whether it ends after the first step, and not already when its noise levels are set.

    Raises:
        PipelineError: if the pipeline cannot be served, or takes no such argument.
        PolicyMismatchError: if there is no policy for this call.
        RunError: if the pipeline's loop cannot be followed.
    """
    driver = BegunCall(source.resolve(pipe, (), arguments), with_first_step)
    with borrowed(pipe):
        try:
            with Run(pipe, driver) as run:
                run.call(**arguments)
        except Stop:
            pass
    return driver


@contextmanager
def borrowed(pipe: Any) -> Iterator[None]:
    """Make calls of a pipeline itself, silently; it is left as it was found, and so is the global random state.

    A call that is stopped does not send its parts away, if they are offloaded whole, so that is made up for. Modular
    pipelines log the traceback of whatever ends them; that is hidden too.
    """
    log = logging.getLogger("diffusers")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with preserved(pipe), RandomState.current().lent():
            if is_modular(pipe):
                pipe._blocks = copy.deepcopy(pipe._blocks)  # the next line switches their progress bars off
            silence(pipe)
            yield
    finally:
        log.setLevel(level)
        if getattr(pipe, "_all_hooks", None):
            pipe.maybe_free_model_hooks()
