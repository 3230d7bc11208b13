"""The commands as a user types them, on the embedded pipeline with few steps."""

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import replace

import pytest
from PIL import Image
from safetensors import SafetensorError
from typer.testing import CliRunner

from ertacache import Policy, Profile, zoo
from ertacache.cli import app, options
from ertacache.cli.call_arguments import check_arguments
from ertacache.cli.frontier import write_frontier
from ertacache.errors import PipelineError
from ertacache.evaluation import comparison
from ertacache.method.choice import NAMED_METHODS
from ertacache.policy import CalibrationRecord
from ertacache.policy.envelope import Envelope

runner = CliRunner()
FEW = ["--steps", "8", "--limit", "2"]


def run(*arguments):
    return runner.invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})


@pytest.fixture(scope="module")
def policy_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("policy") / "policy.safetensors"
    done = run("calibrate", "zoo:flux", *FEW, "--speedup", 2, "--out", path)
    assert done.exit_code == 0, done.output
    return path


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
    assert re.search(r"aligned\W+4\W+\d\.\d\dx\W+\d\d\.\d", done.output)
    assert out.stat().st_size > 0


def test_generate_says_what_the_guard_saw(policy_file, tmp_path):
    policy, guarded = Policy.load(policy_file), tmp_path / "guarded.safetensors"
    steps = policy.computed_steps[1:]
    mean, deviation = (0.0,) * len(steps), (1.0,) * len(steps)
    replace(policy, envelope=Envelope(steps, steps[0], mean, deviation, limit=99.0)).save(guarded)
    asked = ["generate", "zoo:flux", "a red star", "--guard", "report", "--out", tmp_path / "star.png", "--policy"]
    done = run(*asked, guarded)
    assert done.exit_code == 0, done.output
    assert "guard: within calibration's envelope" in done.output
    done = run(*asked, policy_file)  # of two prompts
    assert done.exit_code == 2
    assert "no envelope" in done.output


def test_inspect_tells_every_step_and_draws_it(policy_file, tmp_path):
    done = run("inspect", policy_file, "--plot", tmp_path / "policy.png")
    assert done.exit_code == 0, done.output
    assert len(re.findall(r"\bcached\b", done.output)) == 4
    assert len(re.findall(r"│ computed ", done.output)) == 4
    assert "FluxTransformer2DModel" in done.output
    assert (tmp_path / "policy.png").stat().st_size > 0


def test_inspect_writes_a_page(policy_file, tmp_path):
    done = run("inspect", policy_file, "--report", tmp_path / "policy.html")
    assert done.exit_code == 0, done.output
    page = (tmp_path / "policy.html").read_text()
    assert len(re.findall(r"<td>cached</td>", page)) == 4
    assert "4 of 8 steps run the denoiser" in page
    assert page.count("<svg") == 1


def test_demo_prints_the_table_and_leaves_the_pictures(tmp_path):
    done = run("demo", "--out", tmp_path, "--prompts", 1, "--calibration-prompts", 1, "--method", "taylor")
    assert done.exit_code == 0, done.output
    assert all(name in done.output for name in ("full", "taylor", "fewer steps", "PSNR", "SSIM", "speedup"))
    left = {"pictures.png", "policy.png", "policy.safetensors", "report.html"}
    assert {p.name for p in tmp_path.iterdir()} == left
    report = (tmp_path / "report.html").read_text()
    assert report.count("data:image/png") == 3
    assert report.count("<svg") == 2  # one prompt is no scatter


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
    assert re.search(r"policy.*x.*MB.*\d\d\.\d", done.output)
    page = out.with_suffix(".html").read_text()
    assert page.count("data:image/png") == 2 * 4  # both prompts in full and in three ways
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
    assert "two policies have one name (policy)" in done.output


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
    assert "computes other steps than what it is of" in done.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["calibrate", "zoo:flux", "--speedup", 100], "cannot be met"),
        (["calibrate", "zoo:sdxl"], "no such embedded pipeline"),
        (["calibrate", "/nowhere/at/all", "--steps", 8], "no prompts are given"),
        (["generate", "/nowhere/at/all", "a star"], "Pass --steps N"),
        (["generate", "/nowhere/at/all", "a star", "--steps", 8], "cannot be loaded"),
        (["calibrate", "zoo:flux", "--set", "guidance"], "NAME=VALUE"),
        (["calibrate", "zoo:flux", "--dtype", "float99"], "no dtype"),
        (["calibrate", "zoo:flux", "--device", "abacus"], "device 'abacus' cannot be used here"),
        (["calibrate", "zoo:flux", "--min-psnr", 40, "--limit", 3], "with 3 prompts"),
        (["generate", "zoo:flux", "a star", "--policy", "/nowhere.safetensors"], "no policy file"),
        (["generate", "zoo:flux", "a star", "--compare"], "needs a policy"),
        (["generate", "zoo:flux", "a star", "--guard", "report"], "needs a policy"),
        (["draft", "zoo:flux", "/nowhere.safetensors"], "no policy file"),
        (["inspect", __file__], "not a policy"),
    ],
)
def test_bad_input_is_one_line_with_the_cure_and_status_2(arguments, message):
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output


def test_a_path_with_brackets_is_printed_as_it_is(tmp_path):
    done = run("inspect", tmp_path / "runs [draft]" / "[/x].safetensors")
    assert done.exit_code == 2
    assert "runs [draft]/[/x].safetensors" in done.output.replace("\n", "")


@pytest.mark.parametrize("command", ["demo", "calibrate", "generate", "inspect", "push"])
def test_every_command_has_help(command):
    done = run(command, "--help")
    assert done.exit_code == 0
    assert "Usage" in done.output


def test_a_policy_is_transferred_to_a_near_number_of_steps_and_refused_for_another(policy_file, tmp_path):
    asked = ["generate", "zoo:flux", "a red star", "--policy", policy_file, "--out", tmp_path / "star.png", "--steps"]
    done = run(*asked, 9)
    assert done.exit_code == 0, done.output
    assert "weights solved anew for these 9" in done.output
    refused = run(*asked, 20)
    assert refused.exit_code == 2
    assert "ertacache calibrate" in refused.output


def test_a_frontier_is_written_whole_and_picked_from_without_the_model(make_policy, tmp_path):
    def made(computed, *psnr):
        record = CalibrationRecord("", psnr=psnr, ssim=(0.9,) * len(psnr), seconds=float(computed))
        return replace(make_policy(10, tuple(range(1, 11 - computed))), calibration=record)

    profile = Profile((made(8, 60, 61, 62), made(6, 40, 41, 42), made(5, 50, 51, 52)))
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


def test_a_frontier_takes_no_budget(tmp_path):
    refused = run("calibrate", "zoo:flux", "--frontier", tmp_path, "--speedup", "2")
    assert refused.exit_code == 2
    assert "--frontier" in refused.output


def refused(*arguments):
    """What the command says, in one line, of what it was given."""
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit)
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert line.startswith("error: ")
    return line


@pytest.fixture
def no_work(monkeypatch):
    """Fails where a command loads its pipeline."""

    def load(*arguments):
        raise AssertionError("the work began")

    for command in ("calibrate", "draft", "generate", "evaluate"):
        monkeypatch.setattr(f"ertacache.cli.{command}.open_pipeline", load)
    monkeypatch.setattr("ertacache.zoo.load", load)


@pytest.mark.parametrize("bad", ["folder", "file/under", "/proc/nowhere/file", "name" * 99], ids=lambda bad: bad[:12])
def test_where_nothing_can_be_written_is_said_before_the_work(bad, policy_file, tmp_path, no_work):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    picture = "folder" if bad == "folder" else f"{bad}.png"
    bad, good, picture = tmp_path / bad, tmp_path / "good", tmp_path / picture
    flux, evaluate = ["calibrate", "zoo:flux"], ["evaluate", "zoo:flux", policy_file]
    commands = [
        [*flux, "--out", bad],
        ["pick", tmp_path / "file", "--speedup", 2, "--out", bad],
        ["draft", "zoo:flux", policy_file, "--out", bad],
        ["generate", "zoo:flux", "a star", "--out", picture],
        ["inspect", policy_file, "--plot", picture],
        ["inspect", policy_file, "--report", bad],
        [*evaluate, "--out", bad],
        [*evaluate, "--out", good, "--report", bad],
        ["benchmark", "--quick", "--work", good, "--page", bad],
        ["benchmark", "--quick", "--work", good, "--report", bad],
    ]
    bad = bad if bad.name != "folder" else tmp_path / "file"
    commands += [
        [*flux, "--frontier", bad],
        [*flux, "--checkpoint", bad],
        ["demo", "--out", bad],
        ["draft", "zoo:flux", policy_file, "--checkpoint", bad],
        [*evaluate, "--out", good, "--work", bad],
        ["benchmark", "--quick", "--work", bad],
        ["benchmark", "--quick", "--work", good, "--out", bad],
    ]
    for command in commands:
        assert "the output" in refused(*command), command
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}


def test_other_input_that_cannot_be_used_is_told_before_the_work_too(policy_file, tmp_path, no_work):
    (tmp_path / "file").write_bytes(b"caf\xe9")
    flux, star = ["calibrate", "zoo:flux"], ["generate", "zoo:flux", "a star"]
    policy = ["--policy", policy_file]
    for command, told in [
        ([*star, "--out", "star.xyz"], "nothing can be written as .xyz"),
        ([*star, *policy, "--compare", "--out", "star.bmp"], "nothing can be written as .bmp"),
        ([*star, "--out", "star"], "no suffix"),
        (["inspect", policy_file, "--plot", "a.xyz"], "nothing can be written as .xyz"),
        (["inspect", policy_file, "--plot", "a.png", "--report", "a.png"], "also another file"),
        (["evaluate", "zoo:flux", policy_file, "--out", "a.html"], "also another file"),
        (["draft", "zoo:flux", policy_file, "--out", policy_file], "also another file"),
        (["pick", policy_file, "--out", policy_file, "--speedup", 2], "also another file"),
        ([*flux, "--prompts", tmp_path / "file"], "not text in UTF-8"),
        ([*flux, "--prompts", tmp_path], "Is a directory"),
        ([*flux, "--prompts", tmp_path / "none"], "No such file"),
        ([*flux, "--method", "magic"], "no such method"),
        ([*flux, "--speedup", 2, "--min-psnr", 40], "exactly one budget"),
        ([*flux, "--frontier", tmp_path, "--speedup", 2], "--frontier"),
        ([*flux, "--steps", 0], "'--steps'"),
        ([*flux, "--seed", 10**20], "seed is too large"),
        ([*star, *policy, "--guard", "watch"], "no such guard"),
        ([*star, *policy, "--draft", policy_file], "not a draft"),
        ([*star, "--frames", 9], "No such option"),
        (["benchmark", "nosuch", "--quick", "--work", tmp_path / "work"], "no such embedded pipeline"),
        (["evaluate", "zoo:flux", policy_file, policy_file], "two policies have one name"),
    ]:
        assert told in refused(*command)
    for name in ("full", "fewer steps"):
        (tmp_path / f"{name}.safetensors").write_bytes(policy_file.read_bytes())
        assert "another row of the table" in refused("evaluate", "zoo:flux", tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--set", "tru_cfg_scale=4"], "Did you mean true_cfg_scale?"),
        (["--set", "nosuch=1"], "It takes prompt, prompt_2"),
        (["--set", "seed=5"], "takes no 'seed'"),
        (["--set", "self=5"], "takes no 'self'"),
        (["--set", "generator=5"], "the command itself gives 'generator'"),
        (["--set", "return_dict=false"], "the command itself gives 'return_dict'"),
        (["--set", "num_inference_steps=9"], "two numbers of steps"),
        (["--set", "height=-64"], "the pipeline refused this call: RuntimeError"),
        (["--set", "sigmas=abc"], "the pipeline refused this call: ValueError"),
        (["--set", "true_cfg_scale=NaN"], "the pipeline refused this call: TypeError"),
        (["--set", "prompt_2=5"], "`prompt_2` has to be of type"),
        (["--dtype", "int8"], "no dtype"),
        (["--device", "meta"], "device 'meta' cannot be used"),
    ],
)
def test_arguments_that_the_call_does_not_take_are_told_in_one_line(given, told, tmp_path):
    assert told in refused("generate", "zoo:flux", "a star", "--steps", 2, "--out", tmp_path / "a.png", *given)
    assert list(tmp_path.iterdir()) == []


def test_a_pipeline_whose_call_needs_what_a_shell_cannot_give_is_refused():
    class Needy:
        def __call__(self, image, prompt=None, num_inference_steps=9, generator=None, output_type="pil"):
            """Of a picture."""

    with pytest.raises(PipelineError, match="needs 'image'"):
        check_arguments(Needy(), {})
    check_arguments(Needy(), {"image": "a.png"})


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
        assert picture.size == (96, 96)


def test_a_picture_named_as_a_clip_and_more_than_one_are_written(tmp_path):
    asked = ["generate", "zoo:flux", "a red star", "--steps", 2, "--set", "num_images_per_prompt=2"]
    done = run(*asked, "--out", tmp_path / "star.mp4")
    assert done.exit_code == 0, done.output
    assert f"wrote {tmp_path / 'star.png'}" in done.output.replace("\n", "")
    with Image.open(tmp_path / "star.png") as picture:
        assert picture.size == (2 * 96, 96)


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
    assert done.stderr.strip() == "interrupted"


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


def test_help_names_what_there_is_and_waits_for_nothing():
    assert tuple(options.MODELS.split(", ")) == zoo.NAMES
    assert options.METHODS.split(", ") == list(NAMED_METHODS)
    code = (
        "import sys; from typer.testing import CliRunner; from ertacache.cli import app\n"
        "for asked in ('--help', 'calibrate --help', 'calibrate', 'calibrate zoo:flux --out /proc/a/b', 'nosuch'):\n"
        "    CliRunner().invoke(app, asked.split())\n"
        "print([m for m in ('torch', 'diffusers', 'transformers', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_locale_without_utf_8_stops_no_command(policy_file, tmp_path):
    policy = tmp_path / "é [red].safetensors"
    policy.write_bytes(policy_file.read_bytes())
    asked = [sys.executable, "-m", "ertacache", "inspect", policy, "--plot", tmp_path / "ü.png"]
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(asked, env={**os.environ, **plain}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"\\xfc.png" in done.stdout
    assert (tmp_path / "ü.png").stat().st_size > 0
