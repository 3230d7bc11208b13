"""Files that are written whole or not at all, and read with clear errors."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ertacache.errors import ERTACacheError, PolicyFileError


@contextmanager
def written_whole(target: Path) -> Iterator[str]:
    """The path of a file of its own to write to, which takes the target's place at the end, and goes if that fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".partial")
    os.close(handle)
    try:
        yield partial
        os.chmod(partial, 0o644)
        os.replace(partial, target)
    finally:
        Path(partial).unlink(missing_ok=True)


@contextmanager
def reading(path: str | os.PathLike[str], kind: str) -> Iterator[tuple[Any, dict[str, Tensor]]]:
    """What a safetensors file has of ``kind``, as JSON, and its tensors; to be made sense of in the context.

    Args:
        path: of the file.
        kind: "draft", say, whose JSON is under "ertacache.draft", and which `ertacache.draft` makes.

    Raises:
        FileNotFoundError: if there is no such file.
        PolicyFileError: if it is damaged, holds something else, or makes no sense in the context.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no {kind} at {os.fspath(path)!r}; make one with ertacache.{kind}()")
    try:
        with safe_open(path, "pt") as file:
            plain = json.loads((file.metadata() or {})[f"ertacache.{kind}"])
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        yield plain, tensors
    except PolicyFileError:
        raise
    except (ERTACacheError, SafetensorError, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise PolicyFileError(
            f"this is not a {kind}, or a damaged one: {type(error).__name__}: {error}",
            given=os.fspath(path),
            cure=f"Pass a file that {kind.capitalize()}.save() wrote; policies are read by Policy.load().",
        ) from error


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What a JSON file holds; where there is none, what ``make`` returns, as JSON has it, is kept there first."""
    if not path.exists():
        made = make()
        with written_whole(path) as unfinished:
            Path(unfinished).write_text(json.dumps(made))
    return json.loads(path.read_text())
