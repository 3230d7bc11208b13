"""Runs side by side: metrics, comparison, plots."""
