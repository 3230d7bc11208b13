"""The metrics against their definitions."""

import math

import numpy as np
import pytest
import torch

from ertacache.errors import MetricError
from ertacache.metrics import interval, motion_error, psnr, ssim


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_psnr_is_ten_log_ten_of_one_over_the_squared_error():
    black, gray = torch.zeros(3, 16, 16), torch.full((3, 16, 16), 0.1)
    assert psnr(gray, black) == pytest.approx(20.0, abs=1e-4)
    assert psnr(gray, gray) == 100


@pytest.mark.parametrize(("low", "high"), [(10, 200), (0, 255), (100, 240)])
def test_bytes_that_differ_by_more_than_half_the_range_do_not_wrap(low, high):
    pictures = [torch.full((3, 16, 16), value, dtype=torch.uint8) for value in (low, high)]
    right = -20 * math.log10((high - low) / 255)
    assert psnr(*pictures) == pytest.approx(right, abs=1e-4)
    assert psnr(*pictures[::-1]) == pytest.approx(right, abs=1e-4)


def test_a_clip_is_measured_frame_by_frame():
    reference = torch.zeros(1, 2, 3, 16, 16)
    clip = reference.clone()
    clip[:, 0], clip[:, 1] = 0.1, 0.01
    assert psnr(clip, reference) == pytest.approx((20 + 40) / 2, abs=1e-3)
    frames = [noise(3, 32, 32, seed=k) for k in range(4)]
    by_hand = (ssim(frames[0], frames[2]) + ssim(frames[1], frames[3])) / 2
    assert ssim(torch.stack(frames[:2]), torch.stack(frames[2:])) == pytest.approx(by_hand, abs=1e-6)


def test_ssim_is_one_for_equal_pictures_and_falls_with_noise():
    picture = noise(3, 32, 32)
    noisy = picture + 0.1 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(1))
    noisier = picture + 0.3 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(1))
    assert ssim(picture, picture) == pytest.approx(1.0, abs=1e-5)
    assert 1 > ssim(noisy, picture) > ssim(noisier, picture)


def test_the_motion_error_tells_a_frozen_clip_and_one_that_flickers_from_one_that_is_paler():
    times = torch.linspace(0, 1, 9)[:, None, None, None]
    clip = times * noise(3, 8, 8)
    assert motion_error(clip, clip) == 0
    assert motion_error(clip + 0.2, clip) == pytest.approx(0, abs=1e-6)  # a constant offset does not move
    assert motion_error(clip[:1].expand_as(clip), clip) == pytest.approx(1)
    assert motion_error(clip.flip(0), clip) == pytest.approx(2)
    flickering = clip.clone()
    flickering[::2] += 0.2
    assert motion_error(flickering, clip) > 1
    with pytest.raises(MetricError, match="none"):
        motion_error(clip, clip[:1].expand_as(clip))


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(MetricError, match=r"\(3, 8, 8\) and \(3, 8, 9\)"):
        psnr(noise(3, 8, 8), noise(3, 8, 9))
    with pytest.raises(MetricError, match=r"\(frames, channels"):
        motion_error(noise(3, 8, 8), noise(3, 8, 8))
    with pytest.raises(MetricError, match="none"):
        interval([])
    with pytest.raises(MetricError, match="int64"):
        ssim(torch.zeros(3, 16, 16, dtype=torch.int64), torch.zeros(3, 16, 16, dtype=torch.int64))


@pytest.mark.parametrize("values", [3, 7, 32])
def test_an_interval_holds_the_mean_as_often_as_it_says(values):
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        low, high = interval(rng.normal(30, 4, values), resamples=400)
        held += low < 30 < high
    assert 0.87 < held / 200 < 0.99


def test_an_interval_is_the_same_each_time_and_of_one_value_it_is_that():
    assert interval([4.0]) == (4.0, 4.0)
    assert interval([1.0, 2.0, 6.0]) == interval([1.0, 2.0, 6.0])
    assert interval([3.0, 3.0]) == (3.0, 3.0)
