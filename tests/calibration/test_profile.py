"""Profiles: what they hold, what they cost, and how policies are chosen from them."""

from dataclasses import replace
from statistics import fmean

import pytest
import torch

import ertacache
from ertacache.calibration import make_profile as making
from ertacache.calibration import profile as make_profile
from ertacache.calibration.make_profile import FULL_RUNS, RATIOS, kept_policy
from ertacache.calibration.profile import Profile
from ertacache.calibration.timing import Costs
from ertacache.errors import BudgetError, CalibrationError, PolicyFileError
from ertacache.files import save
from ertacache.policy import CalibrationRecord


@pytest.fixture(scope="module")
def settings(embedded):
    return {**embedded.arguments, "num_inference_steps": 10, "progress": False, "ratios": (1.25, 2.0, 3.3)}


@pytest.fixture(scope="module")
def made(embedded, settings, tmp_path_factory, counted_calls):
    folder = tmp_path_factory.mktemp("profile")
    with counted_calls() as counted:
        found = make_profile(embedded.pipe, embedded.calibration_prompts[:12], checkpoint=folder, **settings)
    return found, counted.calls, folder


def test_a_profile_holds_a_policy_for_each_ratio_and_keeps_to_its_cost(made):
    found, calls, _ = made
    assert [len(policy.computed_steps) for policy in found.policies] == [8, 5, 3]
    last = found.policies[-1].calibration
    assert last.denoiser_calls == calls <= FULL_RUNS * 10 * 2 * 12
    for policy in found.policies:
        assert len(policy.calibration.psnr) == 12
    seconds = [policy.calibration.seconds for policy in found.policies]
    assert seconds == sorted(seconds, reverse=True)


def test_the_policies_of_all_ratios_fit_into_the_full_runs_of_a_profile(embedded, settings, monkeypatch, counted_calls):
    """As many computed steps in all as the default ratios ask for, of a full run's steps; no room for a loop more."""
    monkeypatch.setattr("ertacache.calibration.step_fit.MIN_HELD_OUT", 3)
    # Timing is one prompt's and does not grow with their number, so of three prompts it would count for too much.
    monkeypatch.setattr(making, "timed", lambda *_: Costs(10, 1.0, 2, 0.2, 0))
    counts = (8, 7, 6, 5, 4, 3, 2)
    assert sum(counts) / 10 == pytest.approx(sum(int(30 / ratio + 1e-9) for ratio in RATIOS) / 30, abs=0.1)
    with counted_calls() as counted:
        found = make_profile(
            embedded.pipe, embedded.calibration_prompts[:3], **{**settings, "ratios": [10 / n for n in counts]}
        )
    assert tuple(len(policy.computed_steps) for policy in found.policies) == counts
    assert counted.calls <= FULL_RUNS * 10 * 2 * 3


def test_a_profile_goes_on_where_it_was_interrupted(embedded, settings, made, monkeypatch):
    found, _, folder = made
    monkeypatch.setattr(making, "search_schedule", None)  # nothing is left to search
    again = make_profile(embedded.pipe, embedded.calibration_prompts[:12], checkpoint=folder, **settings)
    assert [p.predictions for p in again.policies] == [p.predictions for p in found.policies]
    assert [p.calibration.psnr for p in again.policies] == [p.calibration.psnr for p in found.policies]


def test_a_damaged_policy_of_an_interrupted_profile_is_made_anew(made, tmp_path):
    found, _, _ = made
    path, warned = tmp_path / "profile-8.safetensors", []
    found.policies[0].save(path)
    assert kept_policy(path, 8, warned.append).fingerprint == found.policies[0].fingerprint
    assert kept_policy(path, 7, warned.append) is None  # of another budget
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    assert kept_policy(path, 8, warned.append) is None
    replace(found.policies[0], calibration=CalibrationRecord("")).save(path)
    assert kept_policy(path, 8, warned.append) is None  # not of a profile
    assert [line.partition(": ")[0] for line in warned] == [f"{path.name} is made anew"] * 3


def test_a_saved_and_loaded_profile_says_the_same(embedded, made, tmp_path):
    found, _, _ = made
    found.save(tmp_path / "profile.safetensors")
    again = Profile.load(tmp_path / "profile.safetensors")
    assert [p.metadata() for p in again.policies] == [p.metadata() for p in found.policies]
    picked = again.policy(speedup=2)
    assert len(picked.computed_steps) == 5
    arguments = {**embedded.arguments, "num_inference_steps": 10, "output_type": "latent"}
    with ertacache.accelerated(embedded.pipe, picked) as run:
        embedded.pipe("a red star", generator=torch.Generator().manual_seed(0), **arguments)
    assert run.cached_steps == picked.cached_steps


def test_files_of_other_kinds_are_refused(made, tmp_path):
    found, _, _ = made
    with pytest.raises(FileNotFoundError, match=r"ertacache\.profile"):
        Profile.load(tmp_path / "none.safetensors")
    found.policies[0].save(tmp_path / "policy.safetensors")
    with pytest.raises(PolicyFileError, match=r"not a profile.*Policy\.load"):
        Profile.load(tmp_path / "policy.safetensors")
    found.save(tmp_path / "profile.safetensors")
    with pytest.raises(PolicyFileError, match="not a policy"):
        ertacache.Policy.load(tmp_path / "profile.safetensors")
    for policies in ([{}], 7, ["a policy"]):  # an edited file, with fewer policies than tensors or none
        path = tmp_path / "edited.safetensors"
        save(path, "profile", {"policies": policies}, {"1.cached_steps": torch.tensor([1])})
        with pytest.raises(PolicyFileError, match=str(path)):
            Profile.load(path)
    damaged = (tmp_path / "profile.safetensors").read_bytes()[:-20]
    (tmp_path / "damaged.safetensors").write_bytes(damaged)
    with pytest.raises(PolicyFileError):
        Profile.load(tmp_path / "damaged.safetensors")


@pytest.fixture
def by_hand(make_policy):
    def policy(computed, *psnr):
        cached = tuple(range(1, 10 - computed + 1))
        record = CalibrationRecord("", psnr=psnr, ssim=tuple(p / 100 for p in psnr), seconds=float(computed))
        return replace(make_policy(10, cached), calibration=record)

    # at 6 computed steps worse than at 5
    return Profile((policy(8, 60, 61, 62), policy(6, 40, 41, 42), policy(5, 50, 51, 52), policy(3, 30, 31, 32)))


def test_a_policy_that_costs_more_and_gives_less_is_not_on_the_frontier(by_hand):
    assert [len(policy.computed_steps) for policy in by_hand.frontier()] == [8, 5, 3]


@pytest.mark.parametrize(
    ("budget", "computed"),
    [
        ({"speedup": 1.25}, 8),
        ({"speedup": 1.5}, 5),
        ({"num_computed_steps": 6}, 5),
        ({"num_computed_steps": 4}, 3),
        ({"seconds": 8.5}, 8),
        ({"seconds": 8.1}, 5),  # a plan keeps a margin
        ({"min_psnr": 49}, 5),
        ({"min_psnr": 50.5}, 8),  # in the mean, but not with confidence
        ({"min_ssim": 0.28}, 3),
    ],
)
def test_budgets_choose_among_the_policies(by_hand, budget, computed):
    policy = by_hand.policy(**budget)
    assert len(policy.computed_steps) == computed
    assert "of a profile" in policy.calibration.budget
    assert fmean(policy.calibration.psnr) > 0


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({}, "exactly one budget"),
        ({"speedup": 2, "seconds": 1}, "exactly one budget"),
        ({"speedup": 4}, "3 of 10 steps"),
        ({"seconds": 2}, "takes 3 s"),
        ({"min_psnr": 70}, "mildest reaches"),
    ],
)
def test_a_budget_that_no_policy_meets_is_refused_with_what_there_is(by_hand, budget, message):
    with pytest.raises(BudgetError, match=message):
        by_hand.policy(**budget)


def test_profiles_need_prompts_ratios_and_an_order(embedded, settings, by_hand):
    with pytest.raises(CalibrationError, match="too few"):
        make_profile(embedded.pipe, embedded.calibration_prompts[:11], **settings)
    for ratios in ((), (1.0,), (0,), (float("nan"),), (2.0, float("inf"))):  # before any full run
        with pytest.raises(BudgetError, match="ratios"):
            make_profile(None, embedded.calibration_prompts[:12], **{**settings, "ratios": ratios})
    with pytest.raises(BudgetError, match=r"nothing to cache .*Use 3 or more"):
        make_profile(None, embedded.calibration_prompts[:12], **{**settings, "num_inference_steps": 2})
    with pytest.raises(BudgetError, match="up to 5"):
        make_profile(embedded.pipe, embedded.calibration_prompts[:12], **{**settings, "ratios": (20.0,)})
    for policies in ((), by_hand.policies[::-1]):
        with pytest.raises(CalibrationError, match="ever fewer"):
            Profile(policies)
