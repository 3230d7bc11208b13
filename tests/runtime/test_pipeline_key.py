"""Digests of call arguments: equal for equal ones, whatever their addresses, and others for others."""

import numpy as np
import pytest
import torch
from PIL import Image

from ertacache.runtime.pipeline_key import digest_of


def digest(value):
    """Of a call with this argument among others."""
    return digest_of([{"prompt": "a red star", "image": [value]}])


@pytest.mark.parametrize(
    ("make", "others"),
    [
        (lambda: torch.zeros(2, 3), [torch.ones(2, 3), torch.zeros(3, 2), torch.zeros(2, 3, dtype=torch.int32)]),
        (lambda: np.zeros((2, 3)), [np.ones((2, 3)), np.zeros((3, 2)), np.zeros((2, 3), np.int64)]),
        (
            lambda: Image.new("RGB", (8, 4), "black"),
            [Image.new("RGB", (8, 4), "red"), Image.new("RGB", (4, 8), "black"), Image.new("L", (8, 12), "black")],
        ),
    ],
)
def test_content_is_told_apart_and_its_place_in_memory_is_not(make, others):
    one, again = make(), make()  # both alive, so at two addresses
    assert digest(one) == digest(again)
    assert len({digest(value) for value in (one, *others)}) == 1 + len(others)
