"""Every tiny pipeline keeps the contract or is refused, as docs/reference/support.json records and support.md shows."""

from __future__ import annotations

import re

import pytest

from contract.check import Outcome, check
from contract.families import CASES
from contract.not_tried import REASONS
from contract.page import PAGE, RECORD, exported, from_json, not_tried, page_of, pipeline_of, reason_of, to_json

RECORDED = from_json(RECORD.read_text(encoding="utf-8"))


def shown(outcome: Outcome) -> tuple[str, tuple[str, ...], str]:
    """What the page shows of an outcome: messages without what was given and the cure."""
    return reason_of(outcome.refusal), outcome.levels, reason_of(outcome.calibration)


@pytest.mark.parametrize("name", CASES)
def test_it_works_or_is_refused_as_recorded(name):
    pipeline, recorded = RECORDED[name]
    assert pipeline == pipeline_of(CASES[name])
    assert reason_of(check(CASES[name], thorough=False).refusal) == reason_of(recorded.refusal)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_it_keeps_the_whole_contract_as_recorded(name):
    assert shown(check(CASES[name])) == shown(RECORDED[name][1])


@pytest.mark.parametrize("name", ["FLUX, true guidance", "Wan, UniPC", "CogVideoX, DPM", "Open-Sora 1.2"])
def test_the_papers_families_keep_the_whole_contract(name):
    assert shown(check(CASES[name])) == shown(RECORDED[name][1])


def test_the_page_is_what_the_record_makes():
    """So the page is neither edited by hand nor older than the record, and no case is missing."""
    assert list(RECORDED) == list(CASES)
    assert PAGE.read_text(encoding="utf-8") == page_of(RECORDED)
    assert from_json(to_json(RECORDED)) == RECORDED


def test_every_class_that_diffusers_exports_is_on_the_page():
    assert set(exported()) <= set(re.findall(r"\w+", PAGE.read_text(encoding="utf-8")))


def test_every_class_has_a_case_or_a_reason_why_not():
    """So a class with a reason exists and has no case."""
    assert set(not_tried(RECORDED)) == set(REASONS)
