"""Why a pipeline is refused, or cannot be calibrated, in a user's words: by the beginning of the error's reason."""

from __future__ import annotations

WHY: dict[str, str] = {
    "this pipeline denoises each frame, or each part": "At the same time its frames are at different noise levels, so "
    "there is no step to skip. With `ar_step=0` all frames go together, and it works.",
    "this pipeline makes several steps of its sampler": "It makes several sampler steps for each call of its model. "
    "Nothing could be predicted for those between.",
    "this scheduler is not supported: stochastic_sampling=True": "Its distilled checkpoints draw new noise at every "
    "step (`stochastic_sampling=True`). The plain ones work.",
    "this scheduler is not supported: it calls the denoiser several times in some steps": "The scheduler calls the "
    "model more than once in some steps. Set another one, if the pipeline takes one: `pipe.scheduler = "
    "DDIMScheduler.from_config(pipe.scheduler.config)`.",
    "this scheduler is not supported: it has no set_timesteps()": "The scheduler has no `set_timesteps()` and no "
    "`step()`.",
    "this scheduler is not supported: it calls the denoiser 2 times": "The scheduler calls the model twice a step, as "
    "Heun's method does. Set another one, if the pipeline takes one.",
    "the pipeline reads what its denoiser's attention": "After each step it reads the attention maps of its model, and "
    "a skipped step has none.",
    "the pipeline repeats step": "It makes the same step several times, for tiles, views or resampling, so there is "
    "no step to skip as a whole.",
    "this model samples tokens": "It samples tokens, which are whole numbers. They cannot be extrapolated.",
    "this pipeline does not sample step by step": "It runs its model without calling its scheduler's `step()` for "
    "each step: it makes many steps at once, or another pipeline within it does the sampling. Use that one.",
    "this pipeline has no scheduler under that name": "It has several schedulers, one for each stage, and none of the "
    "name `scheduler`.",
    "the model also predicts the variance": "Its model also predicts the variance of the scheduler's noise, to which "
    "nothing can be fitted. The error names a scheduler without.",
    "the scheduler clips the predicted picture": "Its scheduler clips the predicted picture. Switch that off if the "
    "model allows it (`clip_sample=False` or the like).",
    "this call samples more than once": "One call samples several times (segments, chunks or stages). Calibrate with "
    "a call of one segment, where there is one.",
    "this pipeline denoises each frame or token": "A picture or clip as a condition has another noise level than the "
    "rest. Calls without such a condition can be calibrated, where the pipeline makes them.",
    "the call stopped early": "The call makes other steps than it asks for, such as with `denoising_end` or windows.",
    "the latents change their shape": "Its latents change their shape on the way. Switch the option off that does it "
    "(`enable_temporal_reasoning`).",
    "the policy does not fit: num_inference_steps was": "A list of noise levels, as these pipelines give it, makes one "
    "step fewer than was asked for: 7 in place of 8. A policy by hand for 8 steps does not fit. `speedup=` and "
    "calibrated policies count the steps that are made, and work.",
}
"""The reason's beginning, and what it means."""


def in_words(reason: str) -> str:
    """What a refusal means for a user.

    Args:
        reason: the error's reason, without what was given and the cure; empty for none.

    Raises:
        KeyError: if there are no words for it yet.
    """
    if not reason:
        return ""
    found = [words for beginning, words in WHY.items() if reason.startswith(beginning)]
    if len(found) != 1:
        raise KeyError(f"contract/in_words.py needs one entry for: {reason}")
    return found[0]
