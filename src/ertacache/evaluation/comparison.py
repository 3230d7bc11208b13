"""Generate the same prompts in several ways in one run, and compare quality and time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ertacache.accelerate import accelerated
from ertacache.clock import now, work
from ertacache.errors import PolicyMismatchError
from ertacache.learning import Learner
from ertacache.metrics import psnr, ssim
from ertacache.policy import Policy
from ertacache.runtime.begun_call import begun
from ertacache.runtime.call_results import pictures_of, sound_of
from ertacache.runtime.call_signature import CallSignature
from ertacache.runtime.denoisers import denoisers_of
from ertacache.runtime.driver import Driver
from ertacache.runtime.instant import Instant
from ertacache.runtime.policy_source import PolicySource
from ertacache.runtime.randomness import RandomState
from ertacache.runtime.run import Run
from ertacache.runtime.schedulers import set_noise_levels
from ertacache.runtime.step_budget import StepBudget
from ertacache.watching.draft import Draft
from ertacache.watching.guard_report import Mode
from ertacache.watching.watched import WatchedReport


@dataclass(frozen=True)
class Variant:
    """One way to generate.

    Args:
        name: its name in tables.
        num_inference_steps: the pipeline's argument.
        policy: the policy to follow; None for plain steps.
        speedup: without a policy: follow an instant policy of this budget, or a learnt one; None for plain steps.
        learn: with a speedup: the folder of what is learnt.
        guard: the mode of the policy's guard; None for no guard.
        draft: a draft to compare the run with, or None. It runs after the timed run.
        noise_levels: a noise schedule of its own, ``num_inference_steps`` + 1 levels; None for the scheduler's.
        around: given the pipeline, returns a context manager to generate in, such as another library's cache; called
            once for each generation.
    """

    name: str
    num_inference_steps: int
    policy: Policy | None = None
    speedup: float | None = None
    learn: Path | None = None
    guard: Mode | None = None
    draft: Draft | None = None
    noise_levels: tuple[float, ...] | None = None
    around: Callable[[Any], AbstractContextManager[Any]] = nullcontext

    @property
    def computed_steps(self) -> int:
        """How many steps run the denoiser."""
        if self.speedup is not None:
            return StepBudget(self.speedup).computed(self.num_inference_steps)
        return len(self.policy.computed_steps) if self.policy else self.num_inference_steps


def uncalibrated_source(speedup: float, learn: Path | None) -> PolicySource:
    """What makes the policies of ``ertacache.accelerated(pipe, speedup=speedup, learn=learn)``."""
    budget = StepBudget(speedup)
    return Instant(budget) if learn is None else Learner(budget, learn)


def fewer_steps(computed: int) -> Variant:
    """The baseline: as many steps as a policy computes, without a cache, on the scheduler's own grid.

    Args:
        computed: how many steps the policy computes.
    """
    return Variant("fewer steps", computed)


def fewer_steps_on_subgrid(policy: Policy) -> Variant:
    """The same baseline on the policy's sub-grid: only the noise levels of its computed steps.

    Args:
        policy: the policy.

    Raises:
        PolicyMismatchError: if the policy was written by hand.
    """
    if policy.origin is None:
        raise PolicyMismatchError(
            "a policy that was written by hand does not record its noise levels",
            given=f"policy {policy.fingerprint}",
            cure="Compare a policy from ertacache.calibrate().",
        )
    levels = policy.origin.noise_levels
    kept = (*(levels[i] for i in policy.computed_steps), levels[-1])
    return Variant("fewer steps, sub-grid", len(policy.computed_steps), noise_levels=kept)


@dataclass
class Result:
    """One generation.

    Args:
        pictures: float32 (batch, channels, height, width), or (batch, frames, channels, height, width), in 0 .. 1.
        loop_seconds: from the first denoiser call to the end of the last step; to the end of the whole call where the
            pipeline has no ``callback_on_step_end``.
        call_seconds: the whole pipeline call.
        loop_work: as ``loop_seconds``, but in seconds of `ertacache.clock.work`; speedups are ratios of these.
        call_work: the same of the whole call.
        latents: the latent after each step, float32; empty unless requested.
        report: the report of the policy's run; None of plain steps.
        sound: of clips with sound, float32 (batch, channels, samples); else None.
    """

    pictures: Tensor
    loop_seconds: float
    call_seconds: float
    loop_work: float
    call_work: float
    latents: list[Tensor] = field(default_factory=list)
    report: WatchedReport | None = None
    sound: Tensor | None = None


@dataclass
class Row:
    """The results of one variant; each list holds one number per prompt.

    Args:
        name: of the variant.
        computed_steps: how many steps run the denoiser.
        psnr: against the full run, in dB.
        ssim: against the full run.
        speedup: denoising time of the full run over that of this variant, see `Result.loop_work`.
        loop_seconds: denoising time, in seconds.
    """

    name: str
    computed_steps: int
    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    speedup: list[float] = field(default_factory=list)
    loop_seconds: list[float] = field(default_factory=list)

    def mean_psnr(self) -> float:
        """Mean over prompts, in dB."""
        return sum(self.psnr) / len(self.psnr)

    def mean_ssim(self) -> float:
        """Mean over prompts."""
        return sum(self.ssim) / len(self.ssim)

    def median_speedup(self) -> float:
        """Median over prompts; each speedup is against the full run of the same prompt."""
        return median(self.speedup)


def generate(pipe: Any, variant: Variant, arguments: Mapping[str, Any], *, keep_latents: bool = False) -> Result:
    """Generate once, and time it.

    Args:
        pipe: a diffusers pipeline.
        variant: the way to generate.
        arguments: of the call, with a fresh generator; see `started`.
        keep_latents: also return the latent after every step.
    """
    settings = {**arguments, "num_inference_steps": variant.num_inference_steps}
    if CallSignature.of(pipe).takes("output_type"):
        settings["output_type"] = "pt"
    clock = _LoopClock(keep_latents)
    if variant.policy is not None:
        context: Any = accelerated(pipe, variant.policy, guard=variant.guard, draft=variant.draft)
    elif variant.speedup is not None:
        context = accelerated(pipe, speedup=variant.speedup, learn=variant.learn)
    elif variant.noise_levels is not None:
        context = Run(pipe, _OwnGrid(variant.noise_levels))
    else:
        context = nullcontext()
    # Random numbers that a pipeline draws without its generator are the same for every variant too.
    noise = RandomState.of(arguments["generator"].initial_seed(), 0)
    with noise.lent(), variant.around(pipe), clock.watching(pipe), context as run:
        start = now(), work()
        output = pipe(**settings, **clock.callback_for(pipe))
        end = now(), work()
    call = [after - before for before, after in zip(start, end, strict=True)]
    loop = [after - before for before, after in zip(clock.start or start, clock.end or end, strict=True)]
    report = run.report if variant.policy is not None or variant.speedup is not None else None
    return Result(pictures_of(output), loop[0], call[0], loop[1], call[1], clock.latents, report, sound_of(output))


def compare(
    pipe: Any,
    full: Variant,
    variants: Sequence[Variant],
    calls: Sequence[Mapping[str, Any]],
    *,
    on_result: Callable[[int, str, Result], None] = lambda prompt, name, result: None,
    keep_latents: bool = False,
) -> list[Row]:
    """Generate every prompt in full and in every variant, all variants of a prompt before the next prompt.

    What the first call of a setting takes once is not timed: reading weights, and the making of an instant or learnt
    policy.

    Args:
        pipe: a diffusers pipeline.
        full: the reference.
        variants: what to compare with it.
        calls: the arguments of each call, with ``seed`` in place of ``generator``; at least one.
        on_result: called with each prompt's number from 0, the variant's name and its result.
        keep_latents: give ``on_result`` the latents too.

    Returns:
        A row for the full run, then one for each variant.
    """
    rows = [Row(variant.name, variant.computed_steps) for variant in (full, *variants)]
    generate(pipe, full, started(calls[0]))  # warm-up: the first call allocates, compiles, reads weights
    for variant in variants:
        if variant.speedup is not None:
            settings = {**started(calls[0]), "num_inference_steps": variant.num_inference_steps}
            begun(pipe, uncalibrated_source(variant.speedup, variant.learn), settings, with_first_step=True)
    for number, call in enumerate(calls):
        reference: Result | None = None
        for row, variant in zip(rows, (full, *variants), strict=True):
            result = generate(pipe, variant, started(call), keep_latents=keep_latents)
            reference = reference or result
            if result.report is not None:  # a transferred policy may compute other steps than the given one
                row.computed_steps = len(result.report.computed_steps)
            row.psnr.append(psnr(result.pictures, reference.pictures))
            row.ssim.append(ssim(result.pictures, reference.pictures))
            row.speedup.append(reference.loop_work / result.loop_work)
            row.loop_seconds.append(result.loop_seconds)
            on_result(number, variant.name, result)
    return rows


def calls_of(
    arguments: Mapping[str, Any], prompts: Sequence[str | Mapping[str, Any]], seed: int
) -> list[dict[str, Any]]:
    """One call per prompt, as `compare` takes them; prompt k has the seed ``seed + k``.

    Args:
        arguments: of every call; ``num_inference_steps`` is dropped, since each variant has its own.
        prompts: texts, or dicts of call arguments with a ``prompt``.
        seed: of the first prompt.
    """
    settings = {name: value for name, value in arguments.items() if name != "num_inference_steps"}
    own = [{"prompt": prompt} if isinstance(prompt, str) else prompt for prompt in prompts]
    return [{**settings, **arguments_of_one, "seed": seed + k} for k, arguments_of_one in enumerate(own)]


def started(call: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call, with a fresh CPU generator in place of its seed."""
    arguments = dict(call)
    arguments["generator"] = torch.Generator("cpu").manual_seed(arguments.pop("seed"))
    return arguments


class _LoopClock:
    """Records when the first denoiser call begins and when the last step ends."""

    def __init__(self, keep_latents: bool) -> None:
        self.keep_latents = keep_latents
        self.start: tuple[float, float] | None = None
        self.end: tuple[float, float] | None = None
        self.latents: list[Tensor] = []

    @contextmanager
    def watching(self, pipe: Any) -> Iterator[None]:
        def begin(module: Any, args: Any) -> None:
            self.start = self.start or (now(), work())

        hooks = [module.register_forward_pre_hook(begin) for module in denoisers_of(pipe).values()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def callback_for(self, pipe: Any) -> dict[str, Any]:
        takes = CallSignature.of(pipe)
        return {"callback_on_step_end": self.step_ended} if "callback_on_step_end" in takes else {}

    def step_ended(self, pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if self.keep_latents:
            self.latents.append(values["latents"].detach().float().cpu())
        self.end = now(), work()
        return values


class _OwnGrid(Driver):
    """A driver that only replaces the noise schedule."""

    def __init__(self, noise_levels: tuple[float, ...]) -> None:
        self.noise_levels = noise_levels

    def open_segment(self, scheduler: Any) -> tuple[float, ...]:
        set_noise_levels(scheduler, self.noise_levels)
        return self.noise_levels
