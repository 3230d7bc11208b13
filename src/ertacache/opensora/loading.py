"""Loads the published weights of Open-Sora 1.2, from the Hub or from local folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, T5EncoderModel

from ertacache.opensora.convert import convert_autoencoder, convert_transformer
from ertacache.opensora.errors import OpenSoraError
from ertacache.opensora.pipeline import OpenSoraPipeline
from ertacache.opensora.scheduler import OpenSoraRectifiedFlowScheduler

_PUBLISHED_SPATIAL = "PixArt-alpha/pixart_sigma_sdxlvae_T5_diffusers"
_WEIGHTS = "model.safetensors"


def load_opensora(
    stdit: str | Path = "hpcai-tech/OpenSora-STDiT-v3",
    vae: str | Path = "hpcai-tech/OpenSora-VAE-v1.2",
    text_encoder: str | Path = "DeepFloyd/t5-v1_1-xxl",
    tokenizer: str | Path | None = None,
    *,
    dtype: torch.dtype = torch.bfloat16,
) -> OpenSoraPipeline:
    """Load the published Open-Sora 1.2.

    Args:
        stdit: hub id or folder of the denoiser.
        vae: hub id or folder of the autoencoder.
        text_encoder: hub id or folder of T5.
        tokenizer: hub id or folder of its tokenizer; by default that of the text encoder.
        dtype: of all weights.

    Returns:
        The pipeline, on the CPU.

    Raises:
        OpenSoraError: if a checkpoint does not hold exactly what the model needs.
    """
    autoencoder_config, autoencoder_weights = read_checkpoint(vae)
    transformer_config, transformer_weights = read_checkpoint(stdit)
    return OpenSoraPipeline(
        tokenizer=AutoTokenizer.from_pretrained(tokenizer or text_encoder),
        text_encoder=T5EncoderModel.from_pretrained(text_encoder, dtype=dtype).eval(),
        vae=convert_autoencoder(autoencoder_config, autoencoder_weights, dtype, _spatial_config(autoencoder_config)),
        transformer=convert_transformer(transformer_config, transformer_weights, dtype),
        scheduler=OpenSoraRectifiedFlowScheduler(),
    )


def read_checkpoint(source: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a checkpoint in the layout of transformers, from a folder or the Hub.

    Args:
        source: folder or hub id, with ``config.json`` and ``model.safetensors``, or an index of several such files.

    Returns:
        The config, and all tensors by their keys.

    Raises:
        OpenSoraError: if a folder lacks one of the files.
    """
    folder = Path(source)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        patterns = ["config.json", "model*.safetensors", f"{_WEIGHTS}.index.json"]
        folder = Path(snapshot_download(str(source), allow_patterns=patterns))
    index = folder / f"{_WEIGHTS}.index.json"
    known = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values() if index.exists() else [_WEIGHTS]
    names = sorted(set(known))
    absent = [name for name in ("config.json", *names) if not (folder / name).exists()]
    if absent:
        raise OpenSoraError(
            f"there is no checkpoint here: {folder}", given=f"without {absent}", cure="Download the whole repository."
        )
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors |= load_file(folder / name)
    return json.loads((folder / "config.json").read_text(encoding="utf-8")), tensors


def _spatial_config(config: dict[str, Any]) -> dict[str, Any] | None:
    """The config of the spatial autoencoder that the checkpoint names; None if it is the published one."""
    source = config.get("vae_2d") or {}
    if source.get("from_pretrained") in (None, _PUBLISHED_SPATIAL):
        return None
    loaded: dict[str, Any] = AutoencoderKL.load_config(source["from_pretrained"], subfolder=source.get("subfolder"))
    return loaded
