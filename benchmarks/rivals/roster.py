"""All rivals, in the order in which tables show them."""

from __future__ import annotations

from benchmarks.rivals.base import Rival
from benchmarks.rivals.budcache import BUDCACHE
from benchmarks.rivals.cache_dit import DB_CACHE, DB_CACHE_TAYLOR
from benchmarks.rivals.delta_dit import DELTA_DIT
from benchmarks.rivals.diffusers_caches import (
    FASTER_CACHE,
    FIRST_BLOCK_CACHE,
    MAG_CACHE,
    PYRAMID,
    SEA_CACHE,
    TAYLOR_SEER,
    TAYLOR_SEER_LITE,
)
from benchmarks.rivals.dpcache import DPCACHE
from benchmarks.rivals.easycache import EASYCACHE
from benchmarks.rivals.l2p import L2P_CACHE
from benchmarks.rivals.lemica import LEMICA
from benchmarks.rivals.meancache import MEANCACHE
from benchmarks.rivals.ours import ALIGNED, PAPER, UNIFORM
from benchmarks.rivals.profiling_dit import PROFILING_DIT
from benchmarks.rivals.sencache import SENCACHE
from benchmarks.rivals.solvers import DPM_SOLVER, FEWER_STEPS, UNIPC
from benchmarks.rivals.spectrum import SPECTRUM
from benchmarks.rivals.teacache import TEACACHE
from benchmarks.rivals.tgate import TGATE

OURS = ALIGNED.name
RIVALS: tuple[Rival, ...] = (
    ALIGNED,
    FEWER_STEPS,
    DPM_SOLVER,
    UNIPC,
    UNIFORM,
    PAPER,
    DELTA_DIT,
    TGATE,
    PYRAMID,
    FASTER_CACHE,
    TEACACHE,
    PROFILING_DIT,
    FIRST_BLOCK_CACHE,
    MAG_CACHE,
    EASYCACHE,
    TAYLOR_SEER,
    TAYLOR_SEER_LITE,
    SEA_CACHE,
    SPECTRUM,
    DPCACHE,
    L2P_CACHE,
    SENCACHE,
    BUDCACHE,
    MEANCACHE,
    LEMICA,
    DB_CACHE,
    DB_CACHE_TAYLOR,
)
