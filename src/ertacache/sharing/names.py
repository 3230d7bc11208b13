"""What the files of a repository are called, and what can be the name of one."""

from __future__ import annotations

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from ertacache import zoo

POLICY_FILE = "policy.safetensors"
CARD_FILE = "README.md"
EVALUATION_FILE = "evaluation.json"
PROMPTS_FILE = "prompts.txt"


def is_repository(name: str) -> bool:
    """Whether it can be the name of a repository on the Hub, ``you/name``; nobody is asked whether there is one."""
    if name.count("/") != 1 or name.endswith(".safetensors"):  # rather a file that is not there
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def is_model(name: str) -> bool:
    """Whether it can be the name of a model anywhere: a Hub id, or that of an embedded pipeline, ``zoo:flux``."""
    return is_repository(name) or (name.startswith("zoo:") and name.removeprefix("zoo:") in zoo.NAMES)
