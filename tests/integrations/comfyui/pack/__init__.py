"""Nodes for the tests: a text encoder of any width, and an independent count of the model's forwards."""

import hashlib

import comfy.patcher_extension
import torch

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


NODE_CLASS_MAPPINGS = {"TestClip": TestClip, "TestCounted": TestCounted, "TestCount": TestCount}
