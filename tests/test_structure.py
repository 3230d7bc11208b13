"""How the library is laid out: no circle of imports, files and functions of readable size, a map that is true."""

from __future__ import annotations

import ast
import importlib
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src/ertacache"
MODULES = {
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}
MANY_ARGUMENTS = {
    # Public functions, whose callers name what they give.
    "ertacache.calibration.calibrate.calibrate",
    "ertacache.calibration.make_profile.profile",
    "ertacache.calibration.make_draft.draft",
    # Built from a published configuration, or called as diffusers calls its pipelines.
    "ertacache.opensora.autoencoder.AutoencoderOpenSora.__init__",
    "ertacache.opensora.captions.CaptionEncoder.encode_prompt",
    "ertacache.opensora.pipeline.OpenSoraPipeline.__call__",
    "ertacache.opensora.transformer.STDiT3Transformer3DModel.__init__",
}
"""More than eight; so may commands of the command line, one for each option: functions named as their module."""


def imports_of(name: str, path: Path) -> set[str]:
    """The modules of the library that one imports, wherever in it the statement stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in MODULES}
        if isinstance(node, ast.ImportFrom) and node.module in MODULES:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & MODULES.keys() or {node.module}
    return found - {name}


def functions_of(name: str, path: Path):
    """The functions of a module with their dotted names and their lines of code, without docstring and comments."""
    lines = path.read_text().splitlines()

    def walk(node, prefix):
        for child in ast.iter_child_nodes(node):
            inside = f"{prefix}.{child.name}" if hasattr(child, "name") and hasattr(child, "body") else prefix
            if isinstance(child, ast.FunctionDef):
                body = child.body[1:] if ast.get_docstring(child) else child.body
                first = body[0].lineno if body else child.end_lineno + 1
                code = [line for line in lines[first - 1 : child.end_lineno] if line.strip() and line.strip()[0] != "#"]
                yield inside, child, len(code)
            yield from walk(child, inside)

    yield from walk(ast.parse(path.read_text()), name)


FUNCTIONS = [entry for name, path in MODULES.items() for entry in functions_of(name, path)]


def test_there_is_no_circle_of_imports():
    graph = {name: imports_of(name, path) for name, path in MODULES.items()}
    assert sum(map(len, graph.values())) > len(graph)  # they were seen
    circles = []
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circles = error.args[1]
    assert circles == []


def test_inference_reaches_policy_method_and_runtime_alone():
    reached, left = set(), ["ertacache.acceleration"]
    while left:
        name = left.pop()
        if name not in reached:
            reached.add(name)
            left += imports_of(name, MODULES[name])
    above = {"watching", "learning", "calibration", "accelerate", "zoo", "evaluation", "presenting", "sharing", "cli"}
    assert {name for name in reached if name.split(".")[1] in above} == set()
    assert {"method", "policy", "runtime"} <= {name.split(".")[1] for name in reached}


def test_files_can_be_read_at_one_go():
    sizes = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: size for name, size in sizes.items() if size > 350} == {}
    assert median(sizes.values()) <= 130


def test_no_function_has_over_50_lines_of_code():
    assert {name: size for name, _, size in FUNCTIONS if size > 50} == {}


def test_no_internal_function_takes_over_8_arguments():
    def count(node):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        return len(arguments) - (bool(arguments) and arguments[0].arg in ("self", "cls"))

    many = {name for name, node, _ in FUNCTIONS if count(node) > 8}
    commands = {name for name in many if name.startswith("ertacache.cli.")}
    assert many - commands == MANY_ARGUMENTS
    assert {name for name in commands if name.split(".")[-2] != name.split(".")[-1]} == set()


ARCHITECTURE = (ROOT / "docs/understand/architecture.md").read_text()
WALKS = re.findall(r"^### (.*)\n((?:.*\n)*?)(?=^#|\Z)", ARCHITECTURE, re.MULTILINE)


@pytest.mark.parametrize(("title", "text"), WALKS, ids=[title for title, _ in WALKS])
def test_the_walks_of_the_map_name_what_is_there(title, text):
    stops = re.findall(r"^\d+\. (.*(?:\n   .*)*)", text, re.MULTILINE)
    assert 3 <= len(stops) <= 8
    for stop in stops:
        names = re.findall(r"`(ertacache\.[\w.]+)`", stop)
        assert names, f"a stop names no function: {stop}"
        for name in names:
            assert resolved(name) is not None


def test_the_map_has_two_walks_and_names_every_part():
    assert [title for title, _ in WALKS] == ["A prompt becomes a policy", "A step is skipped"]
    parts = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in MODULES.values()}
    missing = {part for part in parts if not part.startswith("_") and f"`{part}`" not in ARCHITECTURE}
    assert missing == set()


def resolved(name):
    """The thing of a dotted name."""
    parts = name.split(".")
    module = next(".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in MODULES)
    found = importlib.import_module(module)
    for part in name.removeprefix(module).strip(".").split("."):
        found = getattr(found, part) if part else found
    return found


PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "README.md",
    *MODULES.values(),
    *(ROOT / "benchmarks").glob("*.py"),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_and_files_of_the_library_that_are_mentioned_are_there(page):
    text = page.read_text()
    for path in re.findall(
        r"\b((?:src/ertacache|tests|contract|benchmarks|training|docs)/[\w/.-]+\.(?:py|md|json))\b", text
    ):
        assert (ROOT / path).exists() or "results" in path, path
    for path in re.findall(r"`((?:method|policy|runtime|watching|calibration)/\w+\.py)`", text):
        assert (SOURCE / path).is_file(), path
    for name in re.findall(r"`(ertacache\.[\w.]+)(?:\(\))?`", text):
        assert resolved(name) is not None
    for name in re.findall(r"`((?:method|runtime|watching|calibration)\.[a-z_]+(?:\.\w+)*)`", text):
        assert resolved(f"ertacache.{name}") is not None
