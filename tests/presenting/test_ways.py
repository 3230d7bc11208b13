"""Names that a page gives to ways to generate: readable, and no two alike."""

from dataclasses import replace

import pytest

from ertacache.evaluation.evaluate import variants_of
from ertacache.evaluation.harness import Measured
from ertacache.policy import Origin
from ertacache.presenting.ways import baseline_of, page_names, ways_of

PSNR = {"fewer steps": 30.0, "fewer steps, sub-grid": 35.0}


@pytest.fixture
def calibrated(make_policy):
    """Makes a policy of eight steps with an origin, given the cached ones."""
    origin = Origin("Pipe", {}, "Scheduler", tuple(1 - k / 8 for k in range(9)), {}, 1, (4,))
    return lambda *cached: make_policy(8, cached, origin=origin)


def test_plain_steps_are_called_by_their_number(calibrated):
    names = page_names({"policy": calibrated(1, 2, 4, 5), "strong": calibrated(1, 2, 3, 4, 5)})
    assert list(names.values()) == [
        "policy",
        "4 plain steps",
        "4 plain steps (same levels)",
        "strong",
        "3 plain steps",
        "3 plain steps (same levels)",
    ]


def test_no_two_ways_have_one_name(calibrated):
    names = page_names({"one": calibrated(1, 2), "two": calibrated(2, 4), "6 plain steps": calibrated(3, 5)})
    assert len(set(names.values())) == 9
    assert names["fewer steps (6, as two)"] == "6 plain steps (as two)"


def test_what_was_measured_is_found_by_name(calibrated):
    policies = {"policy": calibrated(1, 2, 4, 5)}
    rows = [Measured(v.name, 0, [0.5], [2.0], [1.9], [PSNR.get(v.name, 50.0)], [0.9]) for v in variants_of(policies)]
    policy, plain, same = ways_of(policies, rows)
    assert [way.psnr for way in (policy, plain, same)] == [[50.0], [30.0], [35.0]]
    assert [way.computed_steps for way in (policy, plain, same)] == [4, 4, 4]
    assert baseline_of(policy, [policy, plain, same]) is same
    (alone,) = ways_of(policies, rows[:1])
    assert baseline_of(alone, [alone]) is None


def test_image_to_image_has_one_kind_of_plain_steps(calibrated):
    """Its sub-grid cannot be run, so a policy has one row less, and the next policy's rows stay its own."""
    begins = [replace(calibrated(*cached), first_step=2) for cached in ((3, 4, 6), (3, 4, 5, 6))]
    policies = dict(zip(("policy", "strong"), begins, strict=True))
    rows = [Measured(v.name, 0, [0.5], [2.0], [1.9], [40.0], [0.9]) for v in variants_of(policies)]
    ways = ways_of(policies, rows)
    assert [(way.name, way.beside, way.is_plain, way.computed_steps) for way in ways] == [
        ("policy", "", False, 3),
        ("3 plain steps", "policy", True, 3),
        ("strong", "", False, 2),
        ("2 plain steps", "strong", True, 2),
    ]
