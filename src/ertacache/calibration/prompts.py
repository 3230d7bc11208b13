"""The calls that calibration makes: one for each prompt, and the same again however often it is made."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import ConfigMixin
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ertacache.errors import CalibrationError
from ertacache.runtime.samplers import check_copies
from ertacache.runtime.seams import own_class
from ertacache.runtime.stepping import copied_generators


class Call:
    """The keyword arguments of one pipeline call, given out fresh each time.

    Tensors are cloned and generators copied in the state they were in at first, so that a pipeline that works
    in place, or draws numbers, starts alike in the full and in the cached run; the user's own stay untouched.

    Args:
        arguments: as the user gave them.
        added: what calibration adds for its own runs.
    """

    def __init__(self, arguments: Mapping[str, Any], added: Mapping[str, Any] | None = None) -> None:
        self._arguments, self._added = _copied(dict(arguments)), dict(added or {})

    def arguments(self) -> dict[str, Any]:
        """A fresh copy."""
        copied: dict[str, Any] = _copied(self._arguments | self._added)
        return copied

    def as_given(self) -> Call:
        """The call that the user will make, decoding included: what is to be timed."""
        return Call(self._arguments)

    def decoded(self) -> Call:
        """The same call, for pictures or clips in place of latents: tensors in 0 .. 1."""
        return Call(self._arguments | {"output_type": "pt"})


def _copied(value: Any) -> Any:
    return copied_generators(tree_map_only(Tensor, lambda t: t.detach().clone(), value))


def calls_for(
    pipe: Any, prompts: Sequence[str | Mapping[str, Any]], common: Mapping[str, Any], seed: int
) -> list[Call]:
    """One call for each prompt; prompt k gets generator ``seed + k`` unless it brings one of its own.

    Raises:
        CalibrationError: if there are no prompts, or one is neither text nor a mapping, or is a text where the
            pipeline takes none, or brings its own steps.
    """
    if isinstance(prompts, (str, Mapping)) or not prompts:
        raise CalibrationError(
            "calibration needs a list of prompts",
            given=repr(prompts)[:80],
            cure="Pass a list of texts or of dicts of call arguments; 8 or so are enough.",
        )
    takes = inspect.signature(own_class(pipe).__call__).parameters
    takes_texts = "prompt" in takes or any(p.kind is p.VAR_KEYWORD for p in takes.values())
    calls = []
    for k, prompt in enumerate(prompts):
        if not isinstance(prompt, (str, Mapping)):
            raise CalibrationError(
                f"prompt {k} is neither a text nor a dict of call arguments",
                given=type(prompt).__name__,
                cure="Pass one of the two.",
            )
        if isinstance(prompt, str) and not takes_texts:
            raise CalibrationError(
                f"{own_class(pipe).__name__} takes no prompt, and prompt {k} is a text",
                given=repr(prompt)[:80],
                cure=f"Pass dicts of its arguments: {', '.join(name for name in takes if name != 'self')}.",
            )
        arguments = dict(common) | ({"prompt": prompt} if isinstance(prompt, str) else dict(prompt))
        if arguments.get("num_inference_steps") != common.get("num_inference_steps"):
            raise CalibrationError(
                f"prompt {k} brings a number of steps of its own",
                given=f"{arguments['num_inference_steps']}, and {common.get('num_inference_steps')} for all",
                cure="Give calibrate() the number of steps; a policy holds for one.",
            )
        if "generator" in takes and arguments.get("generator") is None:
            arguments["generator"] = torch.Generator("cpu").manual_seed(seed + k)
        latents = "output_type" in takes and "output_type" not in arguments and gives_latents(own_class(pipe))
        # Calibration looks at latents; decoding would be waste where nobody asks for pictures.
        calls.append(Call(arguments, {"output_type": "latent"} if latents else None))
    return calls


def gives_latents(kind: type) -> bool:
    """Whether a pipeline's code knows the output type "latent"; many refuse what they do not know."""
    try:
        return re.search(r"""["']latent["']""", inspect.getsource(kind)) is not None
    except (OSError, TypeError):  # made in an interactive session
        return False


def twin_of(pipe: Any) -> Any:
    """A shallow copy of the pipeline with schedulers and guiders of its own: the same modules, none of its state.

    Raises:
        PipelineError: if copies of its scheduler do not step by themselves.
    """
    check_copies(pipe.scheduler)
    twin = copy.copy(pipe)
    twin.__class__ = own_class(pipe)
    for name, value in vars(pipe).items():
        stateful = isinstance(value, ConfigMixin) and not isinstance(value, nn.Module)
        if stateful and not hasattr(type(value), "components"):  # which pipelines within a pipeline have
            setattr(twin, name, copy.deepcopy(value))
    twin.scheduler = copy.deepcopy(pipe.scheduler)
    if hasattr(twin, "set_progress_bar_config"):
        twin.set_progress_bar_config(disable=True)
    return twin
