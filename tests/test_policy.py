"""The policy and the method: frozen, validated, and the same after a round trip through a file."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ertacache.files
from ertacache.errors import MethodError, PolicyFileError
from ertacache.learning.learnt import Learnt
from ertacache.method.named_methods import NAMED_METHODS, Method
from ertacache.method.prediction import Prediction
from ertacache.policy import CalibrationRecord, Denoiser, Origin, Policy, Rectification, Weights
from ertacache.policy.drift_envelope import Envelope
from ertacache.watching.draft import Draft

PAPER, ALIGNED = Method.named("paper"), Method.named("aligned")
NAN = math.nan
AWKWARD = (0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308)
ORIGIN = Origin(
    pipeline_class="FluxPipeline",
    denoisers={
        "transformer": Denoiser(
            "FluxTransformer2DModel",
            {"axes": [2, 2, 4], "nested": {"lora": None}, "guidance": True},
            Weights("0123abcd", (("bfloat16", 2), ("int8 of a tensor", 1)), (0.5, 1.0, -2.0), (0.125, 0.25, 0.5)),
            ("style", "lora-é"),
            Weights("4567abcd", (("float32", 1),), (0.25,)),
        ),
        "transformer_2": Denoiser("FluxTransformer2DModel", {}, Weights("")),
    },
    scheduler_class="FlowMatchEulerDiscreteScheduler",
    noise_levels=(1.0, 0.9, 0.7, 0.1 + 0.2, 1 / 3 - 0.2, 0.0),
    guidance={"guidance_scale": 3.5, "true_cfg_scale": 1.0},
    calls_per_step=2,
    latent_shape=(64, 16),
    settings={"boundary_ratio": None, "scheduler": {"lambda_min_clipped": -math.inf}},
    sizes={"height": 512},
    versions={"torch": "2.13.0"},
)
RECORD = CalibrationRecord(
    "speedup=2.0", 8, 480, 3.2, 0.0123, (*AWKWARD, 0.0), 0.18, ("Taylor weights were kept",), taylor_kept=True
)


def rectification(granularity: Any, shape: tuple[int, ...], steps: int = 2) -> Rectification:
    k, b = torch.randn(2, steps, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).unbind()
    return Rectification(granularity, 2, k.clone(), b.clone())


def paper_policy(granularity: Any, shape: tuple[int, ...]) -> Policy:
    method = dataclasses.replace(PAPER, rectification=granularity)
    return Policy(5, (1, 3), method, rectification=rectification(granularity, shape))


POLICIES = {
    "nothing cached": Policy(5, (), Method()),
    "reuse": Policy(5, (1, 2, 3), Method.named("reuse")),
    "aligned": Policy(
        5,
        (2, 3),
        ALIGNED,
        {
            2: Prediction((1, 0), (1 / 3, 2 / 3)),
            3: Prediction((1,), (1.1,), (-0.7,)),
            4: Prediction((4, 1), (0.9, 0.2), (0.1, -0.1)),
        },
    ),
    "time grid": Policy(4, (2,), Method.named("offline+time"), time_grid=(0.0, 0.1, 1 / 3, 0.1 + 0.6, 1.0)),
    "rectified by step": paper_policy("step", ()),
    "rectified by channel": paper_policy("channel", (16,)),
    "rectified by element": paper_policy("element", (64, 16)),
    "calibrated": Policy(5, (1,), Method(), origin=ORIGIN, calibration=RECORD),
}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
def test_a_policy_is_exactly_the_same_after_a_round_trip(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path / "new folder" / "policy.safetensors")
    loaded = Policy.load(tmp_path / "new folder" / "policy.safetensors")
    for field in dataclasses.fields(Policy):
        before, after = getattr(policy, field.name), getattr(loaded, field.name)
        if isinstance(before, Rectification):
            assert (after.granularity, after.axis) == (before.granularity, before.axis)
            for ours, theirs in ((after.k, before.k), (after.b, before.b)):
                assert ours.dtype == theirs.dtype
                assert torch.equal(ours, theirs)
        else:
            assert after == before
            assert type(after) is type(before)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
def test_a_fingerprint_is_the_same_after_a_round_trip(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path / "policy.safetensors")
    assert Policy.load(tmp_path / "policy.safetensors").fingerprint == policy.fingerprint


def test_a_fingerprint_tells_policies_apart_and_not_the_versions_that_wrote_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shifted = dataclasses.replace(POLICIES["aligned"], predictions={2: Prediction((1, 0), (1 / 3, 2 / 3 + 1e-15))})
    other = paper_policy("step", ())
    other.rectification.b[0] += 1e-12
    policies = [*POLICIES.values(), shifted, other]
    marks = {policy.fingerprint for policy in policies}
    assert len(marks) == len(policies)
    assert all(re.fullmatch("[0-9a-f]{16}", mark) for mark in marks)
    monkeypatch.setattr(ertacache.files, "__version__", "99.0")
    assert {policy.fingerprint for policy in policies} == marks


def test_computed_steps_are_those_that_are_not_cached_and_give_the_step_ratio() -> None:
    policy = Policy(10, (1, 2, 4, 7, 8), Method())
    assert policy.computed_steps == (0, 3, 5, 6, 9)
    assert policy.step_ratio == 2


@pytest.mark.parametrize("thing", [POLICIES["aligned"], ALIGNED, ORIGIN, RECORD, Prediction((0,), (1.0,))])
def test_nothing_in_a_policy_can_be_set_anew(thing: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(thing, dataclasses.fields(thing)[0].name, None)


@pytest.mark.parametrize(
    ("problem", "parts"),
    [
        ("cached steps must rise within 1 .. 4", {"cached_steps": (0, 1)}),
        ("cached steps must rise within 1 .. 4", {"cached_steps": (3, 5)}),
        ("cached steps must rise within 1 .. 4", {"cached_steps": (3, 2)}),
        ("cached steps must rise within 1 .. 4", {"cached_steps": (2, 2)}),
        ("the run does not make", {"predictions": {5: Prediction((4,), (1.0,))}}),
        ("must begin with that step", {"predictions": {4: Prediction((1, 0), (1.0, 0.0))}}),
        ("one contrast factor for each", {"predictions": {2: Prediction((1, 0), (1.0, 0.0), (1.0,))}}),
        ("one factor for each", {"predictions": {2: Prediction((1, 0), (1.0,))}}),
        ("one factor for each", {"predictions": {2: Prediction((), ())}}),
        ("cached or come later", {"predictions": {3: Prediction((2,), (1.0,))}}),
        ("cached or come later", {"predictions": {3: Prediction((4,), (1.0,))}}),
        ("one entry for each cached step", {"rectification": rectification("step", (), steps=3)}),
        ("rise from 0 to 1 over 6 points", {"time_grid": (0.0, 0.25, 0.5, 0.75, 1.0)}),
        ("rise from 0 to 1 over 6 points", {"time_grid": (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)}),
        ("rise from 0 to 1 over 6 points", {"time_grid": (0.0, 0.2, 0.4, 0.6, 0.8, 0.9)}),
        ("rise from 0 to 1 over 6 points", {"time_grid": (0.0, 0.2, 0.4, 0.4, 0.8, 1.0)}),
    ],
)
def test_parts_that_do_not_fit_together_are_no_policy(problem: str, parts: dict[str, Any]) -> None:
    with pytest.raises(PolicyFileError, match=problem):
        Policy(**{"num_inference_steps": 5, "cached_steps": (2, 3), "method": Method(), **parts})


@pytest.mark.parametrize(
    ("problem", "make"),
    [
        ("num_inference_steps", lambda: Policy("5", (), Method())),
        ("num_inference_steps", lambda: Policy(5.0, (), Method())),
        ("num_inference_steps", lambda: Policy(True, (), Method())),
        ("num_inference_steps", lambda: Policy(10**7, (), Method())),
        ("Method.named", lambda: Policy(5, (), "uniform")),
        ("cached_steps", lambda: Policy(5, 2, Method())),
        ("cached_steps", lambda: Policy(5, (2.0,), Method())),
        ("first_step", lambda: Policy(5, (), Method(), first_step=-1)),
        ("predictions", lambda: Policy(5, (2,), Method(), {2: ((1,), (1.0,))})),
        ("predictions", lambda: Policy(5, (2,), Method(), {"2": Prediction((1,), (1.0,))})),
        ("time_grid", lambda: Policy(2, (), Method(), time_grid=(0.0, NAN, 1.0))),
        ("closer than", lambda: Policy(2, (), Method(), time_grid=(0.0, 1e-9, 1.0))),
        ("factors", lambda: Prediction((1,), (NAN,))),
        ("factors", lambda: Prediction((1,), (1e30,))),
        ("factors", lambda: Prediction((1,), (10**400,))),
        ("factors", lambda: Prediction((1,), ("1.0",))),
        ("contrast_factors", lambda: Prediction((1,), (1.0,), (math.inf,))),
        ("history", lambda: Prediction((True,), (1.0,))),
        ("granularity", lambda: rectification("pixel", ())),
        ("K and B", lambda: rectification("step", (16,))),
        ("K and B", lambda: rectification("channel", ())),
        ("axis", lambda: dataclasses.replace(rectification("step", ()), axis=0)),
        ("k must", lambda: dataclasses.replace(rectification("step", ()), k=torch.tensor([NAN, 0]).double())),
        ("b must", lambda: dataclasses.replace(rectification("step", ()), b=torch.tensor([1e30, 0]).double())),
        ("b must", lambda: dataclasses.replace(rectification("step", ()), b=torch.zeros(2))),
        ("noise_levels", lambda: dataclasses.replace(ORIGIN, noise_levels=(NAN,) * 6)),
        ("noise levels, but its origin has 5", lambda: Policy(5, (), Method(), origin=levels(5))),
        ("guidance", lambda: dataclasses.replace(ORIGIN, guidance={"guidance_scale": "4"})),
        ("calls_per_step", lambda: dataclasses.replace(ORIGIN, calls_per_step=0)),
        ("latent_shape", lambda: dataclasses.replace(ORIGIN, latent_shape=(64, -16))),
        ("settings", lambda: dataclasses.replace(ORIGIN, settings={"deep": nested(100)})),
        ("config", lambda: Denoiser("Model", {1: 2}, Weights(""))),
        ("elements", lambda: Weights("", (("float32", 1),), ("0.5",))),
        ("where 2 are named", lambda: Weights("", (("float32", 2),), (0.5,))),
        ("psnr", lambda: CalibrationRecord("", psnr=(NAN,), ssim=(0.9,))),
        ("PSNRs", lambda: Policy(5, (), Method(), calibration=CalibrationRecord("", psnr=(40.0,)))),
        ("errors after", lambda: Policy(5, (), Method(), calibration=CalibrationRecord("", step_errors=(0.1,)))),
        ("seconds", lambda: CalibrationRecord("", seconds=0.0)),
        ("notes", lambda: CalibrationRecord("", notes="a note")),
        ("for latents", lambda: Policy(5, (1, 3), PAPER, origin=ORIGIN, rectification=rectification("channel", (8,)))),
        ("Gram matrix", lambda: Policy(2, (), Method(), gram=torch.eye(2))),
        ("Gram matrix", lambda: Policy(2, (), Method(), gram=torch.eye(3).double())),
        ("not finite", lambda: Policy(2, (), Method(), gram=torch.full((2, 2), NAN).double())),
        ("not symmetric", lambda: Policy(2, (), Method(), gram=torch.tensor([[1.0, 0.5], [0.1, 1.0]]).double())),
        ("not symmetric", lambda: Policy(2, (), Method(), gram=torch.tensor([[1.0, 9.0], [9.0, 1.0]]).double())),
    ],
)
def test_what_is_no_number_or_no_sensible_one_is_refused_where_it_is_made(problem: str, make: Any) -> None:
    with pytest.raises(PolicyFileError, match=problem):
        make()


def levels(count: int) -> Origin:
    return dataclasses.replace(ORIGIN, noise_levels=ORIGIN.noise_levels[:count])


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else []


def whole_policy() -> Policy:
    """One that has everything."""
    seen = Envelope((2, 4), 2, (0.0, 0.0), (1.0, 1.0), 1.0)
    return dataclasses.replace(POLICIES["calibrated"], cached_steps=(1, 3), envelope=seen, gram=torch.eye(5).double())


@pytest.mark.parametrize(
    "thing",
    [
        whole_policy(),
        whole_policy().envelope,
        ORIGIN,
        ORIGIN.denoisers["transformer"],
        Weights(""),
        RECORD,
        Prediction((0,), (1.0,)),
        rectification("step", ()),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_every_field_of_everything_in_a_policy_is_checked(thing: Any) -> None:
    for field in dataclasses.fields(thing):
        with pytest.raises(PolicyFileError, match=field.name):
            dataclasses.replace(thing, **{field.name: object()})


def test_numbers_of_numpy_and_lists_are_taken_and_kept_as_pythons_own(tmp_path: Path) -> None:
    predictions = {np.int64(2): Prediction([np.int64(1)], np.array([0.5]))}
    record = CalibrationRecord("", np.int32(8), full_runs=np.float32(2.5))
    policy = Policy(np.int64(5), [np.int64(2)], ALIGNED, predictions, calibration=record)
    assert policy.fingerprint == dataclasses.replace(policy, cached_steps=(2,)).fingerprint
    assert type(policy.num_inference_steps) is type(policy.cached_steps[0]) is int
    assert policy.predictions == {2: Prediction((1,), (0.5,))}
    policy.save(tmp_path / "policy")
    assert Policy.load(tmp_path / "policy").metadata() == policy.metadata()


def test_elements_of_weights_that_could_not_be_read_stay_none(tmp_path: Path) -> None:
    weights = Weights("", (("float32", 2),), (NAN, 0.5), (0.25, NAN))
    denoiser = Denoiser("Model", {}, weights)
    policy = Policy(5, (), Method(), origin=dataclasses.replace(ORIGIN, denoisers={"transformer": denoiser}))
    policy.save(tmp_path / "policy")
    assert str(Policy.load(tmp_path / "policy").origin) == str(policy.origin)


@pytest.mark.parametrize("name", ["none.safetensors", "."])
def test_a_file_that_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / name))):
        Policy.load(tmp_path / name)


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "policy.safetensors"
    POLICIES["reuse"].save(path)
    before = path.read_bytes()

    def disk_full(tensors: Any, where: Any, metadata: Any) -> None:
        Path(where).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(ertacache.files, "save_file", disk_full)
    with pytest.raises(OSError, match="no space"):
        POLICIES["aligned"].save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_saving_over_an_old_policy_replaces_it_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    POLICIES["reuse"].save(path)
    POLICIES["aligned"].save(path)
    assert Policy.load(path).method == ALIGNED
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("problem", "parts"),
    [
        ("no such schedule", {"schedule": "random"}),
        ("no such level", {"level": "block"}),
        ("no such predictor", {"predictor": "oracle"}),
        ("no such order", {"order": 4}),
        ("no such rectification", {"rectification": "pixel"}),
        ("work with predictor 'reuse' only", {"predictor": "taylor", "timestep_adjustment": True}),
        ("work with predictor 'reuse' only", {"predictor": "aligned", "rectification": "step"}),
        ("with predictor 'aligned' only", {"schedule": "search"}),
        ("with predictor 'aligned' only", {"schedule": "search", "predictor": "taylor"}),
    ],
)
def test_a_method_whose_parts_do_not_go_together_is_refused(problem: str, parts: dict[str, Any]) -> None:
    with pytest.raises(MethodError, match=problem):
        Method(**parts)


@pytest.mark.parametrize("name", ["uniform", "offline", "offline+time", "paper", "reuse", "taylor", "aligned"])
def test_every_documented_name_is_a_method_of_that_name(name: str) -> None:
    assert Method.named(name).name == name
    assert dataclasses.replace(Method.named(name)).name == name


def test_no_two_names_mean_the_same_and_a_method_without_a_name_is_called_by_its_parts() -> None:
    assert len(set(NAMED_METHODS.values())) == len(NAMED_METHODS) == 7
    assert "order=1" in dataclasses.replace(ALIGNED, order=1).name


def test_an_unknown_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(MethodError, match=r"given: 'teacache'.*uniform, offline.*aligned"):
        Method.named("teacache")


def test_only_what_was_fitted_depends_on_the_calibrated_noise_levels() -> None:
    free = {name for name, method in NAMED_METHODS.items() if not method.depends_on_calibration}
    assert free == {"uniform", "reuse", "taylor"}


def test_a_policy_prints_in_two_lines(make_policy):
    record = CalibrationRecord("speedup=2", num_prompts=6, error=0.0067)
    policy = make_policy(8, (2, 4, 5), calibration=record)
    assert str(policy) == "Policy(reuse: 5 of 8 steps computed, 1.60x, error 0.67% over 6 prompts)\n  ●●○●○○●●"
    judged = dataclasses.replace(policy, calibration=dataclasses.replace(record, psnr=(40.0, 42.0), ssim=(0.9, 0.9)))
    assert "PSNR 41.0 dB over 2 held-out prompts" in repr(judged)
    assert policy.shifted(3).pattern == policy.pattern
    assert repr(make_policy(8, (1,))).startswith("Policy(reuse: 7 of 8 steps computed, 1.14x, not measured)")


def test_drafts_and_learnt_settings_print_shortly(make_policy):
    draft = Draft(make_policy(8, (1, 2, 3)), "0123456789abcdef", 0.0, 1.0, 2.5, 3.0)
    assert repr(draft) == "Draft(of policy 0123456789abcdef: 5 of 8 steps computed, limit 2.50)\n  ●○○○●●●●"
    learnt = Learnt("FluxPipeline, 30 steps", torch.eye(30, dtype=torch.float64), 3, 4, (0.1,), (15,))
    assert repr(learnt) == "Learnt(FluxPipeline, 30 steps: 3 full generations, 4 samples, 1 audits)"
