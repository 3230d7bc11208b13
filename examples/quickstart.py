"""Calibrate once, generate twice as fast: the embedded pipeline, no network needed."""

import torch

import ertacache
from ertacache import zoo

embedded = zoo.load("flux")  # a small FluxPipeline; yours comes from DiffusionPipeline.from_pretrained(...)
pipe, settings = embedded.pipe, embedded.arguments  # 30 steps, guidance 4

policy = ertacache.calibrate(pipe, embedded.calibration_prompts[:4], speedup=2.0, **settings)
policy.save("out/flux-30-2x.safetensors")

policy = ertacache.Policy.load("out/flux-30-2x.safetensors")
with ertacache.accelerated(pipe, policy) as run:
    image = pipe(embedded.held_out_prompts[0], generator=torch.Generator().manual_seed(7), **settings).images[0]
image.save("out/quickstart.png")
print(run.report)
