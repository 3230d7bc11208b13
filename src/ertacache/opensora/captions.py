"""Encodes captions for the denoiser, the null caption of guidance included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import PixArtAlphaPipeline
from torch import Tensor

from ertacache.offloaded_weights import tensor_where_kept
from ertacache.opensora.errors import OpenSoraError


class CaptionEncoder:
    """Base class of the pipeline with the methods that encode captions."""

    # Open-Sora cleans captions in the same way as PixArt, in training and in sampling.
    bad_punct_regex = PixArtAlphaPipeline.bad_punct_regex
    _text_preprocessing = PixArtAlphaPipeline._text_preprocessing
    _clean_caption = PixArtAlphaPipeline._clean_caption

    tokenizer: Any
    text_encoder: Any
    transformer: Any
    _execution_device: torch.device

    def encode_text(
        self, prompt: str | Sequence[str], *, max_sequence_length: int | None = None, clean_caption: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Encode captions.

        Args:
            prompt: one or several captions.
            max_sequence_length: number of tokens that captions are cut or padded to; by default that of the null
                caption, which is 300 in the published model.
            clean_caption: clean captions as in training, which needs ``beautifulsoup4`` and ``ftfy``; otherwise they
                are only stripped and lowercased.

        Returns:
            States (B, L, channels) and mask (B, L), 1 at the caption's tokens.
        """
        length = max_sequence_length or len(self.transformer.null_caption)
        captions = self._text_preprocessing([prompt] if isinstance(prompt, str) else list(prompt), clean_caption)
        tokens = self.tokenizer(captions, max_length=length, padding="max_length", truncation=True, return_tensors="pt")
        ids, mask = (tokens[name].to(self._execution_device) for name in ("input_ids", "attention_mask"))
        return self.text_encoder(ids, attention_mask=mask)[0], mask

    def encode_prompt(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_videos_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        max_sequence_length: int | None = None,
        clean_caption: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Encode the captions of both branches; for the arguments see ``__call__``.

        Without a negative prompt, the negative branch uses the transformer's null caption with the mask of the prompt,
        as the original does: it attends to as many tokens as the prompt has.

        Returns:
            States (B, L, channels) and mask (B, L). Along B come first the negative prompts, if there is guidance, then
            the prompts, each ``num_videos_per_prompt`` times.
        """
        text = {"max_sequence_length": max_sequence_length, "clean_caption": clean_caption}
        if prompt_embeds is None:
            assert prompt is not None  # check_captions has checked it
            prompt_embeds, prompt_attention_mask = self.encode_text(prompt, **text)  # type: ignore[arg-type]
        assert prompt_attention_mask is not None
        states, masks = [prompt_embeds], [prompt_attention_mask]
        if do_classifier_free_guidance:
            if negative_prompt_embeds is None:
                negative_prompt_embeds, negative_prompt_attention_mask = self._negative(
                    negative_prompt, prompt_embeds, prompt_attention_mask, text
                )
            assert negative_prompt_attention_mask is not None
            states.insert(0, negative_prompt_embeds)
            masks.insert(0, negative_prompt_attention_mask)
        like = {"device": self._execution_device, "dtype": self.transformer.dtype}
        return (
            torch.cat([state.to(**like).repeat_interleave(num_videos_per_prompt, dim=0) for state in states]),
            torch.cat([mask.to(like["device"]).repeat_interleave(num_videos_per_prompt, dim=0) for mask in masks]),
        )

    def _negative(
        self, prompt: str | Sequence[str] | None, states: Tensor, mask: Tensor, text: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        batch, length, _ = states.shape
        if prompt is not None:
            return self.encode_text([prompt] * batch if isinstance(prompt, str) else prompt, **text)
        null = tensor_where_kept(
            self.transformer, "null_caption"
        )  # sequential offloading loads it for ``forward`` only
        if length > len(null):
            raise OpenSoraError(
                "the null caption of this transformer is shorter than the prompts",
                given=f"{length} tokens",
                cure=f"Use max_sequence_length={len(null)} or less, or give a negative prompt.",
            )
        return null[:length].expand(batch, -1, -1), mask
