"""Wan: a clip in half the time, next to the full one.

    python examples/wan_video.py                                       # the small WanPipeline of a checkout, on a CPU
    python examples/wan_video.py Wan-AI/Wan2.1-T2V-1.3B-Diffusers      # on a GPU; Wan2.2 with two experts too

Leaves wan-2x.safetensors, the policy, and wan.mp4: in full on the left, accelerated on the right.
"""

import sys

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import export_to_video

import ertacache
from ertacache import zoo

if len(sys.argv) > 1:
    pipe = DiffusionPipeline.from_pretrained(sys.argv[1], dtype=torch.bfloat16).to("cuda")
    settings = {"num_inference_steps": 50, "height": 480, "width": 832, "num_frames": 81, "guidance_scale": 5.0}
    calibration_prompts = [  # better: eight or more of the kind that you will ask for
        "A cat walks on the grass, realistic",
        "Waves break on a rocky shore at sunset, drone shot",
        "A man in a red coat plays the violin on a snowy street",
        "Close-up of coffee being poured into a white cup",
    ]
    prompt, fps = "A paper boat drifts down a rainy street", 16
else:
    embedded = zoo.load("wan")
    pipe, settings = embedded.pipe, embedded.arguments  # 30 steps, 17 frames of 48 pixels, guidance 4
    calibration_prompts, prompt, fps = embedded.calibration_prompts[:8], embedded.held_out_prompts[0], 8

# The full runs are kept: another speedup, or the same after an interruption, starts from them.
policy = ertacache.calibrate(pipe, calibration_prompts, speedup=2.0, checkpoint="full-runs", **settings)
policy.save("wan-2x.safetensors")


def generate():
    """The same prompt and noise, in full or accelerated; (frames, height, width, 3), 0 .. 1."""
    return pipe(prompt, generator=torch.Generator().manual_seed(7), **settings).frames[0]


full = generate()
ertacache.enable(pipe, policy)  # from here on every call is accelerated
accelerated = generate()
ertacache.disable(pipe)  # and from here on none
export_to_video(np.concatenate([full, accelerated], axis=2), "wan.mp4", fps=fps)
print(f"{len(policy.computed_steps)} of {policy.num_inference_steps} steps computed: {policy.computed_steps}")
