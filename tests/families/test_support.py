"""Every tiny pipeline keeps the contract or is refused, as docs/reference/support.json records and support.md shows."""

from __future__ import annotations

import re

import diffusers
import pytest

import ertacache
from contract.case import STEPS, Family
from contract.check import Outcome, check
from contract.families import CASES
from contract.in_words import WHY
from contract.not_tried import REASONS
from contract.page import KARRAS, PAGE, RECORD, exported, from_json, not_tried, page_of, pipeline_of, reason_of, to_json

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


@pytest.mark.parametrize("name", ["FLUX, true guidance", "Wan, UniPC"])
def test_two_families_keep_the_whole_contract(name):
    """A picture's and a clip's; all others are slow."""
    assert shown(check(CASES[name])) == shown(RECORDED[name][1])


def test_the_page_is_what_the_record_makes():
    """So the page is neither edited by hand nor older than the record, and no case is missing."""
    assert list(RECORDED) == list(CASES)
    assert PAGE.read_text(encoding="utf-8") == page_of(RECORDED)
    assert from_json(to_json(RECORDED)) == RECORDED


def test_every_entry_in_words_is_for_a_reason_of_the_record():
    """A reason without words fails when the page is made."""
    outcomes = [outcome for _, outcome in RECORDED.values()]
    reasons = {reason_of(message) for one in outcomes for message in (one.refusal, one.calibration)}
    reasons |= {reason_of(message) for one in outcomes for _, message in one.schedulers}
    unused = [beginning for beginning in WHY if not any(reason.startswith(beginning) for reason in reasons)]
    assert unused == []


@pytest.mark.parametrize("name", KARRAS)
def test_the_schedulers_said_to_have_karras_sigmas_have_them(name):
    assert CASES[name].build().scheduler.config.use_karras_sigmas
    assert RECORDED[name][1].works


@pytest.mark.parametrize("name", ["HunyuanVideo", "Mochi"])
def test_a_scheduler_that_makes_a_step_fewer_works_with_policies_that_count_it(name):
    family = Family(CASES[name])
    family.pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(family.pipe.scheduler.config)
    with ertacache.accelerated(family.pipe, speedup=2.0) as run:
        family.run()
    assert (len(run.computed_steps), len(run.cached_steps)) == (3, 4)
    calls = [{**family.case.call(), "output_type": "latent"} for _ in range(2)]
    policy = ertacache.calibrate(
        family.pipe, calls, num_inference_steps=STEPS, num_computed_steps=4, method="taylor", progress=False
    )
    with ertacache.accelerated(family.pipe, policy) as run:
        family.run()
    assert run.computed_steps == policy.computed_steps
    assert len(run.computed_steps) + len(run.cached_steps) == STEPS - 1


def test_every_class_that_diffusers_exports_is_on_the_page():
    assert set(exported()) <= set(re.findall(r"\w+", PAGE.read_text(encoding="utf-8")))


def test_every_class_has_a_case_or_a_reason_why_not():
    """So a class with a reason exists and has no case."""
    assert set(not_tried(RECORDED)) == set(REASONS)
