"""What griffe does beside its own: examples in docstrings, written for doctest, are shown as code on the site."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\n).+)*", re.MULTILINE)


class DocstringExamples(griffe.Extension):
    """Put each example of a docstring into a block of code, without what is for doctest alone."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Mend a docstring when it was read."""
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(_as_code, obj.docstring.value)


def _as_code(example: re.Match[str]) -> str:
    return f"```pycon\n{re.sub(' *# doctest:.*', '', example[0])}\n```"
