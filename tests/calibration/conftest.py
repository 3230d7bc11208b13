"""The trained FLUX and a smaller one, at a number of steps that keeps tests short."""

import io
from contextlib import contextmanager, redirect_stderr
from functools import cache
from types import SimpleNamespace

import pytest

import ertacache
from ertacache import zoo
from tests.short_flux import shortened

STEPS = 10


@pytest.fixture(scope="session")
def trained():
    """For what calibration gains: its pictures are those that it was trained for."""
    return zoo.load("flux")


@pytest.fixture(scope="session")
def embedded():
    """For how calibration works."""
    return shortened()


@pytest.fixture
def own_embedded():
    """The same again, for a test that changes it."""
    return shortened()


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


@pytest.fixture(scope="session")
def made_by(embedded, counted_calls):
    """``made_by(method)``: a policy at 2x from the first two prompts, its denoiser calls, what was told; made once."""
    asked = {**embedded.arguments, "num_inference_steps": STEPS, "speedup": 2}

    @cache
    def make(method):
        with counted_calls() as made, redirect_stderr(io.StringIO()) as told:
            policy = ertacache.calibrate(embedded.pipe, embedded.calibration_prompts[:2], method=method, **asked)
        return SimpleNamespace(policy=policy, calls=made.calls, told=" ".join(told.getvalue().split()))

    return make
