"""`ertacache calibrate` ends in decibels beside as many plain steps, and says when the policy is not worth using."""

import re

import pytest

from ertacache import Policy
from ertacache.cli.policy_check import verdict
from ertacache.evaluation.check import Check
from tests.cli.running import run

ASKED = ["calibrate", "zoo:flux", "--steps", 6, "--limit", 1]


def in_a_line(done):
    """What was printed, however narrow the terminal was."""
    return " ".join(done.output.split())


@pytest.mark.parametrize("held_out", [True, False])
def test_a_policy_is_checked_on_prompts_that_calibration_did_not_use_if_there_are_any(held_out, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red star\n" + "a blue ring\n" * held_out)
    out = tmp_path / "policy.safetensors"
    done = run(*ASKED, "--prompts", tmp_path / "prompts.txt", "--check", 1, "--out", out)
    assert done.exit_code == 0, done.output
    assert "checking it costs 2 full runs more, on 1 prompt (" in in_a_line(done)
    where = "that calibration did not use" if held_out else "of calibration's own"
    found = re.search(
        rf"3 of 6 steps; (.*) dB from the full run on 1 prompt {where}, where 3 plain steps", in_a_line(done)
    )
    assert 10 < float(found[1]) < 80
    assert any(note.startswith("3 of 6 steps; ") for note in Policy.load(out).calibration.notes)


def test_a_limit_of_the_cost_is_kept_and_what_was_left_out_is_said(tmp_path):
    done = run(*ASKED, "--full-runs", 1, "--out", tmp_path / "policy.safetensors")
    assert done.exit_code == 0, done.output
    assert "--check 2 does it for 4 full runs beside that limit" in in_a_line(done)
    assert "plain steps are" not in done.output


def test_a_policy_that_is_no_nearer_than_plain_steps_is_warned_of():
    good, bad = Check((40.0,), (30.0,), 3, 6, 3, True), Check((30.0, 20.0), (40.0, 10.5), 3, 6, 4, True)
    assert len(verdict(good)) == 1
    _, warning = verdict(bad)
    assert "no nearer to the full run than 3 plain steps" in warning
    assert "num_inference_steps=4" in warning
