"""The quick form of the benchmark runs, resumes, and writes what the README shows."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.method import METHODS

ROOT = Path(__file__).parent.parent


def test_the_methods_table_in_its_quick_form(tmp_path):
    out = tmp_path / "method-flux.json"
    command = [sys.executable, "-m", "benchmarks.method", "flux", "--quick", "--out", tmp_path]
    command += ["--work", tmp_path / "work"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(out.read_text())["budgets"]["2"]
    assert set(rows) == {"fewer steps", "fewer steps, sub-grid", *METHODS}
    assert {row["computed_steps"] for row in rows.values()} == {5}
    assert all(len(row["psnr"]) == 2 for row in rows.values())
    assert "**" in out.with_suffix(".md").read_text()

    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0
    assert "calibrat" not in again.stderr  # every policy and every measurement was found
    assert json.loads(out.read_text())["budgets"]["2"] == rows


def test_the_tables_that_the_pages_show_are_those_that_were_measured():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    texts = [page.read_text() for page in pages]
    tables = sorted((ROOT / "benchmarks/results").glob("*.md"))
    assert tables
    for table in tables:
        assert any(table.read_text().strip() in text for text in texts), f"no page shows {table.name} as it is"
