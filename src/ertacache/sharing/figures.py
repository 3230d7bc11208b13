"""What `ertacache evaluate` measured of one policy, fit to be shared."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ertacache.errors import SharingError
from ertacache.policy import Policy
from ertacache.sharing.names import is_model

if TYPE_CHECKING:  # a plain install has no metrics, but can share a policy without figures
    from ertacache.evaluation.measuring import Measured


@dataclass(frozen=True)
class Figures:
    """One policy's, and those of fewer steps beside it; no path of the machine on which they were measured.

    Args:
        version: of ertacache, that measured them.
        model: an embedded pipeline's name or a Hub id; None for a folder, which means nothing elsewhere.
        arguments: of every call, but the number of steps.
        prompts: their texts.
        seed: of the first prompt; the next ones count up.
        device: the kind of device: cpu, cuda, mps.
        dtype: float32, bfloat16 or float16.
        rows: the policy's first.
    """

    version: str
    model: str | None
    arguments: Mapping[str, Any]
    prompts: Sequence[str]
    seed: int
    device: str
    dtype: str
    rows: Sequence[Measured]


def read(policy: Policy, path: str | os.PathLike[str]) -> Figures:
    """The figures of one policy, among those that ``ertacache evaluate`` wrote.

    Raises:
        SharingError: if the file cannot be read, is of other policies, or the metrics are not installed.
    """
    try:
        from ertacache.evaluation.evaluate import rows_of
    except ModuleNotFoundError as error:
        raise SharingError(
            f"figures can be shared only where the metrics are installed: {error}",
            given=os.fspath(path),
            cure="Install them: pip install 'ertacache[cli]'.",
        ) from error
    try:
        told = json.loads(Path(path).read_text(encoding="utf-8"))
        fingerprints, model = dict(told["fingerprints"]), str(told["model"])
        if policy.fingerprint in fingerprints.values():
            return Figures(
                version=str(told["ertacache"]),
                model=model if is_model(model) and not Path(model).exists() else None,
                arguments=dict(told["arguments"]),
                prompts=[str(prompt) for prompt in told["prompts"]],
                seed=int(told["seed"]),
                device=str(told["device"]).partition(":")[0],
                dtype=str(told["dtype"]),
                rows=rows_of(policy, told),
            )
    except (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        raise SharingError(
            f"the evaluation cannot be read: {type(error).__name__}: {error}",
            given=os.fspath(path),
            cure="Write it with `ertacache evaluate MODEL POLICY --out evaluation.json`.",
        ) from error
    raise SharingError(
        "the evaluation is of other policies",
        given=f"{os.fspath(path)}, of {', '.join(map(repr, fingerprints)) or 'none'}",
        cure="Measure this policy with `ertacache evaluate`: a card must not show the figures of another.",
    )


def as_json(policy: Policy, figures: Figures) -> dict[str, Any]:
    """The figures as ``ertacache evaluate`` writes them of this policy alone."""
    from ertacache.evaluation import evaluate

    about = {
        "ertacache": figures.version,
        "model": figures.model,
        "arguments": dict(figures.arguments),
        "prompts": list(figures.prompts),
        "fingerprints": {figures.rows[0].name: policy.fingerprint},
        "device": figures.device,
        "dtype": figures.dtype,
        "seed": figures.seed,
    }
    return {**evaluate.as_json(figures.rows), **about}
