"""A model that does not fit: `--offload` makes room, and full memory is one line with the cure."""

import json

import pytest
import torch
import typer.main
from diffusers import DiffusionPipeline, FluxTransformer2DModel
from PIL import Image, ImageChops

from contract.case import Family
from contract.families import CASES
from ertacache.cli import app
from ertacache.cli.loras import Lora
from ertacache.cli.model_source import ModelSource, offload_parts
from ertacache.distributed.bulk import MANIFEST, Order, generate_all
from ertacache.errors import ArgumentError, CalibrationError
from ertacache.evaluation.comparison import Variant
from ertacache.memory_errors import full_memory
from tests.cli.running import refused, run
from tests.distributed.threads import Threads

FULL = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.64 GiB of which 6.00 MiB is free."
)
SMALL = ["--set", "height=32", "--set", "width=32", "--set", "max_sequence_length=16"]


def raises_out_of_memory(*arguments, **more):
    raise torch.OutOfMemoryError(f"{FULL} Process 7 has 23.62 GiB memory in use. Of the allocated memory 23 GiB is ...")


@pytest.fixture
def commands(folder, tmp_path):
    """Each command that makes calls of a model."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red star\na blue ring\n")
    asked = ["--prompts", prompts, *SMALL, "--steps", 4]
    written = ["--out", tmp_path / "evaluation.json", "--work", tmp_path / "work"]
    return {
        "generate": ["generate", folder, "a red star", *SMALL, "--steps", 4, "--out", tmp_path / "star.png"],
        "calibrate": ["calibrate", folder, *asked, "--out", tmp_path / "policy.safetensors"],
        "evaluate": ["evaluate", folder, *asked, "--speedup", 2, "--show", 0, *written],
        "doctor": ["doctor", folder, "--time", *SMALL, "--steps", 4],
    }


def names_the_cure(line):
    assert line.startswith(
        f"error: the memory of the device is full: {FULL} Let parts of the model wait in main memory"
    )
    assert "--offload" in line
    assert "half precision (--dtype bfloat16)" in line


@pytest.mark.parametrize("command", ["generate", "calibrate", "evaluate", "doctor"])
@pytest.mark.parametrize(
    ("place", "name"), [(DiffusionPipeline, "to"), (FluxTransformer2DModel, "forward")], ids=["loading", "running"]
)
def test_a_full_device_is_one_line_with_the_cure(commands, command, place, name, monkeypatch):
    monkeypatch.setattr(place, name, raises_out_of_memory)
    done = run(*commands[command])
    assert done.exit_code == 2, done.output
    names_the_cure(done.stderr.splitlines()[-1])
    assert "Traceback" not in done.output


def test_so_it_is_while_a_lora_is_loaded_or_a_device_is_tried(folder, tmp_path, monkeypatch):
    asked = ["generate", folder, "a red star", *SMALL, "--lora", "you/style", "--out", tmp_path / "star.png"]
    monkeypatch.setattr("diffusers.FluxPipeline.load_lora_weights", raises_out_of_memory)
    names_the_cure(refused(*asked))
    monkeypatch.setattr(torch, "zeros", raises_out_of_memory)
    names_the_cure(refused(*asked))


def test_in_bulk_each_prompt_that_fails_has_the_cure(folder, commands, tmp_path, monkeypatch):
    monkeypatch.setattr(FluxTransformer2DModel, "forward", raises_out_of_memory)
    done = run("generate", folder, *commands["calibrate"][2:-2], "--out", tmp_path / "made")
    assert done.exit_code == 1
    assert "--offload" in done.output
    entries = [json.loads(line) for line in (tmp_path / "made" / MANIFEST).read_text().splitlines()]
    assert all(entry["error"].startswith(f"OutOfMemoryError: {FULL}") for entry in entries)


@pytest.mark.parametrize("pooled", [False, True])
def test_so_has_the_error_about_a_worker(pooled, tmp_path):
    order = Order(["a red star"], Variant("full", 2), {}, seed=0)
    ways = (
        lambda: Threads(1).run(print, raises_out_of_memory, (), {}),
        lambda: generate_all(raises_out_of_memory, order, tmp_path, Threads(1)),
    )
    with pytest.raises(CalibrationError, match="died 2 times") as raised:
        ways[pooled]()
    assert "--offload" in raised.value.cure


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (torch.OutOfMemoryError(FULL), "the memory of the device is full"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 17 GB)"), "the memory of the device is full"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), "the memory of the device is full"),
        (MemoryError(), "main memory is full"),
        (RuntimeError("a size differs"), None),
        (ValueError("out of memory"), None),
        (CalibrationError("a worker is out of memory", given="", cure=""), None),
    ],
)
def test_which_memory_was_full(error, what):
    found = full_memory(error)
    assert (found and found.what) == what


def test_main_memory_as_torch_says_it():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60)
    found = full_memory(raised.value)
    assert found.what == "main memory is full"
    assert "--offload" not in found.cure


def test_every_command_that_takes_a_device_can_offload():
    commands = typer.main.get_command(app).commands
    options = {name: {option for p in command.params for option in p.opts} for name, command in commands.items()}
    on_devices = {name for name, known in options.items() if "--device" in known}
    assert {"generate", "calibrate", "evaluate", "doctor", "draft"} <= on_devices
    assert all("--offload" in options[name] for name in on_devices)


def test_an_offloaded_model_makes_the_same_pictures(commands, tmp_path):
    asked, pictures = commands["generate"][:-1], [tmp_path / "plain.png", tmp_path / "offloaded.png"]
    for out, more in zip(pictures, ([], ["--offload", "--device", "cpu"]), strict=True):
        done = run(*asked, out, *more)
        assert done.exit_code == 0, done.output
    plain, offloaded = (Image.open(path).convert("RGB") for path in pictures)
    assert ImageChops.difference(plain, offloaded).getbbox() is None


@pytest.mark.parametrize("command", ["calibrate", "evaluate", "doctor"])
def test_the_other_commands_offload_too(commands, command, monkeypatch):
    offloaded = []
    once = DiffusionPipeline.enable_model_cpu_offload
    monkeypatch.setattr(
        DiffusionPipeline,
        "enable_model_cpu_offload",
        lambda pipe, *given, **named: (offloaded.append(named["device"]), once(pipe, *given, **named))[1],
    )
    done = run(*commands[command], "--offload", "--device", "cpu", *(["--limit", 1] if command == "evaluate" else []))
    assert done.exit_code == 0, done.output
    assert {str(torch.device(device).type) for device in offloaded} == {"cpu"}


@pytest.mark.parametrize("takes_image", [False, True])
def test_parts_are_offloaded_last(folder, takes_image, monkeypatch):
    """After LoRAs and another pipeline's class, which would undo it; and nothing is sent to the device before."""
    seen = []
    monkeypatch.setattr("ertacache.cli.model_source.load_loras", lambda pipe, loras: seen.append("loras"))
    monkeypatch.setattr("ertacache.cli.model_source.taking_image", lambda pipe: seen.append("image") or pipe)
    monkeypatch.setattr(DiffusionPipeline, "to", lambda pipe, device, **more: seen.append(f"to {device}") or pipe)
    monkeypatch.setattr(
        DiffusionPipeline, "enable_model_cpu_offload", lambda pipe, device: seen.append(f"offload to {device}")
    )
    ModelSource(str(folder), "cuda", "float32", (Lora("a"),), takes_image, offload=True).load()
    assert seen == ["to cpu", "loras", *(["image"] if takes_image else []), "offload to cuda"]


def test_what_cannot_be_offloaded_is_refused(monkeypatch):
    with pytest.raises(ArgumentError, match="modular pipelines have it in Python alone"):
        offload_parts(Family(CASES["WanModular"]).pipe, "cpu")

    def needs_accelerate(*arguments, **more):
        raise ImportError("`enable_model_cpu_offload` requires `accelerate v0.17.0` or higher.")

    monkeypatch.setattr(DiffusionPipeline, "enable_model_cpu_offload", needs_accelerate)
    line = refused("generate", "zoo:emoji", "a red star", "--offload")
    assert "requires `accelerate" in line
    assert "pip install accelerate" in line
