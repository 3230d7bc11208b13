"""What the guard sees, when it acts, and that nothing of it outlives a call; tests/calibration has what it flags."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

import ertacache
from ertacache.errors import GuardError
from ertacache.method.prediction import Prediction
from ertacache.policy.drift_envelope import Envelope
from ertacache.runtime.observer import ComputedStep
from ertacache.watching.drift_score import relative_drift
from ertacache.watching.guard import Guard
from ertacache.watching.guard_report import GuardReport
from ertacache.watching.pinned_copy import PinnedCopy

STEPS, CACHED = 12, (3, 4, 6, 7, 9, 10)
COMPARED = (1, 2, 5, 8, 11)


def envelope(limit=99.0, mean=(0.0,) * 5):
    return Envelope(COMPARED, COMPARED[0], tuple(mean), (1.0,) * 5, limit)


def call_of(flux_call, **more):
    return flux_call(steps=STEPS, guided=True, **more)


def test_a_report_changes_nothing(flux, flux_call, make_policy):
    with ertacache.accelerated(flux, make_policy(STEPS, CACHED, "taylor")) as run:
        plain = flux(**call_of(flux_call)).images
    assert run.report.guard is None
    for guard, limit in (("report", 99.0), ("report", -99.0), ("compute", 99.0)):
        policy = make_policy(STEPS, CACHED, "taylor", envelope=envelope(limit))
        with ertacache.accelerated(flux, policy, guard=guard) as run:
            assert torch.equal(flux(**call_of(flux_call)).images, plain)
        assert run.report.guard.left == (limit < 0,)
        assert run.report.guard.computed_steps == []
        assert f"guard: {'suspicious: it deviates' if limit < 0 else 'nothing suspicious'}" in str(run.report)


def test_what_is_acted_on_is_one_computed_step_old_and_then_all_is_computed(flux, flux_call, make_policy, counted):
    """At step 5 the sample leaves; that is known after step 8, and steps 9 and 10 are computed."""
    counter = counted(flux.transformer)
    for mean, computed in (((0, 0, -199, 0, 0), [9, 10]), ((0, -199, 0, 0, 0), [6, 7, 9, 10])):
        policy = make_policy(STEPS, CACHED, "taylor", envelope=envelope(mean=mean))
        with ertacache.accelerated(flux, policy, guard="compute") as run:
            flux(**call_of(flux_call))
        assert run.report.guard.computed_steps == computed
        assert run.computed_steps == tuple(sorted({*policy.computed_steps, *computed}))
        assert counter.take() == 2 * len(run.computed_steps)
        assert f"{len(computed)} cached steps were computed" in str(run.report)


def test_steps_that_the_guard_computes_bring_the_picture_nearer_to_the_full_runs(flux, flux_call, make_policy):
    full, errors = flux(**call_of(flux_call)).images, {}
    policy = make_policy(STEPS, CACHED, "taylor", envelope=envelope(mean=(0, -199, 0, 0, 0)))
    for guard in ("report", "compute"):
        with ertacache.accelerated(flux, policy, guard=guard):
            errors[guard] = float((flux(**call_of(flux_call)).images - full).norm())
    assert errors["compute"] < errors["report"]


def test_each_sample_of_a_batch_has_a_score_of_its_own(flux, flux_call, make_policy):
    latents = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(5))
    both = call_of(flux_call, prompts=2, latents=latents)
    with ertacache.accelerated(flux, make_policy(STEPS, CACHED, "taylor", envelope=envelope()), guard="report") as run:
        flux(**both)
        together = run.report.guard.scores
    assert abs(together[0] - together[1]) > 0.01
    limit = sum(together) / 2
    policy = make_policy(STEPS, CACHED, "taylor", envelope=envelope(limit))
    with ertacache.accelerated(flux, policy, guard="report") as run:
        flux(**both)
        assert run.report.guard.left == tuple(score > limit for score in together)
        assert f": sample {int(together[1] > together[0])} deviates " in str(run.report)
        for k in range(2):
            flux(**{name: v[k : k + 1] if isinstance(v, torch.Tensor) else v for name, v in both.items()})
            assert run.report.guard.scores == pytest.approx(together[k : k + 1], rel=1e-3, abs=1e-3)


def outputs_of(sd3, sd3_call, policy):
    """What a guarded call's drifts are, and what each computed step's denoiser call returned, without guidance."""
    outputs = []

    def note(module, args, output):
        outputs.append(output[0].detach().clone())

    hook = sd3.transformer.register_forward_hook(note)
    with ertacache.accelerated(sd3, policy, guard="report") as run:
        sd3(**sd3_call(steps=STEPS, guided=False))
    hook.remove()
    (drifts,) = run.report.guard.drifts
    return drifts, dict(zip(policy.computed_steps, outputs, strict=True))


def test_the_drift_is_that_of_plain_reuse_where_the_policy_corrects_nothing(sd3, sd3_call, make_policy):
    policy = make_policy(STEPS, CACHED, "taylor", envelope=envelope())
    drifts, outputs = outputs_of(sd3, sd3_call, policy)
    assert tuple(drifts) == COMPARED
    for before, here in pairwise(policy.computed_steps):
        assert drifts[here] == pytest.approx(float(relative_drift(outputs[here], outputs[before])), rel=1e-4)


def test_the_drift_is_that_of_the_correction_where_the_policy_corrects(sd3, sd3_call, make_policy):
    fitted = {step: Prediction((step - 1 - step % 3,), (1.0,)) for step in CACHED}
    corrections = {step: Prediction((step, step - 3), (1.25, -0.25)) for step in (5, 8, 11)}
    seen = Envelope((5, 8, 11), 5, (0.0,) * 3, (1.0,) * 3, 99.0)
    policy = make_policy(STEPS, CACHED, "aligned", predictions=fitted | corrections, envelope=seen)
    drifts, outputs = outputs_of(sd3, sd3_call, policy)
    assert tuple(drifts) == (5, 8, 11)
    for step, drift in drifts.items():
        correction = 0.25 * (outputs[step] - outputs[step - 3])
        assert drift == pytest.approx(float(correction.norm() / outputs[step].norm()), rel=1e-3)


@pytest.mark.parametrize("ending", [None, "exception", "interrupted"])
def test_no_call_sees_what_another_one_drifted(ending, flux, flux_call, make_policy):
    def end_early(pipe, i, t, kwargs):
        if i == 8 and ending == "exception":
            raise OSError
        pipe._interrupt = i == 8 and ending == "interrupted"
        return {}

    policy = make_policy(STEPS, CACHED, "taylor", envelope=envelope())
    with ertacache.accelerated(flux, policy, guard="compute") as run:
        flux(**call_of(flux_call, seed=1))
        first = run.report.guard
        scores = first.scores
        try:
            flux(**call_of(flux_call, seed=2, callback_on_step_end=end_early))
        except OSError:
            assert ending == "exception"
        assert run.report.guard.scores != scores
        flux(**call_of(flux_call, seed=1))
        assert run.report.guard.scores == first.scores == scores


def test_a_drift_over_another_stretch_is_not_compared(make_policy):
    policy = make_policy(STEPS, CACHED, "taylor", envelope=envelope(-99.0))
    entry, newest = torch.full((1, 4), 2.0), torch.ones(1, 4)
    for before, compared in (((2, newest), 1), ((1, newest), 0), ((3, newest), 0), (None, 0)):
        guard = Guard(policy, policy.envelope, "compute")
        guard.computed(ComputedStep(0, newest, None, newest, None))
        guard.computed(ComputedStep(5, entry, None, entry, before))  # step 5 comes after step 2 in calibration
        assert guard.report.drifts == ({5: pytest.approx(0.5)},) * compared
        guard.computed(ComputedStep(8, entry, None, entry, (5, newest)))
        # Steps 1 and 2 are missing, and a sum with a gap is not compared, whatever comes then.
        assert (guard.report.scores, guard.report.left, guard.asks_to_compute(6)) == ((), (), False)
        assert "guard: no verdict" in str(guard.report)


def test_where_the_policy_corrects_what_it_cannot_correct_is_not_compared(make_policy):
    predictions = {step: Prediction((2,), (1.0,)) for step in (3, 4)} | {5: Prediction((5, 2), (1.5, -0.5))}
    seen = Envelope((5,), 5, (0.0,), (1.0,), 99.0)
    guard = Guard(make_policy(8, (3, 4), "aligned", predictions=predictions, envelope=seen), seen, "report")
    truth, newest = torch.full((1, 4), 2.0), torch.ones(1, 4)
    guard.computed(
        ComputedStep(5, truth, None, truth, (2, newest))
    )  # reuse is at hand, but calibration's drift is of corrections
    assert guard.report.drifts == ()
    guard.computed(ComputedStep(5, truth, newest, truth, (2, newest)))
    assert guard.report.drifts == ({5: pytest.approx(0.5)},)


def test_a_guard_needs_an_envelope_and_a_name_there_is(flux, make_policy):
    with pytest.raises(GuardError, match=r"no envelope .*four prompts"):
        ertacache.enable(flux, make_policy(8, (2, 3)), guard="report")
    with pytest.raises(GuardError, match=r"no such guard .*'report', 'compute'"):
        ertacache.enable(flux, make_policy(8, (2, 3)), guard="warn")
    assert type(flux).__name__ == "FluxPipeline"
    ertacache.disable(flux)


def test_a_drift_is_relative_to_the_truth_and_each_samples_own():
    entry = torch.tensor([[[3.0, 4.0]], [[0.0, 2.0]]])
    newest = torch.tensor([[[3.0, 0.0]], [[0.0, 2.0]]])
    assert relative_drift(entry, newest).tolist() == pytest.approx([0.8, 0.0])
    assert relative_drift(entry[:, 0], newest[:, 0]).shape == (1,)  # a packed sequence is one sample


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
    late = PinnedCopy(OnDevice())
    assert asked == [("empty", True), ("copy", True), ("record", "stream of cuda:0")]
    assert late.read() == [1.0, 2.0]
    assert asked[3:] == ["wait", "read"]


def test_the_decision_reads_no_number_of_the_newest_step():
    class Newest:
        def read(self):
            raise AssertionError("the host would wait for the step that was just queued")

    envelope = Envelope((1, 2, 3), 1, (0.0,) * 3, (1.0,) * 3, 0.5)
    report = GuardReport(envelope, "compute")
    report.keep(1, torch.tensor([20.0]))
    report.keep(2, torch.tensor([20.0]))
    report._late[3] = Newest()
    assert report.left_before_the_last()
