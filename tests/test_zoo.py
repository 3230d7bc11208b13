"""The small pipelines: found, or refused with the reason."""

import logging
import warnings

import diffusers
import pytest
import torch

from ertacache import zoo
from ertacache.errors import PipelineError


def test_the_embedded_pipeline_travels_with_the_package():
    assert [name for name, folder in zoo.FOLDERS.items() if folder.is_relative_to(next(iter(zoo.__path__)))] == [
        "emoji"
    ]
    embedded = zoo.load()
    assert type(embedded.pipe).__name__ == "FluxPipeline"
    assert embedded.arguments["num_inference_steps"] == 30
    assert not set(embedded.calibration_prompts) & set(embedded.held_out_prompts)


def test_one_that_stayed_in_the_repository_is_refused_with_the_reason(monkeypatch, tmp_path):
    monkeypatch.setitem(zoo.FOLDERS, "wan", tmp_path / "wan")
    with pytest.raises(PipelineError, match=r"not part of the installed package .*pip install -e from a checkout"):
        zoo.load("wan")


def test_an_unknown_one_is_refused_with_the_choice():
    with pytest.raises(PipelineError, match="flux, wan, cogvideox, opensora"):
        zoo.load("sora")


@pytest.mark.parametrize("name", zoo.available())
def test_each_that_is_here_generates(name):
    small = zoo.load(name)
    call = {**small.arguments, "num_inference_steps": 2, "output_type": "pt"}
    output = small.pipe(prompt=small.held_out_prompts[0], **call)
    pixels = output.images if hasattr(output, "images") else output.frames
    assert pixels.shape[-2:] == (call["height"], call["width"])
    assert pixels.shape[1] == call.get("num_frames", 3)


def test_the_weights_have_the_precision_that_was_asked_for_and_nothing_warns():
    with warnings.catch_warnings(action="error", category=FutureWarning):
        pipe = zoo.load("emoji", dtype=torch.bfloat16).pipe
    assert {pipe.transformer.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("version", "name"),
    [("0.37.0", "torch_dtype"), ("0.39.1", "torch_dtype"), ("0.40.0", "dtype"), ("0.43.0.dev0", "dtype")],
)
def test_each_diffusers_gets_the_argument_that_it_knows(version, name, monkeypatch):
    monkeypatch.setattr(diffusers, "__version__", version)
    assert zoo.in_precision(torch.bfloat16) == {name: torch.bfloat16}


def test_a_cut_prompt_is_named_if_there_is_a_text_to_name(caplog):
    pipe = zoo.load("emoji").pipe
    log = logging.getLogger(type(pipe).__module__)
    with caplog.at_level(logging.WARNING, log.name):
        log.warning("The following part of your input was truncated because 24 tokens: ['']")
        log.warning("The following part of your input was truncated because 24 tokens: ['', '']")
        log.warning("The following part of your input was truncated because 24 tokens: ['', 'a star']")
        log.warning("anything else: ['']")
    assert [record.getMessage()[-12:] for record in caplog.records] == ["', 'a star']", "g else: ['']"]
