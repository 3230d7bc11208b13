"""The quick form of the benchmark runs, resumes, and writes what the README shows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.compare import RivalError, joined
from benchmarks.method import METHODS
from benchmarks.report import when
from benchmarks.rivals.roster import OURS, RIVALS
from ertacache import zoo

ROOT = Path(__file__).parent.parent


def benchmark(*arguments, timeout=600):
    command = [sys.executable, "-m", "ertacache", "benchmark", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)


@pytest.mark.slow  # it changes with its own benchmark alone, which nothing else imports
def test_the_methods_table_in_its_quick_form(tmp_path):
    out = tmp_path / "method-flux.json"
    command = [sys.executable, "-m", "benchmarks.method", "flux", "--quick", "--out", tmp_path]
    command += ["--work", tmp_path / "work"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(out.read_text())["budgets"]["2"]
    assert set(rows) == {"fewer steps", "fewer steps, sub-grid", *METHODS}
    assert {row["computed_steps"] for row in rows.values()} == {5}
    assert all(len(row["psnr"]) == 2 for row in rows.values())
    assert "**" in out.with_suffix(".md").read_text()

    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0
    assert "calibrat" not in again.stderr  # every policy and every measurement was found
    assert json.loads(out.read_text())["budgets"]["2"] == rows


@pytest.mark.slow  # it changes with its own benchmark alone, which nothing else imports
def test_the_guard_in_its_quick_form(tmp_path):
    command = [sys.executable, "-m", "benchmarks.guard", "flux", "--quick", "--work", tmp_path / "work"]
    command += ["--out", tmp_path, "--images", tmp_path]
    for _ in range(2):  # the second time all is found
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr[-2000:]
        result = json.loads((tmp_path / "guard-flux.json").read_text())
        assert result["kinds"] == ["all", "held out", "unlike", "guidance", "noise", "LoRA"]
        assert all(figures["all"]["generations"] == 5 for figures in result["budgets"].values())
        assert 0 < result["recording_share_of_a_full_run"] < 0.01
        assert (tmp_path / "guard-flux.png").stat().st_size > 0
        assert all((tmp_path / f"guard-flux-{b}x.md").read_text().count("\n") == 8 for b in (2, 3))
        for rows in (row[budget] for row in result["rows"] for budget in ("2", "3")):
            for name in ("draft", "other"):
                assert rows[name]["left"] == (rows[name]["score"] > result["drafts"]["2"][name]["limit"])
        steps = {
            (s, name): len(result["drafts"][s][name]["computed_steps"]) for s in "23" for name in ("draft", "other")
        }
        assert steps == {("2", "draft"): 2, ("2", "other"): 3, ("3", "draft"): 2, ("3", "other"): 5}
    assert "calibrat" not in done.stderr


SOME = (OURS, "Uniform cache", "TaylorSeer", "TeaCache", "T-GATE")
EVERY = tuple(rival.name for rival in RIVALS)


@pytest.mark.parametrize(
    ("names", "rivals"),
    [
        pytest.param(("flux",), SOME, id="some rivals"),
        pytest.param(zoo.NAMES, EVERY, id="all", marks=pytest.mark.slow),  # tests/rivals runs each in short
    ],
)
def test_rivals_in_the_quick_form_and_the_page_of_it(names, rivals, tmp_path):
    out = tmp_path / "quick"
    asked = [] if rivals is EVERY else [part for name in rivals for part in ("--rival", name)]
    done = benchmark(*names, *asked, "--quick", "--work", tmp_path, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    page = (out / "results.md").read_text()
    for name in names:
        result = json.loads((out / f"rivals-{name}.json").read_text())
        ran = {setting["rival"] for setting in result["settings"]}
        assert ran | set(result["refused"]) == {*rivals, "fewer steps"}
        assert not ran & set(result["refused"])
        assert len(ran) >= 17 or rivals is not EVERY
        for setting in result["settings"]:
            measured = setting["measured"]
            assert all(0 < flops < 1.001 for flops in measured["flops"]), setting["rival"]
            assert len(measured["flops"]) == len(measured["psnr"]) == len(measured["speedup"]) == 2
            assert len(measured["motion"]) == (0 if name == "flux" else 2)
        assert (out / f"images/results-{name}.png").stat().st_size > 10_000
        assert f"## {name}" in page
    assert page.count("| ERTACache, aligned |") == 2 * len(names)
    assert page.count("ours | the best other | lead, dB (95 %) |") == 2 * len(names)
    assert page.count(f"| | {' | '.join(sorted(names))} |") == 3  # our lead, twice, and against Uniform
    webpage = (out / "results.html").read_text()
    assert webpage.count("data:video/mp4") == len({*names} - {"flux"})  # one film of all rivals for each
    assert webpage.count("data:image/png") >= min(17, len(rivals))


@pytest.mark.slow  # it changes with its own benchmark alone, which nothing else imports
def test_time_and_memory_on_scaled_down_backbones(tmp_path):
    command = [sys.executable, "-m", "benchmarks.latency", "flux", "--size", "small"]
    command += ["--steps", "8", "--repeats", "2", "--out", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "scaled down" in done.stdout
    rows = {row["name"]: row for row in json.loads((tmp_path / "latency-small-flux.json").read_text())["rows"]}
    assert rows["baseline"]["speedup"] == rows["baseline"]["operations"] == 1
    assert rows["ERTACache, aligned, 2x"]["operations"] == pytest.approx(2, abs=0.01)
    assert rows["MagCache"]["operations"] == pytest.approx(2, abs=0.02)  # every other step, as it was told
    assert 1.4 < rows["TeaCache"]["operations"] < 1.7  # likewise, but for the first and the last
    assert rows["ERTACache, aligned, 2x"]["speedup"] > 1.5
    assert rows["ERTACache, aligned, 2x"]["peak_bytes"] < rows["TeaCache"]["peak_bytes"]


def test_a_rival_that_does_not_exist_is_named_with_those_that_do():
    done = benchmark("flux", "--rival", "NoCache")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: there is no such rival")
    assert "NoCache" in line
    assert "TeaCache" in line
    assert done.stdout == ""


def figures(psnr, *rivals, day, control=50.0):
    """A results file of some rivals and of fewer steps."""
    rows = [("fewer steps", control), *((name, psnr) for name in rivals)]
    settings = [
        {"rival": name, "knobs": {"n": 1}, "measured": {"psnr": [value, value]}, "measured_on": day}
        for name, value in rows
    ]
    return {"settings": settings, "sources": {}, "refused": {"T-GATE": "why"} if "PAB" in rivals else {}}


def test_rivals_measured_anew_stand_beside_the_others_if_fewer_steps_is_what_it_was():
    earlier = figures(60.0, "PAB", OURS, day="2026-01-01")
    found = joined(figures(70.0, OURS, day="2026-02-01", control=50.04), earlier)
    told = [(row["rival"], row["measured"]["psnr"][0], row["measured_on"]) for row in found["settings"]]
    assert told == [
        (OURS, 70.0, "2026-02-01"),
        ("fewer steps", 50.04, "2026-02-01"),
        ("PAB", 60.0, "2026-01-01"),
    ]
    assert found["refused"] == {"T-GATE": "why"}
    assert list(found["sources"]) == [OURS, "fewer steps", "PAB"]
    assert "0.04 dB" in found["notes"][0]
    assert when(found["settings"]) == "Measured on 2026-01-01: *PAB*; on 2026-02-01: all others."
    with pytest.raises(RivalError, match=r"fewer steps differs by up to 1.00 dB"):
        joined(figures(70.0, OURS, day="2026-02-01", control=51.0), earlier)


def test_figures_of_another_setting_are_not_joined_nor_lost(tmp_path):
    path = tmp_path / "rivals-flux.json"
    path.write_text(json.dumps({"model": "flux", "arguments": {}, "prompts": 4, "seed": 1000}))
    before = path.read_bytes()
    done = benchmark("flux", "--rival", "TeaCache", "--prompts", 2, "--out", tmp_path, "--work", tmp_path)
    assert done.returncode == 2
    assert "another setting" in done.stderr
    assert path.read_bytes() == before


def test_the_tables_that_the_pages_show_are_those_that_were_measured():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    texts = [page.read_text() for page in pages]
    tables = sorted((ROOT / "benchmarks/results").glob("*.md"))
    assert tables
    for table in tables:
        assert any(table.read_text().strip() in text for text in texts), f"no page shows {table.name} as it is"


@pytest.mark.slow  # it changes with its own benchmark alone, which nothing else imports
def test_predictions_of_transfers_in_the_quick_form(tmp_path):
    command = [sys.executable, "-m", "benchmarks.predictions", "flux", "--quick", "--out", tmp_path]
    done = subprocess.run(
        [*command, "--work", tmp_path / "work"], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "predictions-flux.json").read_text())
    assert [len(result["rows"]) for result in found["results"]] == [8] * 6
    assert all(
        row["missed"] > 0 and row["computed"] < result["steps"] for result in found["results"] for row in result["rows"]
    )
    assert (tmp_path / "predictions-flux.md").read_text().count(" dB, ") == 48


@pytest.mark.slow  # it changes with its own benchmark alone, which nothing else imports
def test_transfers_in_the_quick_form(tmp_path):
    command = [sys.executable, "-m", "benchmarks.transfer", "flux", "--quick", "--speedup", "2", "--out", tmp_path]
    command += ["--work", tmp_path / "work", "--only", "20 steps", "--only", "guidance 7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    steps, guidance = json.loads((tmp_path / "transfer-flux.json").read_text())["rows"]
    assert steps["computed_steps"] == {"calibrated": 4, "transferred": 4, "fewer steps": 4}
    assert steps["done"] == "transferred"
    assert guidance["done"].startswith("refused")
    assert (tmp_path / "transfer-flux.md").read_text().count("| guidance 7 | 6 of 12 |") == 1
