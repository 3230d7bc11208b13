"""Measurements: quality, time and memory of ways to generate, against the full run."""
