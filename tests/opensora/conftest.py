"""Small models with the weights of ``fixtures/``, and what the original computed with them."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from ertacache.opensora import (
    AutoencoderOpenSora,
    OpenSoraPipeline,
    OpenSoraRectifiedFlowScheduler,
    STDiT3Transformer3DModel,
)
from ertacache.opensora.convert import convert_autoencoder, convert_transformer
from ertacache.opensora.loading import read_checkpoint

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def pairs() -> dict[str, Tensor]:
    """Inputs and outputs of the original, by the names that make_fixtures.py gave them."""
    return load_file(FIXTURES / "pairs.safetensors")


@pytest.fixture(scope="session")
def published_keys() -> dict[str, dict[str, list[int]]]:
    """Keys and shapes of the published checkpoints "stdit" and "vae"."""
    return json.loads(gzip.decompress((FIXTURES / "published_keys.json.gz").read_bytes()))


@pytest.fixture
def published(tmp_path) -> Path:
    """Folders ``stdit`` and ``vae`` in the published layout, small, to be changed at will."""
    shutil.copytree(FIXTURES, tmp_path / "published")
    config = tmp_path / "published/vae/config.json"
    told = json.loads(config.read_text())
    told["vae_2d"]["from_pretrained"] = str(config.parent / "spatial")
    config.write_text(json.dumps(told))
    return tmp_path / "published"


@pytest.fixture
def transformer() -> STDiT3Transformer3DModel:
    return convert_transformer(*read_checkpoint(FIXTURES / "stdit"), torch.float32)


@pytest.fixture
def vae() -> AutoencoderOpenSora:
    spatial = json.loads((FIXTURES / "vae/spatial/config.json").read_text())
    return convert_autoencoder(*read_checkpoint(FIXTURES / "vae"), torch.float32, spatial)


@pytest.fixture(scope="session")
def text() -> tuple[PreTrainedTokenizerFast, T5EncoderModel]:
    """A tokenizer of a few words, and a tiny T5."""
    words = ["<pad>", "</s>", "<unk>", "a", "red", "ball", "rises", "blurry"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "feed_forward_proj": "gated-gelu"}
    encoder = T5EncoderModel(T5Config(vocab_size=len(words), **sizes)).eval()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=12
    )
    return fast, encoder


@pytest.fixture
def pipe(text, transformer, vae) -> OpenSoraPipeline:
    pipe = OpenSoraPipeline(*text, vae, transformer, OpenSoraRectifiedFlowScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def assert_same() -> Callable[..., None]:
    """``assert_same(ours, theirs, within=1e-5)``: the norm of the difference over that of ``theirs``."""

    def check(ours: Tensor, theirs: Tensor, within: float = 1e-5) -> None:
        assert ours.shape == theirs.shape
        error = float((ours.double() - theirs.double()).norm() / theirs.double().norm())
        print(f"relative error {error:.2e}")
        assert error < within

    return check
