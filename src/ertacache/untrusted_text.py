"""Text that comes from outside: decoding files and arguments, and escaping it before it is shown."""

from __future__ import annotations

import codecs
import re
from contextlib import suppress

from ertacache.errors import ArgumentError

# Control characters except tab and newline, line separators, marks that change the direction of writing, and lone
# surrogates, which stand for bytes that the locale could not decode.
_UNSEEN = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def decoded(content: bytes, name: str) -> str:
    """Decode a text file: UTF-8 with or without a byte order mark, or UTF-16 with one; the locale does not matter.

    Args:
        content: content of the file.
        name: name of the file, for errors.

    Raises:
        ArgumentError: if it is neither encoding.
    """
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ArgumentError(
            f"the file is not text in UTF-8: byte {content[error.start]:#04x} in line {line}",
            given=name,
            cure="Save it as UTF-8; from Latin-1, `iconv -f LATIN1 -t UTF-8 OLD > NEW` does it.",
        ) from None
    if "\0" in text:
        raise ArgumentError(
            "the file is not text, or it is UTF-16 without a byte order mark",
            given=name,
            cure="Give a text file, saved as UTF-8.",
        )
    return text


def typed(argument: str) -> str:
    """Decode an argument of the command line as UTF-8 if the locale could not decode it.

    Raises:
        ArgumentError: if it is not UTF-8.
    """
    try:
        return _decoded_after_all(argument)
    except UnicodeError:
        raise ArgumentError(
            "the argument is not text in UTF-8, and the locale cannot read it",
            given=visible(argument),
            cure="Set the locale that your terminal writes in, or UTF-8: export LC_ALL=C.UTF-8.",
        ) from None


def visible(text: str) -> str:
    r"""Escape invisible characters and those that a terminal would obey.

    >>> visible("red\x1b[31m")
    'red\\x1b[31m'
    """
    with suppress(UnicodeError):
        text = _decoded_after_all(text)
    return _UNSEEN.sub(lambda found: _escaped(ord(found[0])), text)


def _decoded_after_all(text: str) -> str:
    """Decode as UTF-8 the bytes that the locale could not decode, which Python keeps as lone surrogates."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8")


def _escaped(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
