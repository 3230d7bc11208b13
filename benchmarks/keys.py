"""Names for what was measured, so that nothing of other code, weights or settings is taken for it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import ertacache
from ertacache import zoo
from ertacache.runtime.identity import identify
from ertacache.runtime.run import denoisers_of


def source_digest(folder: Path) -> str:
    """Of all code in a folder, which the figures follow from."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def key_of(embedded: zoo.Embedded, *given: Any) -> str:
    """A name for what is measured on a pipeline; ``given`` is whatever else decides it."""
    models = [identify(module) for module in denoisers_of(embedded.pipe).values()]
    code = source_digest(Path(ertacache.__file__).parent)
    return hashlib.sha256(repr((embedded.arguments, models, given, code)).encode()).hexdigest()[:12]
