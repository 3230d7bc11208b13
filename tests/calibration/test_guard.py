"""What calibration leaves for a guard, and that by it a perturbed model is told from the calibrated one."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

import ertacache
from benchmarks.guard import noise
from ertacache import Method, Policy
from ertacache.errors import GuardError, PolicyFileError
from ertacache.policy.drift_envelope import Envelope
from ertacache.watching.drift_score import envelope_of, is_outside, score

EVEN = Method(schedule="uniform", predictor="aligned")


@pytest.fixture(scope="module")
def policy(trained):
    settings = {**trained.arguments, "num_inference_steps": 10, "progress": False}
    return ertacache.calibrate(trained.pipe, trained.calibration_prompts[:8], speedup=2, method=EVEN, **settings)


@pytest.fixture
def perturbed(trained):
    """The trained pipeline, with noise on its weights."""
    module = trained.pipe.transformer
    own = copy.deepcopy(module.state_dict())
    with torch.no_grad():
        noise(2.0, seed=0)(module)
    yield trained.pipe
    module.load_state_dict(own)


def generate(embedded, prompt, seed):
    arguments = {**embedded.arguments, "num_inference_steps": 10, "output_type": "latent"}
    return embedded.pipe(prompt, generator=torch.Generator().manual_seed(seed), **arguments).images


def test_calibration_prompts_are_within_the_envelope(trained, policy):
    corrected = tuple(step for step in policy.predictions if step not in policy.cached_steps)
    assert policy.envelope.steps == tuple(step for step in corrected if step <= 8) != ()
    with ertacache.accelerated(trained.pipe, policy, guard="report") as run:
        for seed, prompt in enumerate(trained.calibration_prompts[:8]):
            generate(trained, prompt, seed)
            assert run.report.guard.left == (False,)


def test_a_perturbed_model_is_outside_and_computing_the_rest_helps(trained, policy, perturbed):
    unbound = dataclasses.replace(policy, origin=None)  # whose weights are not checked
    prompt, errors = trained.held_out_prompts[0], {}
    full = generate(trained, prompt, 0)
    for guard in ("report", "compute"):
        with ertacache.accelerated(perturbed, unbound, guard=guard) as run:
            errors[guard] = float((generate(trained, prompt, 0) - full).norm())
        assert run.report.guard.left == (True,)
    assert run.report.guard.computed_steps
    assert {*run.cached_steps, *run.report.guard.computed_steps} == set(policy.cached_steps)
    assert errors["compute"] < errors["report"]


def test_an_envelope_goes_through_a_file(policy, tmp_path):
    policy.save(tmp_path / "policy.safetensors")
    loaded = Policy.load(tmp_path / "policy.safetensors")
    assert loaded.envelope == policy.envelope
    assert loaded.fingerprint == policy.fingerprint


def test_too_few_prompts_and_methods_without_a_prediction_have_no_envelope(embedded, settings):
    for method, prompts in ((EVEN, 3), ("uniform", 3), ("paper", 4)):
        made = ertacache.calibrate(
            embedded.pipe, embedded.calibration_prompts[:prompts], speedup=2, method=method, **settings
        )
        assert made.envelope is None
        with pytest.raises(GuardError, match="four prompts or more"):
            ertacache.enable(embedded.pipe, made, guard="report")


def test_the_envelope_of_image_to_image_counts_from_its_first_step(policy):
    moved = dataclasses.replace(policy, origin=None, gram=None).shifted(4)
    assert moved.envelope.steps == tuple(step + 4 for step in policy.envelope.steps)
    assert {*moved.envelope.steps} <= {*moved.computed_steps}
    assert moved.envelope.middle == policy.envelope.middle + 4
    own = {"steps": policy.envelope.steps, "middle": policy.envelope.middle}
    assert dataclasses.replace(moved.envelope, **own) == policy.envelope


def test_a_method_that_corrects_nothing_has_an_envelope_of_what_reuse_would_miss(embedded, settings):
    made = ertacache.calibrate(embedded.pipe, embedded.calibration_prompts[:4], speedup=2, method="taylor", **settings)
    assert made.envelope.steps == tuple(step for step in made.computed_steps[1:] if step <= 8)
    with ertacache.accelerated(embedded.pipe, made, guard="report") as run:
        generate(embedded, embedded.calibration_prompts[0], 0)
    assert tuple(run.report.guard.drifts[0]) == made.envelope.steps
    assert run.report.guard.left == (False,)


def test_a_sample_is_outside_where_it_drifts_far_more_than_is_usual():
    drifts = {2: [0.1, 0.2, 0.1, 0.2, 0.15], 4: [0.3, 0.3, 0.4, 0.2, 0.25]}
    found = envelope_of(drifts, 10)
    assert found.steps == (2, 4)
    assert found.mean[1] == pytest.approx(np.log(np.hypot(drifts[2], drifts[4])).mean())
    for k in range(5):
        assert score(found, {step: row[k] for step, row in drifts.items()}) < found.limit
    assert score(found, {2: 2.0, 4: 3.0}) > found.limit
    assert score(found, {2: 2.0, 4: 0.3}) > found.limit  # what it had drifted counts, up to the middle
    assert score(found, {2: 0.01, 4: 0.02}) < 0
    assert score(found, {2: 0.15, 4: float("nan")}) > found.limit
    assert score(found, {2: 2.0}) > found.limit
    assert (score(found, {}), score(found, {4: 3.0})) == (0.0, 0.0)  # nothing from the first step on
    assert [found.reached(steps) for steps in ((), (2,), (4,), (2, 4))] == [0, 1, 0, 2]
    assert envelope_of({}, 10) is None
    assert envelope_of({1: [0.0] * 5}, 10).problem((0, 1)) is None  # all alike: finite all the same


def test_from_the_middle_on_what_comes_after_it_counts_and_nothing_near_the_end():
    rows = {1: [0.4, 0.3, 0.5, 0.4], 3: [0.1, 0.2, 0.1, 0.2], 6: [0.3, 0.3, 0.4, 0.2], 8: [0.2, 0.2, 0.1, 0.1]}
    found = envelope_of({**rows, 9: [5.0, 1.0, 2.0, 9.0]}, 10)
    assert (found.steps, found.middle) == ((1, 3, 6, 8), 6)
    assert found.mean[3] == pytest.approx(np.log(np.hypot(rows[6], rows[8])).mean())
    usual = {1: 0.4, 3: 0.15, 6: 0.3, 8: 0.15}
    far = {**usual, 3: 9.0}
    assert is_outside(found, {step: far[step] for step in (1, 3)})
    assert score(found, far) == score(found, usual) < found.limit
    assert envelope_of({9: [5.0, 1.0, 2.0, 9.0]}, 10).steps == (9,)  # better than nothing


@pytest.mark.parametrize("count", [4, 16])
def test_one_in_twenty_samples_that_are_like_calibrations_is_outside(count):
    generator, outside = np.random.default_rng(0), []
    for _ in range(2000):
        found = envelope_of({1: np.exp(generator.normal(-1.0, 0.3, size=count)).tolist()}, 3)
        outside.append(is_outside(found, {1: float(np.exp(generator.normal(-1.0, 0.3)))}))
    assert np.mean(outside) == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"mean": (0.0,)}, "one entry for each"),
        ({"steps": (1, 2)}, "other than the first one"),
        ({"steps": (4, 2)}, "other than the first one"),
        ({"middle": 3}, "restarts at a step"),
    ],
)
def test_an_envelope_that_does_not_fit_is_named(changes, problem):
    whole = Envelope((2, 4), 2, (0.0, 0.0), (1.0, 1.0), 1.0)
    assert whole.problem((0, 2, 4)) is None
    assert problem in dataclasses.replace(whole, **changes).problem((0, 2, 4))
    with pytest.raises(PolicyFileError, match=problem):
        Policy(5, (1, 3), Method(), envelope=dataclasses.replace(whole, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"limit": float("nan")},
        {"limit": "1"},
        {"deviation": (1.0, 0.0)},
        {"mean": (0.0, float("inf"))},
        {"mean": (0.0, 1e300)},
        {"steps": (2, 4.0)},
        {"middle": True},
    ],
)
def test_an_envelope_is_made_of_numbers(changes):
    with pytest.raises(PolicyFileError, match=next(iter(changes))):
        dataclasses.replace(Envelope((2, 4), 2, (0.0, 0.0), (1.0, 1.0), 1.0), **changes)
