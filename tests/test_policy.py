"""The policy and the method: frozen, validated, and the same after a round trip through a file."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import ertacache.policy
from ertacache.errors import MethodError, PolicyFileError
from ertacache.method.named import NAMED_METHODS, Method
from ertacache.policy import CalibrationRecord, Denoiser, Origin, Policy, Prediction, Rectification

PAPER, ALIGNED = Method.named("paper"), Method.named("aligned")
AWKWARD = (0.1 + 0.2, 1 / 3, -5e-324, 1.7976931348623157e308)
ORIGIN = Origin(
    pipeline_class="FluxPipeline",
    denoisers={
        "transformer": Denoiser("FluxTransformer2DModel", "0123abcd", AWKWARD, ("style", "lora-é")),
        "transformer_2": Denoiser("FluxTransformer2DModel", "4567abcd", ()),
    },
    scheduler_class="FlowMatchEulerDiscreteScheduler",
    noise_levels=(1.0, 0.9, 0.7, 0.1 + 0.2, 1 / 3 - 0.2, 0.0),
    guidance={"guidance_scale": 3.5, "true_cfg_scale": 1.0},
    calls_per_step=2,
    latent_shape=(64, 16),
)
RECORD = CalibrationRecord("speedup=2.0", 8, 480, 3.2, 0.0123, AWKWARD, 0.18, ("Taylor weights were kept",))


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
    monkeypatch.setattr(ertacache.policy, "__version__", "99.0")
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
        ("steps that are not made", {"predictions": {5: Prediction((4,), (1.0,))}}),
        ("begin with its own output", {"predictions": {4: Prediction((1, 0), (1.0, 0.0))}}),
        ("one contrast factor for each", {"predictions": {2: Prediction((1, 0), (1.0, 0.0), (1.0,))}}),
        ("not finite", {"predictions": {2: Prediction((1,), (1.0,), (float("nan"),))}}),
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


def damaged(path: Path, how: str) -> None:
    """Put a file that is not a policy in the place of one that is."""
    tensors, good = {"cached_steps": torch.tensor([1])}, path.read_bytes()
    texts = {
        "broken JSON": "{",
        "JSON of another kind": "[1, 2]",
        "missing fields": json.dumps({"schema": ertacache.policy.SCHEMA}),
        "a newer schema": json.dumps({"schema": ertacache.policy.SCHEMA + 1}),
        "an older schema": json.dumps({"schema": ertacache.policy.SCHEMA - 1}),
    }
    if how in texts:
        save_file(tensors, path, metadata={"ertacache": texts[how]})
    elif how == "foreign":
        save_file(tensors, path)
    else:
        halves = {"empty": b"", "truncated": good[:-1], "header only": good[:40], "random": bytes(range(256)) * 9}
        path.write_bytes(halves[how])


@pytest.mark.parametrize(
    ("how", "cure"),
    [
        ("empty", "make it again"),
        ("truncated", "make it again"),
        ("header only", "make it again"),
        ("random", "make it again"),
        ("foreign", "Pass a file that Policy.save() wrote"),
        ("broken JSON", "make it again"),
        ("JSON of another kind", "make it again"),
        ("missing fields", "make it again"),
        ("a newer schema", "Upgrade ertacache"),
        ("an older schema", "make the policy again"),
    ],
)
def test_a_file_that_is_no_policy_is_named_together_with_a_cure(how: str, cure: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    POLICIES["aligned"].save(path)
    damaged(path, how)
    with pytest.raises(PolicyFileError, match=re.escape(str(path))) as caught:
        Policy.load(path)
    assert cure in caught.value.cure


def test_a_file_whose_parts_do_not_fit_together_is_named_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    POLICIES["reuse"].save(path)
    metadata = {"ertacache": json.dumps({**POLICIES["reuse"].metadata()})}
    save_file({**load_file(path), "cached_steps": torch.tensor([0])}, path, metadata=metadata)
    with pytest.raises(PolicyFileError, match=re.escape(str(path))):
        Policy.load(path)


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

    monkeypatch.setattr(ertacache.policy, "save_file", disk_full)
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
        ("belong to predictor 'reuse'", {"predictor": "taylor", "timestep_adjustment": True}),
        ("belong to predictor 'reuse'", {"predictor": "aligned", "rectification": "step"}),
        ("for predictor 'aligned'", {"schedule": "search"}),
        ("for predictor 'aligned'", {"schedule": "search", "predictor": "taylor"}),
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
