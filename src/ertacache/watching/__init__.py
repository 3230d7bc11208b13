"""Observers of runs: how far a generation drifts, and what a second run of it says."""

from ertacache.watching.draft import Draft

__all__ = ["Draft"]
