"""Everything that the library keeps: written whole, found damaged, refused with the cure, or made anew."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks.inputs.files import MUTATIONS, Subjects, mutate, tried
from ertacache import Draft, Policy, Profile, files
from ertacache.calibration import recording_file
from ertacache.calibration.recording import Setting
from ertacache.errors import OutputError, PolicyFileError
from ertacache.method.named_methods import Method
from ertacache.policy import CalibrationRecord

MEASURED = CalibrationRecord("", psnr=(40.0, 41.0), ssim=(0.9, 0.91), seconds=1.0)
POLICY = Policy(5, (1, 3), Method(), calibration=MEASURED, gram=torch.eye(5).double())
SETTING = Setting((1.0, 0.5, 0.0), 0, (), 2, (3, 4), (1.5, 0.8, 0.0), True)


def tensors_of_recording() -> dict[str, torch.Tensor]:
    made = {name: torch.randn(1, 3, 4) for name in ("v0", "v1", "x0", "x1", "x2")}
    return {**made, "gram": torch.eye(2).double(), "response": -0.5 * torch.ones(2, 2).double().tril()}


def read_recording(path: Path) -> Any:
    warned: list[str] = []
    found = recording_file.read(path, warned.append)
    if found is None:
        raise PolicyFileError(warned[0], given=path, cure="")
    return found


KINDS: dict[str, tuple[Any, Any]] = {
    "policy": (POLICY.save, Policy.load),
    "profile": (Profile((POLICY,)).save, Profile.load),
    "draft": (Draft(POLICY, "0123", -1.0, 0.5, 1.8, 2.0).save, Draft.load),
    "recording": (lambda path: recording_file.write(tensors_of_recording(), SETTING, path), read_recording),
}


@pytest.fixture(params=KINDS)
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, Any]:
    """A file of each kind, and what loads it."""
    path = tmp_path / "kept.safetensors"
    save, load = KINDS[request.param]
    save(path)
    return request.param, path, load


def rewritten(path: Path, change: Any) -> None:
    """Change the text or the tensors of a file, and make its checksum right again."""
    with safe_open(path, "pt") as file:
        text = json.loads(file.metadata()["ertacache"])
        tensors = {name: file.get_tensor(name) for name in list(file.keys())}
    del text["checksum"]
    changed = change(text, tensors)
    written = changed if isinstance(changed, str) else json.dumps(text)
    whole = files.sealed(written, tensors) if written.endswith("}") else written
    save_file(tensors, path, metadata={"ertacache": whole})


def test_damage_anywhere_is_found(kept: tuple[str, Path, Any]) -> None:
    _, path, load = kept
    load(path)
    whole = path.read_bytes()
    chance = random.Random(0)
    for how in ("flipped bits", "cut", "zeroed block"):
        for _ in range(20):
            mutate(path, whole, how, chance)
            with pytest.raises(PolicyFileError):
                load(path)


def test_what_was_damaged_is_named_with_what_makes_it_again(kept: tuple[str, Path, Any]) -> None:
    kind, path, load = kept
    raw = bytearray(path.read_bytes())
    raw[-9] ^= 1  # in a tensor, so that only the checksum tells
    path.write_bytes(raw)
    with pytest.raises(PolicyFileError, match=f"this {kind} is damaged: its checksum") as caught:
        load(path)
    if kind != "recording":
        assert str(path) in str(caught.value)
        assert f"ertacache.{ {'policy': 'calibrate'}.get(kind, kind) }()" in caught.value.cure


@pytest.mark.parametrize(
    ("problem", "change"),
    [
        ("does not know.*unknown", lambda text, tensors: text.update(unknown=1)),
        ("does not know|is invalid|makes no sense", lambda text, tensors: tensors.update(unknown=torch.zeros(1))),
        ("Error|is invalid|makes no sense", lambda text, tensors: tensors.pop(next(iter(tensors)))),
        ("has no|Error", lambda text, tensors: text.pop(next(name for name in text if name not in files._HEADER))),
        ("a key occurs twice", lambda text, tensors: json.dumps(text).replace("{", '{"kind": "x", ', 1)),
        ("RecursionError", lambda text, tensors: "[" * 100_000 + "]" * 100_000),
        ("does not state its schema", lambda text, tensors: text.pop("schema")),
        ("does not state its schema", lambda text, tensors: text.update(schema=True)),
        ("has schema 2", lambda text, tensors: text.update(schema=2)),
        ("has schema 4", lambda text, tensors: text.update(schema=4)),
        ("does not state its schema", lambda text, tensors: "[1, 2]"),
        ("JSONDecodeError", lambda text, tensors: "{"),
    ],
)
def test_files_whose_checksum_is_right_are_looked_at_nonetheless(
    kept: tuple[str, Path, Any], problem: str, change: Any
) -> None:
    _, path, load = kept
    rewritten(path, change)
    with pytest.raises(PolicyFileError, match=problem):
        load(path)


def test_another_version_is_named_with_the_cure(tmp_path: Path) -> None:
    path = tmp_path / "policy"
    cures = {2: "Make it again with ertacache.calibrate(), or `ertacache calibrate MODEL", 4: "Upgrade ertacache"}
    for schema, cure in cures.items():
        POLICY.save(path)
        rewritten(path, lambda text, tensors, schema=schema: text.update(schema=schema))
        with pytest.raises(PolicyFileError, match=f"has schema {schema}") as caught:
            Policy.load(path)
        assert caught.value.cure.startswith(cure)


@pytest.mark.parametrize(
    ("kind", "metadata"),
    [
        ("policy", {"ertacache": '{"schema": 2, "num_inference_steps": 5}'}),
        ("profile", {"ertacache.profile": "[]"}),
        ("draft", {"ertacache.draft": '{"schema": 2}'}),
        ("recording", {"setting": "{}"}),
    ],
)
def test_files_of_older_versions_are_to_be_made_again(kind: str, metadata: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "old"
    save_file({"cached_steps": torch.tensor([1])}, path, metadata=metadata)
    with pytest.raises(PolicyFileError, match=f"{kind} has schema 2"):
        KINDS[kind][1](path)


def test_files_of_another_kind_and_of_others_are_told_apart(kept: tuple[str, Path, Any]) -> None:
    kind, path, _ = kept
    for other, (_, load) in KINDS.items():
        if other != kind:
            with pytest.raises(PolicyFileError, match=f"not a {other}, but a {kind}"):
                load(path)
    save_file({"x": torch.zeros(2)}, path)
    for other, (_, load) in KINDS.items():
        with pytest.raises(PolicyFileError, match=f"safetensors file is not a {other}"):
            load(path)


def test_a_huge_file_is_not_read_before_it_is_known_to_be_ours(tmp_path: Path, monkeypatch: Any) -> None:
    path, size = tmp_path / "huge", 6 << 30
    ours = json.dumps({"kind": "policy", "schema": files.SCHEMA, "library": ""})
    problems = {"safetensors file is not a policy": {}, "larger than 4 GiB": {"ertacache": files.sealed(ours, {})}}
    for problem, metadata in problems.items():
        tensor = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
        header = json.dumps({"__metadata__": {"format": "pt", **metadata}, "gram": tensor}).encode()
        with path.open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + size)  # a hole
        started = time.monotonic()
        with pytest.raises(PolicyFileError, match=problem):
            Policy.load(path)
        assert time.monotonic() - started < 1


def test_steps_without_number_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "policy"
    Policy(5, (1,), Method()).save(path)
    rewritten(path, lambda text, tensors: text.update(num_inference_steps=10**7))
    started = time.monotonic()
    with pytest.raises(PolicyFileError, match="num_inference_steps must be"):
        Policy.load(path)
    assert time.monotonic() - started < 1


def test_the_same_is_the_same_file_to_the_byte(kept: tuple[str, Path, Any]) -> None:
    kind, path, _ = kept
    written = []
    for _ in range(5):
        torch.manual_seed(0)
        KINDS[kind][0](path)
        written.append(path.read_bytes())
    assert len(set(written)) == 1


def test_a_save_that_fails_is_an_error_of_ours_and_leaves_what_was_there(kept: tuple[str, Path, Any]) -> None:
    kind, path, _ = kept
    save, whole = KINDS[kind][0], path.read_bytes()
    (path.parent / "folder").mkdir()
    os.mkfifo(path.parent / "pipe")
    for target in (path.parent / "folder", path.parent / "pipe", path / "in a file"):
        with pytest.raises(OutputError, match=str(target)):
            save(target)
    assert path.read_bytes() == whole
    assert sorted(p.name for p in path.parent.iterdir()) == ["folder", path.name, "pipe"]


@pytest.mark.parametrize(
    "change",
    [
        lambda text, tensors: text.update(slopes=[-0.5]),
        lambda text, tensors: text.update(slopes=[-0.5, "x"]),
        lambda text, tensors: text.update(grid=[1.0, float("nan"), 0.0]),
        lambda text, tensors: text.update(forced=[2]),
        lambda text, tensors: text.update(latent_shape=[4, 3]),
        lambda text, tensors: text.update(same_shape=False),
        lambda text, tensors: text.update(calls_per_step=0),
        lambda text, tensors: text.update(first_step=2),
        lambda text, tensors: tensors["x1"][0, 0].fill_(float("nan")),
        lambda text, tensors: tensors["v0"][0, 0].fill_(float("inf")),
        lambda text, tensors: tensors.update(v0=torch.zeros(2, 3, 4)),
        lambda text, tensors: tensors.update(v0=torch.zeros(1, 3, 4, dtype=torch.int64)),
        lambda text, tensors: tensors.update(gram=torch.eye(3)),
    ],
)
def test_a_recording_that_makes_no_sense_cannot_be_used(change: Any, tmp_path: Path) -> None:
    path = tmp_path / "recording"
    recording_file.write(tensors_of_recording(), SETTING, path)
    assert recording_file.read(path)[1] == SETTING
    rewritten(path, change)
    warned: list[str] = []
    assert recording_file.read(path, warned.append) is None
    assert warned[0].startswith("recording is made anew: ")


def test_a_recording_is_looked_at_once_in_a_process(tmp_path: Path, monkeypatch: Any) -> None:
    written, found = tmp_path / "written", tmp_path / "found"
    recording_file.write(tensors_of_recording(), SETTING, written)
    shutil.copy(written, found)  # as another process left it
    looked_at: list[torch.Size] = []
    aminmax = torch.Tensor.aminmax
    monkeypatch.setattr(torch.Tensor, "aminmax", lambda tensor: looked_at.append(tensor.shape) or aminmax(tensor))
    for path, tensors in ((written, 0), (found, 7), (found, 7)):
        assert recording_file.read(path)[1] == SETTING
        assert len(looked_at) == tensors


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> Subjects:
    return Subjects(tmp_path_factory.mktemp("subjects"))


@pytest.mark.parametrize("kind", ["policy by aligned", "policy by paper", "profile", "draft", "recording"])
def test_mutated_files_raise_our_errors_only_and_nothing_absurd_is_taken(subjects: Subjects, kind: str) -> None:
    tallies = tried(subjects, kind, 60)
    assert [fault for tally in tallies.values() for fault in tally.faults] == []
    for how in MUTATIONS[:3]:
        assert tallies[how].outcomes.keys() <= {"PolicyFileError", "made anew"}


def test_what_is_damaged_in_a_checkpoint_is_made_anew_with_a_line_that_says_so(
    subjects: Subjects, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = subjects.calibrated("taylor", 5, checkpoint=tmp_path)
    victim = max(tmp_path.rglob("full-run-*.safetensors"))
    raw = victim.read_bytes()
    victim.write_bytes(raw[: len(raw) // 2] + bytes(64) + raw[len(raw) // 2 + 64 :])
    second = subjects.calibrated("taylor", 5, checkpoint=tmp_path, progress=True)
    warned = capsys.readouterr().err.replace("\n", "")
    assert f"{victim.name} is made anew: this recording is damaged" in warned
    assert (second.predictions, second.calibration.error) == (first.predictions, first.calibration.error)
    assert victim.read_bytes() == raw


def test_a_damaged_json_file_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    for damage in ("{", "[" * 100_000, "\udcff"):
        path.write_text(damage, errors="surrogateescape")
        assert files.kept(path, lambda: [1, 2]) == [1, 2]
    assert files.kept(path, lambda: pytest.fail("it is there")) == [1, 2]
