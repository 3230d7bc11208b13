"""A policy of four in eight steps for the embedded pipeline."""

import pytest

from tests.cli.running import FEW, run


@pytest.fixture(scope="session")
def policy_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("policy") / "policy.safetensors"
    done = run("calibrate", "zoo:flux", *FEW, "--speedup", 2, "--out", path)
    assert done.exit_code == 0, done.output
    return path
