"""The figures that may be published of a policy, read from what `ertacache evaluate` wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from ertacache.errors import SharingError
from ertacache.policy import Policy
from ertacache.presenting.published_figures import Figures
from ertacache.sharing.names import is_model, is_repository


def read(policy: Policy, path: str | os.PathLike[str]) -> Figures:
    """Read the figures of one policy from a file that ``ertacache evaluate`` wrote.

    Args:
        policy: the policy; the file may hold figures of others beside it.
        path: the JSON file.

    Raises:
        SharingError: if the file cannot be read, is about other policies, or the metrics are not installed.
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
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        fingerprints, model = dict(content["fingerprints"]), str(content["model"])
        if policy.fingerprint in fingerprints.values():
            return Figures(
                version=str(content["ertacache"]),
                model=model if is_model(model) and not Path(model).exists() else None,
                arguments=dict(content["arguments"]),
                prompts=[str(prompt) for prompt in content["prompts"]],
                seed=int(content["seed"]),
                device=str(content["device"]).partition(":")[0],
                dtype=str(content["dtype"]),
                rows=rows_of(policy, content),
                **_inputs(content),
            )
    except (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        raise SharingError(
            f"the evaluation cannot be read: {type(error).__name__}: {error}",
            given=os.fspath(path),
            cure="Write it with `ertacache evaluate MODEL POLICY --out evaluation.json`.",
        ) from error
    raise SharingError(
        "the evaluation is about other policies",
        given=f"{os.fspath(path)}, about {', '.join(map(repr, fingerprints)) or 'none'}",
        cure="Measure this policy with `ertacache evaluate`: a card must not show another policy's figures.",
    )


def _inputs(content: Mapping[str, Any]) -> dict[str, Any]:
    """The pictures and LoRAs, by their names alone, and where weights were; older files record nothing of these."""
    image, own = content.get("image"), [dict(given) for given in content.get("own_arguments", ())]
    return {
        "offload": bool(content.get("offload", False)),
        "image": None if image is None else _picture(image),
        "loras": [_lora(dict(lora)) for lora in content.get("loras", ())],
        "own_arguments": [
            {name: _picture(value) if name == "image" else value for name, value in given.items()} for given in own
        ],
    }


def _picture(source: Any) -> dict[str, str]:
    return {"file": _last(source["file"]), "sha256": str(source["sha256"])}


def _lora(lora: dict[str, Any]) -> dict[str, Any]:
    place, digest = str(lora["place"]), {"sha256": str(lora["sha256"])} if "sha256" in lora else {}
    on_hub = is_repository(place) and not Path(place).exists() and not digest
    return {"place": place if on_hub else _last(place), "scale": float(lora["scale"]), **digest}


def _last(path: Any) -> str:
    """The last part of a path of any system, in one line."""
    return " ".join(PureWindowsPath(str(path)).name.split())


def as_json(policy: Policy, figures: Figures) -> dict[str, Any]:
    """The figures as ``ertacache evaluate`` writes them for this policy alone."""
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
        "offload": figures.offload,
        "image": figures.image,
        "loras": list(figures.loras),
        "own_arguments": list(figures.own_arguments),
    }
    return {**evaluate.as_json(figures.rows), **about}
