"""VBench's scores from the result files of its package: normalised, weighted, and beside those of other runs.

The arithmetic is that of ``scripts/cal_final_score.py`` in the package's repository, with one difference: a dimension
without a result counts 0 there, and here there is no total then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.markdown import table
from benchmarks.vbench.dimensions import DIMENSIONS, QUALITY_WEIGHT, SEMANTIC_WEIGHT, VBenchError

RESULT_FILES = "*_eval_results.json"


@dataclass(frozen=True)
class Scores:
    """What one run scored; every score is a fraction, of which tables show percent.

    Args:
        measured: by dimension, as the package gives it, 0 .. 1.

    Raises:
        VBenchError: if a dimension does not exist, or its value is outside of 0 .. 1.
    """

    measured: Mapping[str, float]

    def __post_init__(self) -> None:
        for name, value in self.measured.items():
            if name not in DIMENSIONS:
                cure = f"VBench's are {', '.join(DIMENSIONS)}."
                raise VBenchError("a result is of no dimension of VBench", given=name, cure=cure)
            if not 0 <= value <= 1:
                raise VBenchError(
                    "a result is outside of 0 .. 1",
                    given=f"{name} {value}",
                    cure="NaN means that no clip was judged; a percentage, that the package is from before 2024.",
                )

    @property
    def missing(self) -> list[str]:
        """The dimensions without a result."""
        return [name for name in DIMENSIONS if name not in self.measured]

    @property
    def normalised(self) -> dict[str, float]:
        """By dimension, 0 at the lowest and 1 at the highest value that VBench counts with; not clipped."""
        there = {name: d for name, d in DIMENSIONS.items() if name in self.measured}
        return {name: (self.measured[name] - d.low) / (d.high - d.low) for name, d in there.items()}

    @property
    def quality(self) -> float | None:
        """The weighted mean over the seven dimensions of quality, or None if one is missing."""
        return self._mean(semantic=False)

    @property
    def semantic(self) -> float | None:
        """The mean over the nine semantic dimensions, or None if one is missing."""
        return self._mean(semantic=True)

    @property
    def total(self) -> float | None:
        """Four parts quality, one part semantic, or None if a dimension is missing."""
        quality, semantic = self.quality, self.semantic
        if quality is None or semantic is None:
            return None
        return (quality * QUALITY_WEIGHT + semantic * SEMANTIC_WEIGHT) / (QUALITY_WEIGHT + SEMANTIC_WEIGHT)

    def _mean(self, *, semantic: bool) -> float | None:
        half = {name: d.weight for name, d in DIMENSIONS.items() if d.semantic == semantic}
        normalised = self.normalised
        if not half.keys() <= normalised.keys():
            return None
        return sum(normalised[name] * weight for name, weight in half.items()) / sum(half.values())


def read_scores(where: Path) -> Scores:
    """Read what the package wrote: one file with all dimensions, or several with some each.

    Args:
        where: a result file, or a folder that has ``*_eval_results.json`` in it or below. Where several hold a
            dimension, the last one by its name counts: the package's command puts the time there.

    Raises:
        VBenchError: if there is no result, or a file is not as the package writes it.
    """
    files = [where] if where.is_file() else sorted(where.rglob(RESULT_FILES), key=lambda path: (path.name, path))
    if not files:
        cure = f"Give a file or folder with {RESULT_FILES}, as `run` leaves it."
        raise VBenchError("there are no results", given=where, cure=cure)
    found: dict[str, float] = {}
    for path in files:
        found |= results_in(path)
    return Scores(found)


def results_in(path: Path) -> dict[str, float]:
    """The measured values of one result file, by dimension.

    Raises:
        VBenchError: if it is not as the package writes it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        # The mean comes first, then a list with every clip's; the leaderboard's files have spaces in the names.
        return {name.replace(" ", "_"): _number(value[0]) for name, value in content.items()}
    except (OSError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise VBenchError(
            "this is no result file of VBench",
            given=f"{path}: {type(error).__name__}: {error}",
            cure=f"Give the {RESULT_FILES} of the package; a run that was cut off while writing is to be repeated.",
        ) from error


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def markdown_of(runs: Mapping[str, Scores]) -> str:
    """Runs side by side in percent, with the difference to the first one; "-" where a score is missing.

    The totals are of normalised values, the dimensions are as measured, as in VBench's own tables.
    """
    rows = [["VBench, %", *runs]]
    for name in ("total", "quality", "semantic"):
        rows.append([f"**{name}**", *_cells([getattr(run, name) for run in runs.values()])])
    for name in DIMENSIONS:
        rows.append([name.replace("_", " "), *_cells([run.measured.get(name) for run in runs.values()])])
    lacking = [f"{name} lacks {', '.join(run.missing)}." for name, run in runs.items() if run.missing]
    return "\n".join([table(rows), *(f"\n{line}" for line in lacking)])


def _cells(values: list[float | None]) -> list[str]:
    cells, first = [], values[0]
    for place, value in enumerate(values):
        if value is None:
            cells.append("-")
        elif place == 0 or first is None:
            cells.append(f"{100 * value:.2f}")
        else:
            cells.append(f"{100 * value:.2f} ({100 * (value - first):+.2f})")
    return cells
