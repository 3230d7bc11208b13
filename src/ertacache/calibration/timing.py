"""Time computed and cached steps on this machine, to turn a budget of seconds into a number of steps.

A call consists of a constant part (text encoders, decoder), computed steps and cached steps. Two timings of the same
call are enough: one in full, one with most steps cached.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from ertacache.calibration.recording import Setting
from ertacache.clock import now
from ertacache.errors import BudgetError
from ertacache.method.aligned_weights import MAX_ORDER
from ertacache.method.named_methods import Method
from ertacache.method.prediction import Prediction
from ertacache.method.schedule import evenly_spaced
from ertacache.policy import Policy
from ertacache.runtime.driver import Driver
from ertacache.runtime.policy_driver import PolicyDriver
from ertacache.runtime.policy_for_call import Resolved
from ertacache.runtime.repeatable_call import Call, twin_of
from ertacache.runtime.run import Run

REPEATS = 3
"""How often each of the two is timed, in turn; the median counts."""
MARGIN = 0.03
"""The share of a budget of seconds that is kept free: timings scatter, and a plan at the edge would fail half the
time."""


@dataclass(frozen=True)
class Costs:
    """The seconds of one whole call, linear in the number of computed steps.

    Args:
        num_steps: how many steps a call makes.
        full: the seconds of a call with all steps computed.
        fewest: the number of computed steps in the fastest call that was timed.
        fast: the seconds of that call.
        denoiser_calls: how many denoiser calls the timing made.
    """

    num_steps: int
    full: float
    fewest: int
    fast: float
    denoiser_calls: int

    @property
    def computed_step(self) -> float:
        """The seconds that a computed step takes more than a cached one."""
        return (self.full - self.fast) / (self.num_steps - self.fewest)

    def seconds(self, computed: int) -> float:
        """Estimate the seconds of a call that computes so many steps."""
        return self.fast + (computed - self.fewest) * self.computed_step

    def most_steps(self, seconds: float) -> int:
        """Return the largest number of computed steps of a call that takes at most so many seconds less the margin.

        Raises:
            BudgetError: if even two computed steps take longer.
        """
        fitting = [n for n in range(2, self.num_steps + 1) if self.seconds(n) <= seconds * (1 - MARGIN)]
        if not fitting:
            raise BudgetError(
                "no policy is so fast on this machine",
                given=f"seconds={seconds:g}; a full call takes {self.full:.3g} s, two computed steps about "
                f"{self.seconds(2):.3g} s",
                cure=f"Ask for {self.seconds(2) / (1 - MARGIN):.3g} s or more.",
            )
        return max(fitting)


def timed(pipe: Any, call: Call, setting: Setting) -> Costs:
    """Time one prompt's call in full, and with four steps of five cached, in turn.

    Args:
        pipe: the pipeline; left as it was found.
        call: as the user will make it, decoding included.
        setting: the setting of the full runs.
    """
    steps = setting.num_steps
    fewest = max(2, setting.fewest_computed, round(steps / 5))
    ways = [None, _busiest(setting, fewest)] if fewest < steps else [None]
    spent: list[list[float]] = [[] for _ in ways]
    calls = 0
    for _ in range(REPEATS):
        for seconds, policy in zip(spent, ways, strict=True):
            taken, made = time_call(pipe, call, policy)
            seconds.append(taken)
            calls += made
    full, fast = median(spent[0]), median(spent[-1])
    return Costs(steps, full, fewest if len(ways) > 1 else steps - 1, fast, calls)


def time_call(pipe: Any, call: Call, policy: Policy | None) -> tuple[float, int]:
    """Time one call, in full or with a policy; return its seconds and its denoiser calls."""
    twin = twin_of(pipe)
    arguments = call.arguments()
    run = Run(twin, PolicyDriver(Resolved(policy)) if policy else Driver())
    with call.random.lent():
        start = now()
        with run:
            run.call(**arguments)
        return now() - start, run.report.denoiser_calls


def _busiest(setting: Setting, computed: int) -> Policy:
    """Make a policy whose cached steps take as long as those of any fitted policy could."""
    cached = evenly_spaced(setting.num_steps, computed, setting.forced)
    first = setting.first_step
    predictions = {}
    for step in cached:
        history = [i for i in range(step - 1, -1, -1) if i not in cached][: MAX_ORDER + 1]
        factors = (1.0, *(0.0 for _ in history[1:]))
        between = tuple(0.0 for _ in history) if setting.calls_per_step > 1 else ()
        predictions[step + first] = Prediction(tuple(i + first for i in history), factors, between)
    return Policy(
        num_inference_steps=setting.num_steps + first,
        first_step=first,
        cached_steps=tuple(step + first for step in cached),
        method=Method.named("aligned"),
        predictions=predictions,
    )
