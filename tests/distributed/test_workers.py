"""Calibration over workers: the same to the bit for any number of them, whatever dies on the way."""

from dataclasses import replace

import pytest
import torch

import ertacache
from ertacache import zoo
from ertacache.calibration.shard import current_shard
from ertacache.distributed.messages import HandedIn
from ertacache.distributed.worker import check_alike, credentials_of, loaded
from ertacache.errors import ArgumentError, CalibrationError
from tests.distributed.threads import Carrier, Threads, dying_at, dying_in
from tests.short_flux import shortened

STEPS = 6


@pytest.fixture(scope="module")
def small():
    found = shortened()
    found.arguments["num_inference_steps"] = STEPS
    return found


def load():
    return shortened().pipe


def content(policy):
    """All of a policy, comparable; the time that was measured is not part of what was calculated."""
    tensors = {"gram": policy.gram, "rectification": policy.rectification}
    if policy.rectification is not None:
        tensors |= {"k": policy.rectification.k, "b": policy.rectification.b}
    plain = replace(policy, gram=None, rectification=None)
    bits = {name: value.numpy().tobytes() for name, value in tensors.items() if isinstance(value, torch.Tensor)}
    return policy.fingerprint, repr(plain), bits


CASES = {
    "aligned": {"num_computed_steps": 3, "full_runs": 24},
    "aligned, no prompt held out": {"num_computed_steps": 3, "full_runs": 9, "prompts": 3},
    "paper": {"num_computed_steps": 4, "method": "paper", "prompts": 4},
    "quality": {"min_psnr": 30, "full_runs": 40},
    "from recordings": {"num_computed_steps": 3, "full_runs": 1, "prompts": 1},
}
PROMPTS = 12


def calibrated(small, case, workers=None, **more):
    asked = dict(CASES[case])
    prompts = small.calibration_prompts[: asked.pop("prompts", PROMPTS)]
    common = {**small.arguments, **asked, "progress": False, **more}
    pipe = small.pipe if workers is None else load
    return ertacache.calibrate(pipe, prompts, workers=workers, **common)


@pytest.fixture(scope="module")
def alone(small):
    """The policy of one process, by case."""
    made = {}

    def of(case):
        if case not in made:
            made[case] = calibrated(small, case)
        return made[case]

    return of


@pytest.mark.parametrize(("case", "num_workers"), [("aligned, no prompt held out", 1), *((case, 3) for case in CASES)])
def test_a_policy_is_the_same_to_the_bit_for_any_number_of_workers(small, alone, case, num_workers):
    workers = Threads(min(num_workers, CASES[case].get("prompts", PROMPTS)))
    assert content(calibrated(small, case, workers)) == content(alone(case))
    assert set(workers.starts.values()) == {1}


@pytest.mark.parametrize(
    ("rank", "what", "case"),
    [
        (1, "its introduction", "aligned, no prompt held out"),
        (1, "the first step", "aligned, no prompt held out"),
        (0, "full runs", "aligned, no prompt held out"),
        (1, "step 2 of a closed loop", "aligned"),
        (0, "the end of a closed loop", "aligned"),
        (0, "denoiser calls", "aligned, no prompt held out"),
        (1, "step 2 of the paper's loop", "paper"),
        (1, "judging pictures", "quality"),
    ],
)
def test_a_worker_that_is_killed_in_any_phase_changes_nothing(small, alone, rank, what, case):
    workers = Threads(2, dying_in(rank, what))
    assert content(calibrated(small, case, workers)) == content(alone(case))
    assert workers.starts == {rank: 2, 1 - rank: 1}


def test_one_that_is_killed_in_the_search_does_not_run_again_what_is_over(small, alone):
    before = Threads(2)
    calibrated(small, "aligned", before)
    late = before.exchanges - 4
    seen = []

    def kills(rank, life, message):
        if rank == 1 and life == 2 and isinstance(message, HandedIn):
            seen.append(message.number)
        return dying_at(1, late)(rank, life, message)

    workers = Threads(2, kills)
    assert content(calibrated(small, "aligned", workers)) == content(alone("aligned"))
    assert seen[0] == late, "it asked for what it had been told"


def test_one_that_dies_twice_ends_the_calibration_with_where_and_what(small):
    message = r"a worker has died 2 times.*worker 1 with prompts \d+ to \d+, on thread 1, after step 2 of a closed loop"
    dies = dying_in(1, "step 3 of a closed loop")
    with pytest.raises(CalibrationError, match=message):
        calibrated(small, "aligned", Threads(2, lambda rank, life, what: dies(rank, 1, what)))


def test_an_error_of_one_worker_ends_all_and_is_the_error_of_the_call(small):
    prompts = [*small.calibration_prompts[:3], {"prompt": "a star", "num_inference_steps": 3}]
    with pytest.raises(CalibrationError, match="prompt 3 brings a number of steps of its own"):
        ertacache.calibrate(
            load, prompts, workers=Threads(2), speedup=2, full_runs=20, progress=False, **small.arguments
        )


def test_workers_that_go_different_ways_are_stopped():
    def task(pipe):
        shard = current_shard()
        shard.gather([0], "the one thing" if shard.is_first else "the other")

    with pytest.raises(CalibrationError, match=r"not at the same place.*worker 0: the one thing; worker 1: the other"):
        Threads(2).run(task, load, (), {})


def test_ctrl_c_reaches_all_workers_at_the_same_place():
    heard = []

    def task(pipe):
        shard = current_shard()
        for step in range(3):
            try:
                shard.gather([step], f"step {step}")
            except KeyboardInterrupt:
                heard.append((shard.numbers(2).start, step))
        return len(heard)

    class Pressed(Threads):
        """The user presses Ctrl-C while the driver waits for the second exchange."""

        def run(self, *given):
            wait, pressed = Carrier.wait, []

            def waiting(carrier):
                message = wait(carrier)
                if not pressed and getattr(message[1], "what", "") == "step 1":
                    carrier.messages.put(message)
                    pressed.append(message)
                    raise KeyboardInterrupt
                return message

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Carrier, "wait", waiting)
                return super().run(*given)

    Pressed(2).run(task, load, (), {})
    assert sorted(heard) == [(0, 1), (1, 1)]


def test_more_workers_than_prompts_are_refused_with_how_many_there_may_be(small):
    with pytest.raises(CalibrationError, match=r"more workers than prompts \(given: 1 prompts\)"):
        calibrated(small, "from recordings", Threads(2))


@pytest.mark.slow  # a minute; the parts that they are made of are tested above
def test_a_profile_and_a_draft_are_the_same_too(small):
    prompts, common = small.calibration_prompts[:12], {**small.arguments, "progress": False}
    alone = ertacache.profile(small.pipe, prompts, ratios=(1.5, 2), **common)
    spread = ertacache.profile(load, prompts, ratios=(1.5, 2), workers=Threads(2), **common)

    def untimed(policy):
        return content(replace(policy, calibration=replace(policy.calibration, seconds=None)))

    assert list(map(untimed, spread.policies)) == list(map(untimed, alone.policies))
    policy, draft_of = alone.policies[0], alone.policies[1]
    del common["num_inference_steps"]
    one = ertacache.draft(small.pipe, policy, prompts[:4], by=draft_of, **common)
    two = ertacache.draft(load, policy, prompts[:4], by=draft_of, workers=Threads(2), **common)
    assert (one.mean, one.deviation, one.limit) == (two.mean, two.deviation, two.limit)


def test_full_runs_are_kept_and_found_by_any_number_of_workers(small, tmp_path):
    made = calibrated(small, "aligned, no prompt held out", Threads(2), checkpoint=tmp_path)
    assert len(list(tmp_path.rglob("full-run-*"))) == 3
    again = calibrated(small, "aligned, no prompt held out", checkpoint=tmp_path)
    assert content(made) == content(again)


def test_workers_that_differ_are_refused_by_name():
    pipe = zoo.load("flux").pipe
    one = credentials_of(pipe)
    check_alike([one, one])
    with pytest.raises(CalibrationError, match=r"different versions of torch.*1\.0 on"):
        check_alike([one, replace(one, versions={**one.versions, "torch": "1.0"})])
    with torch.no_grad():
        pipe.transformer.x_embedder.weight.add_(1)
    other = credentials_of(pipe)
    assert other.weights != one.weights
    with pytest.raises(CalibrationError, match="different weights"):
        check_alike([one, other])


def test_a_live_pipeline_cannot_travel(small):
    assert loaded(lambda: 3) == 3
    with pytest.raises(ArgumentError, match="a function that returns it"):
        ertacache.calibrate(
            small.pipe, ["a", "b"], workers=Threads(1), speedup=2, full_runs=2, progress=False, **small.arguments
        )


def test_no_shard_is_left_behind(small):
    assert current_shard().num_workers == 1
