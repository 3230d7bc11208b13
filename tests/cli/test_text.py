"""Prompts and paths with any characters, in any locale, are read and printed."""

import os
import subprocess
import sys

from ertacache import Policy
from tests.cli.running import FEW, run


def test_a_path_with_brackets_is_printed_as_it_is(tmp_path):
    done = run("inspect", tmp_path / "runs [draft]" / "[/x].safetensors")
    assert done.exit_code == 2
    assert "runs [draft]/[/x].safetensors" in done.output.replace("\n", "")


def test_prompts_are_read_in_every_encoding_that_editors_write(tmp_path, monkeypatch, policy_file):
    seen = []

    def calibrate(pipe, prompts, **more):
        seen.append(prompts)
        return Policy.load(policy_file)

    monkeypatch.setattr("ertacache.calibration.calibrate", calibrate)
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "prompts.txt").write_text("un café\n\na red star\n", encoding=encoding)
        done = run("calibrate", "zoo:flux", *FEW, "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "a")
        assert done.exit_code == 0, done.output
    assert seen == [["un café", "a red star"]] * 3


def test_a_prompt_that_looks_like_a_formula_or_like_markup_is_drawn(policy_file, tmp_path):
    out = tmp_path / "both.png"
    prompt = 'a sign "$x^{2$" [/x] <b> | \x1b[2J\nand more'
    done = run("generate", "zoo:flux", prompt, "--policy", policy_file, "--out", out, "--compare")
    assert done.exit_code == 0, done.output
    assert out.stat().st_size > 0


def test_a_locale_without_utf_8_stops_no_command(policy_file, tmp_path):
    policy = tmp_path / "é [red].safetensors"
    policy.write_bytes(policy_file.read_bytes())
    asked = [sys.executable, "-m", "ertacache", "inspect", policy, "--plot", tmp_path / "ü.png"]
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(asked, env={**os.environ, **plain}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"\\xfc.png" in done.stdout
    assert (tmp_path / "ü.png").stat().st_size > 0
