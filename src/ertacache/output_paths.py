"""Where results go: known before the work that it can be written, and another place for them if it cannot after all."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from ertacache.errors import OutputError

Written = TypeVar("Written")


def checked_output(path: Path, suffixes: Sequence[str] = (), besides: Sequence[str | Path | None] = ()) -> Path:
    """A path that a file can be written to; to be asked before the work whose result goes there.

    Args:
        path: of the file; neither it nor its folder need be there, and neither is made now.
        suffixes: the endings it may have, the usual one first; any if there are none.
        besides: the other files that are read or written with it, none of which it may be.

    Returns:
        The path.

    Raises:
        OutputError: if it cannot be written.
    """
    with _refusing(path):
        if path.is_dir():
            raise OutputError("the output is a folder", given=path, cure="Give the name of a file, in it or elsewhere.")
        if path.exists() and not path.is_file():
            raise OutputError("the output is there, and is no file", given=path, cure="Give the name of a file.")
        if suffixes and path.suffix.lower() not in suffixes:
            raise OutputError(
                f"nothing can be written as {path.suffix}" if path.suffix else "the name of the output has no ending",
                given=path,
                cure=f"Give a name that ends in {', '.join(suffixes)}.",
            )
        if path.resolve() in [Path(other).resolve() for other in besides if other is not None]:
            raise OutputError("the output is another file of this command too", given=path, cure="Give another name.")
        _try(path.parent)
    return path


def checked_folder(path: Path) -> Path:
    """A folder that files can be written to; it need not be there, and is not made now.

    Raises:
        OutputError: if nothing can be written there.
    """
    with _refusing(path):
        _try(path)
    return path


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"the output cannot be written: {error.strerror or error}",
            given=path,
            cure="Choose a place that you may write to, with room enough.",
        ) from error


def _try(folder: Path) -> None:
    """Make a file in the folder, and take it away again with the folders that had to be made for it."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, not a folder")
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".ertacache."):
            pass
    finally:
        for each in missing:
            with suppress(OSError):  # it was not made, or is in use by now
                each.rmdir()


def kept_somewhere(target: Path, write: Callable[[Path], Written]) -> Written:
    """Write what it took work to make, and to another place where its own turns out bad.

    Args:
        target: where it belongs, a file or a folder.
        write: given a path, writes there.

    Returns:
        What ``write`` does.

    Raises:
        OutputError: if it is in the temporary folder instead, which the error names.
    """
    try:
        return write(target)
    except Exception as error:
        told = error.what if isinstance(error, OutputError) else f"the output cannot be written: {error}"
        refuge = Path(tempfile.gettempdir(), f"ertacache-{secrets.token_hex(4)}")
        try:
            refuge.mkdir(mode=0o700)
            write(refuge / target.name)
        except Exception:  # it is not the place that is bad, or all places are
            shutil.rmtree(refuge, ignore_errors=True)
            raise error from None
        raise OutputError(
            told, given=target, cure=f"What was made is not lost: it is at {refuge / target.name}."
        ) from error
