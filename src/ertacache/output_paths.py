"""Output paths: checked before the work, and a fallback folder for results that cannot be written after it."""

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
    """Check, before the work, that a file can be written to a path.

    Args:
        path: path of the file; the file and its folder need not exist, and are not created.
        suffixes: the suffixes it may have, the usual one first; empty for any.
        besides: the other files that the work reads or writes; the path must differ from them.

    Returns:
        The path.

    Raises:
        OutputError: if the file cannot be written.
    """
    with _refusing(path):
        if path.is_dir():
            raise OutputError("the output is a folder", given=path, cure="Give the name of a file, in it or elsewhere.")
        if path.exists() and not path.is_file():
            raise OutputError("the output exists, and is not a file", given=path, cure="Give the name of a file.")
        if suffixes and path.suffix.lower() not in suffixes:
            raise OutputError(
                f"nothing can be written as {path.suffix}" if path.suffix else "the name of the output has no suffix",
                given=path,
                cure=f"Give a name that ends in {', '.join(suffixes)}.",
            )
        if path.resolve() in [Path(other).resolve() for other in besides if other is not None]:
            raise OutputError("the output is also another file of this command", given=path, cure="Give another name.")
        _try(path.parent)
    return path


def checked_folder(path: Path) -> Path:
    """Check, before the work, that files can be written to a folder; it need not exist, and is not created.

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
            cure="Choose a place that you may write to, with enough room.",
        ) from error


def _try(folder: Path) -> None:
    """Create a file in the folder, and remove it with the folders that had to be created for it."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, not a folder")
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".ertacache."):
            pass
    finally:
        for each in missing:
            with suppress(OSError):  # it was not created, or is in use by now
                each.rmdir()


def kept_somewhere(target: Path, write: Callable[[Path], Written]) -> Written:
    """Write a result; if its place fails, write it to the temporary folder, so that the work is not lost.

    Args:
        target: the file or folder to write.
        write: writes the result to the path that it is given.

    Returns:
        What ``write`` returns.

    Raises:
        OutputError: if the result is in the temporary folder; the error names the path.
    """
    try:
        return write(target)
    except Exception as error:
        what = error.what if isinstance(error, OutputError) else f"the output cannot be written: {error}"
        refuge = Path(tempfile.gettempdir(), f"ertacache-{secrets.token_hex(4)}")
        try:
            refuge.mkdir(mode=0o700)
            write(refuge / target.name)
        except Exception:  # the place is not the cause, or no place works
            shutil.rmtree(refuge, ignore_errors=True)
            raise error from None
        raise OutputError(
            what, given=target, cure=f"What was made is not lost: it is at {refuge / target.name}."
        ) from error
