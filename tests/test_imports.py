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
    "clock",
    "student_t",
    "memory_errors",
    "untrusted_text",
    "output_paths",
    "value_checks",
    "files",
    "double_precision",
    "metrics",
    "sound_metrics",
    "offloaded_weights",
    "opensora",
    "method",
    "policy",
    "runtime",
    "acceleration",
    "watching",
    "learning",
    "accelerate",
    "calibration",
    "diagnosis",
    "integrations",
    "zoo",
    "evaluation",
    "presenting",
    "distributed",
    "sharing",
    "cli",
    "__main__",
]


def part_of(dotted: str) -> str:
    return dotted.split(".")[1] if "." in dotted else ""


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names |= {part_of(name) for name in modules_of(node) if name.split(".")[0] == "ertacache"}
    return names


def modules_of(node: ast.AST) -> list[str]:
    """Every module that an import statement may mean: ``from torch import nn`` may be ``torch.nn``."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module] * ("." in node.module) + [f"{node.module}.{alias.name}" for alias in node.names]
    return []


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path):
    part = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if part == "__init__":
        return
    allowed = set(PARTS[: PARTS.index(part) + 1])
    assert imported(path) <= allowed


def test_policy_and_method_know_nothing_of_diffusers_and_torch_nn():
    for path in [*(SOURCE / "policy").glob("*.py"), *(SOURCE / "method").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            for name in modules_of(node):
                assert name.split(".")[0] != "diffusers"
                assert name.split(".")[:2] != ["torch", "nn"]


def test_importing_the_library_brings_no_extras():
    extras = ("typer", "matplotlib", "torchmetrics", "transformers")
    code = f"from ertacache import *; import sys; calibrate; print([m for m in {extras} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_library_waits_for_torch_only_when_it_is_used():
    code = (
        "import ertacache, sys; assert 'torch' not in sys.modules\n"
        "assert set(ertacache.__all__) <= set(dir(ertacache))\n"
        "assert ertacache.runtime.guidance_transfer.transferred is ertacache.transferred\n"
        "assert ertacache.calibration.Profile is ertacache.Profile and not hasattr(ertacache, 'nosuch')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
