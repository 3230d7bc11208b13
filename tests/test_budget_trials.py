"""Trials of budgets: what counts as met, and what the tables say of it."""

import json

import pytest
from rich.console import Console

from benchmarks import budgets
from ertacache import zoo


def row(**changes):
    return {
        "asked": 2.0,
        "step_ratio": 2.0,
        "psnr": [50.0, 40.0],
        "speedup": [1.9, 1.9],
        "seconds": [0.9, 1.0, 9.0],
    } | changes


@pytest.mark.parametrize(
    ("name", "changes", "met"),
    [
        ("speedup", {}, True),
        ("speedup", {"step_ratio": 1.99}, False),
        ("seconds", {"asked": 1.0}, True),  # one slow call does not miss it
        ("seconds", {"asked": 0.95}, False),
        ("min_psnr", {"asked": 45.0}, True),
        ("min_psnr", {"asked": 45.1}, False),
    ],
)
def test_a_budget_is_met_if_held_out_prompts_say_so(name, changes, met):
    assert budgets.met(name, row(**changes)) is met


def test_the_table_counts_what_was_met_and_shows_what_was_missed():
    good = {"speedup": row(), "seconds": row(), "min_psnr": row(asked=45.0)}
    bad = good | {"min_psnr": row(asked=46.0)}
    lines = budgets.trials_table([good, bad]).splitlines()
    assert lines[-1] == "| met | | 2 of 2 | | 2 of 2 | | 1 of 2 |"
    assert "**45.0 (-18.5 to 108.5) dB at 2.00x**" in lines[-2]  # two prompts say little: Student's interval
    assert "**" not in lines[-3]


def test_predictions_are_compared_in_the_mean():
    rows = [
        {"step_ratio": ratio, "predicted": [50.0, 52.0], "measured": [51.0, measured]}
        for ratio, measured in ((1.5, 51.0), (2.0, 54.0), (3.0, 47.0))
    ]
    lines = budgets.predicted_table({"rows": rows}).splitlines()
    assert [line.split("|")[4].strip() for line in lines[2:5]] == ["+0.0", "-1.5", "+2.0"]
    assert lines[-1].split("|")[4].strip() == "1.5 dB"


@pytest.mark.slow
def test_a_trial_calibrates_for_each_budget_and_measures_it(tmp_path):
    embedded = zoo.load("flux")
    embedded.arguments["num_inference_steps"] = 8
    rows = budgets.trial_of(embedded, 0, 12, tmp_path, Console())
    assert set(rows) == {"speedup", "seconds", "min_psnr"}
    assert all(len(found[name]) == 12 for found in rows.values() for name in ("psnr", "speedup", "seconds"))
    assert budgets.met("speedup", rows["speedup"])
    json.dumps(rows)
