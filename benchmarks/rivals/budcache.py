"""BudCache: for a number of computed steps, annealing and hill climbing on the final error choose which ones.

Lei et al., "Budget-Constrained Step-Level Diffusion Caching", ICML 2026, arXiv 2606.13496; checked against
https://github.com/Westlake-AGI-Lab/BudCache at 14ba4c5. Every number of steps takes a search of its own, 126 full
runs for 15 of 30, in which 319 choices are tried, each from its first skipped step on.

- The cache: ``src/flux/dit_forward.py``. At a skipped step the change by all blocks at the last computed step is added.
  Each guidance branch has its own, as in ``src/wan/dit_forward.py``.
- The search: ``scripts/stage1_search_flux.py`` with ``configs/search_flux.yaml``, see `Search`. One prompt and seed,
  200 moves of annealing, at most 20 climbs; the first quarter of the computed steps stands at the start.
- What is searched for is the smallest mean squared error of the final latents: the same file.

What was run side by side, theirs and this: the search with the same random numbers, its lines written down again, on
made-up errors of 8 to 50 steps: 260 searches, as many choices tried in each and the same one found in all but one. In
that one theirs found nothing better than its random start, which it does not keep. Their whole FLUX forward, in our
FLUX without guidance, twelve runs with 6 to 20 of 30 steps computed: latents bit for bit the same.

Decided here:

- Theirs for Wan (``scripts/stage1_search_wan.py``) keeps 0.3 of the computed steps at the start, moves anywhere, is
  hotter, and climbs over 20 neighbours, at most 5 times. Here FLUX's serves all.
- Theirs for FLUX loads Hyper-SD, weights for few steps. Here the pipeline is as it is.
- Their second stage, which learns other timesteps for the chosen steps, is left out. Their README calls it optional and
  says that the paper goes without it where it does not say otherwise.

Why it loses to plain reuse here: our FLUX, 15 of 30 steps, four held-out prompts. It has 47.8 dB, the same reuse on
evenly spaced steps 49.9, *uniform cache* 49.6, fewer steps 49.7. The search itself misses: on its own prompt the mean
squared error is 0.00066 against 0.00058. The first three steps are fixed, of which evenly spaced ones leave out one,
and nearly half of the annealing is hotter than 0.001.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.rivals.base import Knobs, Rival, Span, Subject
from benchmarks.rivals.lemica import Run, full_run, rerun, reusing
from ertacache.files import kept

ITERATIONS = 200
HOTTEST, COLDEST = 0.05, 1e-5
"""Temperatures at the first and after the last iteration of annealing, in mean squared error."""
CLIMBS = 20
NEAR = 3
"""How many steps away a near move may go."""
JUMPS = 2
"""Moves anywhere, for each computed step, that hill climbing tries beside the near ones."""

Steps = tuple[int, ...]
"""The computed ones, rising."""


@dataclass
class Search:
    """Looks for the computed steps with the smallest loss.

    Args:
        num_steps: of the run.
        k: how many to compute, fewer than all.
        loss: of a choice, in mean squared error; asked once for each.
        seed: of the moves.
        best: the best choice so far.
    """

    num_steps: int
    k: int
    loss: Callable[[Steps], float]
    seed: int = 0
    known: dict[Steps, float] = field(default_factory=dict)
    best: Steps = ()

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.prefix = max(1, self.k // 4)
        """How many steps at the start are always computed."""

    def value(self, steps: Steps) -> float:
        """The loss, computed once."""
        if steps not in self.known:
            self.known[steps] = self.loss(steps)
        return self.known[steps]

    def run(self) -> Steps:
        """Search, and return the best choice."""
        places = list(range(self.prefix, self.num_steps))
        self.best = (*range(self.prefix), *sorted(self.random.sample(places, self.k - self.prefix)))
        self.value(self.best)
        if places[self.k - self.prefix :] and self.k > self.prefix:
            self._climb(self._anneal(self.best))
        return self.best

    def _visit(self, steps: Steps) -> Steps:
        if self.value(steps) < self.value(self.best):
            self.best = steps
        return steps

    def _anneal(self, here: Steps) -> Steps:
        for iteration in range(ITERATIONS):
            temperature = HOTTEST * (COLDEST / HOTTEST) ** (iteration / ITERATIONS)
            other = self._moved(here)
            change = self.value(other) - self.value(here)
            if change < 0 or self.random.random() < math.exp(-change / temperature):
                here = self._visit(other)
        return here

    def _moved(self, here: Steps) -> Steps:
        """Move one computed step, or two in one of ten moves."""
        sources = [step for step in here if step >= self.prefix]
        targets = [step for step in range(self.prefix, self.num_steps) if step not in here]
        if self.random.random() < 0.9 or len(sources) < 2 or len(targets) < 2:
            source = self.random.choice(sources)
            near = self.random.random() < 0.7
            around = [step for step in targets if abs(step - source) <= NEAR] if near else []
            return _exchanged(here, [source], [self.random.choice(around or targets)])
        return _exchanged(here, self.random.sample(sources, 2), self.random.sample(targets, 2))

    def _climb(self, here: Steps) -> None:
        """Go to the best neighbour while it is better."""
        for _ in range(CLIMBS):
            best = min(self._neighbours(here), key=self.value, default=here)
            if self.value(best) >= self.value(here):
                return
            here = self._visit(best)

    def _neighbours(self, here: Steps) -> list[Steps]:
        sources = [step for step in here if step >= self.prefix]
        pairs = [
            (source, target)
            for source in sources
            for target in range(max(self.prefix, source - NEAR), min(self.num_steps - 1, source + NEAR) + 1)
        ]
        pairs += [
            (source, self.random.choice(range(self.prefix, self.num_steps))) for source in sources for _ in range(JUMPS)
        ]
        found = [_exchanged(here, [source], [target]) for source, target in pairs if target not in here]
        return list(dict.fromkeys(found))


def _exchanged(steps: Steps, out: Sequence[int], into: Sequence[int]) -> Steps:
    return tuple(sorted({*steps} - {*out} | {*into}))


@dataclass
class Searches:
    """The choice for each number of steps, searched when it is first asked for and kept in the subject's folder.

    Args:
        subject: the pipeline.
        run: a full run of one calibration prompt.
    """

    subject: Subject
    run: Run

    def steps(self, k: int) -> Steps:
        """The k steps to compute."""
        return tuple(kept(self.subject.work / f"budcache-{k}.json", lambda: self._searched(k))["steps"])

    def _searched(self, k: int) -> dict[str, object]:
        search = Search(self.subject.num_steps, k, self._loss)
        steps = search.run()
        # The steps before the first skipped one are those of the full run.
        calls = sum(k - shared(other) for other in search.known)
        return {"steps": steps, "tried": len(search.known), "full_runs": 1 + calls / self.subject.num_steps}

    def _loss(self, steps: Steps) -> float:
        apart = rerun(self.subject, self.run, steps) - self.run.latents
        return apart.float().square().mean().item()


def shared(steps: Steps) -> int:
    """How many steps are computed before the first skipped one."""
    return next((number for number, step in enumerate(steps) if step != number), len(steps))


def prepare(subject: Subject) -> Searches:
    """The full run that choices are compared with."""
    return Searches(subject, full_run(subject, subject.calibration_prompts[0], 0))


@contextmanager
def attach(subject: Subject, knobs: Knobs, prepared: Searches) -> Iterator[Span]:
    """Skip steps during one call of the pipeline; the first use of a setting searches."""
    with reusing(subject, prepared.steps(knobs["k"])) as span:
        yield span


BUDCACHE = Rival(
    name="BudCache",
    source="arXiv 2606.13496; Westlake-AGI-Lab/BudCache at 14ba4c5; 15 of 30 steps from 126 full runs",
    knobs=lambda subject: [{"k": steps} for steps in subject.budgets],
    attach=attach,
    prepare=prepare,
)
