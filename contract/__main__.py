"""Run every case and write docs/support.md: ``python -m contract``; some ten minutes.

With names of cases, or parts of them, only those are run and told, and nothing is written.
"""

from __future__ import annotations

import sys
from pathlib import Path

from contract.check import check
from contract.families import CASES
from contract.page import page_of, pipeline_of, row_of

PAGE = Path(__file__).parents[1] / "docs/support.md"


def main(parts: list[str]) -> None:
    found = {}
    for name, case in CASES.items():
        if not parts or any(part in name for part in parts):
            found[name] = pipeline_of(case), check(case, schedulers=True)
            print(row_of(name, *found[name]), flush=True)
    if not parts:
        PAGE.write_text(page_of(found))


if __name__ == "__main__":
    main(sys.argv[1:])
