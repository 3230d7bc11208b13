"""The exception of this package."""

from __future__ import annotations

from ertacache.errors import ERTACacheError


class OpenSoraError(ERTACacheError, ValueError):
    """Arguments, a checkpoint or a configuration that Open-Sora cannot run with."""
