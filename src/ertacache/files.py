"""The file format of policies, profiles, drafts and recordings: written whole or not at all, read with clear errors.

Each is one safetensors file: tensors, a JSON text that says what they are, and a checksum over both. The checksum finds
damage; it is not a signature. Every value is checked when an object is made from the file.
"""

from __future__ import annotations

import json
import os
import tempfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ertacache import value_checks
from ertacache._version import __version__
from ertacache.errors import ERTACacheError, OutputError, PolicyFileError

SCHEMA = 3
"""The version of the format, for all kinds of files. 1 and 2 had no checksum."""
MOST_BYTES = 4 << 30
"""The largest file that is read as a whole, as all kinds but recordings are."""
KINDS = {
    "policy": "ertacache.calibrate(), or `ertacache calibrate MODEL --prompts FILE --steps T --speedup R`",
    "profile": "ertacache.profile(), or `ertacache calibrate MODEL --prompts FILE --steps T --frontier FOLDER`",
    "draft": "ertacache.draft(), or `ertacache draft MODEL POLICY --prompts FILE`",
    "recording": "ertacache.calibrate(checkpoint=FOLDER)",
    "learnt": "ertacache.accelerated(pipe, speedup=2.0, learn=FOLDER), which learns it anew",
}
"""The kinds of files, and how each is made."""
_HEADER = ("kind", "schema", "library", "checksum")
"""The entries of every JSON text besides the content."""
_OLDER = {"ertacache.profile": "profile", "ertacache.draft": "draft", "setting": "recording"}
"""The metadata entry in which older versions kept the text, and its kind."""


@contextmanager
def written_whole(target: Path) -> Iterator[str]:
    """Give a temporary file to write to; at the end it replaces the target, and on an error it is deleted.

    Args:
        target: the file to write; missing folders are made.

    Raises:
        OutputError: if the target cannot be written.
    """
    partial = None
    try:
        if target.exists() and not target.is_file():  # replacing would delete a device or a pipe
            raise FileExistsError("there is something else at this path, not a file")
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:40]}.", suffix=".partial")
        os.close(handle)
        yield partial
        os.chmod(partial, 0o644)
        os.replace(partial, target)
    except (OSError, SafetensorError) as error:
        if isinstance(error, ERTACacheError):
            raise
        raise OutputError(
            f"the file cannot be written: {error}",
            given=os.fspath(target),
            cure="Give a path that you may write to, on a disk with enough space.",
        ) from error
    finally:
        if partial is not None:
            Path(partial).unlink(missing_ok=True)


def save(path: str | os.PathLike[str], kind: str, content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write one file, whole or not at all.

    Args:
        path: the file to write; missing folders are made.
        kind: one of `KINDS`.
        content: all but the tensors, as JSON data; without the names in `_HEADER`.
        tensors: by name; no two may share memory.

    Raises:
        ArgumentError: if ``path`` is not a path.
        OutputError: if the file cannot be written.
    """
    target = value_checks.path("path", path)
    text = json.dumps({"kind": kind, "schema": SCHEMA, "library": __version__, **content})
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"ertacache": sealed(text, plain)}  # one entry: safetensors writes several in random order
    with written_whole(target) as partial:
        save_file(plain, partial, metadata=metadata)


def sealed(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Append a checksum to a JSON text as its last entry.

    The checksum is a CRC-32, which is as fast as reading the file, of the text without the checksum, and of each
    tensor's name, dtype, shape and bytes.

    Args:
        text: a JSON object.
        tensors: by name, contiguous, on the CPU.
    """
    total = _of_text(text)
    for name, tensor in sorted(tensors.items()):
        total = _with_tensor(total, name, tensor)
    return text[:-1] + _seal(f"{total:08x}")


class Held:
    """An opened file whose kind and schema were checked.

    Args:
        file: opened by `safetensors.safe_open`.
        path: for messages.
        kind: the expected kind, one of `KINDS`.

    Attributes:
        content: what `save` wrote, as JSON data.

    Raises:
        PolicyFileError: if the file is of another kind or schema.
    """

    def __init__(self, file: Any, path: str, kind: str) -> None:
        self._file, self._path, self._kind = file, path, kind
        metadata = file.metadata() or {}
        older = next((of for name, of in _OLDER.items() if name in metadata), None)
        if "ertacache" not in metadata and older is None:
            raise self._wrong(
                f"this safetensors file is not a {kind}", f"Pass a file that {kind.capitalize()}.save() wrote."
            )
        whole = metadata.get("ertacache") or json.dumps({"kind": older, "schema": 2})
        parsed = _parsed(whole)
        if not isinstance(parsed, dict) or type(parsed.get("schema")) is not int:
            raise self._wrong(f"this is not a {kind}, or a damaged one: it does not state its schema", self._again)
        actual, schema = parsed.get("kind", "policy"), parsed["schema"]
        if actual != kind and actual in KINDS:
            raise self._wrong(
                f"this is not a {kind}, but a {actual}",
                f"Pass a file that {kind.capitalize()}.save() wrote; {actual.capitalize()}.load() reads this one.",
            )
        if schema != SCHEMA:
            raise self._wrong(
                f"this {kind} has schema {schema}, but this version of ertacache ({__version__}) reads schema {SCHEMA}",
                f"Upgrade ertacache, or make it again with {KINDS[kind]}." if schema > SCHEMA else self._again,
            )
        self._declared = str(parsed.get("checksum"))
        self._begun = _of_text(whole.removesuffix(_seal(self._declared)) + "}")
        if actual != kind or not isinstance(parsed.get("library"), str):
            raise self._wrong(f"this is not a {kind}, or a damaged one: it does not state who wrote it", self._again)
        self.content = {name: value for name, value in parsed.items() if name not in _HEADER}

    @property
    def _again(self) -> str:
        return f"Make it again with {KINDS[self._kind]}; if it was copied here, copy it again."

    def _wrong(self, what: str, cure: str) -> PolicyFileError:
        return PolicyFileError(what, given=self._path, cure=cure)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors by name, one after the other.

        Raises:
            PolicyFileError: after the last tensor, if the checksum is wrong.
        """
        total = self._begun
        for name in sorted(self._file.keys()):
            tensor = self._file.get_tensor(name)
            total = _with_tensor(total, name, tensor)
            yield name, tensor
        if self._declared != f"{total:08x}":
            raise self._wrong(f"this {self._kind} is damaged: its checksum does not match its content", self._again)


@contextmanager
def opening(path: str | os.PathLike[str], kind: str) -> Iterator[Held]:
    """Open a file; errors of the ``with`` block that reads it become errors that name the file.

    Args:
        path: the file.
        kind: the expected kind, one of `KINDS`.

    Raises:
        ArgumentError: if ``path`` is not a path.
        FileNotFoundError: if there is no such file.
        PolicyFileError: if the file is damaged, of another kind or schema, or the block fails on its content.
    """
    named = os.fspath(value_checks.path("path", path))
    if not os.path.isfile(named):
        raise FileNotFoundError(f"there is no {kind} file at {named!r}; make one with {KINDS[kind]}")
    again = f"It is damaged, or was edited: make it again with {KINDS[kind]}, or copy it again."
    try:
        with safe_open(named, "pt") as file:
            yield Held(file, named, kind)
    except PolicyFileError as error:
        if error.given == named:
            raise
        raise PolicyFileError(f"{error.what}: {error.given}", given=named, cure=error.cure) from None
    except ERTACacheError as error:
        raise PolicyFileError(f"this is not a {kind}: {error.what}: {error.given}", given=named, cure=again) from error
    except _DAMAGE as error:
        what = f"this is not a {kind}, or a damaged one: {type(error).__name__}: {error}"
        raise PolicyFileError(what, given=named, cure=again) from error


@contextmanager
def reading(path: str | os.PathLike[str], kind: str) -> Iterator[tuple[Any, dict[str, Tensor]]]:
    """Read a file as a whole: its content as JSON data, and its tensors. Else as `opening`.

    Args:
        path: the file.
        kind: the expected kind, one of `KINDS`.

    Raises:
        ArgumentError: if ``path`` is not a path.
        FileNotFoundError: if there is no such file.
        PolicyFileError: as `opening`; also if the file is larger than `MOST_BYTES`.
    """
    with opening(path, kind) as held:
        size = os.path.getsize(path)
        if size > MOST_BYTES:
            raise PolicyFileError(
                f"this {kind} is larger than {MOST_BYTES >> 30} GiB", given=f"{size} bytes", cure="Pass another file."
            )
        yield held.content, dict(held.tensors())


def entries(kind: type, plain: Any, name: str, elsewhere: Collection[str] = ()) -> dict[str, Any]:
    """Get the values for the fields of a dataclass from JSON data; fields with a default may be missing.

    Args:
        kind: the dataclass.
        plain: the JSON data.
        name: what the data is, for messages.
        elsewhere: fields that are stored as tensors.

    Raises:
        PolicyFileError: if a field is missing, or there are unknown ones, as a newer version may have written.
    """
    if not isinstance(plain, dict):
        raise _senseless(f"{name} must be a JSON object, but is of type {type(plain).__name__}")
    known = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(kind) if f.init}
    unknown = plain.keys() - (known.keys() - set(elsewhere))
    if unknown:
        raise newer(f"{name} with {', '.join(sorted(unknown))}")
    missing = [key for key, needed in known.items() if needed and key not in plain and key not in elsewhere]
    if missing:
        raise _senseless(f"{name} has no {', '.join(missing)}")
    return dict(plain)


def newer(what: str) -> PolicyFileError:
    """Make the error for a file with content that this version does not know."""
    return PolicyFileError(
        "the file has content that this version of ertacache does not know",
        given=what,
        cure="Upgrade ertacache, or make the file again.",
    )


def _senseless(what: str) -> PolicyFileError:
    return PolicyFileError(
        "the content of the file is invalid",
        given=what,
        cure="It was edited, or is damaged: make it again, or copy it again.",
    )


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """Read a JSON file; if it is missing or damaged, first write what ``make`` returns.

    Args:
        path: the file.
        make: makes the content, as JSON data.

    Raises:
        OutputError: if the file cannot be written.
    """
    with suppress(FileNotFoundError, ValueError, RecursionError):
        return json.loads(path.read_text(encoding="utf-8"))
    text = json.dumps(make())
    with written_whole(path) as unfinished:
        Path(unfinished).write_text(text, encoding="utf-8")
    return json.loads(text)


_DAMAGE = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, SafetensorError, TypeError, ValueError)


def _parsed(text: str) -> Any:
    """Parse JSON; no key may occur twice."""
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries_by_key = dict(pairs)
    if len(entries_by_key) < len(pairs):
        raise ValueError("a key occurs twice")
    return entries_by_key


def _seal(checksum: str) -> str:
    return f', "checksum": "{checksum}"}}'


def _of_text(text: str) -> int:
    return zlib.crc32(text.encode())


def _with_tensor(total: int, name: str, tensor: Tensor) -> int:
    total = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), total)
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, total)
