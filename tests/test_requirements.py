"""pyproject.toml asks for packages that know what this library calls."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from ertacache import zoo

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]


def allows(extra: str, package: str, version: str) -> bool:
    """Whether a package of this version can be installed beside an extra."""
    (asked,) = [one for one in map(Requirement, EXTRAS[extra]) if one.name == package]
    return Version(version) in asked.specifier


@pytest.mark.parametrize(("version", "knows_dtype"), [("4.53.0", False), ("4.55.4", False), ("4.56.0", True)])
def test_the_text_encoder_of_open_sora_is_loaded_by_an_argument_that_every_allowed_transformers_knows(
    version, knows_dtype
):
    """T5EncoderModel.from_pretrained(dtype=...) of the others is a TypeError."""
    assert "from_pretrained(text_encoder, dtype=dtype)" in (ROOT / "src/ertacache/opensora/loading.py").read_text()
    assert allows("opensora", "transformers", version) == knows_dtype


def test_the_small_pipelines_can_be_loaded_by_every_transformers_that_the_command_line_allows():
    """transformers 4 reads CLIP's and T5's tokenizers from further files; `ertacache demo` then fails."""
    files = {file.name for file in zoo.folder_of("emoji").glob("tokenizer*/*")}
    assert files == {"tokenizer.json", "tokenizer_config.json"}
    assert not allows("cli", "transformers", "4.57.0")
    assert allows("cli", "transformers", "5.0.0")
