"""Wrong arguments of every command: each argument in turn gets every kind of wrong value."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from benchmarks.inputs.cases import Tally
from ertacache import Method, Policy, Profile
from ertacache.cli import app
from ertacache.policy import CalibrationRecord

NOWHERE = "./nowhere"
"""A model that does not exist: other arguments are checked before it is loaded, and nothing is generated."""


def nasty(folder: Path) -> dict[str, str]:
    """The values tried for every argument, by their names in the list of faults."""
    contents = {
        "empty file": b"",
        "binary file": bytes(range(256)) * 64,
        "UTF-16 without a mark": "a red star\n".encode("utf-16-le"),
        "UTF-16": "a red star\n".encode("utf-16"),
        "Latin-1": "grün\n".encode("latin-1"),
        "cut policy": (folder / "policy.safetensors").read_bytes()[:200],
        "deep JSON": b"[" * 100_000,
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    if not (folder / "queue").exists():
        os.mkfifo(folder / "queue")
    texts = ("", " ", "x", "0", "-1", "2.5", "nan", "inf", "1e999", "9" * 30, "true", "[/x]", "\x1b[31m", "a=b=c", "=")
    paths = ("..", "/", "/proc/x", "/dev/full", "a\nb", "\udcff", "no such", "no such/", "x.png", "x.exe")
    return {
        **{repr(text): text for text in (*texts, *paths)},
        **{name: str(folder / name) for name in contents},
        "long text": "x" * 10_000,
        "no file": str(folder / "queue"),
        "policy": str(folder / "policy.safetensors"),
    }


def tried(folder: Path) -> Iterator[tuple[str, Tally]]:
    """One tally for each command: every argument in turn gets every text."""
    record = CalibrationRecord("", psnr=(40.0, 41.0), ssim=(0.9, 0.91), seconds=1.0)
    policy = Policy(8, (1, 3), Method(), calibration=record)
    policy.save(folder / "policy.safetensors")
    Profile((policy,)).save(folder / "profile.safetensors")
    (folder / "prompts.txt").write_text("a red star\n")
    own = str(folder / "policy.safetensors")
    needed = {
        "demo": ["--model", NOWHERE],
        "calibrate": [NOWHERE, "--prompts", str(folder / "prompts.txt"), "--steps", "8"],
        "pick": [str(folder / "profile.safetensors"), "--speedup", "1.2"],
        "draft": [NOWHERE, own, "--prompts", str(folder / "prompts.txt")],
        "generate": [NOWHERE, "a red star", "--policy", own],
        "inspect": [own],
        "evaluate": [NOWHERE, own, "--prompts", str(folder / "prompts.txt")],
        "push": [own, "nobody/nothing"],
        "benchmark": [NOWHERE],
    }
    group: Any = typer.main.get_command(app)
    values = nasty(folder)
    for name, command in group.commands.items():
        tally = Tally()
        for place, argument in enumerate(_arguments(command)):
            for shown, value in values.items():
                if argument == "--prompts" and shown == "no file":  # it may be the output of another command
                    continue
                given = list(needed[name])
                if argument.startswith("--"):
                    given += [argument, value]
                else:
                    given[place] = value
                tally.take(f"{name}, {argument}={shown}", partial(_run, [name, *given]))
        yield name, tally


def _arguments(command: Any) -> list[str]:
    """The positional arguments in order, and the names of the options that take a value."""
    plain = [p.name or "" for p in command.params if p.param_type_name == "argument"]
    named = [p.opts[0] for p in command.params if p.param_type_name == "option" and not getattr(p, "is_flag", False)]
    return plain + [name for name in named if name != "--help"]


def _run(arguments: list[str]) -> str | None:
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "NO_COLOR": "1", "HF_HUB_OFFLINE": "1"})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    if done.exit_code == 0:
        return None
    lines = done.stderr.strip().splitlines()
    assert done.exit_code == 2, f"exit status {done.exit_code}"
    assert len(lines) == 1, f"{len(lines)} lines: {lines[:3]}"
    assert lines[0].startswith("error:"), lines[0]
    return "exit status 2"
