"""Callbacks of a pipeline call, watched: one that changes more than the latent makes of the call another one.

What cached steps go on with was computed under the conditions of before: another prompt, another guidance scale, other
adapters. So the next step is computed, and nothing from before it is used again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from numbers import Real
from typing import Any

import torch
from diffusers import ConfigMixin
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor, nn

from ertacache.runtime.settings import scales_of
from ertacache.runtime.unwrap import model_of, own_class

_OWN = ("_interrupt", "_callback_tensor_inputs")
"""Attributes of a pipeline that a callback may set: to stop, and nothing else."""


def with_watched_callbacks(
    pipe: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    changed: Callable[[str], None],
    aside: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, in which every callback is watched.

    Args:
        pipe: the pipeline.
        args: of the call.
        kwargs: of the call.
        changed: told by name what a callback has changed besides the latent, if anything.
        aside: a context for what the callback does itself, which may be a call of its own of the same denoiser.
    """
    try:
        bound = inspect.signature(own_class(pipe).__call__).bind(pipe, *args, **kwargs)
    except TypeError:  # the pipeline itself says what is wrong with them
        return args, dict(kwargs)
    callbacks = {n: v for n, v in bound.arguments.items() if n.startswith("callback") and callable(v)}
    if not callbacks:
        return args, dict(kwargs)
    watch = _Watch(pipe, changed, aside)
    for name, callback in callbacks.items():
        official = isinstance(callback, (PipelineCallback, MultiPipelineCallbacks))
        bound.arguments[name] = _Official(callback, watch) if official else watch.around(callback)
    return bound.args[1:], bound.kwargs


class _Official(MultiPipelineCallbacks):  # type: ignore[misc]
    """diffusers' own callbacks, which pipelines tell from functions by their class."""

    def __init__(self, callback: Any, watch: _Watch) -> None:
        super().__init__([callback] if isinstance(callback, PipelineCallback) else callback.callbacks)
        self._watched = watch.around(super().__call__)

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        found: dict[str, Any] = self._watched(*args, **kwargs)
        return found


class _Watch:
    """Compares what there was before a callback with what there is after it."""

    def __init__(
        self, pipe: Any, changed: Callable[[str], None], aside: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._pipe, self._changed, self._aside = pipe, changed, aside

    def around(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        """The callback, watched."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            given = [value for value in (*args, *kwargs.values()) if isinstance(value, dict)]
            before = dict(given[-1]) if given else {}
            versions = {name: _version(value) for name, value in before.items()}
            state = _state(self._pipe)
            with self._aside():
                returned = callback(*args, **kwargs)
            after = {**before, **(returned if isinstance(returned, dict) else {})}
            for name, value in after.items():
                same = value is before.get(name) and _version(value) == versions[name]
                if name != "latents" and not same and not _equal(value, before.get(name)):
                    self._changed(name)
            now = _state(self._pipe)
            for name in sorted(state.keys() | now.keys()):
                if state.get(name) != now.get(name):
                    self._changed(name)
            return returned

        return watched


def _version(value: Any) -> int | None:
    """How often a tensor was written to; tensors of inference mode do not say."""
    return value._version if isinstance(value, Tensor) and not value.is_inference() else None


def _equal(one: Any, other: Any) -> bool:
    """Whether they hold the same; a tensor that was written to holds something else than before."""
    if one is other:
        return not isinstance(one, Tensor)
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and bool(torch.equal(one, other.to(one)))
    return one is None and other is None


def _state(pipe: Any) -> dict[str, Any]:
    """The numbers and tensors that a pipeline and its guiders hold, and the scales of adapters and attention."""
    found: dict[str, Any] = {}
    for name, value in vars(pipe).items():
        if isinstance(value, (Real, str, type(None))) and name not in _OWN:
            found[name] = value
        elif isinstance(value, Tensor):
            found[name] = id(value), _version(value)
        elif isinstance(value, nn.Module):
            found[f"the scales of {name}"] = scales_of(model_of(value))
        elif isinstance(value, ConfigMixin) and not hasattr(value, "set_timesteps"):
            found |= {f"{name}.{key}": part for key, part in vars(value).items() if isinstance(part, Real)}
    return found
