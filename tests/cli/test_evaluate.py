"""`ertacache evaluate`: measures, resumes, and refuses policies that cannot stand in one table."""

import json
import re

import pytest

from tests.cli.running import run


def test_evaluate_measures_a_policy_beside_fewer_steps_and_goes_on_where_it_was(policy_file, tmp_path):
    out, work = tmp_path / "evaluation.json", tmp_path / "work"
    command = ["evaluate", "zoo:flux", policy_file, "--quick", "--out", out, "--work", work]
    done = run(*command)
    assert done.exit_code == 0, done.output
    figures = json.loads(out.read_text())
    policy, fewer, sub_grid = figures["rows"]
    assert policy["name"] == "policy"
    assert fewer["name"] == "fewer steps"
    assert sub_grid["name"] == "fewer steps, sub-grid"
    assert policy["flops"] == pytest.approx([0.5, 0.5])
    assert fewer["flops"] == pytest.approx([0.5, 0.5])
    assert all(len(row["psnr"]) == len(row["ssim"]) == 2 for row in figures["rows"])
    assert re.search(r"policy +\d\d\.\d +4 .* 2\.00x .*x .*MB", done.output)
    page = out.with_suffix(".html").read_text()
    assert page.count("data:image/png") == 2 * 4  # both prompts in full and in three ways
    assert "2x fewer denoiser calls" in page
    assert "4 plain steps (same levels)" in page
    worst = min(policy["psnr"])
    assert page.index(f"<td>{worst:.1f} dB</td>") < page.index(f"<td>{max(policy['psnr']):.1f} dB</td>")

    next(work.rglob("prompt-1.json")).unlink()  # as if it had been interrupted there
    kept = next(work.rglob("prompt-0.json")).read_text()
    assert run(*command).exit_code == 0
    again = json.loads(out.read_text())
    assert next(work.rglob("prompt-0.json")).read_text() == kept
    assert [row["psnr"] for row in again["rows"]] == [row["psnr"] for row in figures["rows"]]
    assert again["rows"][0]["speedup"][0] == policy["speedup"][0]


def test_evaluate_refuses_policies_for_different_numbers_of_steps(policy_file, tmp_path):
    other = tmp_path / "other.safetensors"
    assert run("calibrate", "zoo:flux", "--steps", 6, "--limit", 1, "--method", "taylor", "--out", other).exit_code == 0
    done = run("evaluate", "zoo:flux", policy_file, other, "--quick", "--out", tmp_path / "evaluation.json")
    assert done.exit_code == 2
    assert "6, 8 steps" in done.output
    assert not (tmp_path / "evaluation.json").exists()


def test_evaluate_refuses_two_policies_that_its_table_could_not_tell_apart(policy_file, tmp_path):
    (tmp_path / "policy.safetensors").write_bytes(policy_file.read_bytes())
    done = run("evaluate", "zoo:flux", policy_file, tmp_path / "policy.safetensors", "--quick")
    assert done.exit_code == 2
    assert "the same name, 'policy'" in done.output
