"""Run every case; writes support.json and support.md of docs/reference: ``python -m contract``; an hour, and resumable.

With names of cases, or parts of names, only those cases are run and printed, and nothing is written.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

from contract.check import Outcome, check
from contract.families import CASES
from contract.page import PAGE, RECORD, page_of, pipeline_of, row_of, to_json

ROOT = Path(__file__).parents[1]
SWEPT = (
    "FLUX",
    "FLUX.2",
    "Wan, UniPC",
    "Wan, Euler",
    "CogVideoX, DDIM",
    "Open-Sora 1.2",
    "StableDiffusion3",
    "QwenImage",
    "Sana",
    "PixArtSigma",
    "HunyuanDiT",
    "CogView4",
    "HunyuanVideo",
    "LTX",
    "Mochi",
    "StableDiffusion, DDIM",
    "StableDiffusionXL",
    "LatentConsistencyModel",
    "AnimateDiff",
)
"""The cases that are run with every scheduler: one for each kind of timestep grid."""


def outcome_of(name: str, folder: Path) -> tuple[str, Outcome]:
    """The pipeline class and the outcome of a case, from ``folder`` if it was run before."""
    path = folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.json"
    if not path.exists():
        found = pipeline_of(CASES[name]), asdict(check(CASES[name], schedulers=name in SWEPT))
        path.write_text(json.dumps(found))
    pipeline, fields = json.loads(path.read_text())
    schedulers, around = (tuple(map(tuple, fields[name])) for name in ("schedulers", "around"))
    return pipeline, Outcome(fields["refusal"], tuple(fields["levels"]), fields["calibration"], schedulers, around)


def main(parts: list[str]) -> None:
    """Run the cases, or those whose names contain one of ``parts``."""
    code = hashlib.sha256()
    for file in sorted([*ROOT.glob("contract/**/*.py"), *ROOT.glob("src/**/*.py")]):
        if file.name not in ("page.py", "in_words.py", "not_tried.py", "__main__.py"):
            code.update(file.read_bytes())
    folder = ROOT / "out/contract" / code.hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in CASES:
        if not parts or any(part in name for part in parts):
            found[name] = outcome_of(name, folder)
            print(row_of(name, *found[name]), flush=True)
    if not parts:
        RECORD.write_text(to_json(found), encoding="utf-8")
        PAGE.write_text(page_of(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
