"""Small, complete pipelines, trained by ``training/``, for the demo, the tests and the benchmarks.

The one that draws emoji is part of the package. The others exist only in a checkout of the repository in which they
were trained.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ertacache.errors import PipelineError

_EMBEDDED = Path(__file__).parent
_CHECKOUT = Path(__file__).parents[3] / "training/pipelines"
FOLDERS = {
    "emoji": _EMBEDDED / "emoji",
    "flux": _CHECKOUT / "flux",
    "wan": _CHECKOUT / "wan",
    "cogvideox": _CHECKOUT / "cogvideox",
    "opensora": _CHECKOUT / "opensora",
    "wan22": _CHECKOUT / "wan22",
    "ltx2": _CHECKOUT / "ltx2",
}
NAMES = tuple(FOLDERS)
OF_THE_PAPER = ("flux", "wan", "cogvideox", "opensora")
"""Those of the classes that the paper measures; benchmarks run on them by default."""


@dataclass(frozen=True)
class Embedded:
    """A small pipeline with the settings it was trained for.

    Attributes:
        pipe: the diffusers pipeline.
        arguments: keyword arguments for every call, ``num_inference_steps`` included.
        calibration_prompts: captions for calibration; the model was not trained on them.
        held_out_prompts: captions that neither training nor calibration uses.
    """

    pipe: Any
    arguments: dict[str, Any]
    calibration_prompts: list[str]
    held_out_prompts: list[str]


def load(name: str = "emoji", *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Embedded:
    """Load one of the small pipelines; no network is needed.

    Args:
        name: one of `NAMES`.
        dtype: the stored bfloat16 weights are cast to this; float32 is the fastest on most CPUs.
        device: the device to load to, such as ``"cuda"``.

    Raises:
        PipelineError: if there is no such pipeline, or it is not part of the package.
    """
    folder = folder_of(name)
    with quiet():
        pipe = pipeline_class(folder).from_pretrained(folder, **in_precision(dtype), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    hide_empty_truncations(pipe)
    prompts = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    return Embedded(pipe.to(device), settings, prompts["calibration"], prompts["held_out"])


def folder_of(name: str) -> Path:
    """Find the folder of one of the small pipelines.

    Raises:
        PipelineError: if there is no such pipeline, or it is not part of the package.
    """
    if name not in NAMES:
        raise PipelineError("there is no such embedded pipeline", given=name, cure=f"Choose one of {', '.join(NAMES)}.")
    folder = FOLDERS[name]
    if not (folder / "model_index.json").is_file():
        raise PipelineError(
            "this pipeline is not part of the installed package",
            given=name,
            cure="Install the library with pip install -e from a checkout of the repository, which has it, or use "
            "'emoji'.",
        )
    return folder


def available() -> tuple[str, ...]:
    """The names of the pipelines of the paper's classes that can be loaded here."""
    return tuple(name for name in OF_THE_PAPER if (FOLDERS[name] / "model_index.json").is_file())


def pipeline_class(model: str | Path) -> Any:
    """Find the class that loads a model: `DiffusionPipeline`, `ModularPipeline`, or this library's `OpenSoraPipeline`.

    Args:
        model: a folder, or an id on the Hugging Face Hub.
    """
    index = Path(model) / "model_index.json"
    if index.is_file() and json.loads(index.read_text(encoding="utf-8")).get("_class_name") == "OpenSoraPipeline":
        from ertacache.opensora import OpenSoraPipeline

        return OpenSoraPipeline
    from diffusers import DiffusionPipeline, ModularPipeline

    modular = (Path(model) / "modular_model_index.json").is_file() and not index.is_file()
    return ModularPipeline if modular or _is_modular_on_the_hub(str(model)) else DiffusionPipeline


def _is_modular_on_the_hub(model: str) -> bool:
    """Whether a model on the Hub exists as blocks only; False if the Hub cannot be asked."""
    from huggingface_hub import file_exists
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if Path(model).exists() or model.count("/") != 1:
        return False
    try:
        return not file_exists(model, "model_index.json") and file_exists(model, "modular_model_index.json")
    except (HfHubHTTPError, HFValidationError, OSError):
        return False


def in_precision(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The argument by which a loader of the installed diffusers takes the precision of the weights.

    It is ``dtype`` from 0.40 on, which warns of the older name; versions before ignore ``dtype``, and load float32.

    Args:
        dtype: of the weights.
    """
    import diffusers

    major, minor = diffusers.__version__.split(".")[:2]
    return {"dtype" if (int(major), int(minor)) >= (0, 40) else "torch_dtype": dtype}


def hide_empty_truncations(pipe: Any) -> None:
    """Hide what a pipeline says of a prompt that was cut off where it names the part that is missing as ``['']``."""
    logging.getLogger(type(pipe).__module__).addFilter(_names_a_text)


def _names_a_text(record: logging.LogRecord) -> bool:
    return re.search(r"was truncated .*: \[(''(, )?)+\]$", record.getMessage()) is None


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the progress bars and advice of diffusers and transformers within a ``with`` block."""
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    levels = [library.get_verbosity() for library in libraries]
    bars = [library.is_progress_bar_enabled() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level, bar in zip(libraries, levels, bars, strict=True):
            library.set_verbosity(level)
            if bar:
                library.enable_progress_bar()
