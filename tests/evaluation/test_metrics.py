"""The metrics against their definitions."""

import math

import pytest
import torch

from ertacache.evaluation.metrics import psnr, ssim


def test_psnr_is_ten_log_ten_of_one_over_the_squared_error():
    black, gray = torch.zeros(3, 16, 16), torch.full((3, 16, 16), 0.1)
    assert psnr(gray, black) == pytest.approx(20.0, abs=1e-4)
    assert math.isinf(psnr(gray, gray))


def test_pictures_that_differ_by_more_than_half_the_range_do_not_wrap():
    # In uint8 arithmetic 200 - 10 squared wraps around; in float it is 0 dB-like and must stay so.
    low, high = torch.full((3, 16, 16), 10 / 255), torch.full((3, 16, 16), 200 / 255)
    assert psnr(high, low) == pytest.approx(-20 * math.log10(190 / 255), abs=1e-4)


def test_ssim_is_one_for_equal_pictures_and_falls_with_noise():
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    noisy = picture + 0.1 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(1))
    noisier = picture + 0.3 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(1))
    assert ssim(picture, picture) == pytest.approx(1.0, abs=1e-5)
    assert 1 > ssim(noisy, picture) > ssim(noisier, picture)
