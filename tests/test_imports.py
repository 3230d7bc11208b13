"""The parts import downwards only, and a plain import brings neither the command line nor its packages."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src/ertacache"
# A module may import from parts that stand before its own.
PARTS = [
    "errors",
    "_version",
    "opensora",
    "method",
    "policy",
    "runtime",
    "calibration",
    "acceleration",
    "zoo",
    "evaluation",
    "tables",
    "demonstration",
    "cli",
]


def part_of(dotted: str) -> str:
    return dotted.split(".")[1] if "." in dotted else ""


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ertacache"):
            base = [node.module] if node.module != "ertacache" else [f"ertacache.{alias.name}" for alias in node.names]
            names |= {part_of(name) for name in base}
    return names


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path):
    part = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if part == "__init__":
        return
    allowed = set(PARTS[: PARTS.index(part) + 1])
    assert imported(path) <= allowed


def test_policy_and_method_know_nothing_of_diffusers_and_torch_nn():
    for path in [SOURCE / "policy.py", *(SOURCE / "method").glob("*.py")]:
        assert "diffusers" not in {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            for name in ([node.module] if isinstance(node, ast.ImportFrom) else [])
            if name
        }
        assert "torch.nn" not in path.read_text()


def test_importing_the_library_brings_no_extras():
    extras = ("typer", "matplotlib", "torchmetrics", "transformers")
    code = f"import ertacache, sys; print([m for m in {extras} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
