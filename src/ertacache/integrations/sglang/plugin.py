"""The plug-in: hooks around SGLang's two ways to run a loop, its diffusers backend and its native denoising stage.

`register` is its entry point; SGLang calls it in every process. What a request or the environment does not ask for is
not touched.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from ertacache.acceleration import switch_off, switch_on
from ertacache.errors import RunError
from ertacache.integrations.sglang.line import StageLine
from ertacache.integrations.sglang.requests import OFF, Accelerations, Wish, wish_of
from ertacache.runtime.report import Report

_log = logging.getLogger(__name__)
_RUNTIME = "sglang.multimodal_gen.runtime"
DIFFUSERS_STAGE = f"{_RUNTIME}.pipelines.diffusers_pipeline.DiffusersExecutionStage.forward"
NATIVE = f"{_RUNTIME}.pipelines_core.stages.denoising.DenoisingStage"
REPORT = "ertacache_report"
"""Under which a request's ``extra`` has the report as text."""

_accelerations: WeakKeyDictionary[Any, Accelerations] = WeakKeyDictionary()
_line: ContextVar[StageLine | None] = ContextVar("ertacache_line", default=None)


def register() -> None:
    """Register the hooks."""
    from sglang.multimodal_gen.runtime.platforms.plugins import HookRegistry, HookType

    HookRegistry.register(DIFFUSERS_STAGE, diffusers_request, HookType.AROUND)
    HookRegistry.register(f"{NATIVE}._run_denoising_loop", native_loop, HookType.AROUND)
    HookRegistry.register(f"{NATIVE}._predict_noise_with_cfg", native_prediction, HookType.AROUND)


def diffusers_request(original: Callable[..., Any], stage: Any, batch: Any, server_args: Any) -> Any:
    """A request of the diffusers backend: its pipeline follows the policy for the length of it."""
    wish = wish_of(batch)
    if wish.kind == OFF:
        return original(stage, batch, server_args)
    acceleration = _accelerations.setdefault(stage, Accelerations()).of(wish)
    pipe = stage.diffusers_pipe
    switch_on(pipe, acceleration)
    try:
        result = original(stage, batch, server_args)
    finally:
        switch_off(pipe, acceleration)
    _reported(batch, wish, acceleration.report)
    return result


def native_loop(
    original: Callable[..., Any], stage: Any, ctx: Any, batch: Any, server_args: Any, **options: Any
) -> Any:
    """A loop of the native stage: each evaluation goes through a line."""
    wish = Wish(OFF) if ctx.is_warmup else wish_of(batch)
    if wish.kind == OFF:
        return original(stage, ctx, batch, server_args, **options)
    _check_one_rank(wish, stage)
    acceleration = _accelerations.setdefault(stage, Accelerations()).of(wish)
    line = StageLine(stage, ctx)

    def begin(line: StageLine) -> Any:
        token = _line.set(line)
        try:
            return original(stage, ctx, batch, server_args, **options)
        finally:
            _line.reset(token)

    switch_on(line, acceleration)
    result = line(begin, **line.guidance_of(batch))
    _reported(batch, wish, acceleration.report)
    return result


def native_prediction(original: Callable[..., Any], stage: Any, *args: Any, **kwargs: Any) -> Any:
    """One evaluation of the native stage, after guidance: made, or predicted."""
    line = _line.get()
    if line is None or line.stage is not stage:
        return original(stage, *args, **kwargs)

    def call() -> Tensor:
        output = original(stage, *args, **kwargs)
        if not isinstance(output, Tensor):
            raise RunError(
                "this model predicts several latents at once, such as a clip and its sound",
                given=f"{len(output)} outputs",
                cure="Send its requests with ertacache=off.",
            )
        return output

    return line.predicted(kwargs["latents"], kwargs["current_model"], call)


def _reported(batch: Any, wish: Wish, report: Report) -> None:
    batch.extra[REPORT] = str(report)
    _log.info("ERTACache, %s: %s", wish.kind, report)


def _check_one_rank(wish: Wish, stage: Any) -> None:
    """Raise `RunError` where ranks could disagree: what each learns from its own part of the latent."""
    ranks = stage._sp_world_size()
    if wish.kind == "learn" and ranks > 1:
        raise RunError(
            "ranks that share a latent cannot learn: each sees a part of it, and they would choose different steps",
            given=f"learn, {ranks} sequence-parallel ranks",
            cure="Ask for instant, whose steps are the same on every rank, or calibrate a policy.",
        )
