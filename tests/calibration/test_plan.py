"""What a calibration may cost: how many prompts are used, what is said first, and policies from recordings alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ertacache
from ertacache.calibration import worth
from ertacache.calibration.announcement import in_words
from ertacache.calibration.budget import QualityBudget, StepsBudget, ThresholdBudget
from ertacache.calibration.plan import Plan
from ertacache.errors import BudgetError
from ertacache.method.named_methods import Method

ALIGNED = Method.named("aligned")


def steps(computed):
    return StepsBudget(asked="", computed=computed)


@pytest.mark.parametrize(
    ("total", "computed", "prompts", "each"),
    [
        (None, 15, 6, 10 / 6),
        (None, 10, 7, 10 / 7),
        (None, 20, 6, 10 / 6),
        (1, 15, 1, 1.0),
        (1.4, 15, 1, 1.0),
        (1.5, 15, 1, 1.5),
        (4, 15, 2, 2.0),
        (20, 15, 11, 20 / 11),  # with 12 each is held out, and one loop more is needed
        (40, 15, 16, 2.5),
        (80, 15, 16, 5.0),
    ],
)
def test_a_limit_is_spent_on_prompts_before_it_is_spent_on_search(total, computed, prompts, each):
    assert Plan.of(steps(computed), ALIGNED, 16, 30, total) == Plan(prompts, pytest.approx(each))


@given(st.floats(1, 200), st.integers(2, 29), st.integers(1, 40))
def test_a_full_run_and_a_loop_of_every_prompt_are_within_the_limit(total, computed, available):
    plan = Plan.of(steps(computed), ALIGNED, available, 30, total)
    assert 1 <= plan.num_prompts <= available
    if plan.full_runs > 1:
        assert plan.num_prompts * (1 + computed / 30) <= total + 1e-9
        assert plan.num_prompts * plan.full_runs == pytest.approx(total)
    else:
        assert plan.num_prompts == 1


def test_other_budgets_and_methods_use_all_prompts():
    quality = QualityBudget(asked="", measure="psnr", least=40)
    assert Plan.of(quality, ALIGNED, 16, 30, None) == Plan(16, 8.0)
    assert Plan.of(quality, ALIGNED, 16, 30, 64) == Plan(16, 4.0)
    assert Plan.of(steps(15), Method.named("paper"), 16, 30, None) == Plan(16, 3.0)
    assert Plan.of(steps(15), Method.named("paper"), 16, 30, 9) == Plan(3, 3.0)
    assert Plan.of(steps(15), Method.named("taylor"), 16, 30, None) == Plan(16, 1.5)
    assert Plan.of(ThresholdBudget(asked="", threshold=0.1), Method.named("offline"), 16, 30, None) == Plan(16, 2.0)
    blocks = Method(schedule="search", predictor="aligned", level="hidden")
    assert Plan.of(steps(15), blocks, 16, 30, 1) == Plan(1, 1.5)  # recordings say nothing of blocks


@pytest.mark.parametrize("total", [0, 0.99, -3, float("nan"), float("inf"), "10"])
def test_a_limit_that_pays_for_no_full_run_is_refused(total):
    with pytest.raises(BudgetError, match="Allow 1 "):
        Plan.of(steps(15), ALIGNED, 16, 30, total)


def test_one_full_run_makes_a_policy_and_says_that_its_error_is_unknown(embedded, settings, counted_calls, capsys):
    prompts = embedded.calibration_prompts[:3]
    with counted_calls() as counted:
        policy = ertacache.calibrate(embedded.pipe, prompts, speedup=2, full_runs=1, **{**settings, "progress": True})
    assert counted.calls == policy.calibration.denoiser_calls == 10 * 2
    assert len(policy.computed_steps) == 5
    assert policy.predictions.keys() == {*range(min(policy.cached_steps), 10)}
    record = policy.calibration
    assert (record.error, record.step_errors, record.num_prompts, record.total_full_runs) == (None, (), 1, 1.0)
    assert "recordings alone" in record.notes[0]
    said = " ".join(capsys.readouterr().err.split())
    assert "at most 1 full runs in all, on 1 of 3 prompts: a full run takes" in said
    assert "relative error of the final latent not measured" in said
    with pytest.raises(ertacache.errors.GuardError):
        ertacache.enable(embedded.pipe, policy, guard="report")


def test_a_policy_from_one_recording_is_nearer_than_fewer_steps(trained, generated):
    longer = {**trained.arguments, "num_inference_steps": 20, "progress": False}
    policy = ertacache.calibrate(trained.pipe, trained.calibration_prompts[:1], speedup=2, full_runs=1, **longer)
    full, fewer = generated(20), generated(10)
    with ertacache.accelerated(trained.pipe, policy):
        fast = generated(20)
    assert (fast - full).norm() < 0.7 * (fewer - full).norm()


@pytest.fixture
def generated(trained):
    import torch

    def generate(count):
        call = trained.arguments | {
            "num_inference_steps": count,
            "output_type": "latent",
            "generator": torch.Generator().manual_seed(9),
        }
        return trained.pipe(trained.held_out_prompts[0], **call).images

    return generate


def test_what_more_would_bring_is_said_where_it_is_something(monkeypatch):
    monkeypatch.setattr(worth, "WORTH", {2.0: {1: 4.8, 4: 0.8, 10: -0.6}, 3.0: {1: 1.3, 2: 0.9}})
    assert "full_runs=80 would bring 4.8 dB more" in worth.worth_of_more(2.0, 1.0)
    assert "full_runs=80 would bring 0.8 dB more" in worth.worth_of_more(2.2, 9.9)
    assert "full_runs=80 would bring 0.9 dB more" in worth.worth_of_more(2.9, 2.5)
    assert worth.worth_of_more(2.0, 10) == worth.worth_of_more(2.0, 80) == worth.worth_of_more(2.0, 0.5) == ""


def test_times_as_people_say_them():
    assert [in_words(s) for s in (0.5, 90, 150, 8000)] == ["0.5 s", "90 s", "2.5 min", "2.22 h"]
