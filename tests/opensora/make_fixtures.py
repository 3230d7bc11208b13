"""Makes ``fixtures/``: what the original Open-Sora 1.2 computes with small random weights, in the published layout.

    python tests/opensora/make_fixtures.py PATH

where PATH is a checkout of https://github.com/hpcaitech/Open-Sora at v1.2.0, with ``einops`` and
``rotary-embedding-torch==0.5.3`` installed. What else it imports, and what this machine may lack, is stood in for.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import importlib
import json
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor, nn

FIXTURES = Path(__file__).parent / "fixtures"
STDIT = {
    "model_type": "STDiT3",
    "depth": 2,
    "hidden_size": 32,
    "num_heads": 2,
    "mlp_ratio": 4.0,
    "caption_channels": 16,
    "model_max_length": 12,
    "in_channels": 4,
    "input_size": [None, None, None],
    "input_sq_size": 512,
    "patch_size": [1, 2, 2],
    "pred_sigma": True,
    "qk_norm": True,
    "drop_path": 0.0,
    "class_dropout_prob": 0.1,
}
SPATIAL = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 4,
}
SDXL = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
VAE = {
    "model_type": "VideoAutoencoderPipeline",
    "vae_2d": {"type": "VideoAutoencoderKL", "from_pretrained": "spatial", "micro_batch_size": 4},
    "vae_temporal": {
        "type": "VAE_Temporal",
        "filters": 4,
        "num_res_blocks": 2,
        "channel_multipliers": [1, 2, 2, 4],
        "temporal_downsample": [False, True, True],
        "num_groups": 2,
    },
    "micro_frame_size": 17,
    "shift": [-0.10, 0.34, 0.27, 0.98],
    "scale": [3.85, 2.32, 2.33, 3.06],
}
GRIDS = [(240, 426, 51, 30), (720, 1280, 102, 30), (512, 512, 1, 50), (144, 256, 17, 10), (405, 720, 75, 7)]


class Registry:
    """In place of mmengine's."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.known: dict[str, Any] = {}

    def register_module(self, name: str | None = None) -> Any:
        def register(thing: Any) -> Any:
            self.known[name or thing.__name__] = thing
            return thing

        return register

    def build(self, config: dict[str, Any]) -> Any:
        return self.known[config["type"]](**{key: value for key, value in config.items() if key != "type"})


class Mlp(nn.Module):
    """In place of timm's."""

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int | None = None,
        act_layer: Any = None,
        drop: int = 0,
    ) -> None:
        super().__init__()
        self.fc1, self.act = nn.Linear(in_features, hidden_features), act_layer()
        self.fc2 = nn.Linear(hidden_features, out_features or in_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Config:
    """In place of transformers' base class, whose version the original was written for is old."""

    def __init__(self, **more: Any) -> None:
        self.__dict__.update(more)


class Model(nn.Module):
    """Likewise."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config


def ragged_attention(q: Tensor, k: Tensor, v: Tensor, p: float, attn_bias: tuple[list[int], list[int]]) -> Tensor:
    """In place of xformers': tokens (1, all, heads, channels), each query sees the keys of its own sequence."""
    outputs = []
    for q_i, k_i, v_i in zip(q.split(attn_bias[0], 1), k.split(attn_bias[1], 1), v.split(attn_bias[1], 1), strict=True):
        q_i, k_i, v_i = (states.transpose(1, 2) for states in (q_i, k_i, v_i))
        weights = (q_i @ k_i.transpose(-1, -2) / q.shape[-1] ** 0.5).float().softmax(-1).to(q.dtype)
        outputs.append((weights @ v_i).transpose(1, 2))
    return torch.cat(outputs, dim=1)


def module(name: str, **contents: Any) -> None:
    made = types.ModuleType(name)
    made.__dict__.update(contents)
    sys.modules[name] = made


def import_original(path: str) -> types.SimpleNamespace:
    """The parts of the original that are compared, without the packages that they need not."""
    module("mmengine")
    module("mmengine.registry", Registry=Registry)
    module("timm")
    module("timm.models")
    module("timm.models.layers", DropPath=nn.Identity)
    module("timm.models.vision_transformer", Mlp=Mlp)
    mask = types.SimpleNamespace(from_seqlens=lambda of_queries, of_keys: (of_queries, of_keys))
    fmha = types.SimpleNamespace(BlockDiagonalMask=mask)
    module("xformers")
    module("xformers.ops", memory_efficient_attention=ragged_attention, fmha=fmha)
    sys.modules["xformers"].ops = sys.modules["xformers.ops"]  # type: ignore[attr-defined]
    packages = ["opensora"] + [
        f"opensora.{name}"
        for name in ("models", "models.layers", "models.stdit", "models.vae", "schedulers", "schedulers.iddpm", "utils")
    ]
    for name in packages:  # their __init__ would import everything
        module(name, __path__=[str(Path(path, *name.split(".")))])
    module("opensora.utils.ckpt_utils", load_checkpoint=None)
    with mock.patch.multiple(transformers, PretrainedConfig=Config, PreTrainedModel=Model):
        names = {
            "stdit": "models.stdit.stdit3",
            "vae": "models.vae.vae",
            "temporal": "models.vae.vae_temporal",
            "flow": "schedulers.rf",
        }
        return types.SimpleNamespace(
            **{short: importlib.import_module(f"opensora.{name}") for short, name in names.items()}
        )


def randomise(model: nn.Module, seed: int) -> None:
    """Weights that leave nothing out and keep outputs near 1, exact in bfloat16. Fixed frequencies are kept."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name in ("rope.freqs", "scale", "shift"):
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            noise = 1 + 0.2 * noise
        elif tensor.ndim > 1 and "table" not in name:
            noise = noise / tensor[0].numel() ** 0.5
        else:
            noise = 0.3 * noise
        tensor.copy_(noise.bfloat16())


def save_checkpoint(model: nn.Module, config: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    fixed = ("rope.freqs", "scale", "shift")
    weights = {k: v.contiguous() if k in fixed else v.bfloat16().contiguous() for k, v in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


@contextlib.contextmanager
def constant_noise(value: float) -> Iterator[None]:
    """Every sample of a posterior is its mean plus ``value`` standard deviations."""

    def noise(shape: Any, *_: Any, **__: Any) -> Tensor:
        return torch.full(tuple(shape), value)

    with mock.patch("diffusers.models.autoencoders.vae.randn_tensor", noise), mock.patch("torch.randn", noise):
        yield


def mask(*lengths: int) -> Tensor:
    return torch.stack([(torch.arange(STDIT["model_max_length"]) < length).long() for length in lengths])


def transformer_pairs(original: Any, pairs: dict[str, Tensor]) -> nn.Module:
    """Several sizes, some of which the patch does not divide."""

    def fresh() -> nn.Module:
        model = original.stdit.STDiT3(original.stdit.STDiT3Config(**STDIT)).eval()
        randomise(model, seed=1)
        return model

    model, generator = fresh(), torch.Generator().manual_seed(2)
    save_checkpoint(model, STDIT, FIXTURES / "stdit")
    cases = {
        "even": ((2, 4, 5, 6, 8), (48, 64), 24.0, mask(12, 5), [731.5, 20.25]),
        "odd": ((2, 4, 3, 5, 7), (426, 240), 8.0, mask(1, 9), [1000.0, 1000.0]),
        "still": ((1, 4, 1, 9, 4), (720, 1280), 120.0, None, [512.0]),
    }
    for name, (shape, (height, width), fps, tokens, timestep) in cases.items():
        inputs = {
            "hidden_states": torch.randn(shape, generator=generator),
            "timestep": torch.tensor(timestep),
            "encoder_hidden_states": torch.randn(shape[0], 12, 16, generator=generator),
            "height": torch.tensor([float(height)] * shape[0]),
            "width": torch.tensor([float(width)] * shape[0]),
            "fps": torch.tensor([fps] * shape[0]),
        }
        if tokens is not None:
            inputs["encoder_attention_mask"] = tokens
        pairs |= {f"transformer.{name}.{key}": value for key, value in inputs.items()}
        sizes = {key: inputs[key] for key in ("height", "width", "fps")}
        arguments = (inputs["hidden_states"], inputs["timestep"], inputs["encoder_hidden_states"][:, None], tokens)
        pairs[f"transformer.{name}.output"] = model(*arguments, **sizes)
        if name == "even":
            coarse = {key: value.bfloat16() for key, value in sizes.items()}
            pairs[f"transformer.{name}.output_bfloat16"] = fresh().bfloat16()(*arguments, **coarse).bfloat16()
    return model


def trajectory_pairs(original: Any, model: nn.Module, pairs: dict[str, Tensor]) -> Tensor:
    """The grids, and six guided steps of two prompts of different length."""
    for height, width, frames, steps in GRIDS:
        size = {"height": height, "width": width, "num_frames": frames}
        arguments = {key: torch.tensor([float(value)]) for key, value in size.items()}
        uniform = [torch.tensor([(1 - i / steps) * 1000]) for i in range(steps)]
        grid = [original.flow.timestep_transform(t, arguments, num_timesteps=1000) for t in uniform]
        pairs[f"grid.{height}.{width}.{frames}.{steps}"] = torch.cat(grid)

    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(2, 4, 7, 6, 8, generator=generator)
    states, tokens = torch.randn(2, 12, 16, generator=generator), mask(4, 11)
    text_encoder = types.SimpleNamespace(
        encode=lambda prompts: {"y": states[:, None], "mask": tokens},
        null=lambda n: model.y_embedder.y_embedding[None].repeat(n, 1, 1)[:, None],
    )
    size = {"height": 12.0, "width": 16.0, "num_frames": 24.0, "fps": 24.0}
    arguments = {key: torch.tensor([value] * 2) for key, value in size.items()}
    sampler = original.flow.RFLOW(num_sampling_steps=6, cfg_scale=7.0, use_timestep_transform=True)
    end = sampler.sample(model, text_encoder, latents.clone(), ["", ""], "cpu", arguments, progress=False)
    pairs |= {"trajectory.latents": latents, "trajectory.prompt_embeds": states, "trajectory.mask": tokens}
    pairs["trajectory.output"] = end
    clean, noise = (torch.randn(2, 4, 1, 2, 2, generator=generator) for _ in range(2))
    timesteps = torch.tensor([250.5, 999.0])
    pairs |= {"noised.clean": clean, "noised.noise": noise, "noised.timesteps": timesteps}
    pairs["noised.output"] = sampler.scheduler.add_noise(clean, noise, timesteps)
    return end


def autoencoder_pairs(original: Any, end: Tensor, pairs: dict[str, Tensor]) -> None:
    """Clips of a whole and a broken chunk, and stills; and the temporal part alone."""
    with tempfile.TemporaryDirectory() as folder:
        AutoencoderKL(**SPATIAL).save_pretrained(folder)
        config = json.loads(json.dumps(VAE))
        config["vae_2d"]["from_pretrained"] = folder
        model = original.vae.VideoAutoencoderPipeline(original.vae.VideoAutoencoderPipelineConfig(**config)).eval()
    randomise(model, seed=4)
    save_checkpoint(model, VAE, FIXTURES / "vae")
    (FIXTURES / "vae/spatial").mkdir(exist_ok=True)
    (FIXTURES / "vae/spatial/config.json").write_text(json.dumps(SPATIAL, indent=2) + "\n")

    generator = torch.Generator().manual_seed(5)
    for name, shape in {"clip": (1, 3, 24, 12, 16), "still": (2, 3, 1, 12, 16)}.items():
        pairs[f"vae.{name}.input"] = clip = torch.randn(shape, generator=generator)
        for value in (0.0, 1.0):
            with constant_noise(value):
                pairs[f"vae.{name}.encoded.{value:.0f}"] = latents = model.encode(clip)
        pairs[f"vae.{name}.decoded"] = model.decode(latents, num_frames=shape[2])
    pairs["trajectory.decoded"] = model.decode(end, num_frames=24)
    pairs["temporal.input"] = frames = torch.randn(2, 4, 7, 5, 3, generator=generator)
    pairs["temporal.moments"] = moments = model.temporal_vae.encode(frames).parameters
    pairs["temporal.decoded"] = model.temporal_vae.decode(moments[:, :4], num_frames=7)


def published_keys(original: Any) -> dict[str, dict[str, list[int]]]:
    """Keys and shapes of the checkpoints at their full size, for which no weights are made."""
    on_cpu = functools.partial(torch.linspace, device="cpu")
    with torch.device("meta"), mock.patch("torch.linspace", on_cpu):
        stdit = original.stdit.STDiT3_XL_2().state_dict()
        temporal = original.temporal.VAE_Temporal_SD().state_dict()
        spatial = AutoencoderKL(**SDXL).state_dict()
    vae = {f"spatial_vae.module.{key}": tensor for key, tensor in spatial.items()}
    vae |= {f"temporal_vae.{key}": tensor for key, tensor in temporal.items()}
    vae |= dict.fromkeys(("scale", "shift"), torch.empty(1, 4, 1, 1, 1))
    return {
        name: {key: list(tensor.shape) for key, tensor in weights.items()}
        for name, weights in (("stdit", stdit), ("vae", vae))
    }


@torch.no_grad()
def main(path: str) -> None:
    original, pairs = import_original(path), {}
    model = transformer_pairs(original, pairs)
    end = trajectory_pairs(original, model, pairs)
    autoencoder_pairs(original, end, pairs)
    save_file({name: tensor.contiguous() for name, tensor in pairs.items()}, FIXTURES / "pairs.safetensors")
    keys = json.dumps(published_keys(original)).encode()
    (FIXTURES / "published_keys.json.gz").write_bytes(gzip.compress(keys, mtime=0))
    for name, tensor in pairs.items():
        if tensor.is_floating_point():
            print(f"{name:42} {tuple(tensor.shape)!s:22} size {tensor.float().pow(2).mean().sqrt():.3f}")


if __name__ == "__main__":
    main(sys.argv[1])
