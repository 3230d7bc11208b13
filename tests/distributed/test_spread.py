"""A benchmark over processes has the figures of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow  # two more runs of a benchmark; what workers share is tested beside this
def test_the_figures_of_a_benchmark_over_two_processes_are_those_of_one(tmp_path):
    quality = []
    for name, start in (("one", []), ("two", ["benchmarks.spread", "2"])):
        out = tmp_path / name
        command = [*start, "benchmarks.method", *(["--"] if start else []), "flux", "--quick", "--out", out]
        done = subprocess.run(
            [sys.executable, "-m", *map(str, command), "--work", str(out / "work")],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("wrote") == 2, "more than the first process printed"
        found = json.loads((out / "method-flux.json").read_text())
        rows = found["budgets"]["2"]
        quality.append({way: (row["psnr"], row["ssim"]) for way, row in rows.items()} | found["policies"])
    assert quality[0] == quality[1]
