"""Wrong arguments end in the library's own error, which says what was given and what to give."""

from __future__ import annotations

import copy
import functools
import math
import pickle
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ertacache
from benchmarks.inputs import calls
from ertacache import Draft, Method, Policy, Profile, value_checks
from ertacache.errors import (
    ArgumentError,
    BudgetError,
    CalibrationError,
    ERTACacheError,
    GuardError,
    MethodError,
    OutputError,
    PipelineError,
    PolicyFileError,
    PolicyMismatchError,
    SharingError,
)
from ertacache.method.prediction import Prediction
from ertacache.policy import CalibrationRecord


@pytest.mark.parametrize("value", [2, 2.0, np.int64(2), np.float32(2.0), np.array(2), torch.tensor(2), Fraction(2)])
def test_numbers_of_all_kinds_are_numbers_and_pythons_own_afterwards(value: Any) -> None:
    found = value_checks.number("it", value)
    assert found == 2
    assert type(found) in (int, float)


@pytest.mark.parametrize(
    "value", [True, np.bool_(True), "2", None, 2j, math.nan, math.inf, 10**400, [2], np.array([2])]
)
def test_what_is_none_is_refused(value: Any) -> None:
    with pytest.raises(ArgumentError, match="it must be a finite number"):
        value_checks.number("it", value)


@pytest.mark.parametrize("value", [2.0, np.float64(2), True, "2", 2.5])
def test_whole_numbers_are_whole(value: Any) -> None:
    with pytest.raises(ArgumentError, match="it must be a whole number from 1 to 9"):
        value_checks.whole("it", value, at_least=1, at_most=9)


@pytest.mark.parametrize("value", [0, 10, -1])
def test_bounds_are_kept(value: int) -> None:
    with pytest.raises(ArgumentError, match="from 1 to 9"):
        value_checks.whole("it", value, at_least=1, at_most=9)


PLAIN = Policy(4, (1,), Method(), calibration=CalibrationRecord("", psnr=(4.0, 5.0), ssim=(0.9, 0.9), seconds=1.0))
DRAFT = Draft(PLAIN, "", -1.0, 0.5, 1.8, 2.0)


@pytest.fixture
def calibrate(flux: Any, flux_call: Any) -> Any:
    prompts = [{k: v for k, v in flux_call().items() if k != "num_inference_steps"}]
    base = {"prompts": prompts, "num_inference_steps": 8, "speedup": 2.0, "method": "taylor", "progress": False}

    def make(**changes: Any) -> Policy:
        return ertacache.calibrate(**{"pipe": flux, **base, **changes})

    return make


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"num_inference_steps": "8"}, ArgumentError, "num_inference_steps must be a whole number.*'8'"),
        ({"num_inference_steps": 8.0}, ArgumentError, "whole number.*8.0, of type float"),
        ({"num_inference_steps": True}, ArgumentError, "whole number.*of type bool"),
        ({"num_inference_steps": 0}, ArgumentError, "from 1 to 10000"),
        ({"num_inference_steps": 10**7}, ArgumentError, "from 1 to 10000"),
        ({"speedup": "2"}, BudgetError, "speedup must be a finite number"),
        ({"speedup": math.nan}, BudgetError, "speedup must be a finite number"),
        ({"speedup": None, "num_computed_steps": 2.5}, BudgetError, "num_computed_steps must be a whole number"),
        ({"speedup": None, "seconds": "2"}, BudgetError, "seconds must be a finite number"),
        ({"full_runs": "5"}, BudgetError, "full_runs='5'.*Allow 1 "),
        ({"full_runs": 1e300}, BudgetError, "must be 1 to 1e\\+06"),
        ({"method": 3}, MethodError, "no such method.*3, of type int.*aligned"),
        ({"seed": 1.5}, ArgumentError, "seed must be a whole number"),
        ({"seed": 2**63}, ArgumentError, "seed must be"),
        ({"progress": "yes"}, ArgumentError, "progress must be True or False"),
        ({"memory_limit": -1}, ArgumentError, "memory_limit must be a number of 0 or more"),
        ({"checkpoint": 5}, ArgumentError, "checkpoint must be the path"),
        ({"checkpoint": "a\0b"}, ArgumentError, "checkpoint must be the path"),
        ({"checkpoint": __file__}, OutputError, "not a folder|is a file"),
        ({"pipe": None}, PipelineError, "not a pipeline.*NoneType"),
        ({"pipe": torch.nn.Linear(1, 1)}, PipelineError, "not a pipeline.*Linear"),
        ({"guidance": 4.0}, PipelineError, "takes no 'guidance'.*Did you mean guidance_scale"),
        ({"prompts": [{"heigth": 16}]}, PipelineError, "takes no 'heigth'.*Did you mean height"),
        ({"sigmas": [1.0, 0.5]}, CalibrationError, "2 sigmas for 8 steps"),
        ({"sigmas": "x"}, ArgumentError, "sigmas must be a list"),
        ({"sigmas": ["x"] * 8}, ArgumentError, r"sigmas\[0\] must be a finite number"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_calibrate_says_what_is_wrong_before_the_first_denoiser_call(
    calibrate: Any, flux: Any, counted: Any, changes: Any, kind: Any, message: str
) -> None:
    counter = counted(flux.transformer)
    with pytest.raises(kind, match=message):
        calibrate(**changes)
    assert counter.take() == 0


def test_what_numpy_makes_of_numbers_is_taken(calibrate: Any) -> None:
    wanted = calibrate(num_inference_steps=8, speedup=2.0, seed=3)
    taken = calibrate(num_inference_steps=np.int64(8), speedup=np.float32(2.0), seed=np.int32(3), progress=np.bool_(0))
    assert taken.fingerprint == wanted.fingerprint
    assert taken.calibration.budget == "speedup=2.0"


@pytest.mark.parametrize(
    ("function", "given", "kind", "message"),
    [
        (ertacache.profile, {"ratios": "2"}, BudgetError, "ratios must be a list"),
        (ertacache.profile, {"ratios": 2.0}, BudgetError, "ratios must be a list"),
        (ertacache.profile, {"ratios": [2.0, "3"]}, BudgetError, r"ratios\[1\] must be"),
        (ertacache.profile, {"num_inference_steps": "8"}, ArgumentError, "num_inference_steps"),
        (ertacache.profile, {"seed": None}, ArgumentError, "seed must be"),
        (ertacache.draft, {"policy": "a path"}, PolicyMismatchError, "not a policy"),
        (ertacache.draft, {"policy": PLAIN, "seed": 1.5}, ArgumentError, "seed must be"),
        (ertacache.draft, {"policy": PLAIN, "pipe": None}, PipelineError, "not a pipeline"),
        (ertacache.enable, {"policy": PLAIN, "pipe": None}, PipelineError, "no denoiser"),
        (ertacache.enable, {"policy": "a path"}, PolicyMismatchError, "not a policy"),
        (ertacache.enable, {"policy": PLAIN, "guard": "x"}, GuardError, "no such guard"),
        (ertacache.enable, {"policy": PLAIN, "guard": np.array([1, 2])}, GuardError, "no such guard"),
        (ertacache.enable, {"policy": PLAIN, "draft": "a path"}, GuardError, "not a draft"),
    ],
)
def test_the_other_functions_do_too(flux: Any, function: Any, given: Any, kind: Any, message: str) -> None:
    base = {"pipe": flux, "prompts": [{}] * 12, "num_inference_steps": 8}
    base = {"pipe": flux} if function is ertacache.enable else base
    with pytest.raises(kind, match=message):
        function(**{**base, **given})


@pytest.mark.parametrize(
    ("attempt", "kind"),
    [
        (lambda: ertacache.transferred(None, guidance_scale=2.0), PolicyMismatchError),
        (lambda: Policy.load(None), ArgumentError),
        (lambda: Policy.load("\0"), ArgumentError),
        (lambda: Policy.load("none"), FileNotFoundError),
        (lambda: PLAIN.save(5), ArgumentError),
        (lambda: PLAIN.save("/proc/none"), OutputError),
        (lambda: Policy.from_pretrained(5), ArgumentError),
        (lambda: Policy.from_pretrained("a/b", revision=5), ArgumentError),
        (lambda: Policy.from_pretrained("x" * 10_000), SharingError),
        (lambda: PLAIN.push_to_hub(None), ArgumentError),
        (lambda: PLAIN.push_to_hub("a/b", private="x"), ArgumentError),
        (lambda: Profile(None), CalibrationError),
        (lambda: Profile((PLAIN, "x")), CalibrationError),
        (lambda: Profile((Policy(4, (1,), Method()),)), CalibrationError),
        (lambda: Profile((PLAIN,)).policy(speedup="x"), BudgetError),
        (lambda: Profile((PLAIN,)).save(5), ArgumentError),
        (lambda: Profile.load(5), ArgumentError),
        (lambda: Draft(None, "", -1.0, 0.5, 1.8, 2.0), GuardError),
        (lambda: Draft(PLAIN, 5, -1.0, 0.5, 1.8, 2.0), GuardError),
        (lambda: Draft(PLAIN, "", "x", 0.5, 1.8, 2.0), GuardError),
        (lambda: DRAFT.save(5), ArgumentError),
        (lambda: Draft.load(5), ArgumentError),
        (lambda: Method.named(3), MethodError),
        (lambda: Method.named([]), MethodError),
        (lambda: Method(order=True), MethodError),
        (lambda: Method(order=2.0), MethodError),
        (lambda: Method(schedule=[]), MethodError),
        (lambda: Method(timestep_adjustment="x"), MethodError),
    ],
)
def test_the_methods_of_policies_profiles_drafts_and_methods_do_too(attempt: Any, kind: Any) -> None:
    with pytest.raises(kind) as caught:
        attempt()
    assert isinstance(caught.value, (ERTACacheError, FileNotFoundError))


def test_a_transfer_wants_numbers(flux: Any, flux_call: Any, make_policy: Any, origin_for: Any) -> None:
    origin = origin_for(flux, flux_call(guided=True), calls=2, shape=(16, 16))
    policy = make_policy(8, (2,), origin=origin)
    for value in ("7", math.nan, None):
        with pytest.raises(ArgumentError, match="true_cfg_scale must be a finite number"):
            ertacache.transferred(policy, true_cfg_scale=value)
    policy = replace(policy, predictions={2: Prediction((1,), (1.0,), (1e6,))})
    with pytest.raises(PolicyFileError, match="contrast_factors"):
        ertacache.transferred(policy, true_cfg_scale=1e9)


def test_a_call_of_an_accelerated_pipeline_names_the_argument_that_was_meant(flux: Any, flux_call: Any) -> None:
    with (
        ertacache.accelerated(flux, Policy(8, (2,), Method.named("reuse"))),
        pytest.raises(PipelineError, match=r"takes no 'true_cfg'.*Did you mean true_cfg_scale"),
    ):
        flux(**flux_call(), true_cfg=4.0)


def test_an_accelerated_pipeline_can_be_copied_and_not_pickled(flux: Any, flux_call: Any) -> None:
    policy = Policy(8, (2,), Method.named("reuse"))
    with ertacache.accelerated(flux, policy) as run:
        expected = flux(**flux_call()).images
        for copied in (copy.copy(flux), copy.deepcopy(flux)):
            assert torch.equal(copied(**flux_call()).images, expected)
            assert run.cached_steps == (2,)
        for dump in (pickle.dumps, functools.partial(pickle.dumps, protocol=0), pickle._dumps):
            with pytest.raises(PipelineError, match=r"cannot be pickled.*FluxPipeline.*disable\(pipe\) first"):
                dump(flux)
    assert torch.equal(pickle.loads(pickle.dumps(flux))(**flux_call()).images, flux(**flux_call()).images)


def test_nothing_but_our_errors_comes_of_what_is_quickly_tried(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    slow = ("calibrate", "profile", "draft", "Policy.push_to_hub")  # `python -m benchmarks.inputs` has all
    for name, tally in calls.tried(tmp_path, lambda name: name not in slow):
        assert tally.faults == [], name
        assert tally.outcomes.total() > 50, name
