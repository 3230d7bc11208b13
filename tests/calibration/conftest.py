"""The embedded pipeline, at a number of steps that keeps tests short."""

import pytest

from ertacache import zoo

STEPS = 10


@pytest.fixture(scope="session")
def embedded():
    return zoo.load("flux")


@pytest.fixture
def settings(embedded):
    return {**embedded.arguments, "num_inference_steps": STEPS, "progress": False}


@pytest.fixture
def prompts(embedded):
    return embedded.calibration_prompts[:2]
