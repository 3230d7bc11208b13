"""What VBench judges: its sixteen dimensions, and how they add up to one score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ertacache.errors import ERTACacheError


class VBenchError(ERTACacheError, ValueError):
    """Clips, prompts or results that are not as VBench has them, or a run of its package that failed."""


@dataclass(frozen=True)
class Dimension:
    """One of the sixteen.

    Args:
        prompts: how many the package's list has for it; dimensions share prompts.
        low: the measured value that counts 0; values are in 0 .. 1.
        high: the measured value that counts 1; a better one counts more.
        weight: in the mean over its half.
        semantic: whether its half is the semantic score, else the quality score.
    """

    prompts: int
    low: float = 0.0
    high: float = 1.0
    weight: float = 1.0
    semantic: bool = False


# Figures of scripts/constant.py and prompts/README.md in github.com/Vchitect/VBench. The order is that of the
# scripts' lists, so that sums round as theirs do.
DIMENSIONS: Mapping[str, Dimension] = {
    "subject_consistency": Dimension(72, 0.1462, 1.0),
    "background_consistency": Dimension(86, 0.2615, 1.0),
    "temporal_flickering": Dimension(75, 0.6293, 1.0),
    "motion_smoothness": Dimension(72, 0.706, 0.9975),
    "aesthetic_quality": Dimension(93),
    "imaging_quality": Dimension(93),
    "dynamic_degree": Dimension(72, weight=0.5),
    "object_class": Dimension(79, semantic=True),
    "multiple_objects": Dimension(82, semantic=True),
    "human_action": Dimension(100, semantic=True),
    "color": Dimension(85, semantic=True),
    "spatial_relationship": Dimension(84, semantic=True),
    "scene": Dimension(86, 0.0, 0.8222, semantic=True),
    "appearance_style": Dimension(90, 0.0009, 0.2855, semantic=True),
    "temporal_style": Dimension(100, 0.0, 0.364, semantic=True),
    "overall_consistency": Dimension(93, 0.0, 0.364, semantic=True),
}
QUALITY_WEIGHT, SEMANTIC_WEIGHT = 4, 1
"""Of the two halves in the total."""


def checked(names: list[str]) -> list[str]:
    """The names, each once; all dimensions if there are none.

    Raises:
        VBenchError: if there is no such dimension.
    """
    for name in names:
        if name not in DIMENSIONS:
            cure = f"Choose among {', '.join(DIMENSIONS)}."
            raise VBenchError("there is no such dimension", given=name, cure=cure)
    return list(dict.fromkeys(names)) or list(DIMENSIONS)
