"""Nodes for the tests: a text encoder of any width, an independent count of the model's forwards, and replays."""

import hashlib
import unittest.mock

import comfy.k_diffusion.sampling
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import torch

from ertacache.integrations.comfyui.line import ComfyLine, attach

FORWARDS = []


class Clip:
    """Encodes a text as noise that its digest seeds."""

    def __init__(self, width):
        self.width = width

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, text):
        generator = torch.Generator().manual_seed(int(hashlib.sha256(text.encode()).hexdigest()[:8], 16))
        tokens = torch.randn(1, 4, self.width, generator=generator)
        return [[tokens, {"pooled_output": torch.randn(1, self.width, generator=generator)}]]


class TestClip:
    RETURN_TYPES, FUNCTION, CATEGORY = ("CLIP",), "make", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"width": ("INT", {"default": 32})}}

    def make(self, width):
        return (Clip(width),)


class TestCounted:
    """Counts a model's forwards."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "make", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def make(self, model):
        def forward(executor, *args, **kwargs):
            FORWARDS.append(len(args[0]))
            return executor(*args, **kwargs)

        counted = model.clone()
        counted.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "counted", forward)
        return (counted,)


class TestCount:
    """Says how many forwards there were since it was last asked."""

    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "ask", "test", True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"after": ("*",)}}

    @classmethod
    def VALIDATE_INPUTS(cls, input_types):
        return True

    def ask(self, after):
        count, FORWARDS[:] = len(FORWARDS), []
        return {"ui": {"count": [count]}}


class TestReplays:
    """Samples, and says how far replays are from the sampler's own latents, and how often Brownian trees were asked."""

    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "measure", "test", True

    @classmethod
    def INPUT_TYPES(cls):
        kinds = {"model": "MODEL", "positive": "CONDITIONING", "negative": "CONDITIONING", "latent": "LATENT"}
        inputs = {name: (kind,) for name, kind in kinds.items()}
        return {"required": inputs | {"sampler_name": ("STRING",), "steps": ("INT",), "seed": ("INT",)}}

    def measure(self, model, positive, negative, latent, sampler_name, steps, seed):
        sampler, empty = comfy.samplers.sampler_object(sampler_name), latent["samples"]
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
        line = ComfyLine(model, sampler, live=False)
        own, replayed, seen, asked = line.scheduler.step, [], [], []

        def step(output, timestep, sample, **options):
            seen.append(sample)
            result = own(output, timestep, sample, **options)
            replayed.append(result[0])
            return result

        def call(tree, *levels, whole=comfy.k_diffusion.sampling.BatchedBrownianTree.__call__):
            asked.append(levels)
            return whole(tree, *levels)

        line.scheduler.step = step
        noise = comfy.sample.prepare_noise(empty, seed)
        with unittest.mock.patch.object(comfy.k_diffusion.sampling.BatchedBrownianTree, "__call__", call):
            comfy.sample.sample_custom(
                attach(model, line.through), noise, 3.0, sampler, sigmas, positive, negative, empty, seed=seed
            )
        FORWARDS.clear()
        far = max(float((a - b).abs().max()) for a, b in zip(replayed, seen[1:], strict=False))
        return {"ui": {"far": [far], "steps": [len(seen)], "asked": [len(asked)]}}


KINDS = (TestClip, TestCounted, TestCount, TestReplays)
NODE_CLASS_MAPPINGS = {kind.__name__: kind for kind in KINDS}
