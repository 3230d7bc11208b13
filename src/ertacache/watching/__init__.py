"""Watch runs for generations that may have turned out bad: by their drift (guard), or by a second run (draft)."""

from ertacache.watching.draft import Draft

__all__ = ["Draft"]
