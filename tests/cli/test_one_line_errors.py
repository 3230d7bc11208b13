"""Errors of files and disks are one line, bugs keep their traceback, and no result is lost."""

import re
import tempfile

import pytest
from PIL import Image
from safetensors import SafetensorError

from ertacache import Policy
from ertacache.evaluation import comparison
from tests.cli.running import FEW, refused, run


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device", "a.safetensors"), "No space left on device: a.safetensors"),
        (PermissionError(13, "Permission denied", "a"), "Permission denied: a"),
        (SafetensorError("I/O error: No space left on device"), "its disk has room"),
        (UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range"), "Use UTF-8"),
        (ModuleNotFoundError("No module named 'imageio'"), "pip install 'ertacache[cli]'"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (FileNotFoundError("there is no [/x]\nfile\x1b[2J"), "error: there is no [/x] file\\x1b[2J"),
    ],
)
def test_what_files_and_disks_bring_about_is_one_line(error, told, monkeypatch):
    def fail(*arguments, **more):
        raise error

    monkeypatch.setattr("ertacache.calibration.calibrate", fail)
    assert told in refused("calibrate", "zoo:flux", *FEW)


@pytest.mark.parametrize("error", [AttributeError("a bug"), AssertionError(), ValueError("ours"), TypeError("ours")])
def test_a_bug_keeps_its_traceback(error, monkeypatch):
    def fail(*arguments, **more):
        raise error

    monkeypatch.setattr("ertacache.calibration.calibrate", fail)
    assert run("calibrate", "zoo:flux", *FEW).exception is error


def test_an_interrupt_is_one_line(monkeypatch):
    def interrupt(*arguments, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr("ertacache.calibration.calibrate", interrupt)
    done = run("calibrate", "zoo:flux", *FEW)
    assert done.exit_code == 130
    assert done.stderr.splitlines()[-1] == "interrupted"


def test_a_policy_whose_place_turns_out_bad_is_kept_elsewhere(policy_file, tmp_path, monkeypatch):
    out, made = tmp_path / "policy.safetensors", Policy.load(policy_file)

    def calibrate(*arguments, **more):
        out.mkdir()  # by somebody else, meanwhile
        return made

    monkeypatch.setattr("ertacache.calibration.calibrate", calibrate)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    line = refused("calibrate", "zoo:flux", *FEW, "--out", out)
    kept = re.search(r"not lost: it is at (\S+)\.$", line)[1]
    assert Policy.load(kept).fingerprint == made.fingerprint


def test_a_picture_whose_place_turns_out_bad_is_kept_elsewhere(tmp_path, monkeypatch):
    out, once = tmp_path / "star.png", comparison.generate

    def generate(*arguments, **more):
        out.mkdir()
        return once(*arguments, **more)

    monkeypatch.setattr("ertacache.evaluation.comparison.generate", generate)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    line = refused("generate", "zoo:flux", "a red star", "--steps", 2, "--out", out)
    with Image.open(re.search(r"not lost: it is at (\S+)\.$", line)[1]) as picture:
        assert picture.size == (48, 48)
