"""The same calibration, evaluation and generation over many workers: processes on one machine, or Ray.

>>> workers = ertacache.distributed.Processes(2)  # doctest: +SKIP
>>> policy = ertacache.calibrate(load, prompts, num_inference_steps=30, speedup=2, workers=workers)  # doctest: +SKIP

A live pipeline cannot travel, so what is given in its place is a function that loads one, or a model's id. Every worker
runs the same program on its share of the prompts, and at a few places waits for what the others hand in
(`ertacache.calibration.shard`). The policy is the same to the bit for any number of workers whose arithmetic is the
same: the same kind of device, the same kernels and number of threads.
"""

from typing import TYPE_CHECKING

__all__ = ["Processes", "RayWorkers"]

if TYPE_CHECKING:
    from ertacache.distributed.processes import Processes
    from ertacache.distributed.ray_workers import RayWorkers
else:

    def __getattr__(name):
        if name == "Processes":
            from ertacache.distributed.processes import Processes

            return Processes
        if name == "RayWorkers":  # Ray is an extra
            from ertacache.distributed.ray_workers import RayWorkers

            return RayWorkers
        raise AttributeError(f"module 'ertacache.distributed' has no attribute {name!r}")
