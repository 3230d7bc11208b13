"""``ertacache doctor``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ertacache.cli import options
from ertacache.cli.console import console, say
from ertacache.cli.input_image import read_image
from ertacache.cli.inspect import is_learnt, show_learnt
from ertacache.cli.loras import Lora
from ertacache.cli.model_source import AUTO, ModelSource
from ertacache.cli.open_pipeline import open_pipeline
from ertacache.errors import ArgumentError

if TYPE_CHECKING:
    from ertacache.diagnosis import Diagnosis
    from ertacache.policy import Policy


def doctor(
    model: Annotated[
        str,
        typer.Argument(
            help="A diffusers folder, a Hub id, or zoo:emoji, zoo:wan, ...; or a policy file or a folder of learnt "
            "settings, to see what it was made for."
        ),
    ],
    policy: Annotated[
        str | None, typer.Option(help="Also say whether this policy fits such a call, a file or Hub id.")
    ] = None,
    time: Annotated[
        bool,
        typer.Option(
            "--time", help="Make a few calls of four steps, and say what full runs and a calibration take here."
        ),
    ] = False,
    prompt: Annotated[str | None, typer.Option(help="The prompt of these calls.")] = None,
    steps: options.Steps = None,
    settings: options.Settings = None,
    image: options.InputImage = None,
    lora: options.Loras = None,
    device: options.Device = AUTO,
    dtype: options.Dtype = AUTO,
    offload: options.Offload = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say whether a pipeline is served, how, and what it costs; exit with status 1 if it is not."""
    if is_learnt(model) or _is_policy(model):
        given: dict[str, Any] = {"--policy": policy, "--time": time, "--prompt": prompt, "--steps": steps}
        given |= {"--set": settings, "--image": image, "--lora": lora, "--json": as_json}
        _show_file(model, [name for name, value in given.items() if value])
        return
    picture, loaded = read_image(image), _loaded(policy)
    steps = steps or (loaded.asked_steps if loaded else None)
    source = ModelSource(model, device, dtype, tuple(map(Lora.parsed, lora or [])), picture is not None, offload)
    opened = open_pipeline(source, settings, steps, picture, makes_calls=time)
    if opened.embedded is not None and prompt is None:
        prompt = opened.embedded.calibration_prompts[0]
    called = {**opened.arguments, **({} if prompt is None else {"prompt": prompt})}
    found = _diagnosis(opened.pipe, loaded, called, time=time)
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        say(str(found), soft_wrap=True)
    if not found.served:
        raise typer.Exit(1)


def _diagnosis(pipe: Any, policy: Policy | None, arguments: dict[str, Any], *, time: bool) -> Diagnosis:
    from ertacache.diagnosis import doctor as examine
    from ertacache.runtime.call_signature import CallSignature

    if not CallSignature.of(pipe).takes("prompt"):
        arguments.pop("prompt", None)
    return examine(pipe, policy, time=time, **arguments)


def _loaded(policy: str | None) -> Policy | None:
    if policy is None:
        return None
    from ertacache.sharing import pretrained

    return pretrained(policy)


def _is_policy(name: str) -> bool:
    """Whether this is a file, or a folder with a policy and no pipeline in it."""
    path = Path(name)
    if path.is_file():
        return True
    indices = ("model_index.json", "modular_model_index.json")
    return (path / "policy.safetensors").is_file() and not any((path / index).is_file() for index in indices)


def _show_file(name: str, given: list[str]) -> None:
    """Say what a policy, or a folder of learnt settings, is and was made for."""
    if given:
        raise ArgumentError(
            f"{given[0]} is for a pipeline, and this is a file of this library",
            given=name,
            cure=f"Leave it out; or pass the pipeline, and --policy {name} to see whether it fits.",
        )
    if is_learnt(name):
        say("A folder of learnt settings; a call that fits none of them is learnt from.")
        show_learnt(name)
        return
    from ertacache.presenting.tables import policy_facts
    from ertacache.sharing import pretrained

    loaded = pretrained(name)
    say("A policy. With a pipeline, --policy says whether it fits; `ertacache inspect` shows its steps.")
    console.print(policy_facts(loaded))
