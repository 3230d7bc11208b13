"""From recorded full runs and a budget to a policy: each kind of budget has a module that solves it."""

from __future__ import annotations

from ertacache.calibration.budget import Budget, QualityBudget, SecondsBudget, StepsBudget
from ertacache.calibration.by_quality import reaching_quality
from ertacache.calibration.by_seconds import within_seconds
from ertacache.calibration.by_steps import within_steps
from ertacache.calibration.by_threshold import under_threshold
from ertacache.calibration.full_runs import Session
from ertacache.calibration.recording import Setting
from ertacache.errors import MethodError, PipelineError
from ertacache.method.named_methods import Method, check_streams_method
from ertacache.policy import Policy


def solve(session: Session, method: Method, budget: Budget) -> Policy:
    """Make the policy of a method for a budget; its steps count from the first one that the calls make.

    Args:
        session: the recorded full runs.
        method: the method to fit.
        budget: the budget to meet.

    Raises:
        BudgetError: if the budget cannot be met.
        MethodError: if the method needs calls that begin with the first step.
        PipelineError: if the method does not suit the pipeline.
    """
    _check_method(method, session.loops.setting)
    if isinstance(budget, StepsBudget):
        return within_steps(session, method, budget)
    if isinstance(budget, SecondsBudget):
        return within_seconds(session, method, budget)
    if isinstance(budget, QualityBudget):
        return reaching_quality(session, method, budget)
    return under_threshold(session, method, budget)


def _check_method(method: Method, setting: Setting) -> None:
    """Raise `MethodError` or `PipelineError` if a method cannot be fitted in this setting."""
    check_streams_method(method, setting.num_streams)
    if method.timestep_adjustment and setting.first_step:
        raise MethodError(
            "timestep adjustment needs a call that begins with the first step",
            given=f"the call begins with step {setting.first_step} of {len(setting.grid) - 1}",
            cure="Use a method without it, such as 'aligned'.",
        )
    if method.level == "output" and not setting.same_shape:
        raise PipelineError(
            "level 'output' caches v - x, and here the two differ in shape",
            given=f"latents {setting.latent_shape}",
            cure="Use a method of level 'velocity', such as 'aligned' or 'taylor'.",
        )
