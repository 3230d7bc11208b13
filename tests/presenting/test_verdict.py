"""What a page says of figures in words is what the figures say."""

import pytest

from ertacache.presenting.verdict import timing_note, verdict
from ertacache.presenting.ways import Way


def ways(ours, theirs, rival=None, computed=15):
    """A policy, plain steps, and a rival if it is given, with these qualities in dB."""
    many = len(ours)

    def way(name, psnr, *beside):
        return Way(name, computed, 30 / computed, psnr, [0.9] * many, [2.0] * many, *beside)

    found = [way("ours", ours), way(f"{computed} plain steps", theirs, "ours", True)]
    return [*found, way("Taylor", rival, "ours")] if rival else found


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (
            [60, 59, 61],
            [48, 50, 49],
            "on all 3 prompts nearer to the full run than 15 plain steps (60.0 against 49.0 dB)",
        ),
        (
            [60, 59, 47, 58, 57, 59],
            [48, 50, 49, 47, 48, 49],
            "on 5 of 6 prompts nearer to the full run than 15 plain steps, and in the mean (56.7 against 48.5 dB)",
        ),
        (
            [50, 47, 49, 48],
            [48, 49, 48, 48.5],
            "no clear difference from 15 plain steps (48.5 against 48.4 dB); on 2 of 4 prompts nearer to the full run",
        ),
        (
            [40, 41, 39],
            [48, 50, 49],
            "farther from the full run than 15 plain steps (40.0 against 49.0 dB); "
            "on 0 of 3 prompts nearer to the full run",
        ),
        ([60], [50], "on the one prompt nearer to the full run than 15 plain steps (60.0 against 50.0 dB)"),
        ([50], [60], "on the one prompt no nearer to the full run than 15 plain steps (50.0 against 60.0 dB)"),
    ],
)
def test_the_verdict_is_what_was_measured(ours, theirs, said):
    found = ways(ours, theirs)
    assert verdict(found[0], found) == f"2x fewer denoiser calls; {said}."


def test_the_better_of_two_baselines_is_the_one_to_beat():
    ours, plain = ways([60, 60], [50, 50])
    better = Way("15 plain steps (same levels)", 15, 2.0, [62, 62], [0.9] * 2, [2.0] * 2, "ours", True)
    said = verdict(ours, [ours, plain, better])
    assert "farther from the full run than 15 plain steps (same levels) (60.0 against 62.0 dB)" in said


def test_a_rival_that_is_nearer_is_named():
    found = ways([60, 59], [48, 50], [70, 66])
    assert verdict(found[0], found).endswith("; Taylor is nearer than it (68.0 dB).")
    found = ways([60, 59], [48, 50], [55, 56])
    assert "Taylor" not in verdict(found[0], found)


def test_a_policy_without_a_baseline_is_not_compared():
    ours, _ = ways([60, 59], [48, 50])
    assert verdict(ours, [ours]) == "2x fewer denoiser calls; 59.5 dB against the full run, mean of 2."


def test_timings_that_cannot_be_or_scatter_are_warned_of():
    assert timing_note([("steady", 2.0, [1.9, 2.0, 2.05, 1.95]), ("one", 2.0, [1.7])]) == ""
    note = timing_note([("steady", 2.0, [2.0] * 4), ("above", 2.0, [2.77] * 4), ("wide", 2.0, [1.0, 1.2, 2.0, 2.2])])
    assert "above: 2.77x to 2.77x, by steps 2.00x" in note
    assert "wide: 1.15x to 2.05x, by steps 2.00x" in note
    assert "steady" not in note
