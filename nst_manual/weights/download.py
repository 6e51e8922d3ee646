"""Downloading a published file: pooch verifies its checksum; mirrors are tried in turn.

The file lies in a temporary folder until its size and checksum are right; nothing of a failed download stays.
"""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import NSTError
from .registry import Known

Progress = Callable[[int, int], object]  # (bytes so far, bytes in all)

_FOLDER = ".download-"
_FORGOTTEN = 24 * 3600  # seconds after which the remains of a killed download are removed
_CHUNK = 1 << 16
_SILENCE = 30  # seconds without an answer until a server counts as down
_PATIENCE, _SLOWEST = 60, 10_000  # after so many seconds, a download must average at least so many bytes a second
_ROUGHLY = 1.02  # how much larger a file may be whose published size is only rough


@contextlib.contextmanager
def downloaded(known: Known, folder: Path, progress: Progress | None = None) -> Iterator[Path]:
    """The verified file, in a temporary folder within `folder` that is removed afterwards: move out what is to stay."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clear_forgotten(folder)
        temporary = Path(tempfile.mkdtemp(prefix=_FOLDER, dir=folder))
    except OSError as error:
        raise NSTError(f"{folder} can't be written ({error.strerror}): give another folder with --to") from error
    try:
        yield _fetch(known, temporary, progress)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fetch(known: Known, folder: Path, progress: Progress | None) -> Path:
    import requests
    from pooch.hashes import hash_matches

    failures = []
    for url in known.urls:
        try:
            _download(url, folder / known.file, known, progress)
            if hash_matches(str(folder / known.file), known.checksum):
                return folder / known.file
            failures.append(f"{url}: the downloaded file does not have the checksum {known.checksum}")
        except _BadDownloadError as error:
            failures.append(f"{url}: {error}")
        except requests.RequestException:
            failures.append(f"{url}: no answer")
        except ValueError:
            failures.append(f"{url}: the server announces a size that is no number")
        except OSError as error:
            raise NSTError(f"{folder.parent} can't be written ({error.strerror or error}): make room") from error
    raise NSTError(
        f"{known.file} could not be downloaded ({'; '.join(failures)}); nothing was kept: try again later, or get it "
        f"elsewhere and run `weights convert`"
    )


def _download(url: str, output: Path, known: Known, progress: Progress | None) -> None:
    """One attempt, limited in size and in time."""
    import requests
    import urllib3

    exact = 0 if known.size_is_rough else known.size
    most = exact or round(_ROUGHLY * known.size)
    began, done = time.monotonic(), 0
    headers = {"Accept-Encoding": "identity"}  # so that the bytes counted are the file's
    with requests.get(url, stream=True, timeout=_SILENCE, headers=headers) as response, output.open("wb") as file:
        if not response.ok:
            raise _BadDownloadError(f"the server answers {response.status_code}")
        total = int(response.headers.get("Content-Length", 0)) or known.size
        if exact and total != exact:
            raise _BadDownloadError(f"the server announces {total} bytes instead of {exact}")
        while True:
            try:
                piece: Any = response.raw.read1(_CHUNK, decode_content=False)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise _BadDownloadError(f"the connection broke off after {done} of {total} bytes") from error
            if not piece:
                break
            done += len(piece)
            seconds = time.monotonic() - began
            if done > most:
                raise _BadDownloadError(f"the server sends more than the expected {most} bytes")
            if seconds > _PATIENCE and done < _SLOWEST * seconds:
                raise _BadDownloadError(f"only {done} of {total} bytes came in {seconds:.0f} seconds")
            file.write(piece)
            if progress is not None:
                progress(done, total)
    if exact and done != exact:
        raise _BadDownloadError(f"the connection broke off after {done} of {exact} bytes")


def _clear_forgotten(folder: Path) -> None:
    for left in folder.glob(f"{_FOLDER}*"):
        with contextlib.suppress(OSError):  # another process may remove it first
            if time.time() - left.lstat().st_mtime > _FORGOTTEN:
                shutil.rmtree(left, ignore_errors=True)


class _BadDownloadError(Exception):
    """What went wrong with one address, as part of a sentence."""
