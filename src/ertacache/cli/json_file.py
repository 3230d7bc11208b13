"""Writing figures as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_json(content: Any, path: Path) -> None:
    """Write the file whole, or not at all."""
    from ertacache.files import written_whole

    with written_whole(path) as unfinished:
        Path(unfinished).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
