"""What a trial says of full runs, of a step ratio of 2, and of the price of a calibration."""

from __future__ import annotations

from ertacache.calibration.announcement import Workload, memory
from ertacache.calibration.budget import parse_budget
from ertacache.calibration.plan import Plan
from ertacache.diagnosis.facts import Estimate
from ertacache.diagnosis.trial import Trial
from ertacache.method.named_methods import Method
from ertacache.runtime.step_budget import StepBudget

SPEEDUP = 2.0
PROMPTS = 8
"""How many prompts a calibration is taken to be given, as the documentation advises."""
_METHOD = Method.named("aligned")


def estimate_of(trial: Trial, num_inference_steps: int) -> Estimate | None:
    """Estimate what full runs take, and what the library would save.

    Args:
        trial: what a short call showed.
        num_inference_steps: T of the calls to come.

    Returns:
        The estimate; None if the trial made too few steps to time one, or T is too small for a step ratio of 2.
    """
    computed_step, steps = trial.typical(computed=True), made_of(trial, num_inference_steps)
    if computed_step is None or steps < 2 * SPEEDUP:
        return None
    step, denoiser = computed_step
    cached = trial.typical(computed=False)
    cached_step = cached[0] if cached else step - denoiser
    outside = max(0.0, trial.seconds - step - sum(seconds for _, seconds, _ in trial.intervals))
    computed = StepBudget(SPEEDUP).computed(steps)
    budget = parse_budget(steps, _METHOD, {"speedup": SPEEDUP})
    plan = Plan.of(budget, _METHOD, PROMPTS, steps, None)
    workload = Workload.of(steps, _METHOD, plan.limiting(budget))
    needed = [memory(*pair, (), steps, plan.num_prompts, workload.traced_steps) for pair in trial.samples]
    in_loop = step * steps
    return Estimate(
        steps=steps,
        trial_steps=trial.made,
        warmed_up=trial.warmed_up,
        full_run=outside + in_loop,
        outside=outside,
        step=step,
        denoiser=denoiser,
        cached_step=cached_step,
        denoiser_calls=trial.denoiser_calls,
        latents=tuple(tuple(sample.shape[1:]) for sample, _ in trial.samples),
        computed=computed,
        at_2x=outside + computed * step + (steps - computed) * cached_step,
        calibration_runs=plan.full_runs * plan.num_prompts,
        calibration=plan.full_runs * plan.num_prompts * in_loop,
        memory=sum(live for live, _ in needed),
        recordings=sum(kept for _, kept in needed),
    )


def made_of(trial: Trial, num_inference_steps: int) -> int:
    """How many steps a call makes that asks for T.

    Image-to-image makes the share that its strength says. Otherwise it is as many times fewer or more as in the trial,
    such as in stages.

    Args:
        trial: what a short call showed.
        num_inference_steps: T of the calls to come.
    """
    if trial.asked is None or trial.made == trial.asked:
        return num_inference_steps if trial.asked else trial.made
    if trial.first == 0 and trial.made == trial.asked - 1:  # a scheduler that makes one step fewer, whatever T
        return num_inference_steps - 1
    share = trial.share if trial.first > 0 and trial.share < 1 else trial.made / trial.asked
    return max(1, round(num_inference_steps * share))
