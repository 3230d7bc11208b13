"""One module for each kind of pipeline; `CASES` of all of them, by name."""

from __future__ import annotations

from contract.case import Case
from contract.families import paper

CASES: dict[str, Case] = {**paper.CASES}
