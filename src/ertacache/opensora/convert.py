"""Converts the published checkpoints of Open-Sora 1.2 to the models of this package."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ertacache.opensora.autoencoder import AutoencoderOpenSora
from ertacache.opensora.embeddings import inverse_frequencies
from ertacache.opensora.errors import OpenSoraError
from ertacache.opensora.transformer import STDiT3Transformer3DModel

Model = TypeVar("Model", bound=nn.Module)
Rules = Sequence[tuple[str, Sequence[str]]]
"""Pairs of a pattern for a published key, and our keys that share its tensor, split evenly along dimension 0."""

_BLOCK = r"((?:spatial|temporal)_blocks\.\d+)\."
_WB = r"\.(weight|bias)"

TRANSFORMER_RULES: Rules = (
    (r"x_embedder\.proj" + _WB, (r"patch_embed.proj.\1",)),
    (r"t_embedder\.mlp\.0" + _WB, (r"time_embed.linear_1.\1",)),
    (r"t_embedder\.mlp\.2" + _WB, (r"time_embed.linear_2.\1",)),
    (r"fps_embedder\.mlp\.0" + _WB, (r"fps_embed.linear_1.\1",)),
    (r"fps_embedder\.mlp\.2" + _WB, (r"fps_embed.linear_2.\1",)),
    (r"t_block\.1" + _WB, (r"time_modulation.\1",)),
    (r"y_embedder\.y_proj\.fc([12])" + _WB, (r"caption_projection.linear_\1.\2",)),
    (r"y_embedder\.y_embedding", ("null_caption",)),
    (_BLOCK + r"scale_shift_table", (r"\1.scale_shift_table",)),
    (_BLOCK + r"attn\.qkv" + _WB, (r"\1.attn.to_q.\2", r"\1.attn.to_k.\2", r"\1.attn.to_v.\2")),
    (_BLOCK + r"attn\.([qk])_norm\.weight", (r"\1.attn.norm_\2.weight",)),
    (_BLOCK + r"cross_attn\.q_linear" + _WB, (r"\1.cross_attn.to_q.\2",)),
    (_BLOCK + r"cross_attn\.kv_linear" + _WB, (r"\1.cross_attn.to_k.\2", r"\1.cross_attn.to_v.\2")),
    (_BLOCK + r"(attn|cross_attn)\.proj" + _WB, (r"\1.\2.to_out.\3",)),
    (_BLOCK + r"mlp\.fc1" + _WB, (r"\1.ff.net.0.proj.\2",)),
    (_BLOCK + r"mlp\.fc2" + _WB, (r"\1.ff.net.2.\2",)),
    (r"final_layer\.scale_shift_table", ("scale_shift_table",)),
    (r"final_layer\.linear" + _WB, (r"proj_out.\1",)),
)

_SPATIAL_ATTENTION = r"spatial_vae\.module\.(encoder|decoder)\.mid_block\.attentions\.0\."
_CODER = r"temporal_vae\.(encoder|decoder)\."

AUTOENCODER_RULES: Rules = (
    (r"(scale|shift)", (r"latents_\1",)),
    # The names that diffusers gave these layers before version 0.18.
    (_SPATIAL_ATTENTION + "query" + _WB, (r"spatial.\1.mid_block.attentions.0.to_q.\2",)),
    (_SPATIAL_ATTENTION + "key" + _WB, (r"spatial.\1.mid_block.attentions.0.to_k.\2",)),
    (_SPATIAL_ATTENTION + "value" + _WB, (r"spatial.\1.mid_block.attentions.0.to_v.\2",)),
    (_SPATIAL_ATTENTION + "proj_attn" + _WB, (r"spatial.\1.mid_block.attentions.0.to_out.0.\2",)),
    (r"spatial_vae\.module\.(.+)", (r"spatial.\1",)),
    (r"temporal_vae\.((?:post_)?quant_conv)\.conv" + _WB, (r"temporal.\1.\2",)),
    (r"temporal_vae\.encoder\.conv_in\.conv\.weight", (r"temporal.encoder.conv_in.weight",)),
    (r"temporal_vae\.encoder\.conv2\.conv" + _WB, (r"temporal.encoder.conv_out.\1",)),
    (r"temporal_vae\.decoder\.conv1\.conv" + _WB, (r"temporal.decoder.conv_in.\1",)),
    (r"temporal_vae\.decoder\.conv_out\.conv" + _WB, (r"temporal.decoder.conv_out.\1",)),
    (_CODER + r"norm1" + _WB, (r"temporal.\1.norm_out.\2",)),
    (_CODER + r"res_blocks\.(\d+)\.(norm[12])" + _WB, (r"temporal.\1.mid.resnets.\2.\3.\4",)),
    (_CODER + r"res_blocks\.(\d+)\.(conv[12])\.conv\.weight", (r"temporal.\1.mid.resnets.\2.\3.weight",)),
    (_CODER + r"block_res_blocks\.(\d+)\.(\d+)\.(norm[12])" + _WB, (r"temporal.\1.levels.\2.resnets.\3.\4.\5",)),
    (
        _CODER + r"block_res_blocks\.(\d+)\.(\d+)\.(conv[12])\.conv\.weight",
        (r"temporal.\1.levels.\2.resnets.\3.\4.weight",),
    ),
    (
        _CODER + r"block_res_blocks\.(\d+)\.(\d+)\.conv3\.conv\.weight",
        (r"temporal.\1.levels.\2.resnets.\3.conv_shortcut.weight",),
    ),
    (_CODER + r"conv_blocks\.(\d+)\.conv" + _WB, (r"temporal.\1.levels.\2.resample.\3",)),
)


def convert_transformer(
    config: Mapping[str, Any], published: Mapping[str, Tensor], dtype: torch.dtype | None = None
) -> STDiT3Transformer3DModel:
    """Convert the denoiser of ``hpcai-tech/OpenSora-STDiT-v3``.

    Args:
        config: the content of its ``config.json``; missing entries have the defaults of the original.
        published: its tensors by their published keys.
        dtype: dtype to cast the tensors to; by default they keep theirs.

    Raises:
        OpenSoraError: if keys are unknown or missing, a tensor has another shape, or the checkpoint has other
            frequencies.
    """
    dim, heads = config.get("hidden_size", 1152), config.get("num_heads", 16)
    ours = {
        "in_channels": config.get("in_channels", 4),
        "patch_size": tuple(config.get("patch_size", (1, 2, 2))),
        "num_layers": config.get("depth", 28),
        "num_attention_heads": heads,
        "attention_head_dim": dim // heads,
        "mlp_ratio": config.get("mlp_ratio", 4.0),
        "caption_channels": config.get("caption_channels", 4096),
        "caption_length": config.get("model_max_length", 300),
        "sample_side": config.get("input_sq_size", 512),
        "predict_sigma": config.get("pred_sigma", True),
        "qk_norm": config.get("qk_norm", True),
    }
    computed = {"rope.freqs": inverse_frequencies(dim // heads), "pos_embed.inv_freq": inverse_frequencies(dim // 2)}
    for key in computed.keys() & published.keys():
        _check_frequencies(key, published[key], computed[key])
    weights = {key: tensor for key, tensor in published.items() if key not in computed}
    model: STDiT3Transformer3DModel = _filled(STDiT3Transformer3DModel, ours, weights, TRANSFORMER_RULES, dtype)
    return model


def convert_autoencoder(
    config: Mapping[str, Any],
    published: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
    spatial_config: Mapping[str, Any] | None = None,
) -> AutoencoderOpenSora:
    """Convert the autoencoder of ``hpcai-tech/OpenSora-VAE-v1.2``.

    Args:
        config: the content of its ``config.json``.
        published: its tensors by their published keys; the spatial part may have the older names of diffusers.
        dtype: dtype to cast the tensors to; by default they keep theirs.
        spatial_config: config of the spatial ``AutoencoderKL``, because ``config`` only names its source; by default
            that of the published model.

    Raises:
        OpenSoraError: as `convert_transformer`.
    """
    spatial, temporal = spatial_config or {}, config.get("vae_temporal") or {}
    defaults = {"VAE_Temporal": (True, True, False)}.get(temporal.get("type", ""), (False, True, True))
    width = temporal.get("filters", 128)
    ours = {
        "latent_channels": spatial.get("latent_channels", 4),
        "spatial_channels": tuple(spatial.get("block_out_channels", (128, 256, 512, 512))),
        "spatial_layers": spatial.get("layers_per_block", 2),
        "spatial_norm_groups": spatial.get("norm_num_groups", 32),
        "temporal_channels": tuple(width * times for times in temporal.get("channel_multipliers", (1, 2, 2, 4))),
        "temporal_layers": temporal.get("num_res_blocks", 4),
        "temporal_halves": tuple(temporal.get("temporal_downsample", defaults)),
        "temporal_norm_groups": temporal.get("num_groups", 32),
        "micro_frame_size": config.get("micro_frame_size", 17),
        "micro_batch_size": (config.get("vae_2d") or {}).get("micro_batch_size", 4),
    }
    ours |= {name: tuple(config[name]) for name in ("shift", "scale") if name in config}
    model: AutoencoderOpenSora = _filled(AutoencoderOpenSora, ours, published, AUTOENCODER_RULES, dtype)
    return model


def _check_frequencies(key: str, theirs: Tensor, ours: Tensor) -> None:
    """Frequencies are computed, not loaded; a checkpoint may hold them rounded to bfloat16 (1 part in 256)."""
    if theirs.shape != ours.shape or not torch.allclose(theirs.float(), ours, rtol=1 / 128, atol=0):
        raise OpenSoraError(
            f"the checkpoint was made with other frequencies: {key}",
            given=theirs.float().tolist(),
            cure=f"Only {ours.tolist()} are supported; use the published checkpoint.",
        )


def renamed(published: Mapping[str, Tensor], rules: Rules) -> tuple[dict[str, tuple[str, Tensor]], list[str]]:
    """Rename published tensors.

    Returns:
        For each of our names, the published key and its tensor (or its share of it); and the keys that match no rule.
    """
    ours, unknown = {}, []
    for key, tensor in published.items():
        for pattern, names in rules:
            if match := re.fullmatch(pattern, key):
                for name, share in zip(names, tensor.chunk(len(names)), strict=True):
                    ours[match.expand(name)] = key, share
                break
        else:
            unknown.append(key)
    return ours, unknown


def _filled(
    model_class: type[Model],
    config: Mapping[str, Any],
    published: Mapping[str, Tensor],
    rules: Rules,
    dtype: torch.dtype | None,
) -> Model:
    """Build a model of this class from published tensors; every tensor must be used, and none may be missing."""
    with torch.device("meta"):
        model = model_class(**config)
    expected = model.state_dict()
    ours, unknown = renamed(published, rules)
    unknown += [key for name, (key, _) in ours.items() if name not in expected]
    missing = [name for name in expected if name not in ours]
    misshapen = [
        f"{key} {tuple(tensor.shape)} for {name} {tuple(expected[name].shape)}"
        for name, (key, tensor) in ours.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    if unknown or missing or misshapen:
        raise OpenSoraError(
            f"these weights are not those of {model_class.__name__} with this config",
            given=f"unknown keys: {unknown}; missing, by our names: {missing}; of another shape: {misshapen}",
            cure="Use a checkpoint of Open-Sora 1.2 with the config.json that lies beside it.",
        )
    # Clones, since shares of one tensor could not be saved.
    weights = {name: tensor.to(dtype=dtype or tensor.dtype, copy=True) for name, (_, tensor) in ours.items()}
    model.load_state_dict(weights, assign=True)
    return model.eval()
