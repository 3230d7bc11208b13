"""Adapters as tests load them."""

from __future__ import annotations

import torch
from peft import LoraConfig


def load_lora(pipe, name="style", seed=0):
    """As ``load_lora_weights`` does it: peft layers around the linear ones, with weights that matter."""
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    pipe.transformer.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=targets), adapter_name=name)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter_name, parameter in pipe.transformer.named_parameters():
            if "lora_" in parameter_name and name in parameter_name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)


def burn_in(pipe):
    """Fused and unloaded: the weights are others now, and no adapter tells."""
    pipe.fuse_lora(components=["transformer"])
    pipe.unload_lora_weights()
