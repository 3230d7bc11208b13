"""Each part computes what the original computed, whose outputs lie in ``fixtures/`` (see make_fixtures.py)."""

from __future__ import annotations

import pytest
import torch

from ertacache.opensora import OpenSoraRectifiedFlowScheduler


def transformer_inputs(pairs, case):
    prefix = f"transformer.{case}."
    inputs = {key.removeprefix(prefix): value for key, value in pairs.items() if key.startswith(prefix)}
    outputs = inputs.pop("output"), inputs.pop("output_bfloat16", None)
    inputs["height"], inputs["width"] = (int(inputs[side][0]) for side in ("height", "width"))
    return inputs, outputs


@pytest.mark.parametrize("case", ["even", "odd", "still"])
def test_transformer(case, transformer, pairs, assert_same):
    inputs, (output, _) = transformer_inputs(pairs, case)
    with torch.no_grad():
        assert_same(transformer(**inputs).sample, output)


def test_transformer_in_bfloat16_rounds_where_the_original_rounds(transformer, pairs, assert_same):
    """Rounding of activations differs here and there; unrounded frequencies alone would err by as much again."""
    inputs, (output, rounded) = transformer_inputs(pairs, "even")
    inputs["hidden_states"] = inputs["hidden_states"].bfloat16()
    with torch.no_grad():
        ours = transformer.bfloat16()(**inputs).sample
    assert ours.dtype == torch.bfloat16
    assert_same(ours, rounded, within=0.02)
    assert_same(ours, output, within=0.2)


def test_grids_to_the_last_bit(pairs):
    names = [name for name in pairs if name.startswith("grid.")]
    assert len(names) == 5
    scheduler = OpenSoraRectifiedFlowScheduler()
    for name in names:
        height, width, num_frames, steps = (int(part) for part in name.split(".")[1:])
        scheduler.set_timesteps(steps, height=height, width=width, num_frames=num_frames)
        assert torch.equal(scheduler.timesteps, pairs[name])
        assert torch.equal(scheduler.sigmas[:-1] * 1000, pairs[name])
        assert scheduler.sigmas.shape == (steps + 1,)
        assert scheduler.sigmas[-1] == 0


def test_noising(pairs, assert_same):
    scheduler = OpenSoraRectifiedFlowScheduler()
    arguments = [pairs[f"noised.{name}"] for name in ("clean", "noise", "timesteps")]
    assert_same(scheduler.add_noise(*arguments), pairs["noised.output"])
    assert_same(scheduler.scale_noise(arguments[0], arguments[2], arguments[1]), pairs["noised.output"])


def test_trajectory_of_the_pipeline(pipe, pairs, assert_same):
    """Two prompts of unlike length, guided by the null caption, six steps, and the decoded clips."""
    arguments = {
        "prompt_embeds": pairs["trajectory.prompt_embeds"],
        "prompt_attention_mask": pairs["trajectory.mask"],
        "latents": pairs["trajectory.latents"],
        "num_inference_steps": 6,
        "guidance_scale": 7.0,
        "height": 12,
        "width": 16,
        "num_frames": 24,
        "fps": 24,
    }
    assert_same(pipe(**arguments, output_type="latent").frames, pairs["trajectory.output"])
    expected = (pairs["trajectory.decoded"] / 2 + 0.5).clamp(0, 1)
    assert_same(pipe(**arguments, output_type="pt").frames, expected.transpose(1, 2))


@torch.no_grad()
def test_temporal_autoencoder(vae, pairs, assert_same):
    moments = vae.temporal.encode(pairs["temporal.input"])
    assert_same(moments, pairs["temporal.moments"])
    assert_same(vae.temporal.decode(moments[:, :4], 7), pairs["temporal.decoded"])


@pytest.mark.parametrize("case", ["clip", "still"])
@torch.no_grad()
def test_autoencoder(case, vae, pairs, assert_same, monkeypatch):
    """24 frames are a whole chunk of 17 and a broken one; in both samplings the noise is constant."""
    clip = pairs[f"vae.{case}.input"]
    for noise in (0, 1):
        constant = lambda shape, noise=noise, **_: torch.full(tuple(shape), float(noise))  # noqa: E731
        monkeypatch.setattr("diffusers.models.autoencoders.vae.randn_tensor", constant)
        latents = vae.encode(clip).latent_dist.sample()
        assert_same(latents, pairs[f"vae.{case}.encoded.{noise}"])
    assert_same(vae.decode(latents, num_frames=clip.shape[2]).sample, pairs[f"vae.{case}.decoded"])
    mean = vae.encode(clip, sample_posterior=False).latent_dist.mode()
    assert_same(mean, pairs[f"vae.{case}.encoded.0"])
