"""The short contract with an older diffusers than the base, as SGLang and vLLM-Omni pin them.

The kinds of cases that import there: the paper's families, pictures, and others. A case whose classes that release does
not have is skipped.
"""

import importlib
import sys
import types
from pathlib import Path

import diffusers
import pytest
import torch

import contract
from contract.check import check

KINDS = ("paper", "images", "others")
OLDER = tuple(int(part) for part in diffusers.__version__.split(".")[:2]) < (0, 42)
LACKING = ("has no attribute", "unexpected keyword argument", "cannot import name")
"""What it says of a class, or of an argument of one, that came later."""


def cases():
    """The cases, without the modules beside them that need classes of the base."""
    package = types.ModuleType("contract.families")
    package.__path__ = [str(Path(contract.__file__).parent / "families")]
    before = sys.modules.get("contract.families")
    sys.modules["contract.families"] = package
    try:
        return {
            name: case
            for kind in KINDS
            for name, case in importlib.import_module(f"contract.families.{kind}").CASES.items()
        }
    finally:
        del sys.modules["contract.families"]
        if before is not None:
            sys.modules["contract.families"] = before


CASES = cases() if OLDER else {}


@pytest.mark.skipif(not OLDER, reason="this is the base; make test-sglang has an older one")
@pytest.mark.parametrize("name", CASES)
def test_it_keeps_the_short_contract(name):
    torch.set_num_threads(1)
    try:
        outcome = check(CASES[name], thorough=False)
    except (AttributeError, TypeError, ImportError) as error:
        if not any(text in str(error) for text in LACKING):
            raise
        pytest.skip(f"diffusers {diffusers.__version__}: {error}")
    assert outcome.refusal == ""
