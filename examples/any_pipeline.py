"""Make a policy for a pipeline of your own, and compare it with the full run.

    python examples/any_pipeline.py black-forest-labs/FLUX.1-dev --device cuda --dtype bfloat16 --steps 30

MODEL is a diffusers folder or a hub id. The prompts here are few and plain; use some of yours.
"""

import argparse

import torch
from diffusers import DiffusionPipeline

import ertacache

PROMPTS = [
    "a red star above a blue ring on a gray background",
    "a photograph of a lighthouse in a storm, long exposure",
    "a watercolour of a fox in a birch forest",
    "the interior of a small bookshop, warm light",
]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("--device", default="cpu")
parser.add_argument("--dtype", default="float32")
parser.add_argument("--steps", type=int, default=30)
parser.add_argument("--size", type=int, default=1024)
parser.add_argument("--speedup", type=float, default=2.0)
options = parser.parse_args()

pipe = DiffusionPipeline.from_pretrained(options.model, dtype=getattr(torch, options.dtype)).to(options.device)
settings = {"num_inference_steps": options.steps, "height": options.size, "width": options.size}

policy = ertacache.calibrate(pipe, PROMPTS, speedup=options.speedup, checkpoint="out/full-runs", **settings)
policy.save("out/policy.safetensors")


def generate():
    """The same prompt and noise, whoever computes it."""
    generator = torch.Generator("cpu").manual_seed(1234)
    return pipe("a lighthouse made of glass", generator=generator, **settings).images[0]


generate().save("out/full.png")
with ertacache.accelerated(pipe, policy) as run:
    generate().save("out/accelerated.png")
print(run.report)
