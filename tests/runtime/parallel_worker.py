"""One of two processes that share a denoiser: ``python -m torch.distributed.run --nproc_per_node=2 ... MODE FOLDER``.

Writes what it saw to FOLDER. The CPU stands in for the accelerators that diffusers counts on.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import diffusers.hooks.tensor_parallel
import torch
import torch.distributed
from diffusers import ContextParallelConfig, FluxPipeline, TensorParallelConfig

import ertacache
from contract.families.paper import flux, flux_call, true_guidance
from ertacache.method.named_methods import Method

MODES = {
    "context": lambda: ContextParallelConfig(ulysses_degree=2),
    "tensor": lambda: TensorParallelConfig(tp_degree=2),
}


def main(mode, folder):
    torch.accelerator.device_count = lambda: 1
    diffusers.hooks.tensor_parallel._SUPPORTED_TP_DEVICES = ("cpu",)
    torch.distributed.init_process_group("gloo")
    pipe = flux(FluxPipeline, shift=3.0)
    pipe.set_progress_bar_config(disable=True)

    def call():
        generator = torch.Generator().manual_seed(0)
        return pipe(**arguments(), generator=generator, num_inference_steps=8, output_type="latent").images

    def arguments():
        return flux_call(**true_guidance())

    settings = {"num_inference_steps": 8, "num_computed_steps": 5, "progress": False}
    policies = {}
    for level in ("velocity", "hidden"):
        method = Method(schedule="uniform", predictor="aligned", level=level)
        policies[level] = ertacache.calibrate(pipe, [arguments()], method=method, **settings)
    plain, alone = call(), {}
    for level, policy in policies.items():
        with ertacache.accelerated(pipe, policy):
            alone[level] = call()

    pipe.transformer.enable_parallelism(config=MODES[mode]())
    seen = {"plain": float((call() - plain).abs().max())}
    for level, policy in policies.items():
        with ertacache.accelerated(pipe, policy) as run:
            difference = float((call() - alone[level]).abs().max())
        seen[level] = {
            "difference": difference,
            "cached": run.cached_steps,
            "wanted": policy.cached_steps,
            "calls": run.report.denoiser_calls,
        }
    rank = torch.distributed.get_rank()
    (Path(folder) / f"{rank}.json").write_text(json.dumps(seen))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
