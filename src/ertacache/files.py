"""Files that are written whole or not at all, and read with clear errors.

What this library keeps, policies and all others of `KINDS`, is one safetensors file each: tensors, and beside them a
text of JSON that says what it is, and a checksum over both. The checksum finds damage. It is no signature: what is in a
file is checked value by value where the objects are made.
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

from ertacache import arguments
from ertacache._version import __version__
from ertacache.errors import ERTACacheError, OutputError, PolicyFileError

SCHEMA = 3
"""Of all kinds. 1 and 2 had no checksum."""
MOST_BYTES = 4 << 30
"""A file that is read as a whole, which all but recordings are, has no more."""
KINDS = {
    "policy": "ertacache.calibrate(), or `ertacache calibrate MODEL --prompts FILE --steps T --speedup R`",
    "profile": "ertacache.profile(), or `ertacache calibrate MODEL --prompts FILE --steps T --frontier FOLDER`",
    "draft": "ertacache.draft(), or `ertacache draft MODEL POLICY --prompts FILE`",
    "recording": "ertacache.calibrate(checkpoint=FOLDER)",
}
"""The kinds of files, and what makes each."""
_HEADER = ("kind", "schema", "library", "checksum")
"""What the text of every file has beside its content."""
_OLDER = {"ertacache.profile": "profile", "ertacache.draft": "draft", "setting": "recording"}
"""Under which name older versions kept the text of which kind."""


@contextmanager
def written_whole(target: Path) -> Iterator[str]:
    """The path of a file of its own to write to, which takes the target's place at the end, and goes if that fails.

    Raises:
        OutputError: if it cannot be written.
    """
    partial = None
    try:
        if target.exists() and not target.is_file():  # a device or a pipe would be gone
            raise FileExistsError("what is there is no file")
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
            cure="Give a place that you may write to, with room enough.",
        ) from error
    finally:
        if partial is not None:
            Path(partial).unlink(missing_ok=True)


def save(path: str | os.PathLike[str], kind: str, content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write one file of this kind, whole or not at all.

    Args:
        path: where.
        kind: one of `KINDS`.
        content: all of it but tensors, as JSON takes it; it has other names than `_HEADER`.
        tensors: no two of which share memory.

    Raises:
        ArgumentError: if ``path`` is none.
        OutputError: if it cannot be written.
    """
    target = arguments.path("path", path)
    text = json.dumps({"kind": kind, "schema": SCHEMA, "library": __version__, **content})
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"ertacache": sealed(text, plain)}  # one entry: several come in another order each time
    with written_whole(target) as partial:
        save_file(plain, partial, metadata=metadata)


def sealed(text: str, tensors: Mapping[str, Tensor]) -> str:
    """An object of JSON, with the checksum of all that a file of both holds as its last entry.

    It is CRC-32, which is as fast as reading, of the text without it, and of the tensors' names, kinds, shapes, bytes.
    """
    total = _of_text(text)
    for name, tensor in sorted(tensors.items()):
        total = _with_tensor(total, name, tensor)
    return text[:-1] + _seal(f"{total:08x}")


class Held:
    """A file of one kind that was opened.

    Attributes:
        content: what `save` was given, out of JSON.
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
            raise self._wrong(
                f"this is not a {kind}, or a damaged one: it does not say of which schema it is", self._again
            )
        found, schema = parsed.get("kind", "policy"), parsed["schema"]
        if found != kind and found in KINDS:
            raise self._wrong(
                f"this is not a {kind}, but a {found}",
                f"Pass a file that {kind.capitalize()}.save() wrote; this one is read by {found.capitalize()}.load().",
            )
        if schema != SCHEMA:
            raise self._wrong(
                f"this {kind} has schema {schema}, and this version of ertacache ({__version__}) reads schema {SCHEMA}",
                f"Upgrade ertacache, or make it again with {KINDS[kind]}." if schema > SCHEMA else self._again,
            )
        self._declared = str(parsed.get("checksum"))
        self._begun = _of_text(whole.removesuffix(_seal(self._declared)) + "}")
        if found != kind or not isinstance(parsed.get("library"), str):
            raise self._wrong(f"this is not a {kind}, or a damaged one: it does not say what wrote it", self._again)
        self.content = {name: value for name, value in parsed.items() if name not in _HEADER}

    @property
    def _again(self) -> str:
        return f"Make it again with {KINDS[self._kind]}, or copy it again."

    def _wrong(self, what: str, cure: str) -> PolicyFileError:
        return PolicyFileError(what, given=self._path, cure=cure)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Its tensors by name, one after the other.

        Raises:
            PolicyFileError: at the end, if the checksum is not that of what was written.
        """
        total = self._begun
        for name in sorted(self._file.keys()):
            tensor = self._file.get_tensor(name)
            total = _with_tensor(total, name, tensor)
            yield name, tensor
        if self._declared != f"{total:08x}":
            raise self._wrong(
                f"this {self._kind} is damaged: its checksum is not that of what was written", self._again
            )


@contextmanager
def opening(path: str | os.PathLike[str], kind: str) -> Iterator[Held]:
    """A file of this kind, to be made sense of in the context.

    Raises:
        ArgumentError: if ``path`` is none.
        FileNotFoundError: if there is no such file.
        PolicyFileError: if it is damaged, holds something else, was written by another version, or makes no sense in
            the context.
    """
    named = os.fspath(arguments.path("path", path))
    if not os.path.isfile(named):
        raise FileNotFoundError(f"there is no {kind} file at {named!r}; make one with {KINDS[kind]}")
    again = f"It is damaged, or was edited; make it again with {KINDS[kind]}, or copy it again."
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
        told = f"this is not a {kind}, or a damaged one: {type(error).__name__}: {error}"
        raise PolicyFileError(told, given=named, cure=again) from error


@contextmanager
def reading(path: str | os.PathLike[str], kind: str) -> Iterator[tuple[Any, dict[str, Tensor]]]:
    """What a file of this kind holds, as JSON has it, and its tensors; to be made sense of in the context.

    Raises:
        ArgumentError, FileNotFoundError, PolicyFileError: as `opening`, and if it is larger than `MOST_BYTES`.
    """
    with opening(path, kind) as held:
        size = os.path.getsize(path)
        if size > MOST_BYTES:
            raise PolicyFileError(
                f"this {kind} is larger than any that is read", given=f"{size} bytes", cure="Pass another file."
            )
        yield held.content, dict(held.tensors())


def entries(kind: type, plain: Any, name: str, elsewhere: Collection[str] = ()) -> dict[str, Any]:
    """What a file has for the fields of a dataclass; those that have a default may be missing.

    Args:
        kind: the dataclass.
        plain: out of JSON.
        name: of what it is, for errors.
        elsewhere: fields that are kept as tensors.

    Raises:
        PolicyFileError: if a field is missing, or there are others: a newer version may have meant something by them.
    """
    if not isinstance(plain, dict):
        raise _senseless(f"{name} is of type {type(plain).__name__}, and no object")
    known = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(kind) if f.init}
    unknown = plain.keys() - (known.keys() - set(elsewhere))
    if unknown:
        raise newer(f"{name} with {', '.join(sorted(unknown))}")
    missing = [key for key, needed in known.items() if needed and key not in plain and key not in elsewhere]
    if missing:
        raise _senseless(f"{name} has no {', '.join(missing)}")
    return dict(plain)


def newer(what: str) -> PolicyFileError:
    """The error of a file that holds what this version does not know."""
    return PolicyFileError(
        "it holds what this version of ertacache does not know",
        given=what,
        cure="Upgrade ertacache, or make it again.",
    )


def _senseless(what: str) -> PolicyFileError:
    return PolicyFileError("it makes no sense", given=what, cure="It was edited; make it again, or copy it again.")


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What a JSON file holds; where there is none, or a damaged one, what ``make`` returns is kept there first."""
    with suppress(FileNotFoundError, ValueError, RecursionError):
        return json.loads(path.read_text(encoding="utf-8"))
    text = json.dumps(make())
    with written_whole(path) as unfinished:
        Path(unfinished).write_text(text, encoding="utf-8")
    return json.loads(text)


_DAMAGE = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, SafetensorError, TypeError, ValueError)


def _parsed(text: str) -> Any:
    """JSON in which no key comes twice."""
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice")
    return found


def _seal(checksum: str) -> str:
    return f', "checksum": "{checksum}"}}'


def _of_text(text: str) -> int:
    return zlib.crc32(text.encode())


def _with_tensor(total: int, name: str, tensor: Tensor) -> int:
    total = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), total)
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, total)
