"""Make tiny checkpoints that ComfyUI's own loader reads; run inside ComfyUI's folder.

python checkpoints.py FOLDER
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

FLUX = {
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "vec_in_dim": 32,
    "context_in_dim": 32,
    "hidden_size": 128,
    "mlp_ratio": 4.0,
    "num_heads": 1,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "qkv_bias": True,
    "guidance_embed": False,
    "txt_ids_dims": [],
}
WAN = {"dim": 128, "ffn_dim": 256, "num_heads": 1, "num_layers": 2, "text_dim": 4096, "cross_attn_norm": True}


def saved(model, file, seed):
    """Save a model with random weights."""
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: 0.05 * torch.randn(value.shape, generator=generator)
        + (1.0 if name.endswith(("scale", "norm_q.weight", "norm_k.weight")) else 0.0)
        for name, value in model.state_dict().items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, file)


def main(folder):
    """Write them."""
    sys.argv = [sys.argv[0], "--cpu"]
    sys.path.insert(0, str(Path.cwd()))
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.ops
    from comfy.ldm.flux.model import Flux
    from comfy.ldm.wan.model import WanModel

    operations = comfy.ops.disable_weight_init
    saved(Flux(**FLUX, operations=operations, dtype=torch.float32), folder / "tiny-flux.safetensors", 0)
    for name, seed in (("tiny-wan-high", 1), ("tiny-wan-low", 2)):
        saved(WanModel(**WAN, operations=operations, dtype=torch.float32), folder / f"{name}.safetensors", seed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
