"""The examples run as they stand."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLUX = ROOT / "src/ertacache/zoo/flux"


@pytest.mark.parametrize(
    ("script", "arguments", "files"),
    [
        ("quickstart.py", [], ["out/quickstart.png", "out/flux-30-2x.safetensors"]),
        ("any_pipeline.py", [str(FLUX), "--steps", "6", "--size", "96"], ["out/full.png", "out/accelerated.png"]),
    ],
)
def test_example(script, arguments, files, tmp_path):
    command = [sys.executable, str(ROOT / "examples" / script), *arguments]
    (tmp_path / "out").mkdir()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "steps computed" in done.stdout
    assert all((tmp_path / name).stat().st_size > 0 for name in files)
