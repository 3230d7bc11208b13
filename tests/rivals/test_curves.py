"""Frontiers and interpolation on hand-made measurements."""

import json
import math

from benchmarks.report import costs_table, table
from benchmarks.rivals.curves import by_operations, by_time, frontier, quality_at
from benchmarks.rivals.harness import Setting, as_json, from_json
from ertacache.evaluation.measuring import Measured


def row(speedup, psnr, flops=None):
    return Measured(
        f"threshold {speedup}",
        flops or 1 / speedup,
        1000,
        psnr=[psnr - 1, psnr + 1],
        ssim=[0.9, 0.8],
        speedup=[speedup, speedup],
        call_speedup=[speedup] * 2,
    )


def test_the_frontier_drops_what_is_slower_and_no_better():
    rows = [row(1.2, 50), row(2.0, 45), row(1.5, 44), row(3.0, 30)]
    assert [r.median_speedup for r in frontier(rows, by_time)] == [1.2, 2.0, 3.0]


def test_quality_is_linear_in_the_logarithm_of_the_speedup_between_settings():
    rows = [row(1.0, 60), row(4.0, 20)]
    assert math.isclose(quality_at(rows, 2.0, by_time), 40)
    assert quality_at(rows, 4.0, by_time) == 20
    assert quality_at(rows, 0.9, by_time) == 60
    assert quality_at(rows, 4.1, by_time) is None
    assert quality_at([row(2, 30, flops=0.25)], 3, by_operations) == 30


def test_the_table_marks_the_best_and_what_is_never_reached():
    text = table({"a": [row(1.5, 50), row(4, 30)], "b": [row(1.5, 55), row(2, 40)]}, by_time)
    lines = text.splitlines()
    assert lines[2] == "| a | 50.0 | **44.1** | **35.9** | **30.0** |"
    assert lines[3] == "| b | **55.0** | 40.0 | - | - |"


def test_the_table_of_costs_shows_the_setting_nearest_to_twice_as_fast():
    text = costs_table({"a": [row(1.5, 50), row(2.1, 40)]})
    assert "threshold 2.1" in text
    assert "2.10x" in text
    assert "40.0 (39.0 to 41.0)" in text


def test_rows_survive_a_results_file():
    settings = [Setting("a", {"threshold": s}, row(s, 50 - s)) for s in (1.5, 2)]
    assert from_json(json.loads(json.dumps(as_json(settings)))) == settings
