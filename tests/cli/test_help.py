"""`--help` of every command, without waiting for torch."""

import subprocess
import sys

import pytest

from ertacache import zoo
from ertacache.cli import options
from ertacache.method.named_methods import NAMED_METHODS
from tests.cli.running import run


@pytest.mark.parametrize("command", ["demo", "calibrate", "generate", "inspect", "push"])
def test_every_command_has_help(command):
    done = run(command, "--help")
    assert done.exit_code == 0
    assert "Usage" in done.output


def test_help_names_what_there_is_and_waits_for_nothing():
    assert tuple(options.MODELS.split(", ")) == zoo.NAMES
    assert options.METHODS.split(", ") == list(NAMED_METHODS)
    code = (
        "import sys; from typer.testing import CliRunner; from ertacache.cli import app\n"
        "for asked in ('--help', 'calibrate --help', 'calibrate', 'calibrate a/b', 'calibrate zoo:flux --out /proc/a', "
        "'nosuch'):\n"
        "    CliRunner().invoke(app, asked.split())\n"
        "print([m for m in ('torch', 'diffusers', 'transformers', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
