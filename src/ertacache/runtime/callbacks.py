"""Watch the callbacks of a pipeline call for changes of more than the latent.

A callback may change the prompt embeddings, the guidance scale or the adapters. Cached outputs from before the change
do not fit any more, so the next step is computed, and nothing older is used again.
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

from ertacache.runtime.pipeline_settings import scales_of
from ertacache.runtime.unwrap import model_of, own_class

_OWN = ("_interrupt", "_callback_tensor_inputs")
"""Attributes of a pipeline that a callback may set without changing the result of later steps."""


def with_watched_callbacks(
    pipe: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    changed: Callable[[str], None],
    aside: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Wrap the callbacks among the arguments of a call so that their changes are noticed.

    Args:
        pipe: the pipeline.
        args: the positional arguments of the call.
        kwargs: the keyword arguments of the call.
        changed: called with the name of each thing, other than the latent, that a callback has changed.
        aside: a context to run each callback in; it may call the same denoiser for purposes of its own.

    Returns:
        The positional and the keyword arguments.
    """
    try:
        bound = inspect.signature(own_class(pipe).__call__).bind(pipe, *args, **kwargs)
    except TypeError:  # the pipeline's call will raise it
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
    """A watched callback of diffusers' own classes, which pipelines treat differently from functions."""

    def __init__(self, callback: Any, watch: _Watch) -> None:
        super().__init__([callback] if isinstance(callback, PipelineCallback) else callback.callbacks)
        self._watched = watch.around(super().__call__)

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        returned: dict[str, Any] = self._watched(*args, **kwargs)
        return returned


class _Watch:
    """Compares the state of the pipeline and the callback's tensors before and after each callback."""

    def __init__(
        self, pipe: Any, changed: Callable[[str], None], aside: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._pipe, self._changed, self._aside = pipe, changed, aside

    def around(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a callback."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            dicts = [value for value in (*args, *kwargs.values()) if isinstance(value, dict)]
            before = dict(dicts[-1]) if dicts else {}
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
    """How often a tensor was written to in place, or None if unknown, as for inference tensors."""
    return value._version if isinstance(value, Tensor) and not value.is_inference() else None


def _equal(one: Any, other: Any) -> bool:
    """Whether two values are equal; a tensor that was written to in place counts as changed."""
    if one is other:
        return not isinstance(one, Tensor)
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and bool(torch.equal(one, other.to(one)))
    return one is None and other is None


def _state(pipe: Any) -> dict[str, Any]:
    """The numbers and tensors of a pipeline and its guiders, and the scales of adapters and attention, by name."""
    state: dict[str, Any] = {}
    for name, value in vars(pipe).items():
        if isinstance(value, (Real, str, type(None))) and name not in _OWN:
            state[name] = value
        elif isinstance(value, Tensor):
            state[name] = id(value), _version(value)
        elif isinstance(value, nn.Module):
            state[f"the scales of {name}"] = scales_of(model_of(value))
        elif isinstance(value, ConfigMixin) and not hasattr(value, "set_timesteps"):
            state |= {f"{name}.{key}": part for key, part in vars(value).items() if isinstance(part, Real)}
    return state
