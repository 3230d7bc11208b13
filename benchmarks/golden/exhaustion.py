"""Every schedule on every prompt, by three predictions; all is kept prompt by prompt, so that it can be interrupted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from benchmarks.golden.choice import Table
from benchmarks.golden.prompt import FullRun, figures, fitted_tree, full_run, run_tree
from benchmarks.golden.tree import (
    REUSE,
    Computed,
    Predictions,
    all_schedules,
    computed_of,
    predictions_along,
    weights_by_node,
)
from ertacache import Method, Policy
from ertacache.evaluation.comparison import Variant
from ertacache.files import kept
from ertacache.method.prediction import Prediction
from ertacache.method.schedule import Schedule

HELD_OUT, CALIBRATION = "held-out", "calibration"
METHODS = {"reuse": Method(), "recordings": Method.named("aligned"), "fitted": Method.named("aligned")}
"""The predictions: the last output; `aligned` with weights solved from recordings; `aligned` as a calibration fits it,
in closed loops on the calibration prompts."""


@dataclass(frozen=True)
class Exhaustion:
    """What is to be generated.

    Args:
        pipe: a FLUX-type pipeline.
        steps: T.
        computed: how many steps are computed.
        calls: the calls of `HELD_OUT` and of `CALIBRATION` prompts.
        solve: the predictions of a schedule from recordings, given its cached steps.
        checked: schedules that the pipeline itself follows too, cached steps.
        folder: where figures and weights are kept; nothing but this may use it.
    """

    pipe: Any
    steps: int
    computed: int
    calls: Mapping[str, Sequence[Mapping[str, Any]]]
    solve: Callable[[Schedule], Mapping[int, Prediction]]
    checked: Sequence[Schedule]
    folder: Path

    @property
    def schedules(self) -> list[Computed]:
        """All of them, in the order of the tables."""
        return all_schedules(self.steps, self.computed)

    def tables(self) -> dict[str, dict[str, dict[str, Table]]]:
        """By method, kind of prompts and figure of `benchmarks.golden.prompt.figures`: (prompts, schedules)."""
        found: dict[str, dict[str, dict[str, Table]]] = {}
        for name in METHODS:
            for kind, calls in self.calls.items():
                numbers = track(range(len(calls)), f"{name}, {kind}", transient=True)
                rows = [kept(self._path(name, kind, k), partial(self._figures, name, kind, k)) for k in numbers]
                own = {key: np.array([row[key] for row in rows]) for key in rows[0]}
                found.setdefault(name, {})[kind] = own
        return found

    @cached_property
    def predictions(self) -> dict[str, Predictions]:
        """The predictions of every node, by method."""
        rows = kept(self.folder / "fitted-weights.json", self._fit)
        fitted = {(step, tuple(node)): Prediction(**prediction) for step, node, prediction in rows}
        return {"reuse": REUSE, "recordings": weights_by_node(self.steps, self.schedules, self.solve), "fitted": fitted}

    def _path(self, name: str, kind: str, number: int) -> Path:
        return self.folder / f"{kind}-{number}-{name}.json"

    def _run(self, kind: str, number: int) -> FullRun:
        return full_run(self.pipe, self.calls[kind][number], self.steps)

    def _figures(self, name: str, kind: str, number: int) -> dict[str, list[float]]:
        predictions, run = self.predictions[name], self._run(kind, number)
        return figures(run, run_tree(run, self.computed, predictions), self._followed(name, predictions))

    def _fit(self) -> list[Any]:
        """Fit the weights on the calibration prompts; their figures are measured on the way."""
        runs = [self._run(CALIBRATION, number) for number in range(len(self.calls[CALIBRATION]))]
        predictions, ends = fitted_tree(runs, self.computed)
        followed = self._followed("fitted", predictions)
        for number, (run, own) in enumerate(zip(runs, ends, strict=True)):
            kept(self._path("fitted", CALIBRATION, number), partial(figures, run, own, followed))
        return [[step, node, asdict(prediction)] for (step, node), prediction in predictions.items()]

    def _followed(self, name: str, predictions: Predictions) -> dict[Computed, Variant]:
        """The runs of the pipeline that the tree is compared with."""
        found = {}
        for cached in self.checked:
            own = computed_of(cached, self.steps)
            along = predictions_along(own, self.steps, predictions)
            found[own] = Variant(name, self.steps, policy=Policy(self.steps, cached, METHODS[name], along))
        return found
