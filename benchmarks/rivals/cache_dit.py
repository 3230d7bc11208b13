"""DBCache of cache-dit (https://github.com/vipshop/cache-dit), by its own package, with and without its calibrator.

One block at the front decides (F1B0, the fastest of its authors' settings: the small pipelines have few blocks), and
the rest is cached while the front block's residual changes less than a threshold.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from benchmarks.rivals.base import Knobs, Rival, Subject, left_as_found


@contextmanager
def _db_cache(subject: Subject, knobs: Knobs, calibrated: bool) -> Iterator[None]:
    import cache_dit

    for name in [name for name in logging.root.manager.loggerDict if name.startswith("cache_dit")]:
        logging.getLogger(name).setLevel(logging.ERROR)  # they tell of every call
    pipe = subject.pipe
    config = cache_dit.DBCacheConfig(
        Fn_compute_blocks=1,
        Bn_compute_blocks=0,
        num_inference_steps=subject.num_steps,
        enable_separate_cfg=subject.calls_per_step == 2,
        **knobs,
    )
    calibrator = cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=1) if calibrated else None
    kind, call = type(pipe), type(pipe).__call__
    with left_as_found(subject.denoiser, pipe):
        try:
            cache_dit.enable_cache(pipe, cache_config=config, calibrator_config=calibrator)
            yield
        finally:
            cache_dit.disable_cache(pipe)
            pipe.__class__, kind.__call__ = kind, call


def _refuses(subject: Subject) -> str:
    if importlib.util.find_spec("cache_dit") is None:
        return "the package cache-dit is not installed (pip install 'ertacache[rivals]')"
    if subject.name == "opensora":
        return "it runs each list of blocks in one go, and this denoiser's two lists run by turns"
    return ""


def _knobs(subject: Subject) -> list[Knobs]:
    return [
        {"residual_diff_threshold": threshold, "max_warmup_steps": warmup, "max_continuous_cached_steps": most}
        for threshold, warmup, most in (
            (0.02, 8, 1),
            (0.05, 8, 2),
            (0.08, 6, 3),
            (0.12, 4, 3),
            (0.2, 4, 4),
            (0.35, 4, 6),
            (0.6, 2, 8),
            (1.0, 2, -1),
        )
    ]


def _attach(calibrated: bool) -> Callable[[Subject, Knobs, Any], Any]:
    return lambda subject, knobs, prepared: _db_cache(subject, knobs, calibrated)


DB_CACHE = Rival(
    name="DBCache",
    source="cache-dit 1.5, the package itself",
    knobs=_knobs,
    attach=_attach(False),
    refuses=_refuses,
    adaptive=True,
)
DB_CACHE_TAYLOR = replace(
    DB_CACHE,
    name="DBCache + TaylorSeer",
    source="cache-dit 1.5, the package itself, with its TaylorSeer calibrator of order 1",
    attach=_attach(True),
)
