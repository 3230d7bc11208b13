"""The embedded pipeline, at a number of steps that keeps tests short."""

from contextlib import contextmanager
from types import SimpleNamespace

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


@pytest.fixture(scope="session")
def counted_calls(embedded):
    """A context that counts the calls of the embedded pipeline's denoiser, in ``calls`` of what it gives."""

    @contextmanager
    def counting():
        made = SimpleNamespace(calls=0)

        def count(module, args):
            made.calls += 1

        hook = embedded.pipe.transformer.register_forward_pre_hook(count)
        try:
            yield made
        finally:
            hook.remove()

    return counting
