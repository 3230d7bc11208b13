"""A policy of four in eight steps for a small pipeline, which ``zoo:flux`` is here, and a pipeline in a folder."""

from contextlib import contextmanager

import pytest

from ertacache import zoo
from tests.cli.running import FEW, run
from tests.short_flux import shortened


@contextmanager
def zoo_with_a_short_flux():
    own = zoo.load

    def load(name="emoji", **more):
        return shortened(own, **more) if name == "flux" else own(name, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "load", load)
        yield


@pytest.fixture(autouse=True)
def _short_flux():
    with zoo_with_a_short_flux():
        yield


@pytest.fixture(scope="session")
def policy_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("policy") / "policy.safetensors"
    with zoo_with_a_short_flux():
        done = run("calibrate", "zoo:flux", *FEW, "--speedup", 2, "--out", path)
    assert done.exit_code == 0, done.output
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The embedded pipeline as one of a user's own: it brings no arguments for its calls."""
    folder = tmp_path_factory.mktemp("emoji") / "pipeline"
    zoo.load("emoji").pipe.save_pretrained(folder)
    return folder
