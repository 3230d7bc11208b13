"""Modular pipelines from the shell: instant, calibrated, compared."""

from __future__ import annotations

import diffusers
import pytest
from typer.testing import CliRunner

from ertacache import Policy, zoo
from ertacache.cli import app

SETTINGS = ["--set", "height=96", "--set", "width=96", "--set", "guidance_scale=4.0"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """The embedded pipeline as a folder that holds blocks only."""
    folder = str(tmp_path_factory.mktemp("modular") / "flux")
    pipe = diffusers.FluxAutoBlocks().init_pipeline()
    parts = zoo.load("flux").pipe.components
    pipe.update_components(**{name: part for name, part in parts.items() if part is not None})
    pipe.save_pretrained(folder)
    return folder


def test_a_modular_pipeline_is_calibrated_and_generates(model, tmp_path):
    runner, steps = CliRunner(), ["--steps", "8"]
    said = runner.invoke(
        app, ["generate", model, "a red star", *steps, "--speedup", "2", *SETTINGS, "--out", str(tmp_path / "a.png")]
    )
    assert said.exit_code == 0, said.output
    assert "4 of 8 steps computed" in said.output
    prompts, policy = tmp_path / "prompts.txt", tmp_path / "policy.safetensors"
    prompts.write_text("a red star\na blue ring\n")
    budget = ["--speedup", "2", "--prompts", str(prompts), "--out", str(policy)]
    said = runner.invoke(app, ["calibrate", model, *steps, *budget, *SETTINGS])
    assert said.exit_code == 0, said.output
    assert Policy.load(policy).origin.guidance["guidance_scale"] == 4.0
    picture = tmp_path / "b.png"
    said = runner.invoke(
        app, ["generate", model, "a red star", "--policy", str(policy), *SETTINGS, "--compare", "--out", str(picture)]
    )
    assert said.exit_code == 0, said.output
    assert picture.exists()


def test_an_argument_that_no_block_takes_is_refused(model, tmp_path):
    said = CliRunner().invoke(app, ["generate", model, "a red star", "--steps", "8", "--set", "guidance=4.0"])
    assert said.exit_code == 2
    assert "takes no 'guidance'" in said.output
    assert "guidance_scale" in said.output
