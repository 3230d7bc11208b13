"""Keys that identify a measurement, so that it is never mistaken for another, and the machine it was made on."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path
from typing import Any

import diffusers
import torch

import ertacache
from ertacache import zoo
from ertacache.runtime.identity import circumstances_of
from ertacache.runtime.pipeline_key import digest_of, pipeline_key


def source_digest(folder: Path) -> str:
    """A digest of all Python code in a folder."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def key_of(embedded: zoo.Embedded, *given: Any) -> str:
    """A key for a measurement on a pipeline; ``given`` is everything else that affects its figures."""
    circumstances = circumstances_of(embedded.pipe, (), embedded.arguments)
    code = source_digest(Path(ertacache.__file__).parent)
    return digest_of([embedded.arguments, pipeline_key(embedded.pipe, circumstances), given, code])


def environment() -> dict[str, str]:
    """Versions and machine, for a results file."""
    return {
        "ertacache": ertacache.__version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
    }
