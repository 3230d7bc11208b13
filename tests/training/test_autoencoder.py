"""What the autoencoders are trained on, and how Wan's and Open-Sora's begin."""

import math

import numpy as np
import pytest
import torch

from training.autoencoder import NOISE, Stage, fit, to_tensor
from training.families import FAMILIES


def test_pieces_are_cut_at_random_places_of_random_clips():
    pixels = np.arange(5 * 7 * 8 * 8 * 3).reshape(5, 7, 8, 8, 3)
    stage = Stage("any", 1, batch=40, side=4, frames=3)
    pieces = stage.cut(pixels, np.random.default_rng(0))
    assert pieces.shape == (40, 3, 4, 4, 3)
    firsts = np.unique(pieces[:, 0, 0, 0, 0])
    assert len(firsts) > 20
    clip, frame, row, column, _ = np.unravel_index(firsts, pixels.shape)
    assert (set(clip), set(frame)) == (set(range(5)), set(range(5)))
    assert (set(row), set(column)) == (set(range(5)), set(range(5)))
    for piece in pieces:
        n, f, i, j, _ = np.unravel_index(piece[0, 0, 0, 0], pixels.shape)
        assert np.array_equal(piece, pixels[n, f : f + 3, i : i + 4, j : j + 4])


def test_pieces_of_pictures_have_no_frames():
    pixels = np.zeros((5, 8, 8, 3), np.uint8)
    assert Stage("any", 1, batch=2, side=8).cut(pixels, np.random.default_rng(0)).shape == (2, 8, 8, 3)


@pytest.mark.parametrize("name", ["wan", "cogvideox", "opensora", "ltx2"])
def test_every_stage_of_a_video_autoencoder_gives_back_the_shape_that_it_gets(name):
    torch.manual_seed(0)
    family = FAMILIES[name]
    vae = family.autoencoder()
    for stage in family.autoencoder_stages:
        pixels = np.zeros((2, 17, 64, 64, 3), np.uint8)
        x = to_tensor(stage.cut(pixels, np.random.default_rng(0))[:1])
        with torch.no_grad():
            z = vae.encode(x).latent_dist.mean
            assert family.decoded(vae, z, stage.frames).shape == x.shape


def test_wans_autoencoder_begins_by_seeing_every_frame_alone():
    torch.manual_seed(0)
    vae = FAMILIES["wan"].autoencoder()
    frame = torch.rand(1, 3, 1, 24, 24) * 2 - 1
    with torch.no_grad():
        alone = vae.decode(vae.encode(frame).latent_dist.mean).sample
        still = vae.decode(vae.encode(frame.expand(-1, -1, 9, -1, -1)).latent_dist.mean).sample
    torch.testing.assert_close(still, alone.expand_as(still), rtol=1e-4, atol=1e-5)


def test_a_stage_may_train_one_part_alone_on_single_frames(tmp_path):
    family = FAMILIES["opensora"]
    torch.manual_seed(0)
    vae = family.autoencoder()
    before = {name: value.clone() for name, value in vae.named_parameters()}
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 16, 16, 3), np.uint8)
    stage = Stage("frames", 2, batch=3, side=8, frames=1, part="spatial")
    fit(vae, lambda z, frames: family.decoded(vae, z, frames), pixels, tmp_path, [stage], steps=None, seconds=60)
    moved = {name for name, value in vae.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if name.startswith("spatial.")}


def test_a_stage_may_leave_the_encoder_as_it_is(tmp_path):
    family = FAMILIES["ltx2"]
    torch.manual_seed(0)
    vae = family.autoencoder()
    before = {name: value.clone() for name, value in vae.named_parameters()}
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 32, 32, 3), np.uint8)
    stage = Stage("decoder", 2, batch=2, side=16, frames=5, frozen=True)
    fit(vae, lambda z, frames: family.decoded(vae, z, frames), pixels, tmp_path, [stage], steps=None, seconds=60)
    moved = {name for name, value in vae.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if name.startswith("decoder.")}


def test_open_soras_temporal_half_begins_by_repeating_the_newest_of_four_frames():
    torch.manual_seed(0)
    temporal = FAMILIES["opensora"].autoencoder().temporal
    frames = torch.randn(2, 8, 17, 6, 6)
    with torch.no_grad():
        mean, log_variance = temporal.encode(frames).chunk(2, dim=1)
        decoded = temporal.decode(mean, 17)
    newest = frames[:, :, ::4]  # 3 frames are put in front of the 17
    assert float(torch.corrcoef(torch.stack([newest.flatten(), mean.flatten()]))[0, 1]) > 0.99
    torch.testing.assert_close(log_variance, torch.full_like(log_variance, 2 * math.log(NOISE)))
    repeated = newest.repeat_interleave(4, dim=2)[:, :, 3:]
    assert float(torch.corrcoef(torch.stack([repeated.flatten(), decoded.flatten()]))[0, 1]) > 0.99
