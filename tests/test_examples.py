"""The examples run as they stand."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from ertacache import zoo

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize(
    ("script", "files"),
    [
        ("flux_image.py", ["flux.png", "flux-2x.safetensors"]),
        pytest.param(
            "wan_video.py",
            ["wan.mp4", "wan-2x.safetensors"],
            marks=[
                pytest.mark.slow,  # line by line the other one's, with a clip in place of a picture
                pytest.mark.skipif("wan" not in zoo.available(), reason="the video pipelines are in a checkout only"),
            ],
        ),
        ("own_model.py", ["own.png", "own-2x.safetensors"]),
    ],
)
def test_example(script, files, tmp_path):
    command = [sys.executable, str(EXAMPLES / script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "steps computed" in done.stdout
    assert all((tmp_path / name).stat().st_size > 0 for name in files)


@pytest.mark.slow  # all that it calls is in the scripts above, and it takes as long as both of them
def test_notebook(tmp_path):
    notebook = nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()  # raises
    assert (tmp_path / "flux-2x.safetensors").exists()
