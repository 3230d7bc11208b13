"""Which names can be those of repositories and models."""

from __future__ import annotations

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from ertacache import zoo


def is_repository(name: str) -> bool:
    """Whether this can be the name of a repository on the Hub, ``you/name``; whether it exists is not checked."""
    if name.count("/") != 1 or name.endswith(".safetensors"):  # more likely a file that does not exist
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def is_model(name: str) -> bool:
    """Whether this can be a model that others can open: a Hub id, or an embedded pipeline, ``zoo:emoji``."""
    return is_repository(name) or (name.startswith("zoo:") and name.removeprefix("zoo:") in zoo.NAMES)
