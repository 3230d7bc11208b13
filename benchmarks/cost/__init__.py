"""What each full run brings, beside rivals at their own cost of calibration: docs/records/cost.md."""
