"""Tokenizers over the captions' words, and tiny text encoders of the classes that the pipelines use."""

from __future__ import annotations

import json
import string
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    Gemma3TextConfig,
    Gemma3TextModel,
    GemmaTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

WIDTH = 96
CLIP_LENGTH = 32
T5_LENGTH = 24
"""Words of the longest caption, and the end."""
GEMMA_LENGTH = 24
"""The beginning, and the words of the longest caption."""


def clip_tokenizer(captions: list[str]) -> CLIPTokenizer:
    """Byte-pair encoding learned from the captions: every word of theirs is one token."""
    bpe = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        show_progress=False,
    )
    bpe.train_from_iterator(captions, trainer)
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    return CLIPTokenizer(vocab=bpe.get_vocab(), merges=merges, model_max_length=CLIP_LENGTH)


def t5_tokenizer(captions: list[str]) -> T5TokenizerFast:
    """A unigram vocabulary of the captions' words, with single letters to spell what it does not know."""
    words = sorted({word for caption in captions for word in caption.split()})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -8.0)]
    pieces += [(f"▁{word}", -2.0) for word in words]
    pieces += [(letter, -10.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=512)


def gemma_tokenizer(captions: list[str]) -> GemmaTokenizer:
    """Byte-pair encoding learned from the captions' words, each of which becomes one token; pads on the left."""
    words = sorted({word for caption in captions for word in caption.split()})
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        min_frequency=0,
        initial_alphabet=["▁", *string.ascii_lowercase],
        special_tokens=["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"],
        show_progress=False,
    )
    bpe.train_from_iterator([space + word for word in words for space in ("", "▁")], trainer)
    learned = json.loads(bpe.to_str())["model"]
    merges = [tuple(pair) for pair in learned["merges"]]
    return GemmaTokenizer(
        vocab=learned["vocab"], merges=merges, add_bos_token=True, model_max_length=GEMMA_LENGTH, padding_side="left"
    )


def clip_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Gives the pooled embedding (batch, WIDTH)."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CLIP_LENGTH,
            projection_dim=WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _encoder_options(tokenizer: T5TokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "d_model": WIDTH,
        "d_kv": WIDTH // 4,
        "d_ff": 2 * WIDTH,
        "num_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "dropout_rate": 0.0,
    }


def t5_encoder(tokenizer: T5TokenizerFast) -> T5EncoderModel:
    """Gives the sequence of embeddings (batch, T5_LENGTH, WIDTH)."""
    return T5EncoderModel(T5Config(**_encoder_options(tokenizer)))


def umt5_encoder(tokenizer: T5TokenizerFast) -> UMT5EncoderModel:
    """Gives the sequence of embeddings (batch, T5_LENGTH, WIDTH)."""
    return UMT5EncoderModel(UMT5Config(**_encoder_options(tokenizer)))


def gemma_encoder(tokenizer: GemmaTokenizer) -> Gemma3TextModel:
    """Gives 3 sequences of hidden states (batch, GEMMA_LENGTH, WIDTH): the embeddings, and after each layer."""
    return Gemma3TextModel(
        Gemma3TextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=WIDTH // 4,
            query_pre_attn_scalar=WIDTH // 4,
            max_position_embeddings=64,
            sliding_window=64,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def ids(tokenizer: CLIPTokenizer | GemmaTokenizer | T5TokenizerFast, captions: list[str], length: int) -> torch.Tensor:
    """Token ids as a pipeline makes them: (n, length), int64."""
    return tokenizer(captions, padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids
