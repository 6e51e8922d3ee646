"""Writing files: whole or not at all, and what can be known of it before the long work."""

import os
import secrets
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import NSTError

_ONE_AT_A_TIME = threading.Lock()  # Python's warning filters, which some readers set, belong to all threads


@contextmanager
def written(path: Path, mode: str = "wb") -> Iterator[Any]:
    """A file to write to, which becomes `path` when all has gone well; text is UTF-8 with plain line ends."""
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    with replaced(path) as temporary, open(temporary, mode, **text) as file:
        yield file


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """The name of an empty file beside `path`, for who opens files by name: it becomes `path` when all has gone well.

    What goes wrong with the file is told in a sentence, `path` is as it was, and nothing else is left.
    """
    # Short, so that any name fits; the first characters tell whose it is should the machine stop in the middle.
    temporary = path.with_name(f".{path.name[:32]}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())  # else the new name might reach the disk before what it names
        temporary.replace(path)
    except OSError as error:
        raise NSTError(f"{path} can't be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # the folder may be gone
            temporary.unlink(missing_ok=True)


def check_folder(path: Path) -> None:
    """The folder of `path` exists and a file can be made in it; `path` itself is not a folder."""
    if path.is_dir():
        raise NSTError(f"{path} is a folder: name a file in it")
    if not path.parent.is_dir():
        raise NSTError(f"the folder {path.parent} does not exist: make it first, or write elsewhere")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise NSTError(f"the folder {path.parent} can't be written ({error.strerror}): write elsewhere") from error


def make_folder(path: Path, option: str) -> None:
    """The folder exists, made if need be, and files can be written to it."""
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise NSTError(f"the folder {path} can't be made ({error.strerror}): give another with {option}") from error
    check_folder(path / "a file")


def check_new(path: Path, overwrite: bool) -> None:
    """What is there already is only written over when that is asked for."""
    if not overwrite and path.exists():
        raise NSTError(f"{path} exists already: name another file, or add --overwrite")


@contextmanager
def without_warnings() -> Iterator[None]:
    """While a file is read: what a library finds odd in it is not for the person who gave it. Not to be nested."""
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
