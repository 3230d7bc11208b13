"""Runs commands as a user types them."""

from typer.testing import CliRunner

from ertacache.cli import app

FEW = ["--steps", "8", "--limit", "2", "--check", "0"]


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})


def refused(*arguments):
    """The one line that the command prints about wrong input, beside what it may have chosen by itself."""
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit)
    (line,) = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("chosen here: ")]
    assert line.startswith("error: ")
    return line
