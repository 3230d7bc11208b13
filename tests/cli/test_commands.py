"""Every command as a user types it, on the embedded pipeline with few steps."""

import json
import re
from dataclasses import replace

from PIL import Image

from ertacache import Policy, Profile, zoo
from ertacache.cli.frontier_folder import write_frontier
from ertacache.policy import CalibrationRecord
from ertacache.policy.drift_envelope import Envelope
from tests.cli.running import run


def test_calibrate_writes_a_policy_that_can_be_loaded(policy_file):
    policy = Policy.load(policy_file)
    assert len(policy.computed_steps) == 4
    assert policy.calibration.num_prompts == 2


def test_calibrate_takes_prompts_from_a_file_and_arguments_of_the_call(tmp_path):
    (tmp_path / "prompts.txt").write_text("a red star\n\na blue ring\n")
    out = tmp_path / "policy.safetensors"
    arguments = ["--prompts", tmp_path / "prompts.txt", "--set", "true_cfg_scale=1", "--method", "taylor"]
    done = run("calibrate", "zoo:flux", "--steps", 8, *arguments, "--computed-steps", 3, "--out", out)
    assert done.exit_code == 0, done.output
    policy = Policy.load(out)
    assert policy.origin.guidance["true_cfg_scale"] == 1
    assert policy.origin.calls_per_step == 1


def test_generate_writes_a_picture_and_says_what_was_computed(policy_file, tmp_path):
    done = run("generate", "zoo:flux", "a red star", "--policy", policy_file, "--out", tmp_path / "star.png")
    assert done.exit_code == 0, done.output
    assert "4 of 8 steps computed" in done.output
    assert (tmp_path / "star.png").stat().st_size > 0


def test_generate_compare_shows_both_and_the_distance(policy_file, tmp_path):
    out = tmp_path / "both.png"
    done = run("generate", "zoo:flux", "a red star", "--policy", policy_file, "--out", out, "--compare")
    assert done.exit_code == 0, done.output
    figures = {
        name: re.search(rf"{name}\W+4\W+2\.00x\W+(\d\d\.\d)", done.output) for name in ("aligned", "4 plain steps")
    }
    assert all(figures.values()), done.output
    assert len({found[1] for found in figures.values()}) == 2
    assert out.stat().st_size > 0


def test_generate_compares_an_instant_policy_with_as_many_plain_steps(tmp_path):
    asked = ["generate", "zoo:flux", "a red star", "--steps", 6, "--compare", "--out"]
    done = run(*asked, tmp_path / "three.png", "--speedup", 2)
    assert done.exit_code == 0, done.output
    assert re.search(r"instant\W+3\W+2\.00x\W+\d\d\.\d", done.output), done.output
    assert re.search(r"3 plain steps\W+3\W+2\.00x\W+\d\d\.\d", done.output), done.output
    done = run(*asked, tmp_path / "two.png", "--speedup", 1)  # as many would be the full run again
    assert done.exit_code == 0, done.output
    assert "plain step" not in done.output
    heights = [Image.open(tmp_path / name).height for name in ("three.png", "two.png")]
    assert heights[0] > heights[1]


def test_generate_compares_a_transferred_policy_with_plain_steps_in_proportion(policy_file, tmp_path):
    asked = ["generate", "zoo:flux", "a red star", "--policy", policy_file, "--steps", 12, "--compare"]
    done = run(*asked, "--out", tmp_path / "both.png")
    assert done.exit_code == 0, done.output
    assert re.search(r"6 plain steps\W+6\W+2\.00x", done.output), done.output
    assert "6 of 12 steps computed" in done.output


def test_generate_says_what_the_guard_saw(policy_file, tmp_path):
    policy, guarded = Policy.load(policy_file), tmp_path / "guarded.safetensors"
    steps = policy.computed_steps[1:]
    mean, deviation = (0.0,) * len(steps), (1.0,) * len(steps)
    replace(policy, envelope=Envelope(steps, steps[0], mean, deviation, limit=99.0)).save(guarded)
    asked = ["generate", "zoo:flux", "a red star", "--guard", "report", "--out", tmp_path / "star.png", "--policy"]
    done = run(*asked, guarded)
    assert done.exit_code == 0, done.output
    assert "guard: nothing suspicious" in done.output
    done = run(*asked, policy_file)  # of two prompts
    assert done.exit_code == 2
    assert "no envelope" in done.output


def test_a_policy_is_transferred_to_a_near_number_of_steps_and_refused_for_another(policy_file, tmp_path):
    asked = ["generate", "zoo:flux", "a red star", "--policy", policy_file, "--out", tmp_path / "star.png", "--steps"]
    done = run(*asked, 9)
    assert done.exit_code == 0, done.output
    assert "transferred to these 9" in done.output
    refused = run(*asked, 20)
    assert refused.exit_code == 2
    assert "ertacache calibrate" in refused.output


def test_a_picture_named_as_a_clip_and_more_than_one_are_written(tmp_path):
    asked = ["generate", "zoo:flux", "a red star", "--steps", 2, "--set", "num_images_per_prompt=2"]
    done = run(*asked, "--out", tmp_path / "star.mp4")
    assert done.exit_code == 0, done.output
    assert f"wrote {tmp_path / 'star.png'}" in done.output.replace("\n", "")
    with Image.open(tmp_path / "star.png") as picture:
        assert picture.size == (2 * 48, 48)


def test_inspect_tells_every_step_and_draws_it(policy_file, tmp_path):
    done = run("inspect", policy_file)
    assert done.exit_code == 0, done.output
    assert Policy.load(policy_file).pattern in done.output
    assert "FluxTransformer2DModel" in done.output
    assert "noise level" not in done.output
    assert len(done.output.splitlines()) < 20
    done = run("inspect", policy_file, "--coefficients", "--plot", tmp_path / "policy.png")
    assert done.exit_code == 0, done.output
    assert len(re.findall(r"\bcached\b", done.output)) == 4
    assert len(re.findall(r"│ computed ", done.output)) == 4
    assert (tmp_path / "policy.png").stat().st_size > 0


def test_inspect_writes_a_page(policy_file, tmp_path):
    done = run("inspect", policy_file, "--report", tmp_path / "policy.html")
    assert done.exit_code == 0, done.output
    page = (tmp_path / "policy.html").read_text()
    assert len(re.findall(r"<td>cached</td>", page)) == 4
    assert "4 of 8 steps run the denoiser" in page
    assert page.count("<svg") == 1


def test_demo_prints_the_table_and_leaves_the_pictures(tmp_path, monkeypatch):
    small = zoo.load("flux")
    monkeypatch.setitem(small.arguments, "num_inference_steps", 12)
    monkeypatch.setattr(zoo, "load", lambda name: small)
    few = ("--prompts", 1, "--calibration-prompts", 1, "--method", "reuse")
    done = run("demo", "--model", "flux", "--out", tmp_path, *few)
    assert done.exit_code == 0, done.output
    ways = [f"{way} {ratio}" for ratio in ("2x", "3x") for way in ("reuse", "Taylor", "fewer steps")]
    assert all(name in done.output for name in ("full", *ways, "PSNR", "SSIM", "speedup"))
    for ratio in (6, 4):
        assert done.output.count(f" {ratio} ") >= 3, "not all of a ratio compute as many steps"
    policies = {f"policy-{ratio}.{suffix}" for ratio in ("2x", "3x") for suffix in ("png", "safetensors")}
    assert {p.name for p in tmp_path.iterdir()} == {"pictures.png", "report.html"} | policies
    report = (tmp_path / "report.html").read_text()
    assert report.count("data:image/png") == 7
    assert report.count("<svg") == 3  # one prompt is no scatter


def test_a_draft_is_made_and_says_how_far_a_picture_is_from_it(policy_file, tmp_path):
    made, star = tmp_path / "draft.safetensors", tmp_path / "star.png"
    done = run("draft", "zoo:flux", policy_file, "--limit", 4, "--out", made)
    assert done.exit_code == 0, done.output
    assert "drafts compute 2 of 8 steps" in done.output
    asked = ["generate", "zoo:flux", "a red star", "--out", star, "--draft", made]
    done = run(*asked, "--policy", policy_file)
    assert done.exit_code == 0, done.output
    assert re.search(r"draft: \w.*score -?\d+\.\d\d, limit 2\.63; 4 more denoiser calls", done.output)
    done = run(*asked)
    assert done.exit_code == 2
    assert "needs a policy" in done.output
    done = run("draft", "zoo:flux", policy_file, "--limit", 4, "--by", policy_file, "--out", made)
    assert done.exit_code == 2
    assert "both compute the same steps" in done.output.replace("\n", " ")


def test_a_frontier_is_written_whole_and_picked_from_without_the_model(make_policy, tmp_path):
    def made(computed, *psnr):
        record = CalibrationRecord("", psnr=psnr, ssim=(0.9,) * len(psnr), seconds=float(computed))
        return replace(make_policy(10, tuple(range(1, 11 - computed))), calibration=record)

    profile = Profile((made(8, 60, 61, 62), made(6, 40, 41, 42), made(5, 50, 51, 52)))
    whole = "Profile(3 policies of 10 steps, 1.25x to 2.00x, PSNR 61.0 to 51.0 dB over 3 held-out prompts)"
    assert repr(profile) == whole
    written = write_frontier(profile, tmp_path / "front")
    assert all(path.is_file() for path in written)
    rows = json.loads((tmp_path / "front/frontier.json").read_text())
    assert [row["file"] for row in rows] == [f"policy-{r}x.safetensors" for r in ("1.25", "1.67", "2.00")]
    assert rows[0]["psnr"] == [60, 61, 62]

    out = tmp_path / "picked.safetensors"
    result = run("pick", tmp_path / "front/profile.safetensors", "--min-psnr", "49", "--out", out)
    assert result.exit_code == 0
    assert len(Policy.load(out).computed_steps) == 5
    refused = run("pick", tmp_path / "front/profile.safetensors", "--speedup", "4", "--out", tmp_path / "none")
    assert refused.exit_code == 2
    assert "no policy of this profile meets the budget" in refused.output
    assert not (tmp_path / "none").exists()
