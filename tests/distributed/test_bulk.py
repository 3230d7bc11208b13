"""Pictures in bulk: every prompt once, whatever dies or is interrupted; and figures over workers."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ertacache import Method, Policy, calibrate, zoo
from ertacache.distributed import bulk
from ertacache.distributed.bulk import MANIFEST, Manifest, Order, generate_all, made_of
from ertacache.distributed.messages import HandedIn
from ertacache.errors import CalibrationError, OutputError, PipelineError
from ertacache.evaluation.comparison import Result, Variant, calls_of, generate, started
from ertacache.evaluation.evaluate import evaluate
from ertacache.evaluation.uncalibrated import uncalibrated
from tests.cli.running import run
from tests.distributed.threads import Threads

STEPS = 4
POLICY = Policy(STEPS, (1, 2), Method.named("taylor"))


@pytest.fixture(scope="module")
def small():
    return zoo.load("flux")


def load():
    return zoo.load("flux").pipe


@pytest.fixture
def order(small):
    arguments = {**small.arguments}
    del arguments["num_inference_steps"]
    return Order(small.held_out_prompts[:6], Variant("taylor", STEPS, policy=POLICY), arguments, seed=7)


def listed(folder):
    return [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]


def check(folder, order):
    """Every prompt once, each with its picture, as one process alone would make it."""
    entries = listed(folder)
    assert sorted(entry["number"] for entry in entries) == list(range(len(order.prompts)))
    pictures = {path.name for path in folder.iterdir()} - {MANIFEST}
    assert pictures == {entry["file"] for entry in entries}
    for entry in entries:
        assert entry["prompt"] == order.prompts[entry["number"]]
        assert (entry["seed"], entry["computed_steps"]) == (7 + entry["number"], 2)
    return {entry["file"]: (folder / entry["file"]).read_bytes() for entry in entries}


def test_workers_make_the_pictures_that_one_process_makes(small, order, tmp_path):
    seen = []
    generate_all(small.pipe, order, tmp_path / "alone", on_entry=seen.append)
    alone = check(tmp_path / "alone", order)
    assert [entry["number"] for entry in seen] == list(range(6))
    generate_all(load, order, tmp_path / "three", Threads(3))
    assert check(tmp_path / "three", order) == alone
    call = {**order.arguments, "prompt": order.prompts[2], "seed": 9}
    wanted = generate(small.pipe, order.variant, started(call)).pictures[0]
    with Image.open(tmp_path / "three" / "00002.png") as image:
        made = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    torch.testing.assert_close(made, wanted, rtol=0, atol=1 / 255)


def test_arguments_of_single_prompts_are_checked_before_the_first_picture(order, small, tmp_path):
    wrong = replace(order, own=[*[{}] * 5, {"no_such": 1}])
    for where, workers in ((small.pipe, None), (load, Threads(2))):
        with pytest.raises(PipelineError, match="takes no 'no_such'"):
            generate_all(where, wrong, tmp_path, workers)
    assert not (tmp_path / MANIFEST).exists()


def test_a_worker_that_is_killed_and_an_interruption_lose_nothing(order, tmp_path, small):
    killed = []

    def kills(rank, life, message):
        due = rank == 1 and life == 1 and isinstance(message, HandedIn) and message.number == 1
        killed.append(rank) if due else None
        return due

    def interrupted(entry):
        if len(listed(tmp_path)) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_all(load, order, tmp_path, Threads(2, kills), on_entry=interrupted)
    assert killed == [1]
    assert len(listed(tmp_path)) == 3
    (tmp_path / listed(tmp_path)[0]["file"]).unlink()  # lost
    with (tmp_path / MANIFEST).open("a") as file:
        file.write('{"number": 5, "pro')  # cut off
    assert len(Manifest(tmp_path, order).left()) == 4
    generate_all(load, order, tmp_path, Threads(2))
    entries = listed(tmp_path)
    assert len(entries) == 7, "lines are added"
    newest = {entry["number"]: entry for entry in entries}
    assert sorted(newest) == list(range(6))
    assert all((tmp_path / entry["file"]).is_file() for entry in newest.values())
    before = (tmp_path / MANIFEST).read_bytes()
    generate_all(load, order, tmp_path, Threads(2))
    assert (tmp_path / MANIFEST).read_bytes() == before


def test_a_prompt_that_kills_workers_is_listed_and_does_not_hold_up_the_others(order, tmp_path):
    held = {}

    def kills(rank, life, message):
        if not isinstance(message, HandedIn):
            return False
        number = held.get(rank)
        if number == 2:
            held.pop(rank)
            return True
        return False

    class Watching(Threads):
        """Knows which prompt each worker has."""

        def carrier(self):
            context = super().carrier()

            class Entered:
                def __enter__(self):
                    carrier = context.__enter__()
                    send = carrier.send

                    def noting(rank, reply):
                        held[rank] = reply[0]
                        send(rank, reply)

                    carrier.send = noting
                    return carrier

                def __exit__(self, *error):
                    return context.__exit__(*error)

            return Entered()

    manifest = generate_all(load, order, tmp_path, Watching(2, kills))
    assert manifest.entries[2]["error"] == "a worker died at it twice: killed"
    assert "file" not in manifest.entries[2]
    assert manifest.left() == [2]
    assert len(list(tmp_path.glob("*.png"))) == 5


def test_one_call_that_fails_is_listed_and_a_policy_that_does_not_fit_ends_all(small, order, tmp_path):
    def breaking(*args, **kwargs):
        raise ValueError("no such word")

    pipe = load()
    pipe.text_encoder.forward = breaking
    assert made_of(pipe, order, 0).entry == {"error": "ValueError: no such word"}
    with pytest.raises(PipelineError, match="takes no 'wideness'"):
        generate_all(load, replace(order, arguments={"wideness": 3}), tmp_path, Threads(2))


def test_a_worker_that_never_begins_ends_the_job(order, tmp_path):
    def broken():
        raise OSError("no such disk")

    with pytest.raises(CalibrationError, match=r"died 2 times before its first picture.*no such disk"):
        generate_all(broken, order, tmp_path, Threads(1))


def test_a_folder_of_other_pictures_is_refused(small, order, tmp_path):
    generate_all(small.pipe, replace(order, prompts=order.prompts[:1]), tmp_path)
    assert Manifest(tmp_path, order).left() == [1, 2, 3, 4, 5], "more prompts may follow"
    for other in (replace(order, seed=8), replace(order, prompts=["a star"]), replace(order, variant=Variant("", 4))):
        with pytest.raises(OutputError, match="made in another way"):
            Manifest(tmp_path, other)


def test_quality_over_workers_is_that_of_one_process(small, tmp_path):
    given = {**small.arguments, "num_inference_steps": STEPS, "progress": False}
    policy = calibrate(small.pipe, small.calibration_prompts[:1], num_computed_steps=2, method="reuse", **given)
    calls = calls_of(small.arguments, small.held_out_prompts[:3], 5)
    policies = {"reuse": policy, "instant": uncalibrated(small.pipe, calls[0], STEPS, 2.0)}
    alone = evaluate(small.pipe, policies, calls, tmp_path / "alone")
    spread = evaluate(load, policies, calls, tmp_path / "two", workers=Threads(2))
    for one, other in zip(alone, spread, strict=True):
        assert (one.name, one.psnr, one.ssim, one.flops) == (other.name, other.psnr, other.ssim, other.flops)
    kept = {path: path.stat().st_mtime for path in (tmp_path / "two").rglob("prompt-*.json")}
    assert len(kept) == 3
    evaluate(small.pipe, policies, calls, tmp_path / "two")
    assert {path: path.stat().st_mtime for path in kept} == kept, "one process measured again what two had"


def test_the_command_makes_what_is_missing_and_says_so(small, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(small.held_out_prompts[:3]))
    POLICY.save(tmp_path / "policy.safetensors")
    asked = ["generate", "zoo:flux", "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "made"]
    asked += ["--policy", tmp_path / "policy.safetensors"]
    done = run(*asked)
    assert done.exit_code == 0, done.output
    assert "wrote 3 files" in done.output
    assert len(listed(tmp_path / "made")) == 3
    assert "3 of 3 are there already" in run(*asked).output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a prompt, or a file of prompts"),
        (["a star", "--prompts", __file__], "a prompt, or a file of prompts"),
        (["a star", "--workers", 2], "--workers is for many"),
        (["--prompts", __file__, "--compare", "--speedup", 2], "--compare is for one picture"),
        (["--prompts", __file__, "--ray", "local"], "--ray needs --workers"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments, message):
    done = run("generate", "zoo:flux", *arguments)
    assert done.exit_code == 2
    assert message in done.output.replace("\n", " ")


@pytest.mark.parametrize(("sounds", "expected"), [(True, 25), (False, 10)])
def test_a_clip_with_sound_keeps_the_frame_rate_of_its_call(sounds, expected, small, order, monkeypatch):
    """As one that is made alone, so that clip and sound end together; a clip without sound has the rate asked for."""
    written = []

    def write(films, path, *, fps, sound):
        path.write_bytes(b"clip")
        written.append(fps)

    clip = Result(torch.zeros(1, 5, 3, 8, 8), 1.0, 1.0, 1.0, 1.0, sound=torch.zeros(1, 1, 100) if sounds else None)
    monkeypatch.setattr(bulk, "write_film", write)
    monkeypatch.setattr(bulk, "generate", lambda *given: clip)
    made = made_of(small.pipe, replace(order, arguments={**order.arguments, "frame_rate": 25.0}, fps=10), 0)
    assert (made.data, made.suffix, written) == (b"clip", ".mp4", [expected])
    made_of(small.pipe, replace(order, own=[{"frame_rate": 25.0}] * 6, fps=10), 0)
    assert written == [expected] * 2
