"""Loops that step several latents, such as a clip and its sound: one history, one prediction and one fit for each."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import ertacache
from contract.case import STEPS, Family
from contract.families import CASES
from ertacache.errors import MethodError, PolicyFileError, PolicyMismatchError, RunError
from ertacache.method.gram_weights import Outputs
from ertacache.method.named_methods import Method
from ertacache.method.surrogate import Surrogate
from ertacache.policy import Policy
from ertacache.runtime.driver import Driver
from ertacache.runtime.run import Run

CLIP = 128  # elements of the clip's latents in what a call of the case gives out; the rest is sound
TAYLOR = Method.named("taylor")


@pytest.fixture(scope="module")
def ltx() -> Family:
    return Family(CASES["LTX2, plain guidance"])


@pytest.fixture(scope="module")
def policy(ltx: Family) -> Policy:
    calls = [ltx.arguments(seed) for seed in range(4)]
    return ertacache.calibrate(ltx.pipe, calls, num_inference_steps=STEPS, speedup=2, full_runs=10, progress=False)


def errors_of(family, policy, seed=9, **options):
    """The relative errors of clip and sound, and the report."""
    full = family.run(seed)
    with ertacache.accelerated(family.pipe, policy, **options) as run:
        out = family.run(seed)
    parts = [
        (a, b) for a, b in zip(out.split([CLIP, len(out) - CLIP]), full.split([CLIP, len(out) - CLIP]), strict=True)
    ]
    return [float((a - b).norm() / b.norm()) for a, b in parts], run.report


def test_each_latent_has_weights_of_its_own(ltx, policy):
    assert len(policy.streams) == len(policy.origin.streams) == 1
    assert policy.streams[0].keys() == policy.predictions.keys()
    assert policy.streams[0] != policy.predictions
    ours, report = errors_of(ltx, policy)
    assert report.cached_steps == list(policy.cached_steps)
    assert report.notes == []
    theirs, _ = errors_of(ltx, replace(policy, method=TAYLOR, predictions={}, streams=(), origin=None, envelope=None))
    assert all(a < b / 1.5 for a, b in zip(ours, theirs, strict=True)), (ours, theirs)


def test_the_error_in_the_record_is_that_of_the_latent_that_suffers_most(ltx, policy):
    measured = [errors_of(ltx, policy, seed)[0] for seed in range(4)]
    worst = max(max(one) for one in measured)
    assert policy.calibration.error == pytest.approx(worst, rel=0.6)
    named = [note for note in policy.calibration.notes if "error of each latent" in note]
    assert len(named) == 1


def test_a_policy_for_clip_and_sound_is_saved_and_loaded(policy, tmp_path):
    policy.save(tmp_path / "policy.safetensors")
    loaded = Policy.load(tmp_path / "policy.safetensors")
    assert loaded.fingerprint == policy.fingerprint
    assert loaded.streams == policy.streams
    assert loaded.origin == policy.origin


def test_files_of_one_latent_say_nothing_of_several(policy):
    alone = replace(policy, streams=(), origin=replace(policy.origin, streams=()))
    assert "streams" not in alone.metadata()
    assert "streams" not in alone.metadata()["origin"]


def test_weights_of_a_further_latent_must_fit_the_schedule(policy):
    with pytest.raises(PolicyFileError, match="predictions for steps that the run does not make"):
        replace(policy, streams=({99: next(iter(policy.predictions.values()))},))


@pytest.mark.parametrize("options", [{"speedup": 2}, {"speedup": 2, "learn": "folder"}])
def test_without_a_policy_both_are_predicted(ltx, options, tmp_path):
    if "learn" in options:
        options = options | {"learn": tmp_path}
        errors_of(ltx, None, seed=3, **options)
    errors, report = errors_of(ltx, None, **options)
    assert len(report.cached_steps) == STEPS // 2
    plain = Policy(STEPS, tuple(report.cached_steps), Method())
    reused, _ = errors_of(ltx, plain)
    assert all(a < 1.2 * b for a, b in zip(errors, reused, strict=True)), (errors, reused)
    assert errors != reused


def test_an_audit_compares_both(ltx, tmp_path):
    errors_of(ltx, None, seed=3, speedup=2, learn=tmp_path)
    _, report = errors_of(ltx, None, speedup=2, learn=tmp_path, audit=1.0)
    assert report.cached_steps == []
    assert any("audited" in note for note in report.notes)


def test_a_guard_watches_both(ltx, policy):
    assert policy.envelope is not None
    _, report = errors_of(ltx, policy, guard="report")
    assert report.guard.complete


def test_with_and_without_sound_are_different_settings():
    kandinsky, silent = Family(CASES["Kandinsky6TI2VA"]), CASES["Kandinsky6TI2VA, without sound"]
    calls = [kandinsky.arguments(seed) for seed in (1, 2)]
    policy = ertacache.calibrate(kandinsky.pipe, calls, num_inference_steps=STEPS, speedup=2, progress=False)
    assert len(policy.streams) == 1
    with pytest.raises(PolicyMismatchError, match="number of latents"), ertacache.accelerated(kandinsky.pipe, policy):
        kandinsky.run(call=silent.call)
    calls = [kandinsky.arguments(seed, silent.call) for seed in (1, 2)]
    without = ertacache.calibrate(kandinsky.pipe, calls, num_inference_steps=STEPS, speedup=2, progress=False)
    assert without.streams == ()
    with pytest.raises(PolicyMismatchError, match="number of latents"), ertacache.accelerated(kandinsky.pipe, without):
        kandinsky.run()


@pytest.mark.parametrize("method", ["paper", "offline"])
def test_methods_for_one_latent_are_refused(ltx, method):
    calls = [ltx.arguments(seed) for seed in (1, 2)]
    with pytest.raises(MethodError, match="several latents"):
        ertacache.calibrate(ltx.pipe, calls, num_inference_steps=STEPS, speedup=2, method=method, progress=False)


def test_schedulers_of_their_own_and_fewer_evaluations_than_steps():
    """MiniMax-H3: two schedulers of other shifts, and 7 evaluations for num_inference_steps=8."""
    family = Family(CASES["MiniMaxH3Modular"])
    calls = [family.arguments(seed) for seed in (1, 2)]
    policy = ertacache.calibrate(family.pipe, calls, num_inference_steps=STEPS, speedup=2, progress=False)
    assert (policy.num_inference_steps, policy.asked_steps) == (STEPS - 1, STEPS)
    assert policy.origin.noise_levels[3] > 0.9 > policy.origin.streams[0].noise_levels[3]
    full = family.run(5)
    with ertacache.accelerated(family.pipe, policy) as run:
        out = family.run(5)
    assert run.cached_steps == policy.cached_steps
    assert float((out - full).norm() / full.norm()) < 3 * policy.calibration.error
    family.pipe.audio_scheduler.set_shift(5.0)
    refused = pytest.raises(PolicyMismatchError, match="noise levels of latent 1")
    with refused, ertacache.accelerated(family.pipe, policy):
        family.run(5)


def test_frames_at_levels_of_their_own_are_refused_in_a_users_words():
    family = Family(CASES["SkyReelsV2DiffusionForcing, one after the other"])
    refused = pytest.raises(RunError, match="denoises each frame, or each part, at a noise level of its own")
    with refused, Run(family.pipe, Driver()) as run:
        run.call(**family.arguments(), num_inference_steps=STEPS, output_type="latent")


def test_a_schedule_is_judged_by_the_latent_that_suffers_most():
    rng = torch.Generator().manual_seed(0)
    levels = tuple(1 - i / 8 for i in range(9))
    response = -torch.tril(torch.full((8, 8), 1 / 8, dtype=torch.float64)).numpy()
    calm, wild = (
        Surrogate(Outputs(levels, torch.cumsum(torch.randn(8, 30, generator=rng) * size, 0).double().numpy()), response)
        for size in (0.01, 1.0)
    )
    both = Surrogate.joint([calm, wild])
    assert both.error((2, 4)) == pytest.approx(Surrogate.joint([wild, calm]).error((2, 4)))
    assert Surrogate.joint([calm]).error((2, 4)) == calm.error((2, 4))
