"""The cases, in one module for each kind of pipeline; `CASES` has all of them by name."""

from __future__ import annotations

from contract.case import Case
from contract.families import images, modular, paper, unets, videos

CASES: dict[str, Case] = {**paper.CASES, **images.CASES, **videos.CASES, **unets.CASES, **modular.CASES}
