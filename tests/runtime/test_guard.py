"""The guard flags generations that drift otherwise than calibration's, and computes the rest of them if asked."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
import torch

import ertacache
from ertacache.errors import GuardError
from ertacache.method.envelope import Envelope, relative_drift
from ertacache.runtime.guard import GuardReport, Late

STEPS, CACHED = 12, (3, 4, 6, 7, 9, 10)
COMPUTED = (0, 1, 2, 5, 8, 11)


def call_of(flux_call, seed, **more):
    arguments = flux_call(steps=STEPS, guided=True, seed=seed, **more)
    return arguments if "latents" in more else arguments | {"generator": torch.Generator().manual_seed(seed)}


@pytest.fixture
def policy(flux, flux_call):
    """Calibrated on eight prompts; of no origin, so that it can be used on a model with other weights."""
    calls = [call_of(flux_call, seed) for seed in range(8)]
    for call in calls:
        del call["num_inference_steps"]
    made = ertacache.calibrate(
        flux, calls, num_inference_steps=STEPS, num_computed_steps=6, method="taylor", progress=False
    )
    return dataclasses.replace(made, origin=None)


def perturb(pipe, strength=0.3):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in pipe.transformer.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * strength * parameter.std())


def test_calibration_prompts_and_their_like_are_within_and_a_perturbed_model_is_not(flux, flux_call, policy):
    with ertacache.accelerated(flux, policy, guard="report") as run:
        for seed in range(16):  # the second half calibration did not see
            flux(**call_of(flux_call, seed))
            assert run.report.guard.left == (False,), seed
            assert 0 < run.report.guard.scores[0] < run.report.guard.limit
        assert "within calibration's envelope" in str(run.report)
        perturb(flux)
        for seed in range(16):
            flux(**call_of(flux_call, seed))
            assert run.report.guard.left == (True,), seed
        assert "outside of calibration's envelope" in str(run.report)
        assert run.computed_steps == policy.computed_steps  # it only reports


def test_a_report_changes_nothing(flux, flux_call, policy):
    with ertacache.accelerated(flux, policy):
        plain = flux(**call_of(flux_call, 3)).images
    for guard in ("report", "compute"):  # within the envelope there is nothing to compute
        with ertacache.accelerated(flux, policy, guard=guard) as run:
            assert torch.equal(flux(**call_of(flux_call, 3)).images, plain)
        assert run.report.guard.computed_steps == []


def test_on_request_the_rest_is_computed_and_the_picture_is_nearer_to_the_full_runs(flux, flux_call, policy, counted):
    perturb(flux)
    counter, errors = counted(flux.transformer), {}
    full = flux(**call_of(flux_call, 20)).images
    assert counter.take() == 2 * STEPS
    for guard in ("report", "compute"):
        with ertacache.accelerated(flux, policy, guard=guard) as run:
            out = flux(**call_of(flux_call, 20)).images
        errors[guard] = float((out - full).norm())
        computed = [] if guard == "report" else run.report.guard.computed_steps
        assert counter.take() == 2 * (len(policy.computed_steps) + len(computed))
        assert set(run.computed_steps) == {*policy.computed_steps, *computed}
    assert computed
    assert set(computed) == {i for i in policy.cached_steps if i >= computed[0]}
    assert errors["compute"] < errors["report"]


def test_what_is_acted_on_is_one_computed_step_old(flux, flux_call, policy):
    """The drift at a computed step is on its way while the next step begins, which is therefore not asked of it."""
    tight = dataclasses.replace(policy.envelope, limits=(-99.0,) * len(policy.envelope.steps))
    with ertacache.accelerated(flux, dataclasses.replace(policy, envelope=tight), guard="compute") as run:
        flux(**call_of(flux_call, 0))
    second = policy.envelope.steps[1]
    assert run.report.guard.computed_steps == [i for i in policy.cached_steps if i > second]


def test_each_sample_of_a_batch_has_a_score_of_its_own(flux, flux_call, policy):
    latents = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(5))
    both = call_of(flux_call, 0, prompts=2, latents=latents)
    odd = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in both.items()}
    odd["prompt_embeds"][1] *= 20
    with ertacache.accelerated(flux, policy, guard="report") as run:
        flux(**odd)
        together = run.report.guard
        assert together.left == (False, True)
        assert "of samples 1" in str(together)
        for k in range(2):
            flux(**{name: v[k : k + 1] if isinstance(v, torch.Tensor) else v for name, v in odd.items()})
            assert run.report.guard.scores == pytest.approx(together.scores[k : k + 1], rel=1e-3)


def test_one_guidance_call_for_both_branches_is_seen_as_what_the_sampler_gets(sd3, sd3_call):
    calls = [sd3_call(steps=STEPS, guided=True, seed=seed) for seed in range(6)]
    for call in calls:
        del call["num_inference_steps"]
    policy = ertacache.calibrate(
        sd3, calls, num_inference_steps=STEPS, num_computed_steps=6, method="reuse", progress=False
    )
    outputs = []
    with ertacache.accelerated(sd3, policy, guard="report") as run:
        step = sd3.scheduler.step
        sd3.scheduler.step = lambda v, t, x, **more: outputs.append(v.clone()) or step(v, t, x, **more)
        sd3(**sd3_call(steps=STEPS, guided=True, seed=2))
    del sd3.scheduler.step
    guard, computed = run.report.guard, policy.computed_steps
    assert guard.left == (False,)
    for before, step in pairwise(computed):
        drift = relative_drift(outputs[step].float(), outputs[before].float())
        assert guard.drifts[0][step] == pytest.approx(float(drift))


@pytest.mark.parametrize("ending", [None, "exception", "interrupted"])
def test_no_call_sees_what_another_one_drifted(ending, flux, flux_call, policy):
    def end_early(pipe, i, t, kwargs):
        if i == 8 and ending == "exception":
            raise OSError
        pipe._interrupt = i == 8 and ending == "interrupted"
        return {}

    with ertacache.accelerated(flux, policy, guard="compute") as run:
        flux(**call_of(flux_call, 1))
        first = run.report.guard
        scores = first.scores
        odd = call_of(flux_call, 1, callback_on_step_end=end_early)
        odd["prompt_embeds"] = odd["prompt_embeds"] * 20
        try:
            flux(**odd)
        except OSError:
            assert ending == "exception"
        assert run.report.guard.left == (True,)
        flux(**call_of(flux_call, 1))
        assert run.report.guard.scores == first.scores == scores
        assert run.report.guard.computed_steps == []
    with ertacache.accelerated(flux, policy) as run:
        flux(**call_of(flux_call, 1))
    assert run.report.guard is None


def test_a_step_with_another_history_is_not_compared(flux, flux_call, make_policy):
    """Calibrated on evenly spaced steps; here the run begins in the middle, over another stretch."""
    steps = (1, 2, 5, 8, 11)
    envelope = Envelope(steps, (True,) * 5, (0.0,) * 5, (1.0,) * 5, (1.0,) * 5, (5.0,) * 5)
    policy = make_policy(STEPS, CACHED, "taylor", envelope=envelope)
    with ertacache.accelerated(flux, policy, guard="report") as run:
        flux(**call_of(flux_call, 0))
        assert tuple(run.report.guard.drifts) == steps
    envelope = Envelope((), (), (), ())
    policy = make_policy(STEPS, CACHED, "taylor", envelope=envelope)
    with ertacache.accelerated(flux, policy, guard="compute") as run:
        flux(**call_of(flux_call, 0))
        assert (run.report.guard.scores, run.report.guard.left) == ((), ())
        assert "no step could be compared" in str(run.report)


def test_a_guard_needs_an_envelope_and_a_name_there_is(flux, make_policy):
    with pytest.raises(GuardError, match=r"no envelope .*four prompts"):
        ertacache.enable(flux, make_policy(8, (2, 3)), guard="report")
    with pytest.raises(GuardError, match=r"no such guard .*'report', 'compute'"):
        ertacache.enable(flux, make_policy(8, (2, 3)), guard="warn")
    assert type(flux).__name__ == "FluxPipeline"
    ertacache.disable(flux)


def test_a_drift_is_relative_to_the_truth_and_each_samples_own():
    entry = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    newest = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    assert relative_drift(entry, newest).tolist() == pytest.approx([0.8, 0.0])


def test_from_cuda_numbers_come_through_pinned_memory_and_are_waited_for_only_when_read(monkeypatch):
    """Without a device: what is asked of torch, in which order."""
    asked = []

    class OnDevice:
        shape, dtype, device = (2,), torch.float32, torch.device("cuda", 0)

    class Host:
        def copy_(self, values, non_blocking):
            asked.append(("copy", non_blocking))

        def tolist(self):
            asked.append("read")
            return [1.0, 2.0]

    class Event:
        def record(self, stream):
            asked.append(("record", stream))

        def synchronize(self):
            asked.append("wait")

    def empty(shape, *, dtype, pin_memory):
        asked.append(("empty", pin_memory))
        return Host()

    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    late = Late(OnDevice())
    assert asked == [("empty", True), ("copy", True), ("record", "stream of cuda:0")]
    assert late.read() == [1.0, 2.0]
    assert asked[3:] == ["wait", "read"]


def test_the_decision_reads_no_number_of_the_newest_step():
    class Newest:
        def read(self):
            raise AssertionError("the host would wait for the step that was just queued")

    envelope = Envelope((1, 2, 3), (False,) * 3, (0.0,) * 3, (1.0,) * 3, (1.0,) * 3, (0.5,) * 3)
    report = GuardReport(envelope, "compute")
    report.keep(1, torch.tensor([20.0]))
    report._late[2] = Newest()
    assert report.left_before_the_last()
