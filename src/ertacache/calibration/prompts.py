"""Turn prompts into the calls that calibration makes: one for each, which can be repeated exactly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ertacache.calibration.step_fit import MIN_HELD_OUT
from ertacache.errors import CalibrationError
from ertacache.runtime.call_signature import CallSignature, check_call_arguments
from ertacache.runtime.randomness import RandomState
from ertacache.runtime.repeatable_call import Call, gives_latents
from ertacache.runtime.unwrap import is_modular, own_class
from ertacache.value_checks import abbreviated, each, number


def prompts_of(given: Any) -> list[str | Mapping[str, Any]]:
    """Check the prompts that a user gave, and return them as a list; any iterable is taken, an array or generator too.

    Raises:
        CalibrationError: if there is no prompt, or one is neither a text nor a mapping, or is an empty text.
    """
    texts = isinstance(given, (str, bytes, Mapping)) or hasattr(given, "columns")  # a table gives its columns' names
    try:
        prompts = [] if texts else list(given)
    except TypeError:  # a number, None, an array of no axis
        prompts = []
    if not prompts:
        raise CalibrationError(
            "calibration needs a list of prompts",
            given=abbreviated(given),
            cure="Pass a list of texts or of dicts of call arguments: 8 or so for a budget of steps or seconds, "
            f"{MIN_HELD_OUT} or more for a budget of quality or a profile.",
        )
    for k, prompt in enumerate(prompts):
        if not isinstance(prompt, (str, Mapping)):
            raise CalibrationError(
                f"prompt {k} is neither a text nor a dict of call arguments",
                given=abbreviated(prompt),
                cure="Pass one of the two.",
            )
        if isinstance(prompt, str) and not prompt.strip():
            raise CalibrationError(
                f"prompt {k} is empty",
                given=repr(prompt),
                cure="Leave it out; if an empty text is meant, pass {'prompt': ''}.",
            )
    return [str(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]  # of numpy, say


def calls_for(
    pipe: Any, prompts: Iterable[str | Mapping[str, Any]], common: Mapping[str, Any], seed: int
) -> list[Call]:
    """Make one call for each prompt.

    Args:
        pipe: the pipeline.
        prompts: texts, or dicts of call arguments.
        common: the arguments of every call; a prompt's own arguments take precedence.
        seed: prompt k gets a generator seeded ``seed + k``, unless it has one of its own.

    Raises:
        ArgumentError: if a prompt has sigmas or timesteps that are not a list of numbers.
        CalibrationError: if `prompts_of` raises it, a prompt is a text but the pipeline takes none, or a prompt has its
            own number of steps.
        PipelineError: if the pipeline's call takes no argument of such a name.
    """
    takes = CallSignature.of(pipe)
    calls = []
    for k, prompt in enumerate(prompts_of(prompts)):
        if isinstance(prompt, str) and not takes.takes("prompt"):
            raise CalibrationError(
                f"{own_class(pipe).__name__} takes no prompt, and prompt {k} is a text",
                given=repr(prompt)[:80],
                cure=f"Pass dicts of its arguments: {', '.join(takes.defaults)}.",
            )
        arguments = dict(common) | ({"prompt": prompt} if isinstance(prompt, str) else dict(prompt))
        if arguments.get("num_inference_steps") != common.get("num_inference_steps"):
            raise CalibrationError(
                f"prompt {k} brings a number of steps of its own",
                given=f"{arguments['num_inference_steps']}, and {common.get('num_inference_steps')} for all",
                cure="Give calibrate() the number of steps; a policy holds for one.",
            )
        check_call_arguments(pipe, {} if isinstance(prompt, str) else prompt)  # common arguments were checked
        _check_grid(arguments, k)
        if not takes.takes("num_inference_steps"):  # its sigmas say how many, or a list for stages
            arguments.pop("num_inference_steps")
        if "generator" in takes and arguments.get("generator") is None:
            arguments["generator"] = torch.Generator("cpu").manual_seed(seed + k)
        latents = "output_type" in takes and "output_type" not in arguments and gives_latents(pipe)
        # Calibration compares latents, so nothing is decoded unless pictures are to be judged.
        if is_modular(pipe):
            arguments.pop("output", None)  # what it names may not be made
        random = RandomState.of(seed, k)
        calls.append(Call(arguments, random, {"output_type": "latent"} if latents else None))
    return calls


def _check_grid(arguments: Mapping[str, Any], prompt: int) -> None:
    """Raise `CalibrationError` if the caller's own sigmas or timesteps are for another number of steps."""
    steps = arguments.get("num_inference_steps")
    for name in ("sigmas", "timesteps"):
        if steps is None or arguments.get(name) is None:
            continue
        count = len(each(number)(name, arguments[name]))
        if count not in (steps, steps + 1):  # with or without the terminal one
            raise CalibrationError(
                f"prompt {prompt} has {name} for another number of steps",
                given=f"{count} {name} for {steps} steps",
                cure=f"Give as many {name} as there are steps, or leave them out.",
            )
