"""The contract: what every pipeline keeps or is refused for, and the outcome for one case."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
import torch
from torch import Tensor

import ertacache
from contract.around import around
from contract.case import STEPS, Case, Family
from contract.state import differences, state_of
from ertacache.errors import ERTACacheError, PolicyMismatchError
from ertacache.method.named_methods import Method
from ertacache.policy import Policy
from ertacache.runtime.denoisers import denoisers_of
from ertacache.runtime.driver import Driver, Step
from ertacache.runtime.run import Run
from ertacache.runtime.schedulers import SAMPLERS
from ertacache.runtime.unwrap import own_class

CACHED = (2, 3, 6)
SCHEDULERS = (
    *(name for name in SAMPLERS if hasattr(diffusers, name)),
    "LCMScheduler",
    "HeunDiscreteScheduler",
    "PNDMScheduler",
)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a case.

    Args:
        refusal: why nothing of it can be cached; empty where it works.
        levels: which levels work.
        calibration: why it cannot be calibrated; empty where it can.
        schedulers: the other schedulers that the pipeline runs with, each with the reason if it is refused, or "".
        around: the outcome of each change after calibration; see `contract.around`.
    """

    refusal: str = ""
    levels: tuple[str, ...] = ()
    calibration: str = ""
    schedulers: tuple[tuple[str, str], ...] = ()
    around: tuple[tuple[str, str], ...] = ()

    @property
    def works(self) -> bool:
        """Whether it can be accelerated."""
        return not self.refusal


def check(case: Case, *, thorough: bool = True, schedulers: bool = False) -> Outcome:
    """Hold a case to the contract.

    Args:
        case: the pipeline and its calls.
        thorough: check all of it. Otherwise check only that the output is exact with nothing cached, that exactly
            the steps of the policy are cached, and that the pipeline is left as it was.
        schedulers: also with all other schedulers, which takes several times as long.

    Raises:
        AssertionError: if the contract is neither kept nor refused, or a refused pipeline is not as it was before.
    """
    family = Family(case)
    plain = family.run()
    assert plain.isfinite().all(), "the pipeline itself gives outputs that are not finite"
    if thorough:
        assert torch.equal(family.run(), plain), "the pipeline itself gives different outputs for the same seed"
    before = state_of(family.pipe)
    refusal = _refused(family, plain, Method())
    if thorough and not refusal:
        _keeps_count(family, plain)
        _carries_nothing_over(family, plain)
    own = _left_when_interrupted(case) if thorough and not refusal else set()
    _check_state(family, before, plain, own)
    if refusal or not thorough:
        return Outcome(refusal)
    others = {level: _refused(family, plain, Method(level=level)) for level in ("output", "hidden")}
    _check_state(family, before, plain, own)
    calibration = _calibrates(case)
    if not calibration:
        _leaves_nothing(case, plain)
    return Outcome(
        levels=("velocity", *(level for level, reason in others.items() if not reason)),
        calibration=calibration,
        schedulers=tuple(_schedulers(case)) if schedulers else (),
        around=() if calibration else tuple(around(case, _calibrated(Family(case), _calls_of(Family(case)))).items()),
    )


def _left_when_interrupted(case: Case) -> set[str]:
    """What an interrupted call without a policy leaves on a pipeline: it is not for this library to put back."""
    family = Family(case)
    family.run()
    before = state_of(family.pipe)
    _interrupted(family)
    family.run()
    return set(differences(state_of(family.pipe), before))


def _check_state(family: Family, before: Mapping[str, object], plain: Tensor, own: Collection[str]) -> None:
    """Nothing is left on the pipeline except what its own calls set again, and its outputs are as before."""
    assert torch.equal(family.run(), plain), "the pipeline is another one afterwards"
    left = [one for one in differences(state_of(family.pipe), before) if one not in own]
    assert not left, f"something was left on the pipeline: {left[:5]}"


def policy_of(case: Case, cached: Sequence[int], method: Method) -> Policy:
    """A policy made by hand."""
    return Policy(num_inference_steps=case.made, cached_steps=tuple(cached), method=method)


def _refused(family: Family, plain: Tensor, method: Method) -> str:
    """The reason if the method is refused, or "" if it is exact with nothing cached and caches its steps only."""
    try:
        with ertacache.accelerated(family.pipe, policy_of(family.case, (), method)) as run:
            out = family.run()
        plain_steps = run.computed_steps
        assert torch.equal(out, plain), f"with nothing cached the output is another one, at level {method.level}"
        assert max(plain_steps) < STEPS, f"more steps than there are: {plain_steps}"
        with ertacache.accelerated(family.pipe, policy_of(family.case, CACHED, method)) as run:
            out = family.run()
    except ERTACacheError as error:
        return str(error).splitlines()[0]
    expected = tuple(i for i in plain_steps if i in CACHED)
    assert expected, f"none of the steps {plain_steps} would be cached"
    told = {i for i in expected if any(note.startswith(f"step {i} was computed") for note in run.report.notes)}
    assert run.cached_steps, f"none of the steps {expected} were cached: {run.report}"
    assert set(run.cached_steps) | told == set(expected), f"{expected} were to be cached: {run.report}"
    assert not torch.equal(out, plain), "cached steps change nothing"
    if method.level == "hidden":
        _adds_nothing_but_the_blocks(family, plain)
    return ""


class _Watching(Driver):
    """Computes every step but some, at level hidden, and keeps the blocks' residuals."""

    residuals_kept = 1

    def __init__(self, cached: Sequence[int] = (), true: Mapping[int, Sequence[Tensor]] | None = None) -> None:
        self.cached, self.true, self.seen = cached, true or {}, dict[int, Sequence[Tensor]]()
        self.run: Run

    def is_cached(self, step: int) -> bool:
        if step not in self.cached:
            return False
        for history, residual in zip(self.run.residuals.values(), self.true[step], strict=True):
            history.entries[0] = residual
        return True

    def model_output(self, step: Step) -> Tensor:
        self.seen[step.index] = step.residuals
        return step.model_output


def _adds_nothing_but_the_blocks(family: Family, plain: Tensor) -> None:
    """A cached step that gets the residual its blocks would have computed equals the computed step."""
    full = _Watching()
    with Run(family.pipe, full) as full.run:
        family.run()
    if len(full.seen) < len(full.run.report.computed_steps):
        return  # several samplings in one call
    alike = [step for step in CACHED if len(full.seen.get(step, ())) == len(full.seen.get(step - 1, ()))]
    replayed = _Watching([step for step in alike if step in full.seen], full.seen)  # where as many calls are made
    with Run(family.pipe, replayed) as replayed.run:
        out = family.run()
    assert replayed.run.report.cached_steps
    difference = (out.double() - plain.double()).norm() / plain.double().norm()
    assert difference < 1e-3, f"cached with their own residuals, steps are others: {difference:.2g}"


@contextmanager
def _at_every_call(family: Family, do: Callable[[int], None]) -> Iterator[None]:
    """Calls ``do(number)`` before every denoiser call; the first has number 1."""
    numbers = count(1)
    hooks = [
        module.register_forward_pre_hook(lambda *_: do(next(numbers))) for module in denoisers_of(family.pipe).values()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _keeps_count(family: Family, plain: Tensor) -> None:
    """The denoiser runs only at computed steps, call after call."""
    calls: list[int] = []
    with _at_every_call(family, calls.append):
        with ertacache.accelerated(family.pipe, policy_of(family.case, (), Method())) as run:
            family.run()
        all_calls, all_steps = len(calls), len(run.computed_steps)
        with ertacache.accelerated(family.pipe, policy_of(family.case, CACHED, Method())) as run:
            outputs = [family.run(), family.run()]
    made = len(calls) - all_calls
    assert made < 2 * all_calls
    if all_calls % all_steps == 0:
        per_step = all_calls // all_steps
        assert made == 2 * per_step * len(run.computed_steps), f"{made} calls, {per_step} a step"
    assert torch.equal(*outputs), "the second of two calls differs"
    assert not torch.equal(outputs[0], plain)


class _InterruptedError(Exception):
    """Raised on purpose in the middle of a call."""


def _carries_nothing_over(family: Family, plain: Tensor) -> None:
    """Calls of other shapes and interrupted calls do not affect the next call, nor does it affect them."""
    policy = policy_of(family.case, CACHED, Method())
    with ertacache.accelerated(family.pipe, policy):
        wanted = family.run()
    others = []
    for call in family.case.others:
        with ertacache.accelerated(family.pipe, policy):
            others.append(family.run(call=call))
    with ertacache.accelerated(family.pipe, policy):
        for call, other in zip(family.case.others, others, strict=True):
            assert torch.equal(family.run(call=call), other), "a call depends on the one before"
            assert torch.equal(family.run(), wanted), "a call depends on the one before, of another shape"
        _interrupted(family)
        assert torch.equal(family.run(), wanted), "a call depends on an interrupted one before"


def _interrupted(family: Family) -> None:
    """A call that is interrupted in the middle."""
    with _at_every_call(family, _fail_at_the_fourth):
        try:
            family.run()
        except _InterruptedError:
            return
    raise AssertionError("the call was not interrupted")


def _fail_at_the_fourth(number: int) -> None:
    if number == 4:
        raise _InterruptedError


def _calls_of(family: Family) -> list[dict[str, Any]]:
    """The calls that calibration gets."""
    calls = [family.arguments(seed) for seed in (1, 2)]
    if family.case.output_type not in ("", "latent"):
        calls = [{**call, "output_type": family.case.output_type} for call in calls]
    return calls


def _calibrated(family: Family, calls: Sequence[Mapping[str, Any]]) -> Policy:
    return ertacache.calibrate(
        family.pipe,
        calls,
        num_inference_steps=STEPS,
        num_computed_steps=4,
        method=Method(schedule="uniform", predictor="aligned"),
        progress=False,
    )


def _calibrates(case: Case) -> str:
    """Why it cannot be calibrated, or "" if its policy is followed, saved and loaded, and refused by another model."""
    family = Family(case)
    try:
        policy = _calibrated(family, _calls_of(family))
    except ERTACacheError as error:
        return str(error).splitlines()[0]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "policy.safetensors"
        policy.save(path)
        loaded = Policy.load(path)
    outputs = []
    for one in (policy, loaded):
        with ertacache.accelerated(family.pipe, one) as run:
            outputs.append(family.run(1))
        assert run.cached_steps == policy.cached_steps
        assert run.report.notes == [], run.report.notes
    assert torch.equal(*outputs), "a loaded policy is another one"
    with torch.no_grad():
        for module in denoisers_of(family.pipe).values():
            for parameter in module.parameters():
                parameter.mul_(1.3)
    try:
        ertacache.enable(family.pipe, policy)
    except PolicyMismatchError:
        return ""
    raise AssertionError("a policy of another model was taken")


def _leaves_nothing(case: Case, plain: Tensor) -> None:
    """Calibration leaves every attribute as it was, also when it is interrupted or fails."""
    family = Family(case)
    numbers: list[int] = []
    policy = _leaving_nothing(family, plain, numbers.append)
    assert policy is not None
    full_runs = round(len(numbers) / policy.calibration.full_runs)
    for number in (full_runs * 3 // 4, full_runs + 3, len(numbers) - 1):  # a full run, the first and the last loop
        for end in (_fail, _interrupt):
            ended = _leaving_nothing(family, plain, partial(_at, number, end))
            assert ended is None, f"nothing came of call {number} of {len(numbers)}, at which calibration was to end"


def _leaving_nothing(family: Family, plain: Tensor, at_every_call: Callable[[int], None]) -> Policy | None:
    """Calibrate, and check that nothing differs afterwards. Returns the policy, or None if it was interrupted."""
    calls = _calls_of(family)
    before, drawn = state_of(family.pipe), torch.get_rng_state()
    policy = None
    with suppress(_InterruptedError, KeyboardInterrupt), _heeding_interrupts(), _at_every_call(family, at_every_call):
        policy = _calibrated(family, calls)
    left = differences(state_of(family.pipe), before)
    assert not left, f"calibration left something on the pipeline: {left[:5]}"
    assert torch.equal(torch.get_rng_state(), drawn), "calibration drew from the global generator"
    alive = [thread.name for thread in threading.enumerate() if thread.name.startswith("ertacache")]
    assert not alive, f"calibration left threads: {alive}"
    assert torch.equal(family.run(), plain), "the pipeline is another one after calibration"
    return policy


@contextmanager
def _heeding_interrupts() -> Iterator[None]:
    """Have an interrupt raise KeyboardInterrupt, in a process too that was started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _at(wanted: int, end: Callable[[], None], number: int) -> None:
    if number == wanted:
        end()


def _fail() -> None:
    raise _InterruptedError


def _interrupt() -> None:
    """As the user does, who does not know which thread is at work."""
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)


def _schedulers(case: Case) -> Iterator[tuple[str, str]]:
    """The schedulers that the pipeline itself runs with, each with why it is refused, or nothing."""
    for name in SCHEDULERS:
        family = Family(case)
        kind = getattr(diffusers, name)
        if own_class(family.pipe.scheduler) is kind:
            continue
        try:
            family.pipe.scheduler = kind.from_config(family.pipe.scheduler.config)
            plain = family.run()
        except Exception:  # whatever a pipeline does with a scheduler that was not made for it
            continue
        if plain.isfinite().all() and torch.equal(family.run(), plain):
            yield name, _refused(family, plain, Method())
