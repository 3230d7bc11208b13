"""Progress where no bar can be drawn, as in a file: a line now and then."""

import pytest

from ertacache.calibration import progress
from ertacache.calibration.progress import CalibrationProgress


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test turns by hand: ``clock[0]`` is the time in seconds."""
    time = [100.0]
    monkeypatch.setattr(progress, "monotonic", lambda: time[0])
    return time


def test_a_file_gets_a_line_now_and_then(clock, capsys):
    with CalibrationProgress(True) as shown:
        shown.phase("full runs")
        shown.advance(5)
        assert capsys.readouterr().err == ""
        clock[0] += progress.LINE_EVERY
        shown.advance(5)
        shown.advance(5)
        shown.expect(60)
        shown.phase("fitting")
        clock[0] += progress.LINE_EVERY
        shown.advance(5)
        lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "full runs: 10 denoiser calls, 15 s so far",
        "fitting: 20 of 60 denoiser calls, 30 s so far",
    ]


def test_a_terminal_gets_the_bar_alone(clock, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with CalibrationProgress(True, "generations") as shown:
        clock[0] += 2 * progress.LINE_EVERY
        shown.advance(3)
    said = capsys.readouterr().err
    assert "3/?" in said
    assert "so far" not in said


def test_silence_was_asked_for(clock, capsys):
    with CalibrationProgress(False) as shown:
        clock[0] += 2 * progress.LINE_EVERY
        shown.advance(3)
    assert capsys.readouterr().err == ""
