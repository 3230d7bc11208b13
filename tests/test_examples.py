"""The examples run: with fewer steps and prompts in `make test`, as they stand in `make bench`."""

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from ertacache import zoo

EXAMPLES = Path(__file__).parent.parent / "examples"


FEWER = {
    "flux_image.py": {
        "embedded.arguments  # 30": 'embedded.arguments | {"num_inference_steps": 10}  # 30',
        "calibration_prompts[:8]": "calibration_prompts[:2]",
    },
    "own_model.py": {"steps=1500": "steps=100", "count=4000": "count=200"},
}
"""What is less in each script where it runs in `make test`: every other line is as it stands."""


@pytest.mark.parametrize(
    ("script", "files"),
    [("flux_image.py", ["flux.png", "flux-2x.safetensors"]), ("own_model.py", ["own.png", "own-2x.safetensors"])],
)
def test_example_with_less_of_everything(script, files, tmp_path):
    text = (EXAMPLES / script).read_text()
    for whole, less in FEWER[script].items():
        assert text.count(whole) == 1
        text = text.replace(whole, less)
    (tmp_path / script).write_text(text)
    leaves(tmp_path / script, files, tmp_path)


@pytest.mark.slow  # the same lines run above, and in wan_video.py they are flux_image.py's, with a clip for a picture
@pytest.mark.parametrize(
    ("script", "files"),
    [
        ("flux_image.py", ["flux.png", "flux-2x.safetensors"]),
        pytest.param(
            "wan_video.py",
            ["wan.mp4", "wan-2x.safetensors"],
            marks=pytest.mark.skipif("wan" not in zoo.available(), reason="the video pipelines are in a checkout only"),
        ),
        ("own_model.py", ["own.png", "own-2x.safetensors"]),
    ],
)
def test_example_as_it_stands(script, files, tmp_path):
    leaves(EXAMPLES / script, files, tmp_path)


def leaves(script, files, folder):
    """A run of the script, in the folder, tells of computed steps and leaves these files in it."""
    command = [sys.executable, str(script)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "steps computed" in done.stdout
    assert all((folder / name).stat().st_size > 0 for name in files)


def test_the_service_learns_from_its_first_request_audits_and_tells(tmp_path):
    command = [sys.executable, str(EXAMPLES / "service.py"), "--port", "0", "--audit", "0.5", "--steps", "12"]
    service = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        port = int(service.stdout.readline().split()[-1])

        def get(path):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=300) as answer:
                return answer.headers.get("X-Computed-Steps"), answer.read()

        steps, picture = get("/generate?prompt=a+red+star")
        assert steps == "12 of 12"
        assert picture.startswith(b"\x89PNG")
        seen = []
        while set(seen) != {"6 of 12", "12 of 12"}:  # half of them are audited
            seen.append(get(f"/generate?prompt=a+red+star&seed={len(seen)}")[0])
            assert len(seen) < 40
        stats = json.loads(get("/stats")[1])
        assert stats["served"] == {"full": 1 + seen.count("12 of 12"), "accelerated": seen.count("6 of 12")}
        (setting,) = stats["settings"]
        assert setting["full generations"] == stats["served"]["full"]
        audited = re.search(r"final latent ([\d.]+) in the mean", setting["audits"]["6 steps computed"])
        assert 0 < float(audited[1]) < 0.4  # so few steps; 0.02 at the thirty that it was trained for
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get("/generate")
    finally:
        service.kill()
        service.wait()


@pytest.mark.slow  # all that it calls is in the scripts above, and it takes as long as both of them
def test_notebook(tmp_path):
    notebook = nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()  # raises
    assert (tmp_path / "flux-2x.safetensors").exists()
