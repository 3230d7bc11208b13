"""`ertacache doctor`: what it says of a pipeline or a file, and its exit status."""

from __future__ import annotations

import json
import shutil

import diffusers
import pytest
from PIL import Image

import ertacache
from ertacache import zoo
from tests.cli.running import refused, run


@pytest.fixture(scope="session")
def heun_folder(tmp_path_factory):
    """The emoji pipeline with a scheduler that evaluates the denoiser twice a step."""
    folder = tmp_path_factory.mktemp("heun") / "pipeline"
    shutil.copytree(zoo.folder_of("emoji"), folder)
    diffusers.FlowMatchHeunDiscreteScheduler().save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "FlowMatchHeunDiscreteScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_a_pipeline_of_the_package():
    done = run("doctor", "zoo:emoji")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("Served")
    assert "FluxTransformer2DModel, float32" in done.output


def test_as_json_with_a_trial():
    done = run("doctor", "zoo:emoji", "--time", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["served"]
    assert found["estimate"]["steps"] == zoo.load("emoji").arguments["num_inference_steps"]
    assert found["estimate"]["full_run"] > found["estimate"]["at_2x"] > 0
    assert all(level["tried"] for level in found["levels"])


def test_one_that_is_not_served_ends_with_status_1(heun_folder):
    done = run("doctor", heun_folder)
    assert done.exit_code == 1
    assert done.stdout.startswith("Not served: this scheduler is not supported: it calls the denoiser 2 times a step")
    assert json.loads(run("doctor", heun_folder, "--json").stdout)["served"] is False


def test_a_policy_is_described_and_compared(policy_file, heun_folder):
    done = run("doctor", policy_file)
    assert done.exit_code == 0
    assert done.output.startswith("A policy.")
    assert "FluxPipeline" in done.output
    done = run("doctor", "zoo:flux", "--policy", policy_file)
    assert done.exit_code == 0, done.output
    assert "4 of 8 steps computed" in done.output
    done = run("doctor", "zoo:flux", "--policy", policy_file, "--steps", 30)
    assert done.exit_code == 1
    assert done.stdout.startswith("Served, but this call not by this policy: the policy does not fit: ")
    assert "this works from 0.6 to 1.7 times the calibrated number of steps" in " ".join(done.output.split())
    assert "Pass num_inference_steps=8 to the call" in " ".join(done.output.split())
    done = run("doctor", "zoo:emoji", "--policy", policy_file)
    assert done.exit_code == 1
    assert done.stdout.startswith("Served, but not by this policy: ")
    assert "--time is for a pipeline" in refused("doctor", policy_file, "--time")
    assert "--steps is for a pipeline" in refused("doctor", policy_file, "--steps", 8)


def test_a_picture_makes_it_image_to_image(tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    done = run("doctor", "zoo:emoji", "--image", tmp_path / "red.png", "--set", "strength=0.5", "--time", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["pipeline"], found["estimate"]["steps"]) == ("FluxImg2ImgPipeline", 15)


def test_a_folder_of_learnt_settings(tmp_path):
    embedded = zoo.load("emoji")
    with ertacache.accelerated(embedded.pipe, speedup=2.0, learn=tmp_path):
        embedded.pipe("a red star", **{**embedded.arguments, "num_inference_steps": 4}, output_type="latent")
    done = run("doctor", tmp_path)
    assert done.exit_code == 0
    assert "FluxPipeline, 4 steps" in done.output


def test_wrong_arguments_are_one_line():
    assert "takes no 'nosuch'" in refused("doctor", "zoo:emoji", "--set", "nosuch=1")
    assert "cannot be loaded" in refused("doctor", "/no/such/folder")
