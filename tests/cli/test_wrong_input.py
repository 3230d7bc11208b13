"""Wrong input ends in one line with the cure and exit status 2, before the work."""

import pytest

from ertacache.cli.call_arguments import check_arguments
from ertacache.errors import PipelineError
from tests.cli.running import refused, run


@pytest.fixture
def no_work(monkeypatch):
    """Fails where a command loads its pipeline, or starts the benchmark."""

    def load(*arguments):
        raise AssertionError("the work began")

    for command in ("calibrate", "draft", "generate", "evaluate"):
        monkeypatch.setattr(f"ertacache.cli.{command}.open_pipeline", load)
    monkeypatch.setattr("ertacache.zoo.load", load)
    monkeypatch.setattr("ertacache.cli.benchmark.os.execve", load)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["calibrate", "zoo:flux", "--speedup", 100], "cannot be met"),
        (["calibrate", "zoo:sdxl"], "no such embedded pipeline"),
        (["calibrate", "/nowhere/at/all", "--steps", 8], "no prompts are given"),
        (["generate", "/nowhere/at/all", "a star"], "cannot be loaded"),
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


def test_a_frontier_takes_no_budget(tmp_path):
    refused = run("calibrate", "zoo:flux", "--frontier", tmp_path, "--speedup", "2")
    assert refused.exit_code == 2
    assert "--frontier" in refused.output


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
        ([*flux, "--frontier", tmp_path, "--check", 2], "--check"),
        ([*flux, "--steps", 0], "'--steps'"),
        ([*flux, "--seed", 10**20], "seed is too large"),
        ([*star, *policy, "--guard", "watch"], "no such guard"),
        ([*star, *policy, "--draft", policy_file], "not a draft"),
        ([*star, "--frames", 9], "No such option"),
        (["benchmark", "nosuch", "--quick", "--work", tmp_path / "work"], "no such embedded pipeline"),
        (["evaluate", "zoo:flux", policy_file, policy_file], "the same name, 'policy'"),
    ]:
        assert told in refused(*command)
    for name in ("full", "fewer steps"):
        (tmp_path / f"{name}.safetensors").write_bytes(policy_file.read_bytes())
        assert f"the same name, {name!r}" in refused("evaluate", "zoo:flux", tmp_path / f"{name}.safetensors")


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
