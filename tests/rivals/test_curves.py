"""Frontiers and interpolation on hand-made measurements."""

import json
import math

from benchmarks.markdown import table
from benchmarks.report import against_uniform, costs_table, lead_rows, quality_rows, summary_rows
from benchmarks.rivals.curves import by_operations, by_time, frontier, interpolated, qualities_at
from benchmarks.rivals.harness import Setting, as_json, from_json
from ertacache.evaluation.harness import Measured


def row(speedup, psnr, flops=None):
    """A setting measured on two prompts; ``psnr`` and ``flops`` may differ between them."""
    both = psnr if isinstance(psnr, tuple) else (psnr, psnr)
    return Measured(
        f"threshold {speedup}",
        1000,
        flops=list(flops or (1 / speedup, 1 / speedup)),
        speedup=[speedup, speedup],
        call_speedup=[speedup] * 2,
        psnr=list(both),
        ssim=[0.9, 0.8],
    )


def test_the_frontier_drops_what_is_slower_and_no_better():
    assert frontier([(1.2, 50), (2.0, 45), (1.5, 44), (3.0, 30)]) == [(1.2, 50), (2.0, 45), (3.0, 30)]


def test_quality_is_linear_in_the_logarithm_of_the_speedup_between_settings():
    points = [(1.0, 60), (4.0, 20)]
    assert math.isclose(interpolated(points, 2.0), 40)
    assert interpolated(points, 4.0) == 20
    assert interpolated(points, 0.9) == 60
    assert interpolated(points, 9) == 20


def test_each_prompt_has_a_curve_of_its_own():
    rows = [row(1.5, (50, 60)), row(3, (30, 50))]
    assert qualities_at(rows, 1.5, by_time) == [50, 60]
    assert qualities_at(rows, 3, by_time) == [30, 50]
    assert qualities_at(rows, 3.1, by_time) is None
    assert qualities_at(rows, 1.2, by_time) == [50, 60]  # its slowest setting


def test_a_setting_that_skips_nothing_on_a_prompt_lends_it_no_perfect_picture():
    rows = [row(1.2, (100, 55), flops=(1.0, 0.8)), row(2, (40, 45), flops=(0.6, 0.5))]
    assert qualities_at(rows, 1.25, by_operations) == [40, 55]


def test_the_table_marks_the_best_and_what_is_never_reached():
    text = table(quality_rows({"a": [row(1.5, 50), row(4, 30)], "b": [row(1.5, 55), row(2, 40)]}, by_time))
    lines = text.splitlines()
    assert lines[2] == "| a | 50.0 | **44.1** | **35.9** | **30.0** |"
    assert lines[3] == "| b | **55.0** | 40.0 | - | - |"


def test_the_table_of_costs_shows_the_setting_nearest_to_twice_as_fast():
    text = costs_table({"a": [row(1.5, 50), row(2.1, (39, 41))]})
    assert "threshold 2.1" in text
    assert "2.10x" in text
    assert "40.0 (27.3 to 52.7)" in text


def test_the_lead_is_over_the_best_of_the_others_prompt_by_prompt():
    others = {"a": [row(3, (40, 42))], "b": [row(3, (41, 30))]}
    rivals = {"ERTACache, aligned": [row(3, (50, 46))], **others}
    rows = lead_rows(rivals, by_time)
    assert ["3x", "48.0", "a: 41.0", "+7.0 (-31.1 to +45.1)"] in rows
    assert ["4x", "-", "-", "-"] in rows
    short = summary_rows({"one": rivals, "two": others}, by_time)
    assert short[0] == ["", "one", "two"]
    assert ["3x", "+7.0 (-31.1 to +45.1)", "-"] in short


def test_each_rival_is_held_against_the_uniform_cache_where_it_does_best():
    uniform = [row(2, (40, 40)), row(4, (30, 30))]
    one = {"Uniform cache": uniform, "a": [row(2, (43.9, 44.1)), row(4, (30, 20))], "b": [row(2, (50, 20))]}
    lines = against_uniform({"one": one, "two": {"Uniform cache": uniform}}).splitlines()
    assert lines[2:] == ["| a | **+4.0 dB at 2x** | - |", "| b | -5.0 dB at 2x | - |"]


def test_rows_survive_a_results_file():
    settings = [Setting("a", {"threshold": s}, row(s, 50 - s)) for s in (1.5, 2)]
    assert from_json(json.loads(json.dumps(as_json(settings)))) == settings
