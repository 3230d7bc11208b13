"""The figures of docs/records/cost.md: how rivals are set, how tables are made, what calibrate quotes."""

import json
from pathlib import Path

import pytest

from benchmarks.cost.measuring import FEWER, RIVALS, SPEEDUPS, TOTALS, joined, near, with_kept_rivals
from benchmarks.cost.tables import ours_table, rivals_table, worth
from benchmarks.defaults import with_earlier
from ertacache.calibration.worth import MOST, WORTH
from ertacache.evaluation.harness import Measured

RESULTS = Path(__file__).parent.parent / "benchmarks/results/cost.json"


def made(better=0.0, fewer=50.0, apart=0.0):
    """What one pipeline gave: n full runs have 50 + n / 10 dB at every ratio, and rivals 50, 51 and so on."""
    names = [FEWER, "0", "1", *map(str, TOTALS)]
    values = {name: [fewer, fewer] if name == FEWER else [50 + int(name) / 10 + better] * 2 for name in names}
    ours = {"psnr": {f"{s:g} {name}": values[name] for s in SPEEDUPS for name in names}}
    rest = {"name": "", "peak_bytes": 0, "speedup": [2, 2], "call_speedup": [2, 2], "ssim": [1, 1]}
    rivals = {rival.name: [Measured(**rest, flops=[0.4, 0.4], psnr=[50.0 + k] * 2)] for k, rival in enumerate(RIVALS)}
    rivals[FEWER] = [Measured(**rest, flops=[0.5, 0.5], psnr=[fewer + apart] * 2)]
    return joined("flux", {**ours, "full_runs": {}, "prompts_used": {}}, rivals)


def test_settings_that_compute_other_numbers_of_steps_are_left_out():
    settings = [{"k": k} for k in (26, 20, 17, 15, 10, 8, 7, 6, 5)] + [{"threshold": 0.1}]
    assert near(30, (1.5, 2, 3, 4), settings) == [
        {"k": 20},
        {"k": 15},
        {"k": 10},
        {"k": 8},
        {"k": 7},
        {"k": 6},
        {"threshold": 0.1},
    ]


def test_a_rival_that_is_not_so_fast_has_no_figure_and_the_best_of_each_cost_is_bold():
    result = made()
    first, *_, last = RIVALS
    assert result["psnr"]["2"][first.name] == [50.0, 50.0]
    assert result["psnr"]["3"][first.name] is None
    lines = {cells[1].strip(): cells[2:] for line in rivals_table([result]).splitlines() if (cells := line.split("|"))}
    assert lines["ERTACache, instant"][2].strip() == "50.0"  # others of no cost are better
    assert lines["ERTACache, calibrated"][3].strip() == "**51.0**"  # at 3x no rival is there
    assert lines[last.name][2].strip() == f"**{50 + len(RIVALS) - 1}.0**"
    assert lines[last.name][3].strip() == "-"
    assert ours_table([result]).count("\n") == 1 + len(SPEEDUPS)


def test_beside_rivals_ours_is_the_mean_over_the_prompts_that_they_had():
    result = made()
    result["psnr"]["2"]["10"] = [70.0, 71.0, 90.0]  # the third prompt was no rival's
    lines = {cells[1].strip(): cells[2:] for line in rivals_table([result]).splitlines() if (cells := line.split("|"))}
    assert lines["ERTACache, calibrated"][2].strip() == "**70.5**"
    assert "| 77.0 |" in ours_table([result])


def test_two_parts_in_which_fewer_steps_differs_do_not_stand_side_by_side():
    made(apart=0.05)
    with pytest.raises(RuntimeError, match=r"differs by 0\.20 dB"):
        made(apart=0.2)


def test_one_step_ratio_measured_anew_leaves_the_others():
    before = made() | {"full_runs": {"2 10": 9.0, "4 10": 9.5}, "prompts_used": {}}
    names = [FEWER, "0", "1", *map(str, TOTALS)]
    anew = {"psnr": {f"4 {name}": [50.0, 50.0] for name in names}, "full_runs": {"4 10": 9.9}, "prompts_used": {}}
    found = with_kept_rivals(anew, before)
    assert found["psnr"] == before["psnr"] | {"4": before["psnr"]["4"] | {key: [50.0, 50.0] for key in names}}
    assert found["full_runs"] == {"2 10": 9.0, "4 10": 9.9}
    with pytest.raises(RuntimeError, match="fewer steps differ"):
        with_kept_rivals({**anew, "psnr": {f"4 {name}": [51.0, 51.0] for name in names}}, before)


def test_what_more_brings_is_the_mean_over_pipelines():
    found = worth([made(), made(better=3)])
    assert found["2"] == {str(total): (80 - total) / 10 for total in (1, *TOTALS[:-1])}


def test_calibrate_quotes_what_was_measured():
    measured = json.loads(RESULTS.read_text())["worth"]
    assert max(TOTALS) == MOST
    assert {
        f"{ratio:g}": {str(runs): gain for runs, gain in gains.items()} for ratio, gains in WORTH.items()
    } == measured


def test_a_setting_measured_anew_leaves_the_figures_of_the_others(tmp_path):
    path, late, early = tmp_path / "defaults.json", {"name": "opensora, 30 steps"}, {"name": "emoji, 30 steps"}
    assert with_earlier(late, path) == [late]
    path.write_text(json.dumps({"results": [late]}))
    assert with_earlier(early, path) == [early, late], "in the order of the table"
    path.write_text(json.dumps({"results": [early, late]}))
    anew = {**late, "psnr": {}}
    assert with_earlier(anew, path) == [early, anew]
