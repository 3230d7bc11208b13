"""What a loop says of prompts that the fit did not use: each goes on with what the loop of all fitted on the others."""

import math

import pytest
import torch

import ertacache
from ertacache.calibration.full_runs import record_all
from ertacache.calibration.gram import surrogate_of
from ertacache.calibration.loop_result import FittedOn
from ertacache.calibration.loop_runner import ClosedLoops
from ertacache.calibration.progress import CalibrationProgress
from ertacache.calibration.prompts import calls_for
from ertacache.calibration.recording_store import RecordingStore
from ertacache.method.named_methods import Method
from ertacache.policy import Policy

ALIGNED, CACHED, PROMPTS = Method.named("aligned"), (3, 5, 6, 8), 3


@pytest.fixture
def loops(embedded):
    """Over three prompts, each of which is held out all the same."""
    arguments = {**embedded.arguments, "num_inference_steps": 10}
    calls = calls_for(embedded.pipe, embedded.calibration_prompts[:PROMPTS], arguments, seed=0)
    with CalibrationProgress(False) as progress:
        recordings, setting = record_all(embedded.pipe, calls, 10, RecordingStore(None, None, 1 << 30), progress)
    surrogate = surrogate_of(recordings, setting, 4.0)
    loops = ClosedLoops(embedded.pipe, calls, recordings, setting, surrogate, lambda calls: None)
    assert not loops.holds_out
    loops.holds_out = True
    return loops


def test_each_prompt_ends_as_a_policy_with_the_weights_of_the_others_ends(embedded, loops):
    of_all, judged = loops.predict(CACHED, ALIGNED, weights=FittedOn.ALL_PROMPTS), loops.judged(CACHED, ALIGNED)
    assert judged.predictions == of_all.predictions
    assert judged.left_out.keys() == of_all.left_out.keys() == {3, 4, 5, 6, 7, 8, 9}
    arguments = {**embedded.arguments, "num_inference_steps": 10, "output_type": "latent"}
    for k, prompt in enumerate(embedded.calibration_prompts[:PROMPTS]):
        full = embedded.pipe(prompt, generator=torch.Generator().manual_seed(k), **arguments).images
        for fit, predictions in (
            (judged, {step: own[k] for step, own in of_all.left_out.items()}),
            (of_all, of_all.predictions),
        ):
            policy = Policy(10, CACHED, ALIGNED, predictions)
            with ertacache.accelerated(embedded.pipe, policy):
                fast = embedded.pipe(prompt, generator=torch.Generator().manual_seed(k), **arguments).images
            assert math.exp(fit.prompt_scores[k]) == pytest.approx(float((fast - full).norm() / full.norm()), rel=1e-3)
    others = loops.predict(CACHED, ALIGNED)  # fitted on the way of prompts that are held out: other weights again
    assert others.prompt_scores == loops.predict(CACHED, ALIGNED, weights=FittedOn.OTHER_PROMPTS).prompt_scores
    assert len({judged.prompt_scores, of_all.prompt_scores, others.prompt_scores}) == 3


def test_with_few_prompts_all_go_on_with_the_weights_of_all(loops):
    loops.holds_out = False
    fit, of_all = (loops.predict(CACHED, ALIGNED, **more) for more in ({}, {"weights": FittedOn.ALL_PROMPTS}))
    assert (fit, set(fit.left_out.values())) == (of_all, {()})


def test_a_second_loop_is_run_only_where_the_first_one_is_reason_to(loops):
    one = (10 - len(CACHED)) * loops.setting.calls_per_step * PROMPTS
    for method, worth_it, cost in ((ALIGNED, True, 2), (ALIGNED, False, 1), (Method.named("taylor"), True, 1)):
        before = loops.denoiser_calls
        fit = loops.judged(CACHED, method, lambda fit, worth_it=worth_it: worth_it)
        assert loops.denoiser_calls - before == cost * one
        assert (fit.prompt_scores == loops.predict(CACHED, method, weights=FittedOn.ALL_PROMPTS).prompt_scores) == (
            cost == 1
        )


def test_every_loop_is_looked_at_where_there_is_a_judge(loops):
    assert loops.judged(CACHED, ALIGNED).quality is None
    loops.judge_pictures()
    found = {loops.predict(CACHED, ALIGNED).quality, loops.judged(CACHED, ALIGNED).quality}
    assert all(len(quality.psnr) == PROMPTS for quality in found)
    assert len(found) == 2


def test_a_draft_knows_how_large_calibrations_errors_are_by_it(embedded, settings):
    prompts, common = embedded.calibration_prompts[:4], {**settings, "method": "taylor"}
    policy, by = (ertacache.calibrate(embedded.pipe, prompts, num_computed_steps=n, **common) for n in (5, 3))
    known = {name: value for name, value in settings.items() if name != "num_inference_steps"}
    draft = ertacache.draft(embedded.pipe, policy, prompts, by=by, **known)
    arguments = {**embedded.arguments, "num_inference_steps": 10, "output_type": "latent"}
    scores = []
    for k, prompt in enumerate(prompts):
        with ertacache.accelerated(embedded.pipe, policy, draft=draft) as run:
            embedded.pipe(prompt, generator=torch.Generator().manual_seed(k), **arguments)
        scores += run.report.draft.scores
    assert sum(scores) == pytest.approx(0, abs=1e-3)
    assert sum(score**2 for score in scores) / 3 == pytest.approx(1, rel=1e-3)
    assert not any(run.report.draft.left)
    assert draft.of == policy.fingerprint
    assert draft.full_runs == pytest.approx((5 + 3) / 10)
