"""``python -m ertacache``: the command line."""

from ertacache.cli import app

app()
