"""Wrong arguments of every public function: each argument in turn gets every kind of wrong value."""

from __future__ import annotations

import contextlib
import http.server
import io
import math
import os
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import ertacache
from benchmarks.inputs.cases import Tally
from contract.case import Family
from contract.families.paper import CASES
from ertacache import Draft, Method, Policy, Profile
from ertacache.policy import CalibrationRecord

STEPS = 4


class Tried(NamedTuple):
    """A public function with arguments that it takes, each of which is tried.

    Args:
        function: takes them by name.
        valid: arguments that it takes.
        tried: the names of those that are replaced, in turn; all of them if there are none.
        documented: errors that are not the library's own, and may be raised.
    """

    function: Callable[..., Any]
    valid: Mapping[str, Any]
    tried: Sequence[str] = ()
    documented: tuple[type[Exception], ...] = ()


class _Odd:
    """Hostile to whoever looks at it."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    def __bool__(self) -> bool:
        raise RuntimeError("neither")

    __hash__ = None  # type: ignore[assignment]


def nasty(pipe: Any, folder: Path) -> dict[str, Any]:
    """The values tried for every argument, by their names in the list of faults."""
    os.mkfifo(folder / "pipe")
    numbers = (0, 1, 2, 3, -1, 0.5, 2.0, 2.5, 8.0, 10**7, 2**63, 10**400, 1e-300, 1e300, math.nan, math.inf, -math.inf)
    others = (None, True, False, 1j, Decimal(2), Fraction(3, 2), ..., b"8", Path("."), Path("no such"))
    texts = ("", "x", "2", "8", "aligned", "report", "\0", "a/b", "./no such", "\ud800")
    empty: tuple[Any, ...] = ((), [], {}, set(), [[[]]], [None])
    lists = ([1], (2.0,), ["x"], {"a": 1}, {2.0}, range(3), {"prompt": "x"})
    arrays: tuple[Any, ...] = (
        *(np.int64(2), np.float32(2.0), np.bool_(True), np.str_("x"), np.float64("nan"), np.datetime64("2020-01-01")),
        *(np.array(2), np.array([1, 2]), np.array(["x"]), torch.tensor(2), torch.tensor([1.0, 2.0])),
    )
    return {
        **{repr(value): value for value in (*numbers, *others, *texts, *empty, *lists)},
        **{f"{type(value).__module__}, {value!r}": value for value in arrays},
        "tensor nowhere": torch.empty((), device="meta"),
        "long text": "x" * 10_000,
        "iterator": iter([1]),
        "object": object(),
        "odd object": _Odd(),
        "class": dict,
        "function": len,
        "module": torch,
        "nn.Module": torch.nn.Linear(2, 2),
        "pipeline": pipe,
        "class of pipelines": type(pipe),
        "error": ValueError("x"),
        "policy": Policy(STEPS, (1,), Method()),
        "method": Method.named("taylor"),
        "folder": "/",
        "not writable": "/proc/nowhere/x",
        "no file": folder / "pipe",
    }


class _Nobody(http.server.BaseHTTPRequestHandler):
    """A Hub that has no repositories and refuses uploads."""

    def _refuse(self) -> None:
        self.send_error(404)

    do_HEAD = do_GET = do_POST = _refuse  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody wants to know."""


@contextlib.contextmanager
def _hub() -> Iterator[str]:
    """The address of such a Hub."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Nobody) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def _embedded(prompt_embeds: Any = None, pooled_prompt_embeds: Any = None, **_: Any) -> tuple[Any, ...]:
    """The output of FLUX's encoder, the same for any text."""
    if prompt_embeds is None:
        prompt_embeds, pooled_prompt_embeds = torch.zeros(1, 4, 8), torch.zeros(1, 8)
    return prompt_embeds, pooled_prompt_embeds, torch.zeros(prompt_embeds.shape[1], 3)


def functions(folder: Path, hub: str) -> tuple[Any, dict[str, list[Tried]]]:
    """A pipeline, and every public function."""
    family = Family(CASES["FLUX, true guidance"])
    pipe, call = family.pipe, family.case.call
    pipe.encode_prompt = _embedded  # it has no text encoder, and is to take texts
    record = CalibrationRecord("", psnr=(40.0, 41.0), ssim=(0.9, 0.91), seconds=1.0)
    plain = Policy(STEPS, (1,), Method(), calibration=record)
    common = {"pipe": pipe, "seed": 0, "progress": False, "checkpoint": None, "memory_limit": 1 << 30}
    base = {**common, "prompts": [call(), call()], "num_inference_steps": STEPS}
    policy = ertacache.calibrate(**{**base, "prompts": [call()] * 4, "speedup": 2.0})
    draft = Draft(plain, policy.fingerprint, -2.0, 0.5, 1.8, 3.0)
    profile = Profile((plain,))
    for name, thing in (("policy", policy), ("profile", profile), ("draft", draft)):
        thing.save(folder / name)
    budgets = {"num_computed_steps": 2, "threshold": 0.1, "seconds": 100.0, "min_psnr": 30.0, "min_ssim": 0.9}

    def loading(load: Callable[..., Any], name: str) -> Tried:
        return Tried(load, {"path": folder / name}, documented=(FileNotFoundError,))

    def accelerated(**given: Any) -> None:
        with ertacache.accelerated(**given):
            pass

    def enabled(**given: Any) -> None:
        try:
            ertacache.enable(**given)
        finally:
            ertacache.disable(pipe)

    def called(**given: Any) -> None:
        with ertacache.accelerated(pipe, policy):
            pipe(**{**family.arguments(), "num_inference_steps": STEPS, "output_type": "latent", **given})

    def pickled(protocol: Any) -> None:
        with ertacache.accelerated(pipe, policy):
            pickle.dumps(pipe)

    switched = {"pipe": pipe, "policy": policy, "guard": "report", "draft": draft}
    return pipe, {
        "calibrate": [
            Tried(ertacache.calibrate, {**base, "speedup": 2.0, "method": "taylor"}),
            Tried(ertacache.calibrate, {**base, "speedup": 2.0}, ["full_runs", "sigmas", "no_such"]),
            *(
                Tried(ertacache.calibrate, {**base, "method": "offline" if name == "threshold" else "taylor"}, [name])
                for name in budgets
            ),
        ],
        "profile": [
            Tried(
                ertacache.profile,
                {**base, "prompts": [call()] * 12, "num_inference_steps": 3, "ratios": (1.5,)},
                [*base, "ratios"],
            )
        ],
        "draft": [
            Tried(
                ertacache.draft,
                {**common, "policy": policy, "prompts": [call()] * 4, "by": plain, "num_inference_steps": STEPS},
                [*common, "policy", "prompts", "by", "no_such"],
            )
        ],
        "enable": [Tried(enabled, switched)],
        "accelerated": [Tried(accelerated, switched)],
        "disable": [Tried(ertacache.disable, {"pipe": pipe})],
        "a call of an accelerated pipeline": [Tried(called, {}, ["no_such"])],
        "pickle of an accelerated pipeline": [Tried(pickled, {"protocol": None})],
        "transferred": [Tried(ertacache.transferred, {"policy": policy, "true_cfg_scale": 3.0})],
        "Policy": [
            Tried(
                Policy,
                {"num_inference_steps": STEPS, "cached_steps": (1,), "method": Method()},
                [field.name for field in fields(Policy)],
            )
        ],
        "Policy.save": [Tried(policy.save, {"path": folder / "saved"})],
        "Policy.load": [loading(Policy.load, "policy")],
        "Policy.from_pretrained": [
            Tried(
                Policy.from_pretrained,
                {"name": "nobody/nothing", "endpoint": hub},
                ["name", "revision", "token", "cache_dir", "local_files_only"],
            )
        ],
        "Policy.push_to_hub": [
            Tried(
                policy.push_to_hub,
                {"repo_id": "nobody/nothing", "endpoint": hub},
                ["repo_id", "evaluation", "base_model", "private", "revision", "token"],
            )
        ],
        "Profile": [Tried(Profile, {"policies": (plain,)})],
        "Profile.policy": [Tried(profile.policy, {}, ["speedup", *(name for name in budgets if name != "threshold")])],
        "Profile.save": [Tried(profile.save, {"path": folder / "saved"})],
        "Profile.load": [loading(Profile.load, "profile")],
        "Draft": [
            Tried(
                Draft,
                {"policy": plain, "of": "", "mean": 0.0, "deviation": 1.0, "limit": 1.0, "full_runs": 2.0},
            )
        ],
        "Draft.save": [Tried(draft.save, {"path": folder / "saved"})],
        "Draft.load": [loading(Draft.load, "draft")],
        "Method": [Tried(Method, {}, [field.name for field in fields(Method)])],
        "Method.named": [Tried(Method.named, {"name": "aligned"})],
    }


def tried(folder: Path, only: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[str, Tally]]:
    """One tally for each public function: every argument in turn gets every value."""
    with _hub() as address:
        pipe, known = functions(folder, address)
        values = nasty(pipe, folder)
        for name in filter(only, known):
            tally, place = Tally(), folder / f"in {name}"  # where files of such names are not there yet
            place.mkdir()
            with contextlib.chdir(place):
                for case in known[name]:
                    for argument in case.tried or case.valid:
                        for shown, value in values.items():
                            attempt = partial(_attempt, case.function, {**case.valid, argument: value})
                            tally.take(f"{name}, {argument}={shown}", attempt, case.documented)
            yield name, tally


def _attempt(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    with contextlib.redirect_stderr(io.StringIO()):  # for bars that were asked for
        function(**given)
