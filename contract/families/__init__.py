"""The cases, in one module for each kind of pipeline; `CASES` has all of them by name."""

from __future__ import annotations

from contract.case import Case
from contract.families import (
    images,
    modular,
    others,
    others_models,
    others_older,
    others_sound,
    others_unets,
    others_videos,
    paper,
    unets,
    videos,
)

CASES: dict[str, Case] = {
    **paper.CASES,
    **images.CASES,
    **videos.CASES,
    **unets.CASES,
    **others.CASES,
    **others_videos.CASES,
    **others_sound.CASES,
    **others_unets.CASES,
    **others_older.CASES,
    **others_models.CASES,
    **modular.CASES,
}
