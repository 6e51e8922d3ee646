"""Writing files whole or not at all, the checks that can be made before the long work, and checksums."""

import hashlib
import logging
import os
import re
import secrets
import stat
import tempfile
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import NSTError

log = logging.getLogger(__name__)

HDF5 = (".h5", ".hdf5")

_HDF5_REASON = re.compile(r"error message = '([^']+)'")  # the system's words within HDF5's
_ONE_AT_A_TIME = threading.Lock()  # all threads share Python's warning filters
_LARGEST_HASHED = 2 << 30  # bytes: of the largest picture; weights files have at most 0.6 GB


@contextmanager
def written(path: Path, mode: str = "wb", new: bool = False) -> Iterator[Any]:
    """A file to write to, which becomes `path` if the block succeeds; with `new`, only if there is none by then. Text
    is UTF-8 with \\n as line end."""
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    with replaced(path, new) as temporary, open(temporary, mode, **text) as file:
        yield file


@contextmanager
def replaced(path: Path, new: bool = False) -> Iterator[Path]:
    """The name of an empty file beside `path`, for libraries that open files by name; it becomes `path` if the block
    succeeds. If not, `path` stays as it was and nothing else is left."""
    # Short enough to fit beside any name; its first characters tell whose it is if the machine stops in the middle.
    temporary = path.with_name(f".{path.name[:32]}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())  # else the new name might reach the disk before the content
        if _is_special(path):
            raise NSTError(f"{path} is not a regular file, and would be lost: write to another file")
        if new:
            _name_anew(temporary, path)
        else:
            temporary.replace(path)
    except OSError as error:
        said = _HDF5_REASON.search(str(error))
        reason = said[1] if said else error.strerror or error
        raise NSTError(f"{path} can't be written: {reason}") from error
    finally:
        with suppress(OSError):  # the folder may be gone
            temporary.unlink(missing_ok=True)


def _is_special(path: Path) -> bool:
    """Whether there is a device, pipe or socket of that name, which renaming would replace."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def _name_anew(temporary: Path, path: Path) -> None:
    """Unlike renaming, this never replaces a file, even one that somebody made just now."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # this disk has no hard links
        if os.path.lexists(path):
            raise
        temporary.replace(path)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Keep other runs from writing to `path` during the block, by a hidden file beside it that the system locks.

    When a run is killed, that file stays but its lock does not. Where the disk has no locks, nothing is held.
    """
    from filelock import FileLock, Timeout

    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()
    lock = FileLock(path.with_name(f".{path.name[:32]}.{digest[:8]}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise NSTError(f"another run is writing {path}: wait until it has ended, or write to another file") from None
    except (OSError, NotImplementedError) as error:
        log.debug("%s can't be held: %s", path, error)
    try:
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):  # Windows removes it on release
                os.unlink(lock.lock_file)
        lock.release()


def check_folder(path: Path) -> None:
    """Check that the folder of `path` exists and takes new files, and that `path` itself, if there, is a plain file."""
    if os.path.isdir(path):  # unlike Path.is_dir, this never raises
        raise NSTError(f"{path} is a folder: name a file in it")
    if _is_special(path):
        raise NSTError(f"{path} is not a regular file, and would be lost: write to another file")
    if not os.path.isdir(path.parent):
        raise NSTError(f"the folder {path.parent} does not exist: create it first, or write elsewhere")
    try:
        with suppress(FileNotFoundError):
            os.lstat(path)  # the name itself may be too long
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except (OSError, ValueError) as error:
        raise NSTError(f"{path} can't be written ({reason(error)}): write elsewhere") from error


def make_folder(path: Path, option: str) -> None:
    """Create the folder if it is missing, and check that files can be written to it."""
    what = "created"
    try:
        path.mkdir(exist_ok=True)
        what = "written to"
        with tempfile.TemporaryFile(dir=path):
            pass
    except (OSError, ValueError) as error:
        raise NSTError(f"the folder {path} can't be {what} ({reason(error)}): give another with {option}") from error


def reason(error: OSError | ValueError) -> str:
    """Why a file can't be opened or made, in the system's words; a ValueError is about a zero byte in its name."""
    return getattr(error, "strerror", None) or str(error)


def check_new(path: Path, overwrite: bool) -> None:
    """Refuse to overwrite a file unless that is asked for."""
    if not overwrite and os.path.lexists(path):  # also a link that leads nowhere
        raise NSTError(f"{path} exists already: name another file, or add --overwrite")


def check_hdf5(path: Path, contents: str, overwrite: bool) -> None:
    """Check that `contents` can be written there as HDF5, and that nothing is lost by it."""
    if path.suffix.lower() not in HDF5 and not os.path.isdir(path):
        raise NSTError(f"{path} must end in {' or '.join(HDF5)}, because {contents} are written as HDF5: rename it")
    check_folder(path)
    check_new(path, overwrite)


def check_not_inputs(outputs: Iterable[Path | None], inputs: Iterable[Any]) -> None:
    """Refuse, whatever else is allowed, to write over a file that is read."""
    sources = [source for source in inputs if isinstance(source, str | os.PathLike) and os.path.exists(source)]
    for path in filter(None, outputs):
        if any(os.path.exists(path) and os.path.samefile(path, source) for source in sources):
            raise NSTError(f"{path} is one of the inputs, and would be lost: write to another file")


def file_sha256(path: Path) -> str:
    """The SHA-256 of a regular file."""
    try:
        about = os.stat(path)
        if not stat.S_ISREG(about.st_mode):
            raise NSTError(f"{path} is not a regular file: give a file")
        if about.st_size > _LARGEST_HASHED:
            raise NSTError(f"{path} is larger than {_LARGEST_HASHED >> 30} GiB, so it is not read: give another file")
        if about.st_size == 0:  # or without end, as in /proc
            return hashlib.sha256().hexdigest()
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        raise NSTError(f"{path} can't be read: {reason(error)}") from error


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence libraries that warn of oddities in a user's file. It holds a lock: don't nest it."""
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
