"""Downloading a published file: pooch verifies its checksum; mirrors are tried in turn.

The file lies in a temporary folder until its size and checksum are right; nothing of a failed download stays.
"""

import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from ..errors import NSTError, plain
from .registry import Known

Progress = Callable[[int, int], object]  # (bytes so far, bytes in all)

_FOLDER = ".download-"
_FORGOTTEN = 24 * 3600  # seconds after which the remains of a killed download are removed
_CHUNK = 1 << 16
_SILENCE = 30  # seconds without an answer until a server counts as down
_PATIENCE, _SLOWEST = 60, 10_000  # after so many seconds, a download must average at least so many bytes a second
_MOMENT = 0.1  # seconds between two looks at a download
_REDIRECTS = 5
_ROUGHLY = 1.02  # how much larger a file may be whose published size is only rough


@contextlib.contextmanager
def downloaded(known: Known, folder: Path, progress: Progress | None = None) -> Iterator[Path]:
    """The verified file, in a temporary folder within `folder` that is removed afterwards: move out what is to stay."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clear_forgotten(folder)
        temporary = Path(tempfile.mkdtemp(prefix=_FOLDER, dir=folder))
    except OSError as error:
        reason = "it is not a folder" if isinstance(error, FileExistsError) else error.strerror
        raise NSTError(f"{folder} can't be written ({reason}): give another folder with --to") from error
    try:
        yield _fetch(known, temporary, progress)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fetch(known: Known, folder: Path, progress: Progress | None) -> Path:
    from pooch.hashes import file_hash

    failures = []
    for number, url in enumerate(known.urls):
        output = folder / str(number) / known.file
        try:
            output.parent.mkdir()
            _download(url, output, known, progress)
            found = file_hash(str(output), known.checksum.partition(":")[0])
        except _BadDownloadError as error:
            failures.append(f"{url}: {error}")
        except OSError as error:
            raise NSTError(f"{folder.parent} can't be written ({error.strerror or error}): make room") from error
        else:
            if found == known.checksum.partition(":")[2]:
                return output
            failures.append(f"{url}: the downloaded file has the checksum {found}, not {known.checksum}")
    raise NSTError(
        f"{known.file} could not be downloaded ({'; '.join(failures)}); nothing was kept: try again later, or get it "
        f"elsewhere and run `weights convert`"
    )


def _download(url: str, output: Path, known: Known, progress: Progress | None) -> None:
    """One attempt, limited in size and in time."""
    attempt = _Attempt(url, output, known)
    began = time.monotonic()
    attempt.start()
    try:
        receiving = True
        while receiving:
            attempt.join(_MOMENT)
            receiving, seconds = attempt.is_alive(), time.monotonic() - began
            if progress is not None and attempt.done:
                progress(attempt.done, attempt.total)
            if receiving and seconds > _PATIENCE and attempt.done < _SLOWEST * seconds:
                raise _BadDownloadError(
                    f"only {attempt.done} of {attempt.total} bytes came in {seconds:.0f} seconds, less than {_SLOWEST}"
                    " bytes a second"
                )
        if attempt.error is not None:
            raise attempt.error
    finally:
        attempt.given_up = True
        attempt.join(1)  # a thread that waits for a silent server ends later; its file is not the next attempt's


class _Attempt(threading.Thread):
    """Receives a file in a thread of its own, since a server can make any read last for ever, byte by byte."""

    def __init__(self, url: str, output: Path, known: Known) -> None:
        super().__init__(daemon=True)
        self.url, self.output = url, output
        self.exact = 0 if known.size_is_rough else known.size
        self.most = self.exact or round(_ROUGHLY * known.size)
        self.done, self.total = 0, known.size
        self.error: Exception | None = None
        self.given_up = False

    def run(self) -> None:
        try:
            self._receive()
        except Exception as error:
            self.error = error

    def _receive(self) -> None:
        import urllib3

        with contextlib.closing(_answer(self.url)) as response, self.output.open("wb") as file:
            if not response.ok:
                raise _BadDownloadError(f"the server answers {response.status_code}")
            if (packing := response.headers.get("Content-Encoding", "identity")) != "identity":
                raise _BadDownloadError(f"the server sends it packed ({plain(packing[:40])}) instead of as it is")
            announced = response.headers.get("Content-Length", "")
            self.total = int(announced) if announced.isdecimal() and len(announced) < 20 else self.total
            if self.exact and self.total != self.exact:
                raise _BadDownloadError(f"the server announces {self.total} bytes instead of {self.exact}")
            if self.total > self.most:
                raise _BadDownloadError(f"the server announces {self.total} bytes, more than the expected {self.most}")
            while not self.given_up:
                try:
                    piece = response.raw.read1(_CHUNK, decode_content=False)
                except (urllib3.exceptions.HTTPError, OSError) as error:
                    raise _BadDownloadError(
                        f"the connection broke off after {self.done} of {self.total} bytes"
                    ) from error
                if not piece:
                    break
                self.done += len(piece)
                if self.done > self.most:
                    raise _BadDownloadError(f"the server sends more than the expected {self.most} bytes")
                file.write(piece)
        if self.exact and self.done != self.exact:
            raise _BadDownloadError(f"the connection broke off after {self.done} of {self.exact} bytes")


def _answer(url: str) -> Any:
    """The server's answer, its body not yet read; redirected at most a few times."""
    import requests
    import urllib3

    class Session(requests.Session):
        def get_redirect_target(self, resp: Any) -> None:
            """None, because requests would read a redirect's body to its end, however long."""

    headers = {"Accept-Encoding": "identity"}  # so that the bytes counted are the file's
    try:
        for _ in range(_REDIRECTS + 1):
            response = Session().get(url, stream=True, timeout=_SILENCE, headers=headers)
            if not response.is_redirect:
                return response
            response.close()
            url = urljoin(url, response.headers["Location"])
    except (OSError, urllib3.exceptions.HTTPError, ValueError) as error:  # requests' own errors are OSErrors
        raise _BadDownloadError(f"no answer ({type(error).__name__})") from error
    raise _BadDownloadError(f"the server redirects more than {_REDIRECTS} times")


def _clear_forgotten(folder: Path) -> None:
    for left in folder.glob(f"{_FOLDER}*"):
        with contextlib.suppress(OSError):  # another process may remove it first
            if time.time() - left.lstat().st_mtime > _FORGOTTEN:
                left.unlink() if left.is_symlink() else shutil.rmtree(left)


class _BadDownloadError(Exception):
    """What went wrong with one address, as part of a sentence."""
