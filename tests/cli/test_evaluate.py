"""`ertacache evaluate`: measures policies and speedups, resumes, and refuses what cannot stand in one table."""

import json
import re

import pytest

from ertacache import Policy
from ertacache.sharing.figures import read
from tests.cli.running import refused, run


def test_evaluate_measures_a_policy_beside_fewer_steps_and_goes_on_where_it_was(policy_file, tmp_path):
    out, work = tmp_path / "evaluation.json", tmp_path / "work"
    command = ["evaluate", "zoo:flux", policy_file, "--quick", "--out", out, "--work", work]
    done = run(*command)
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "2 prompts in full and 3 ways more" in said
    assert "the time of about 16 full runs" in said
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


def test_a_speedup_alone_is_measured_as_a_policy_is_and_beside_one(policy_file, tmp_path):
    given = ["--speedup", 2, "--limit", 1, "--work", tmp_path / "work"]
    done = run("evaluate", "zoo:flux", *given, "--steps", 8, "--show", 1, "--out", tmp_path / "alone.json")
    assert done.exit_code == 0, done.output
    assert re.search(r"instant 2x +\d\d\.\d +4 .* 2\.00x ", done.output)
    alone = json.loads((tmp_path / "alone.json").read_text())
    assert [row["name"] for row in alone["rows"]] == ["instant 2x", "fewer steps", "fewer steps, sub-grid"]
    assert all(row["flops"] == pytest.approx([0.5]) for row in alone["rows"])
    assert (alone["policies"], alone["speedup"], alone["learn"], alone["steps"]) == ([], 2.0, None, 8)
    page = (tmp_path / "alone.html").read_text()
    assert "not calibrated: schedule and weights are what other models have in common" in page

    done = run("evaluate", "zoo:flux", policy_file, *given, "--show", 0, "--out", tmp_path / "both.json")
    assert done.exit_code == 0, done.output
    both = json.loads((tmp_path / "both.json").read_text())
    assert [row["name"] for row in both["rows"]][::3] == ["policy", "instant 2x"]
    assert both["rows"][3]["psnr"] == alone["rows"][0]["psnr"]
    assert len(read(Policy.load(policy_file), tmp_path / "both.json").rows) == 3


def test_a_learnt_folder_is_measured_once_it_knows_the_setting(tmp_path):
    learnt = tmp_path / "learnt"
    given = ["evaluate", "zoo:flux", "--speedup", 2, "--learn", learnt, "--steps", 8, "--limit", 1, "--show", 0]
    given += ["--work", tmp_path / "work", "--out", tmp_path / "evaluation.json"]
    line = refused(*given)
    assert f"ertacache generate MODEL PROMPT --speedup 2 --learn {learnt}" in line
    taught = ["generate", "zoo:flux", "a red star", "--speedup", 2, "--learn", learnt, "--steps", 8]
    assert run(*taught, "--out", tmp_path / "star.png").exit_code == 0
    done = run(*given)
    assert done.exit_code == 0, done.output
    assert re.search(r"learnt 2x +\d\d\.\d +4 ", done.output)
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert (written["learn"], written["rows"][0]["flops"]) == (str(learnt), pytest.approx([0.5]))


def test_what_does_not_go_together_is_refused(policy_file, tmp_path):
    assert "no policy, and no speedup" in refused("evaluate", "zoo:flux")
    assert "--learn needs --speedup" in refused("evaluate", "zoo:flux", policy_file, "--learn", tmp_path)
    assert "speedup must be a finite number from 1" in refused("evaluate", "zoo:flux", "--speedup", 0.5)
    assert "--steps 9, and a policy for 8" in refused("evaluate", "zoo:flux", policy_file, "--steps", 9)
    named = tmp_path / "instant 2x.safetensors"
    named.write_bytes(policy_file.read_bytes())
    assert "the same name, 'instant 2x'" in refused("evaluate", "zoo:flux", named, "--speedup", 2)
