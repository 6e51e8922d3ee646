"""Fetching a published file: pooch gets it and checks it; mirrors are tried in turn.

What arrives lies under a temporary name until its size and checksum are right; nothing of a broken download stays.
"""

import contextlib
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import NSTError
from .registry import Known

Progress = Callable[[int, int], object]  # (bytes so far, bytes in all)

_FOLDER = ".download-"
_FORGOTTEN = 24 * 3600  # seconds after which a download that was killed is cleared away
_CHUNK = 1 << 16
_SECONDS = 30  # of silence until a server counts as down


@contextlib.contextmanager
def downloaded(known: Known, folder: Path, progress: Progress | None = None) -> Iterator[Path]:
    """The verified file, in a temporary folder within `folder` that is gone afterwards: move out what is to stay."""
    if not known.downloadable:
        where = f" from {known.urls[0]}" if known.urls else ""
        raise NSTError(
            f"{known.name}: no checksum of {known.file} is published, or no lasting address: get it yourself{where}, "
            f"and run `weights convert {known.file} OUT.h5`"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clear_forgotten(folder)
        temporary = Path(tempfile.mkdtemp(prefix=_FOLDER, dir=folder))
    except OSError as error:
        raise NSTError(f"{folder}: cannot be written ({error.strerror}): give another folder with --to") from error
    try:
        yield _fetch(known, temporary, progress)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fetch(known: Known, folder: Path, progress: Progress | None) -> Path:
    import pooch
    import requests

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)  # it has a handler of its own, which prints
    failures = []
    try:
        for url in known.urls:
            watch = _Watch(known, progress)
            downloader = pooch.HTTPDownloader(progressbar=watch, chunk_size=_CHUNK, timeout=_SECONDS)
            try:
                path = Path(pooch.retrieve(url, known.checksum, fname=known.file, path=folder, downloader=downloader))
            except _WrongSizeError as error:
                failures.append(f"{url}: {error}")
            except requests.HTTPError as error:
                status = error.response.status_code if error.response is not None else "an error"
                failures.append(f"{url}: the server answers {status}")
            except requests.RequestException as error:
                cut = watch.done and not isinstance(error, requests.Timeout)
                failures.append(f"{url}: {'the connection broke off' if cut else 'no answer'}")
            except ValueError:
                failures.append(f"{url}: what came has another checksum than {known.checksum}")
            except OSError as error:
                raise NSTError(f"{folder.parent}: cannot be written ({error.strerror or error}): make room") from error
            else:
                if known.size and path.stat().st_size != known.size and not known.size_is_rough:
                    failures.append(f"{url}: {path.stat().st_size} bytes came instead of {known.size}")
                    path.unlink()
                    continue
                return path
    finally:
        logger.setLevel(level)
    raise NSTError(
        f"{known.file} could not be downloaded ({'; '.join(failures)}); nothing was kept: try again later, or get it "
        f"elsewhere and run `weights convert`"
    )


def _clear_forgotten(folder: Path) -> None:
    for left in folder.glob(f"{_FOLDER}*"):
        if time.time() - left.stat().st_mtime > _FORGOTTEN:
            shutil.rmtree(left, ignore_errors=True)


class _WrongSizeError(Exception):
    """The server sends a file of another size than the published one."""


class _Watch:
    """What pooch takes for a progress bar: passes the count on, and stops a server that sends too much."""

    def __init__(self, known: Known, progress: Progress | None) -> None:
        self.known, self.progress = known, progress
        self.done = 0
        self.total = 0  # set by pooch from the server's announcement, 0 if there was none

    def update(self, count: int) -> None:
        self.done += count
        expected = 0 if self.known.size_is_rough else self.known.size
        if expected and (self.total or expected) != expected:
            raise _WrongSizeError(f"the server announces {self.total} bytes instead of {expected}")
        if expected and self.done > expected + _CHUNK:  # pooch counts the last chunk as a whole one
            raise _WrongSizeError(f"more than {expected} bytes came")
        if self.progress is not None:
            total = self.total or self.known.size
            self.progress(min(self.done, total), total)

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        """Whoever shows the progress closes it."""
