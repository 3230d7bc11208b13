"""Every tiny pipeline keeps the contract or is refused, and docs/support.md says which."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from contract.check import check
from contract.families import CASES
from contract.page import exported, pipeline_of, row_of

PAGE = (Path(__file__).parents[2] / "docs/support.md").read_text()


@pytest.mark.parametrize("name", CASES)
def test_it_keeps_the_contract_or_is_refused_as_the_page_says(name):
    case = CASES[name]
    assert f"\n{row_of(name, pipeline_of(case), check(case))}" in PAGE


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_so_it_does_with_other_schedulers(name):
    case = CASES[name]
    outcome = check(case, schedulers=True)
    row = next(line for line in PAGE.splitlines() if line.startswith(row_of(name, pipeline_of(case), outcome)))
    if outcome.works:
        others = row.split("|")[-2].split(",")
        served = [scheduler.removesuffix("Scheduler") for scheduler, reason in outcome.schedulers if not reason]
        assert [other.strip() for other in others if other.strip()] == served


def test_every_class_that_diffusers_exports_is_on_the_page():
    named = set(re.findall(r"\w+Pipeline\w*", PAGE))
    assert set(exported()) <= named


def test_at_least_forty_classes_work():
    works = PAGE.partition("## Works")[2].partition("## Refused")[0]
    assert len(set(re.findall(r"^\| (\w+Pipeline\w*) \|", works, re.MULTILINE))) >= 40
