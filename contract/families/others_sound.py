"""Stable Audio 3 from sound, in whole or in part; its models are distilled, without guidance."""

from __future__ import annotations

from typing import Any

import diffusers as d

from contract.case import Case
from contract.families.images import sibling
from contract.families.videos import stable_audio3, stable_audio3_call
from contract.parts import lively, random


def audio(kind: Any, conditions: int = 5, **options: Any) -> Any:
    base = stable_audio3(**options)
    config = {**base.transformer.config, "local_add_cond_dim": conditions}
    config.pop("_use_default_values", None)
    base.transformer, base.vae = lively(d.StableAudio3DiTModel.from_config(config)), lively(base.vae)
    return sibling(kind, base)


def audio_call(**more: Any) -> dict[str, Any]:
    call = stable_audio3_call(audio=random(1, 2, 16, seed=7), **more)
    return {name: value for name, value in call.items() if not name.startswith(("negative", "guidance"))}


def audio_inpaint_call(**more: Any) -> dict[str, Any]:
    return audio_call(mask_start_seconds=0.25, mask_end_seconds=0.75, **more)


CASES: dict[str, Case] = {
    "StableAudio3AudioToAudio": Case(
        lambda: audio(d.StableAudio3AudioToAudioPipeline),
        lambda: audio_call(init_noise_level=0.9),
        (lambda: audio_call(init_noise_level=0.9, duration=2.0), audio_call),
    ),
    "StableAudio3AudioToAudio, distilled": Case(
        lambda: audio(d.StableAudio3AudioToAudioPipeline, stochastic_sampling=True), audio_call
    ),
    "StableAudio3Inpaint": Case(
        lambda: audio(d.StableAudio3InpaintPipeline, 8 + 1),
        audio_inpaint_call,
        (lambda: audio_inpaint_call(duration=2.0),),
    ),
    "StableAudio3Inpaint, distilled": Case(
        lambda: audio(d.StableAudio3InpaintPipeline, 8 + 1, stochastic_sampling=True), audio_inpaint_call
    ),
}
