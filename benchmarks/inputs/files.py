"""Damaged files of every kind that the library writes: each is mutated, loaded, printed, and used in a call."""

from __future__ import annotations

import io
import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import ertacache
from benchmarks.inputs.cases import Tally
from contract.case import STEPS, Family, tensor_of
from contract.families.paper import CASES
from ertacache import Draft, Policy, Profile
from ertacache.calibration.recording_file import read
from ertacache.files import sealed
from ertacache.presenting.tables import frontier_table, policy_facts, policy_steps

MUTATIONS = ("flipped bits", "cut", "zeroed block", "edited JSON", "edited tensors")
"""Kinds of damage; the last two keep a correct checksum."""
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 2.5, 7, 10_000, 10**7, 10**400, 1e-300, 1e9, -1e9, 1e30, -1e30, 1e308),
    *(math.nan, math.inf, -math.inf, "", "x", "1", "nan", "[/x]", "$x^{2$", "\x1b[31m\n<b>", "x" * 100_000),
    *([], {}, [[]], [1], [math.nan], {"a": 1}, {"1": None}),
)
_NUMBERS = (math.nan, math.inf, -math.inf, 0.0, -1.0, 1e9, -1e9, 1e30, -1e30, 1e300)


class Subjects:
    """A tiny pipeline, and a file of each kind made on it.

    Attributes:
        files: by kind.
    """

    def __init__(self, folder: Path) -> None:
        self._family, self._folder = Family(CASES["FLUX, true guidance"]), folder
        self._checkpoint = folder / "checkpoint"
        kept = {"checkpoint": self._checkpoint}
        policies = {name: self.calibrated(name, 5, **kept) for name in ("aligned", "paper")}
        stronger = self.calibrated("aligned", 4, **kept)
        profile = Profile((_measured(policies["aligned"], 3.0), _measured(stronger, 2.0)))
        draft = Draft(stronger, policies["aligned"].fingerprint, -2.0, 0.5, 1.8, 3.0)
        self._of_draft = policies["aligned"]
        self.files = {f"policy by {name}": folder / name for name in policies}
        for name, policy in policies.items():
            policy.save(folder / name)
        self.files |= {"profile": folder / "profile", "draft": folder / "draft"}
        profile.save(folder / "profile")
        draft.save(folder / "draft")
        self.files["recording"] = min(self._checkpoint.rglob("full-run-*.safetensors"))

    def calibrated(self, method: str, computed: int, **options: Any) -> Policy:
        """A policy for the pipeline with this number of computed steps."""
        return ertacache.calibrate(
            self._family.pipe,
            [self._family.case.call() for _ in range(4)],
            num_inference_steps=STEPS,
            num_computed_steps=computed,
            method=method,
            **{"full_runs": 10, "progress": False, **options},
        )

    def tried(self, kind: str, path: Path) -> str | None:
        """Load a file of this kind, print it, and use it.

        Returns:
            None if it was accepted; what happened, if it was used otherwise.

        Raises:
            ERTACacheError: if it is refused.
            AssertionError: if what is made with it is not finite.
        """
        if kind == "recording":
            return self._resumed(path)
        if kind == "draft":
            draft = Draft.load(path)
            _shown(draft.policy)
            return self._used(self._of_draft, draft)
        if kind == "profile":
            profile = Profile.load(path)
            Console(file=io.StringIO()).print(frontier_table(profile))
            policy = profile.policy(min_psnr=-1000)
        else:
            policy = Policy.load(path)
        _shown(policy)
        return self._used(policy)

    def _used(self, policy: Policy, draft: Draft | None = None) -> str | None:
        pipe, transfers = self._family.pipe, policy.gram is not None and draft is None
        try:
            for count in (STEPS, STEPS + 1) if transfers else (STEPS,):
                guard: Any = "report" if policy.envelope else None
                with ertacache.accelerated(pipe, policy, guard=guard, draft=draft) as run:
                    more = {"num_inference_steps": count, "output_type": "latent"}
                    latents = tensor_of(pipe(**{**self._family.arguments(), **more}))
                str(run.report)
                assert bool(latents.isfinite().all()), f"what it makes in {count} steps is not finite"
        except ertacache.ERTACacheError as error:
            return f"accepted, and refused in a call ({type(error).__name__})"
        return None

    def _resumed(self, path: Path) -> str | None:
        if read(path) is None:
            return "made anew"
        place = self.files["recording"]
        whole = place.read_bytes()
        try:
            place.write_bytes(path.read_bytes())
            return self._used(self.calibrated("taylor", 5, checkpoint=self._checkpoint))
        except ertacache.ERTACacheError as error:
            return f"accepted, and refused in calibration ({type(error).__name__})"
        finally:
            place.write_bytes(whole)


def tried(subjects: Subjects, kind: str, count: int, seed: int = 0) -> dict[str, Tally]:
    """Mutate a file of this kind so many times; the tally of each of `MUTATIONS`."""
    tallies = {name: Tally() for name in MUTATIONS}
    whole = subjects.files[kind].read_bytes()
    path = subjects.files[kind].with_name("mutated.safetensors")
    for number in range(count):
        how = MUTATIONS[number % len(MUTATIONS)]
        told = mutate(path, whole, how, random.Random(f"{kind}, {how}, {seed}, {number}"))
        tallies[how].take(f"{kind}, {how}, {number}: {told}", lambda: subjects.tried(kind, path))
    return tallies


def mutate(path: Path, whole: bytes, how: str, chance: random.Random) -> str:
    """Write a mutated file, and return what was changed."""
    if how in ("edited JSON", "edited tensors"):
        path.write_bytes(whole)
        return _edited(path, how, chance)
    changed, told = bytearray(whole), ""
    while bytes(changed) == whole:
        at = chance.randrange(len(whole)) if chance.random() < 0.5 else chance.randrange(min(len(whole), 4096))
        size = min(chance.choice((1, 16, 512, 4096)), len(whole) - at)
        told = f"{size} from {at}"
        if how == "cut":
            del changed[at:]
        elif how == "zeroed block":
            changed[at : at + size] = bytes(size)
        else:
            changed[at] ^= 1 << chance.randrange(8)
    path.write_bytes(bytes(changed))
    return told


def _edited(path: Path, how: str, chance: random.Random) -> str:
    with safe_open(path, "pt") as file:
        plain = json.loads(file.metadata()["ertacache"])
        del plain["checksum"]
        tensors = {name: file.get_tensor(name) for name in list(file.keys())}
    if how == "edited tensors":
        text, told = json.dumps(plain), _edit_tensors(tensors, chance)
    else:
        text, told = _edited_text(plain, chance)
    save_file(tensors, path, metadata={"ertacache": sealed(text, tensors) if text.endswith("}") else text})
    return told


def _edited_text(plain: Any, chance: random.Random) -> tuple[str, str]:
    if chance.random() < 0.02:
        return json.dumps(plain).replace("{", '{"kind": "policy", ', 1), "a key twice"
    if chance.random() < 0.02:
        return "[" * 100_000 + "]" * 100_000, "deep"
    place, key = _place(plain, chance)
    kind, value = chance.random(), chance.choice(_VALUES)
    if kind < 0.7:
        told = f"{key!r} = {str(value)[:40]!r} for {str(place[key])[:40]!r}"
        place[key] = value
    elif kind < 0.8:
        told = f"without {key!r}"
        del place[key]
    elif kind < 0.9:
        told = f"with {str(value)[:40]!r} beside {key!r}"
        place.append(value) if isinstance(place, list) else place.update({"unknown": value})
    else:
        told = f"{key!r} deeper"
        for _ in range(chance.choice((1, 60, 900))):
            place[key] = [place[key]] if chance.random() < 0.5 else {"x": place[key]}
    return json.dumps(plain), told


def _place(plain: Any, chance: random.Random) -> tuple[Any, Any]:
    """A value within, as what holds it and where it stands there; each level is as likely as the one above."""
    while True:
        key = chance.choice(range(len(plain)) if isinstance(plain, list) else list(plain))
        if not isinstance(plain[key], (list, dict)) or not plain[key] or chance.random() < 0.2:
            return plain, key
        plain = plain[key]


def _edit_tensors(tensors: dict[str, Tensor], chance: random.Random) -> str:
    name = chance.choice(sorted(tensors))
    tensor = tensors[name]
    edits: list[Callable[[], Tensor | None]] = [
        lambda: None,
        lambda: tensor[None],
        lambda: tensor[:0] if tensor.ndim else tensor[None],
        lambda: torch.cat([tensor, tensor]) if tensor.ndim else tensor[None],
        lambda: tensor.T.contiguous() if tensor.ndim == 2 else tensor.reshape(-1, 1),
        lambda: tensor.to(chance.choice((torch.float16, torch.float32, torch.int64, torch.bool, torch.complex64))),
        lambda: -tensor,
        lambda: torch.full_like(tensor, _taken(chance.choice(_NUMBERS), tensor)),
    ]
    edit = chance.randrange(2 * len(edits))
    if edit < len(edits):
        changed = edits[edit]()
        if changed is None:
            del tensors[name]
        else:
            tensors[name] = changed
        return f"{name}, edit {edit}"
    if edit == len(edits):
        tensors["unknown"] = torch.zeros(2)
        return "one more"
    flat = tensor.clone().reshape(-1)
    value = chance.choice(_NUMBERS)
    if len(flat):
        flat[chance.randrange(len(flat))] = _taken(value, tensor)
    tensors[name] = flat.reshape(tensor.shape)
    return f"{name}, an element {value}"


def _taken(value: float, like: Tensor) -> float:
    """The nearest value that a tensor like this can hold."""
    if not like.is_floating_point():
        return 99
    most = torch.finfo(like.dtype).max
    return min(max(value, -most), most) if math.isfinite(value) else value


def _measured(policy: Policy, seconds: float) -> Policy:
    record = replace(policy.calibration, seconds=seconds, psnr=(40.0, 41.5, 39.0 + seconds), ssim=(0.9, 0.95, 0.99))
    return replace(policy, calibration=record)


def _shown(policy: Policy) -> None:
    for table in (policy_facts(policy), policy_steps(policy)):
        Console(file=io.StringIO()).print(table)
