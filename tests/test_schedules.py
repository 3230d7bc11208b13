"""The tables of the comparison of schedules."""

from benchmarks.schedules.__main__ import CHOICES, OURS, markdown_of, summary_of


def test_the_summary_compares_with_the_best_of_the_others_and_takes_the_median_over_all():
    """Ours is at 40 dB everywhere; evenly spaced steps are 2 dB behind, other schedules 1 dB with our weights."""
    psnr = {OURS: 40.0, "fewer steps": 30.0}
    psnr |= {f"{name}, reuse": 35.0 for name in CHOICES} | {f"{name}, aligned": 39.0 for name in CHOICES}
    psnr["evenly spaced, aligned"] = 38.0
    counts = [20, 15, 10, 7, 6]
    rows = [{"computed_steps": n, "name": name, "psnr": [v, v]} for n in counts for name, v in psnr.items()]
    result = {"model": "flux", "computed_steps": counts, "rows": rows, "arguments": {"num_inference_steps": 30}}
    summary = summary_of([result, result])
    assert "| as they are | flux | +2.0 | +2.0 | +2.0 | +2.0 | +2.0 | +2.0 |" in summary
    assert "| with our weights | all | | | | | | **+1.0** |" in summary
    assert "| as they are | 2.0 (2.0 to 2.0) |" in markdown_of(result)
