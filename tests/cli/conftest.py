"""A policy of four in eight steps for the embedded pipeline, and a pipeline in a folder."""

import pytest

from ertacache import zoo
from tests.cli.running import FEW, run


@pytest.fixture(scope="session")
def policy_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("policy") / "policy.safetensors"
    done = run("calibrate", "zoo:flux", *FEW, "--speedup", 2, "--out", path)
    assert done.exit_code == 0, done.output
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The embedded pipeline as one of a user's own: it brings no arguments for its calls."""
    folder = tmp_path_factory.mktemp("emoji") / "pipeline"
    zoo.load("emoji").pipe.save_pretrained(folder)
    return folder
