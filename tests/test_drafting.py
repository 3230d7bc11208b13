"""A draft: the same call again from the same noise by another policy, and nothing of the call is changed by it."""

import math
import re
from dataclasses import replace

import pytest
import torch
from diffusers import FluxImg2ImgPipeline

import ertacache
from ertacache import Draft
from ertacache.errors import CalibrationError, GuardError, PolicyFileError, PolicyMismatchError
from ertacache.policy import CalibrationRecord
from ertacache.policy.drift_envelope import Envelope
from ertacache.watching.draft_report import DraftReport
from ertacache.watching.finished_run import distance_of
from ertacache.watching.guard import Guard
from ertacache.watching.replay import ReplayableCall

STEPS = 8
CACHED, FEW = (2, 3, 5), (1, 2, 3, 4, 5, 6)


@pytest.fixture
def policies(make_policy):
    return make_policy(STEPS, CACHED, "taylor"), make_policy(STEPS, FEW)


@pytest.fixture
def draft(policies):
    policy, by = policies
    return Draft(by, policy.fingerprint, mean=-1.0, deviation=0.5, limit=1.8, full_runs=2.0)


def watched_by(policy, steps, limit=99.0):
    """The policy with an envelope of these steps."""
    return replace(policy, envelope=Envelope(steps, steps[0], (0.0,) * len(steps), (1.0,) * len(steps), limit))


@pytest.fixture
def watched(policies):
    """The two policies with envelopes, and a draft of them."""
    policy, by = watched_by(policies[0], (4, 6)), watched_by(policies[1], (7,))
    return policy, by, Draft(by, policy.fingerprint, mean=-1.0, deviation=0.5, limit=1.8, full_runs=2.0)


def latents_of(pipe, call, policy):
    with ertacache.accelerated(pipe, policy):
        return pipe(**call()).images


def test_the_score_is_of_the_distance_to_the_run_of_the_cheaper_policy(flux, flux_call, policies, draft, counted):
    policy, by = policies

    def call():
        return flux_call(guided=True, prompts=2)

    fast, cheap = (latents_of(flux, call, p) for p in policies)
    counter = counted(flux.transformer)
    with ertacache.accelerated(flux, policy, draft=draft) as run:
        assert torch.equal(flux(**call()).images, fast)
    assert counter.take() == 2 * (len(policy.computed_steps) + len(by.computed_steps))
    assert run.report.denoiser_calls == 2 * len(policy.computed_steps)
    told = run.report.draft
    expected = (fast - cheap).flatten(1).square().mean(1).sqrt()
    assert told.denoiser_calls == 2 * len(by.computed_steps)
    assert told.distances == pytest.approx(expected.tolist(), rel=1e-5)
    assert told.scores == pytest.approx([(math.log(d) + 1) / 0.5 for d in expected.tolist()], rel=1e-4)
    farther = int(expected.argmax())  # of the two
    between = (math.log(expected.max()) + math.log(expected.min()) + 2) / 2 / 0.5
    for limit, outside in ((-99.0, [0, 1]), (between, [farther]), (99.0, [])):
        told.limit = limit
        assert told.left == tuple(k in outside for k in (0, 1))
        listed = ", ".join(map(str, outside))
        said = f"suspicious: sample{'s' * (len(outside) > 1)} {listed} deviate" if outside else "nothing suspicious"
        assert said in str(run.report)


@pytest.mark.parametrize("given", ["a generator", "no generator", "latents"])
def test_noise_callbacks_and_later_draws_are_as_without_it(flux, flux_call, policies, draft, given):
    policy, by = policies
    seen = []

    def call(p, **more):
        arguments = {**flux_call(steps=STEPS), **more}
        if given != "latents":
            arguments.pop("latents", None)
        arguments["generator"] = torch.Generator().manual_seed(3) if given == "a generator" else None
        arguments["callback_on_step_end"] = lambda pipe, step, timestep, kwargs: seen.append(step) or {}
        torch.manual_seed(7)
        with ertacache.accelerated(flux, p, **({"draft": draft} if p is policy and drafted else {})) as run:
            images = flux(**arguments).images
        generator = arguments["generator"]
        return images, torch.rand(1), torch.rand(1, generator=generator), run.report.draft

    drafted = False
    plain, cheap = call(policy), call(by)
    seen.clear()
    drafted = True
    found = call(policy)
    assert all(torch.equal(a, b) for a, b in zip(plain[:3], found[:3], strict=True))
    assert seen == list(range(STEPS))
    assert found[3].distances == pytest.approx(distance_of(plain[0], cheap[0]).tolist(), rel=1e-5)


def test_it_is_written_whole_and_read_back(draft, tmp_path, make_policy):
    path = tmp_path / "a.draft.safetensors"
    draft.save(path)
    loaded = Draft.load(path)
    assert loaded.policy.fingerprint == draft.policy.fingerprint
    assert (loaded.of, loaded.mean, loaded.deviation, loaded.limit, loaded.full_runs) == (draft.of, -1.0, 0.5, 1.8, 2.0)
    with pytest.raises(FileNotFoundError, match=r"ertacache\.draft\(\)"):
        Draft.load(tmp_path / "none")
    make_policy(STEPS, FEW).save(tmp_path / "policy")
    with pytest.raises(PolicyFileError, match=r"not a draft, but a policy.*Draft\.save.*Policy\.load"):
        Draft.load(tmp_path / "policy")
    (tmp_path / "cut").write_bytes(path.read_bytes()[:100])
    with pytest.raises(PolicyFileError, match=r"not a draft, or a damaged one.*ertacache\.draft\(\)"):
        Draft.load(tmp_path / "cut")


def test_a_draft_of_other_runs_and_what_is_none_are_refused(flux, make_policy, policies, draft):
    policy, by = policies
    other = make_policy(STEPS, CACHED, "taylor", calibration=CalibrationRecord("another"))
    with (
        pytest.raises(GuardError, match=rf"for another policy.*{draft.of}"),
        ertacache.accelerated(flux, other, draft=draft),
    ):
        pass
    with pytest.raises(GuardError, match="this is not a draft"), ertacache.accelerated(flux, policy, draft=by):
        pass
    for numbers in ({"deviation": 0.0}, {"mean": math.nan}, {"limit": math.inf}):
        with pytest.raises(GuardError, match="not a valid draft"):
            Draft(by, "", **{"mean": 0.0, "deviation": 1.0, "limit": 1.0, "full_runs": 1.0, **numbers})


def test_what_it_cannot_be_made_of_is_said(flux, make_policy, policies):
    policy, _ = policies
    with pytest.raises(GuardError, match=r"both compute the same steps.*steps 0, 1, 4, 6, 7 in both"):
        ertacache.draft(flux, policy, ["a"] * 4, by=make_policy(STEPS, CACHED))
    with pytest.raises(GuardError, match=r"caches nothing.*8 of 8 steps"):
        ertacache.draft(flux, make_policy(STEPS, ()), ["a"] * 4)
    with pytest.raises(CalibrationError, match=r"at least 4 prompts .*3 prompts"):
        ertacache.draft(flux, policy, ["a"] * 3)
    with pytest.raises(GuardError, match=r"no draft can compute fewer .*2 computed steps.*Pass by="):
        ertacache.draft(flux, make_policy(STEPS, (1, 2, 3, 5, 6, 7)), ["a"] * 4)
    with pytest.raises(GuardError, match=r"8 steps from step 0 on; 7 steps from step 0 on"):
        ertacache.draft(flux, policy, ["a"] * 4, by=make_policy(7, (1, 2, 3, 4, 5)))


def test_policies_of_another_setting_make_no_draft(flux, flux_call, make_policy, origin_for):
    origin = origin_for(flux, flux_call(guided=True), calls=2, shape=(16, 16))
    policy, by = make_policy(STEPS, CACHED, "offline", origin=origin), make_policy(STEPS, FEW)
    calls = [flux_call(guided=False)] * 4
    with pytest.raises(PolicyMismatchError, match="true_cfg_scale"):
        ertacache.draft(flux, policy, calls, by=by, progress=False)


def test_a_broken_second_run_leaves_the_pipeline_as_it_was_and_loses_no_picture(
    flux, flux_call, policies, draft, monkeypatch
):
    policy, _ = policies
    expected = latents_of(flux, flux_call, policy)
    own = flux.transformer.forward
    left = len(policy.computed_steps)

    def breaks(*args, **kwargs):
        nonlocal left
        left -= 1
        if left < 0:
            raise RuntimeError("out of memory")
        return own(*args, **kwargs)

    monkeypatch.setattr(flux.transformer, "forward", breaks)
    before = type(flux), type(flux.scheduler)
    with ertacache.accelerated(flux, policy, draft=draft) as run:
        assert torch.equal(flux(**flux_call()).images, expected)
    assert run.report.draft is None
    assert "no draft was made: RuntimeError: out of memory" in str(run.report)
    assert (type(flux), type(flux.scheduler)) == before
    assert "_compiled_call_impl" not in vars(flux.transformer)


@pytest.mark.parametrize(("distance", "left"), [(0.0, False), (math.inf, True), (math.nan, True)])
def test_the_same_is_near_and_what_is_no_number_is_not(distance, left):
    told = DraftReport(torch.tensor([distance]), None, mean=0.0, deviation=1.0, limit=1.8, denoiser_calls=1)
    assert told.left == (left,)
    assert ("suspicious: it deviates" in str(told)) == left


def test_an_error_is_the_distance_in_proportion_to_the_drifts(flux, flux_call, watched):
    policy, by, draft = watched

    def report_of(p, **told_by):
        with ertacache.accelerated(flux, p, **told_by) as run:
            flux(**flux_call(prompts=2))
        return run.report

    told, fast, cheap = report_of(policy, draft=draft), report_of(policy, guard="report"), report_of(by, guard="report")
    assert told.guard is None  # nobody asked for it
    for sample in range(2):
        own, other = (math.hypot(*report.guard.drifts[sample].values()) for report in (fast, cheap))
        assert told.draft.errors[sample] == pytest.approx(told.draft.distances[sample] * own / other)
        assert told.draft.scores[sample] == pytest.approx((math.log(told.draft.errors[sample]) + 1) / 0.5)


def test_no_error_is_told_of_runs_that_are_not_as_calibrations(flux, flux_call, watched):
    policy, _, draft = watched
    acting = watched_by(policy, (1, 4, 6), limit=-99.0)
    begun = FluxImg2ImgPipeline(**flux.components)
    begun.set_progress_bar_config(disable=True)
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for pipe, p, call, mode in (
        (flux, acting, flux_call(), "compute"),
        (begun, policy, flux_call(image=image, strength=0.5), None),
    ):
        with ertacache.accelerated(pipe, p, guard=mode, draft=replace(draft, of=p.fingerprint)) as run:
            pipe(**call)
        assert run.report.draft.scores == run.report.draft.left == ()
        assert "draft: no verdict" in str(run.report)


def test_where_the_drafts_policy_does_not_take_the_call_there_is_a_note(
    flux, flux_call, make_policy, policies, draft, origin_for
):
    policy, _ = policies
    origin = origin_for(flux, flux_call(guided=True), calls=2, shape=(16, 16))
    guided = replace(draft, policy=make_policy(STEPS, FEW, "offline", origin=origin))
    expected = latents_of(flux, flux_call, policy)
    with ertacache.accelerated(flux, policy, draft=guided) as run:
        assert torch.equal(flux(**flux_call()).images, expected)
    assert run.report.draft is None
    assert re.search(r"no draft was made: .*true_cfg_scale", str(run.report), re.DOTALL)


def test_a_draft_that_is_transferred_is_a_note(flux, flux_call, policies, draft, monkeypatch):
    monkeypatch.setattr(ReplayableCall, "run", lambda call, pipe, policy: None)
    with ertacache.accelerated(flux, policies[0], draft=draft) as run:
        flux(**flux_call())
    assert run.report.draft is None
    assert "no draft was made: GuardError: the draft's policy is transferred" in str(run.report)


def test_a_call_without_steps_has_no_draft(make_toy, policies, draft):
    pipe = make_toy(denoise=lambda pipe, i, sample, t: sample)
    policy, _ = policies
    own = type(pipe).__call__
    type(pipe).__call__ = lambda self, sample: sample
    try:
        with ertacache.accelerated(pipe, policy, draft=draft) as run:
            assert torch.equal(pipe(torch.ones(1, 4, 2)), torch.ones(1, 4, 2))
    finally:
        type(pipe).__call__ = own
    assert run.report.draft is None


def test_some_calls_can_be_drafted_and_others_not(flux, flux_call, policies, draft, counted):
    policy, by = policies
    counter = counted(flux.transformer)
    with ertacache.accelerated(flux, policy, draft=draft) as run:
        for own in (draft, None, draft):
            run.draft = own
            flux(**flux_call())
            assert counter.take() == len(policy.computed_steps) + (len(by.computed_steps) if own else 0)
            assert (run.report.draft is None) == (own is None)


def test_calls_that_cannot_be_compared_make_no_draft(flux, flux_call, watched, monkeypatch):
    policy, by, _ = watched
    calls = [flux_call()] * 4
    made = ertacache.draft(flux, policy, calls, by=by, progress=False)
    assert made.full_runs == pytest.approx((5 + 2) / STEPS)  # the draft's policy was there already
    own, left = Guard.computed, 4 * (5 + 2) - 1  # nothing is seen of the last call's draft

    def computed(self, *seen):
        nonlocal left
        left -= 1
        if left > 0:
            own(self, *seen)

    monkeypatch.setattr(Guard, "computed", computed)
    with pytest.raises(CalibrationError, match=rf"3 samples.*{policy.fingerprint} and {by.fingerprint}"):
        ertacache.draft(flux, policy, calls, by=by, progress=False)


@pytest.mark.parametrize("given", ["policy", "by"])
def test_what_is_no_policy_makes_no_draft(flux, policies, given):
    policies = dict(zip(("policy", "by"), policies, strict=True)) | {given: "a file"}
    with pytest.raises(PolicyMismatchError, match=r"not a policy \(given: 'a file'\)\. A file has to be loaded first"):
        ertacache.draft(flux, policies["policy"], ["a"] * 4, by=policies["by"])
