"""The contract's tiny pipelines as fixtures."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from contract.case import Family
from contract.families.paper import CASES


@pytest.fixture(params=CASES)
def family(request: pytest.FixtureRequest) -> Family:
    """One of the paper's families after the other."""
    return Family(CASES[request.param])


@pytest.fixture
def make_family() -> Callable[[str], Family]:
    """One of them by name."""
    return lambda name: Family(CASES[name])
