"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What a JSON file holds; where there is none, what ``make`` returns, as JSON has it, is kept there first."""
    if not path.exists():
        made = make()
        with written_whole(path) as unfinished:
            Path(unfinished).write_text(json.dumps(made))
    return json.loads(path.read_text())
