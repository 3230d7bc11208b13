"""Weights quantised by torchao, GGUF and bitsandbytes: calibrated, followed, and told from another checkpoint."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from torch import nn

import ertacache
from contract.families.paper import flux, flux_call
from contract.parts import lively, random
from ertacache.errors import PolicyMismatchError
from ertacache.runtime.parameter_samples import difference, weights_of, with_values

T = 8
ROOT = Path(__file__).parents[2]
CONFIG = {
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "joint_attention_dim": 64,
    "pooled_projection_dim": 32,
    "axes_dims_rope": (8, 12, 12),
}


def model(seed):
    """A finetune of the model of seed 0: its blocks are others, and its outer layers the same, as GGUF keeps them."""
    found, base = (lively(diffusers.FluxTransformer2DModel(**CONFIG), s).state_dict() for s in (seed, 0))
    tuned = diffusers.FluxTransformer2DModel(**CONFIG).eval()
    tuned.load_state_dict({key: found[key] if "blocks" in key else base[key] for key in found})
    return tuned


def torchao(kind):
    def quantised(seed, folder):
        quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
        found = model(seed)
        quantization.quantize_(found, getattr(quantization, kind)())
        return found

    return quantised


def gguf(kind):
    def quantised(seed, folder):
        writer_of = pytest.importorskip("gguf", reason="gguf is not installed")
        plain, path = model(seed), folder / f"{seed}.gguf"
        plain.save_pretrained(folder / "config")
        of, writer = writer_of.GGMLQuantizationType[kind], writer_of.GGUFWriter(path, "flux")
        for name, parameter in plain.state_dict().items():
            array = parameter.numpy().astype(np.float32)
            if array.ndim == 2 and "blocks" in name:
                writer.add_tensor(name, writer_of.quants.quantize(array, of), raw_dtype=of)
            else:
                writer.add_tensor(name, array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return diffusers.FluxTransformer2DModel.from_single_file(
            str(path),
            quantization_config=diffusers.GGUFQuantizationConfig(compute_dtype=torch.float32),
            dtype=torch.float32,
            config=str(folder / "config"),
        )

    return quantised


def bitsandbytes(seed, folder):
    bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    found = model(seed)
    for name, layer in list(found.named_modules()):
        if isinstance(layer, nn.Linear):
            options = {"bias": layer.bias is not None, "quant_type": "nf4", "compute_dtype": torch.float32}
            coarse = bnb.nn.Linear4bit(layer.in_features, layer.out_features, **options)
            coarse.load_state_dict(layer.state_dict(), strict=False)
            coarse.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4").to("cpu")
            parent, _, last = name.rpartition(".")
            setattr(found.get_submodule(parent), last, coarse)
    return found


def quanto(seed, folder):
    library = pytest.importorskip("optimum.quanto", reason="optimum-quanto is not installed")
    found = model(seed)
    library.quantize(found, weights=library.qint8)
    library.freeze(found)
    return found


def layerwise(seed, folder):
    found = model(seed)
    found.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    return found


QUANTISED = {
    "quanto int8": quanto,
    "layerwise casting": layerwise,
    "torchao int8": torchao("Int8WeightOnlyConfig"),
    "torchao float8": torchao("Float8WeightOnlyConfig"),
    "GGUF Q8_0": gguf("Q8_0"),
    "GGUF Q4_0": gguf("Q4_0"),
    "bitsandbytes nf4": bitsandbytes,
}


def piped(transformer):
    pipe = flux(diffusers.FluxPipeline, shift=3.0)
    pipe.transformer = transformer
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call(seed):
    embeds = {"prompt_embeds": random(1, 4, 64, seed=seed), "pooled_prompt_embeds": random(1, 32, seed=seed)}
    return flux_call() | embeds | {"generator": torch.Generator().manual_seed(seed)}


def calibrated(pipe, **more):
    calls = [call(seed) for seed in range(4)]
    return ertacache.calibrate(pipe, calls, num_inference_steps=T, num_computed_steps=5, progress=False, **more)


@pytest.mark.parametrize("kind", QUANTISED)
def test_another_checkpoint_is_refused_and_its_full_runs_are_not_shared(kind, tmp_path):
    one, other = (piped(QUANTISED[kind](seed, tmp_path)) for seed in (0, 1))
    policy = calibrated(one, checkpoint=tmp_path / "runs")
    assert not any("weights" in note for note in policy.calibration.notes)
    with ertacache.accelerated(one, policy) as run:
        one(**call(0), num_inference_steps=T)
    assert run.report.notes == []
    assert run.cached_steps == policy.cached_steps
    with pytest.raises(PolicyMismatchError, match="weights of transformer"):
        ertacache.enable(other, policy)
    shared, fresh = calibrated(other, checkpoint=tmp_path / "runs"), calibrated(other)
    assert shared.predictions == fresh.predictions


@pytest.mark.parametrize("kind", QUANTISED)
def test_a_policy_of_plain_weights_is_followed_and_says_that_they_are_stored_otherwise(kind, tmp_path):
    plain, coarse, other = piped(model(0)), *(piped(QUANTISED[kind](seed, tmp_path)) for seed in (0, 1))
    of_plain, of_coarse = calibrated(plain), calibrated(coarse)
    for policy, pipe in ((of_plain, coarse), (of_coarse, plain)):
        with ertacache.accelerated(pipe, policy) as run:
            pipe(**call(0), num_inference_steps=T)
        assert any("they are stored as" in note for note in run.report.notes), run.report.notes
    with pytest.raises(PolicyMismatchError, match="weights of transformer"):
        ertacache.enable(other, of_plain)


def test_what_quantised_weights_stand_for_is_found_once(tmp_path, monkeypatch):
    plain, coarse = model(0), QUANTISED["torchao int8"](0, tmp_path)
    found = with_values(weights_of(coarse), coarse)
    assert len(found.values) == len(weights_of(plain))
    monkeypatch.setattr("ertacache.runtime.parameter_samples._dequantised", lambda tensor: 1 / 0)
    assert with_values(weights_of(coarse), coarse) == found
    assert difference(weights_of(plain), weights_of(coarse), coarse)[0] is False


def test_a_copy_of_a_quantised_model_is_the_same(tmp_path):
    coarse = QUANTISED["torchao int8"](0, tmp_path)
    assert difference(weights_of(coarse), weights_of(copy.deepcopy(coarse))) == (False, "")


IN_ANOTHER_PROCESS = """
import pathlib, runpy, sys
import ertacache
mine = runpy.run_path(sys.argv[1])
pipe = mine["piped"](mine["QUANTISED"][sys.argv[2]](0, pathlib.Path(sys.argv[3])))
with ertacache.accelerated(pipe, ertacache.Policy.load(sys.argv[4])) as run:
    pipe(**mine["call"](0), num_inference_steps=mine["T"])
assert run.report.notes == [], run.report.notes
print("cached", run.cached_steps)
"""


@pytest.mark.parametrize("kind", ["torchao int8", "GGUF Q8_0", "quanto int8", "layerwise casting"])
def test_a_saved_policy_knows_the_quantised_weights_in_another_process(kind, tmp_path):
    policy = calibrated(piped(QUANTISED[kind](0, tmp_path)))
    policy.save(tmp_path / "policy.safetensors")
    (tmp_path / "again").mkdir()
    given = [__file__, kind, str(tmp_path / "again"), str(tmp_path / "policy.safetensors")]
    done = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS, *given],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"cached {policy.cached_steps}" in done.stdout


@pytest.mark.parametrize("kind", QUANTISED)
def test_the_doctor_names_the_storage_and_finds_nothing_against_it(kind, tmp_path):
    found = ertacache.doctor(piped(QUANTISED[kind](0, tmp_path)), time=True, num_inference_steps=30, **call(0))
    assert found.served
    assert all(one.refusal is None for one in (*found.ways, *found.levels))
    assert set(found.denoisers[0].stored.split(", ")) - {"float32"}
    assert found.findings == ()
