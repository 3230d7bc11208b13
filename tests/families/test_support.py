"""Every tiny pipeline keeps the contract or is refused, and docs/support.md says which."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from contract.check import Outcome, check
from contract.families import CASES
from contract.page import exported, pipeline_of, row_of

PAGE = (Path(__file__).parents[2] / "docs/support.md").read_text()


@pytest.mark.parametrize("name", CASES)
def test_it_works_or_is_refused_as_the_page_says(name):
    case = CASES[name]
    outcome = check(case, thorough=False)
    told = Outcome(levels=("velocity",)) if outcome.works else outcome
    assert f"\n{row_of(name, pipeline_of(case), told).removesuffix(' | yes |')}" in PAGE


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_it_keeps_the_whole_contract_as_the_page_says(name):
    case = CASES[name]
    assert f"\n{row_of(name, pipeline_of(case), check(case))}" in PAGE


@pytest.mark.parametrize("name", ["FLUX, true guidance", "Wan, UniPC", "CogVideoX, DPM", "Open-Sora 1.2"])
def test_the_papers_families_keep_the_whole_contract(name):
    case = CASES[name]
    assert f"\n{row_of(name, pipeline_of(case), check(case))}" in PAGE


def test_every_class_that_diffusers_exports_is_on_the_page():
    assert set(exported()) <= set(re.findall(r"\w+", PAGE))


def test_at_least_forty_classes_work():
    works = PAGE.partition("## Works")[2].partition("## Refused")[0]
    assert len(set(re.findall(r"^\| (\w+Pipeline\w*) \|", works, re.MULTILINE))) >= 40
