"""What is kept is found again for the same pipeline in the same setting, computed in the same way, and for no other."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module

import ertacache
from ertacache.evaluation import evaluate as module
from ertacache.evaluation.comparison import Variant
from ertacache.evaluation.cost import Cost
from ertacache.evaluation.evaluate import evaluate
from ertacache.evaluation.harness import measure
from ertacache.runtime import parameter_samples
from ertacache.runtime.environment import device_of, environment_of
from ertacache.runtime.identity import circumstances_of
from ertacache.runtime.pipeline_key import pipeline_key

STEPS = 8


@pytest.fixture
def folder_of(monkeypatch):
    """The folder in which an evaluation keeps what it measures."""

    def found(pipe, policy, call):
        folders: list[Path] = []
        monkeypatch.setattr(module, "measure", lambda p, full, variants, calls, folder, **more: folders.append(folder))
        evaluate(pipe, {"mine": policy}, [call], Path("work"))
        return folders[0]

    return found


def key_of(pipe, **call):
    return pipeline_key(pipe, circumstances_of(pipe, (), call))


def changed(pipe):
    """Everything that pictures or timings depend on, one change after the other, each undone at the end."""
    yield "nothing", lambda: None
    yield "dtype", lambda: pipe.to(torch.bfloat16)
    pipe.to(torch.float32)
    yield "weights", lambda: pipe.transformer.proj_out.weight.data.mul_(1.01)
    pipe.transformer.proj_out.weight.data.div_(1.01)
    yield "the decoder", lambda: pipe.vae.decoder.conv_out.weight.data.mul_(1.01)
    yield "casting", lambda: pipe.transformer.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)


def test_rows_of_one_precision_are_not_taken_for_anothers(flux, flux_call, make_policy, origin_for, folder_of):
    origin = origin_for(flux, flux_call(guided=True), calls=2, shape=(16, 16))
    policy = make_policy(STEPS, (2, 3, 5), "taylor", origin=origin)
    call = {"prompt": "a star", "seed": 0}
    folders = {}
    for name, change in changed(flux):
        change()
        folders[name] = folder_of(flux, policy, call)
    assert len(set(folders.values())) == len(folders), folders


def test_the_same_pipeline_is_found_again_and_other_ways_to_compute_are_not(make_flux, monkeypatch):
    keys = {key_of(make_flux()), key_of(make_flux())}
    assert len(keys) == 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        keys.add(key_of(make_flux()))
    for name in ("torch", "diffusers", "ertacache", "device"):
        monkeypatch.setattr("ertacache.runtime.pipeline_key.environment_of", lambda pipe, name=name: {name: "another"})
        keys.add(key_of(make_flux()))
    assert len(keys) == 6


def test_the_environment_names_what_computes(flux):
    found = environment_of(flux)
    assert found["torch"] == torch.__version__
    assert found["device"].startswith("cpu, ")
    assert {"diffusers", "ertacache", "autocast", "casts to", "default dtype", "threads"} <= found.keys()


def test_the_device_is_the_one_where_parts_run_not_the_one_where_they_wait(flux):
    assert device_of(flux) == torch.device("cpu")
    for part in (flux.transformer, flux.vae):  # as model offloading does
        hook = ModelHook()
        hook.execution_device = torch.device("cuda:1")
        add_hook_to_module(part, hook)
    assert flux.device == torch.device("cpu")
    assert device_of(flux) == torch.device("cuda:1")


def test_memory_is_measured_on_the_device_where_parts_run(flux, flux_call, monkeypatch, tmp_path):
    watched = []

    @contextmanager
    def watching(device):
        watched.append(device)
        yield Cost()

    monkeypatch.setattr("ertacache.evaluation.harness.watching_memory", watching)
    monkeypatch.setattr("ertacache.evaluation.harness.device_of", lambda pipe: torch.device("cuda:1"))
    call = {name: value for name, value in flux_call().items() if name not in ("num_inference_steps", "generator")}
    measure(flux, Variant("full", 2), [], [{**call, "seed": 0}], tmp_path)
    assert watched == [torch.device("cuda:1")]


def test_where_weights_cannot_be_read_nothing_is_found(flux, monkeypatch):
    monkeypatch.setattr(parameter_samples, "_PLAIN", ())
    monkeypatch.setattr(parameter_samples, "_stored", lambda tensor: iter([("unread", 4)]))
    assert key_of(flux) != key_of(flux)


def test_full_runs_of_another_precision_are_not_lent(make_flux, flux_call, tmp_path):
    call = {name: value for name, value in flux_call(guided=True).items() if name not in ("num_inference_steps",)}
    options = {"num_inference_steps": STEPS, "num_computed_steps": 5, "method": "taylor", "progress": False}

    def calibrated(dtype, **more):
        pipe = make_flux()
        pipe.to(dtype)
        cast = {n: v.to(dtype) if isinstance(v, torch.Tensor) else v for n, v in call.items()}
        return ertacache.calibrate(pipe, [cast], **options, **more).calibration.error

    calibrated(torch.float32, checkpoint=tmp_path)
    assert calibrated(torch.bfloat16, checkpoint=tmp_path) == calibrated(torch.bfloat16)
    assert len(list(tmp_path.iterdir())) == 2
