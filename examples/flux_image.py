"""FLUX: make a policy once, then every picture takes half the time.

    python examples/flux_image.py                                  # the small FluxPipeline of the package, on a CPU
    python examples/flux_image.py black-forest-labs/FLUX.1-dev     # on a GPU; or any other text-to-image pipeline

Leaves flux-2x.safetensors, the policy, and flux.png: in full, and accelerated.
"""

import sys

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import make_image_grid

import ertacache
from ertacache import zoo

if len(sys.argv) > 1:
    pipe = DiffusionPipeline.from_pretrained(sys.argv[1], dtype=torch.bfloat16).to("cuda")
    settings = {"num_inference_steps": 30, "height": 1024, "width": 1024}
    calibration_prompts = [  # better: eight or more of the kind that you will ask for
        "a red star above a blue ring on a gray background",
        "a photograph of a lighthouse in a storm, long exposure",
        "a watercolour of a fox in a birch forest",
        "the interior of a small bookshop, warm light",
    ]
    prompt = "a lighthouse made of glass"
else:
    embedded = zoo.load()
    pipe, settings = embedded.pipe, embedded.arguments  # 30 steps, 64 pixels, guidance 8
    calibration_prompts, prompt = embedded.calibration_prompts[:8], embedded.held_out_prompts[0]

policy = ertacache.calibrate(pipe, calibration_prompts, speedup=2.0, checkpoint="full-runs", **settings)
policy.save("flux-2x.safetensors")


def generate():
    """The same prompt and noise, in full or accelerated."""
    return pipe(prompt, generator=torch.Generator().manual_seed(7), **settings).images[0]


full = generate()
policy = ertacache.Policy.load("flux-2x.safetensors")  # what a later program does
with ertacache.accelerated(pipe, policy) as run:
    accelerated = generate()
print(run.report)
make_image_grid([full, accelerated], rows=1, cols=2).save("flux.png")
