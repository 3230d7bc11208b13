"""What runs where, in which precision and over how many steps if no option says so, and that this is said."""

import pytest
import torch

from ertacache.cli.model_source import ModelSource, _best_device, _best_dtype
from tests.cli.running import run


@pytest.mark.parametrize(
    ("cuda", "native", "mps", "device", "dtype"),
    [
        (True, True, False, "cuda", "bfloat16"),
        (True, False, False, "cuda", "float16"),
        (False, False, True, "mps", "float16"),
        (False, False, False, "cpu", "float32"),
    ],
)
def test_an_accelerator_is_used_in_half_precision(cuda, native, mps, device, dtype, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert _best_device() == device
    assert _best_dtype(device) == dtype


def test_what_is_given_is_kept():
    assert ModelSource("m", "cpu", "bfloat16").chosen() == ModelSource("m", "cpu", "bfloat16")
    assert ModelSource("m", "cpu").chosen() == ModelSource("m", "cpu", "float32")


def test_the_number_of_steps_is_the_pipelines_own_and_said_in_one_line(folder, tmp_path):
    small = ["--set", "height=32", "--set", "width=32", "--set", "max_sequence_length=24"]
    asked = ["generate", folder, "a red star", "--out", tmp_path / "star.png", *small, "--device", "cpu"]
    done = run(*asked)
    assert done.exit_code == 0, done.output
    chosen = "chosen here: float32, 28 steps, the pipeline's default (otherwise: --dtype, --steps)"
    assert chosen in done.output.splitlines()
    assert "28 steps, " in done.output
    done = run(*asked, "--steps", 2, "--dtype", "float32")
    assert done.exit_code == 0, done.output
    assert "chosen here" not in done.output
