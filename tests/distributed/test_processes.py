"""Workers as processes: started, killed for real, and gone at the end."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import ertacache
from ertacache import zoo
from ertacache.distributed import Processes
from ertacache.distributed.bulk import MANIFEST, Order, generate_all
from ertacache.errors import ArgumentError, CalibrationError
from ertacache.evaluation.comparison import Variant
from tests.distributed.test_workers import content

STEPS = 5


def load():
    """The pipeline; each process leaves its number behind."""
    folder = os.environ.get("ERTACACHE_TEST_PIDS")
    if folder:
        (Path(folder) / str(os.getpid())).touch()
    return zoo.load("flux").pipe


def asked(small):
    return {**small.arguments, "num_inference_steps": STEPS, "num_computed_steps": 3, "full_runs": 9, "progress": False}


def killing_one(folder, after):
    """Kill one of the processes that have left their number, once there are two and so many seconds have passed."""

    def kill():
        while len(list(folder.iterdir())) < 2:
            time.sleep(0.05)
        time.sleep(after)
        os.kill(int(min(folder.iterdir()).name), signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def pids(tmp_path, monkeypatch):
    folder = tmp_path / "pids"
    folder.mkdir()
    monkeypatch.setenv("ERTACACHE_TEST_PIDS", str(folder))
    return folder


def test_two_processes_one_of_them_killed_make_the_policy_of_one(pids):
    small = zoo.load("flux")
    prompts = small.calibration_prompts[:3]
    alone = ertacache.calibrate(small.pipe, prompts, **asked(small))
    killing_one(pids, 1.0)
    spread = ertacache.calibrate(load, prompts, workers=Processes(2, threads=1), **asked(small))
    assert content(spread) == content(alone)
    assert len(list(pids.iterdir())) == 3, "none was started again"
    assert not multiprocessing.active_children()


def broken():
    raise MemoryError("no room")


def test_a_process_that_cannot_load_is_tried_twice_and_named():
    small = zoo.load("flux")
    with pytest.raises(CalibrationError, match=r"died 2 times.*before its first step: MemoryError"):
        ertacache.calibrate(broken, ["a star"], workers=Processes(1, threads=1), **asked(small))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("number", [0, -1, 1.5, "two"])
def test_a_number_of_workers_that_makes_no_sense_is_refused(number):
    with pytest.raises(ArgumentError):
        Processes(number)


@pytest.mark.slow
def test_500_pictures_with_a_worker_killed_and_the_job_interrupted(pids, tmp_path):
    small = zoo.load("flux")
    arguments = {name: value for name, value in small.arguments.items() if name != "num_inference_steps"}
    prompts = [f"a {color} {shape}, number {k}" for k in range(20) for color in ("red", "blue", "green", "teal", "pink")
               for shape in ("star", "ring", "circle", "square", "cross")]  # fmt: skip
    order, out = Order(prompts, Variant("full", 3), arguments, seed=0), tmp_path / "made"

    def interrupting(entry):
        if entry["number"] == 200:
            raise KeyboardInterrupt

    killing_one(pids, 5.0)
    with pytest.raises(KeyboardInterrupt):
        generate_all(load, order, out, Processes(2, threads=1), interrupting)
    generate_all(load, order, out, Processes(2, threads=1))
    lines = (out / MANIFEST).read_text().splitlines()
    assert len(lines) == len(prompts) == 500
    assert len(list(out.glob("*.png"))) == 500


HEAD = """
import sys
import ertacache
from ertacache import zoo
from ertacache.distributed import Processes
from tests.distributed.test_processes import asked, load

if __name__ == "__main__":
    small = zoo.load("flux")
    prompts = small.calibration_prompts[:3]
    workers = Processes(2, threads=1)
    policy = ertacache.calibrate(load, prompts, workers=workers, checkpoint=sys.argv[1], **asked(small))
    policy.save(sys.argv[2])
"""


@pytest.mark.slow  # three processes start twice
def test_a_driver_that_is_killed_leaves_no_process_and_a_calibration_that_resumes(pids, tmp_path):
    script, runs, made = tmp_path / "head.py", tmp_path / "runs", tmp_path / "made.safetensors"
    script.write_text(HEAD)
    root = str(Path(__file__).parents[2])
    command = [sys.executable, str(script), str(runs), str(made)]
    given = {"cwd": root, "env": {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}}
    head = subprocess.Popen(command, **given)
    while len(list(runs.rglob("full-run-*.safetensors"))) < 2:
        assert head.poll() is None
        time.sleep(0.05)
    head.kill()
    head.wait()
    for _ in range(600):
        if not any(Path(f"/proc/{path.name}").exists() for path in pids.iterdir()):
            break
        time.sleep(0.1)
    assert not any(Path(f"/proc/{path.name}").exists() for path in pids.iterdir()), "a worker outlived its driver"
    before = {path: path.stat().st_mtime for path in runs.rglob("full-run-*.safetensors")}
    assert subprocess.run(command, **given, timeout=300).returncode == 0
    assert {path: path.stat().st_mtime for path in before} == before, "a full run was made again"
    small = zoo.load("flux")
    alone = ertacache.calibrate(small.pipe, small.calibration_prompts[:3], **asked(small))
    assert content(ertacache.Policy.load(made)) == content(alone)
