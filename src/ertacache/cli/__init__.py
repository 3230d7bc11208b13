"""The command line ``ertacache``: one module for each command, thin shells over the library."""

from ertacache.cli.app import app

__all__ = ["app"]
