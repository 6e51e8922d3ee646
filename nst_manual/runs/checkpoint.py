"""Checkpoints: all that a stopped run needs to go on as if it had never been stopped.

The file is a NumPy .npz archive without pickles: the search's arrays, and everything else as JSON.
"""

import dataclasses
import hashlib
import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Array
from ..errors import NSTError
from ..optimise import Record
from ..options import MOST
from ..pictures.files import written
from ..settings import LACKED, Settings
from ..weights.bounded_file import WeightsFile
from ..weights.formats.zips import Archive

MAY_CHANGE = ("iterations", "tolerance", "bits")  # settings that may differ when a run is resumed
MOST_SCALES = 100
LARGE = 64 << 20  # bytes: larger arrays are read in parts when the search takes them, but for WHOLE
_TROUBLE = NSTError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, SyntaxError
_ABOUT, _ABOUT_LIMIT = "about", 2**26  # bytes; an iteration takes about four hundred
WHOLE = (f"{_ABOUT}.npy", "image.npy")


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run: `scale` counts from 0, `search` is the state of its search, with arrays on the host."""

    settings: Mapping[str, Any]
    pictures: Sequence[str]  # checksums of all inputs
    outputs: Sequence[str]  # files of this run, which it may overwrite when resumed
    scale: int
    search: Mapping[str, Any]
    trace: Sequence[Record]

    def save(self, path: Path, new: bool = False) -> None:
        """Write the whole file or, if that fails, leave the old one as it was; with `new`, there must be none."""
        arrays = {name: value for name, value in self.search.items() if hasattr(value, "dtype")}
        numbers = {name: value for name, value in self.search.items() if name not in arrays}
        about = vars(self) | {"search": numbers, "trace": [record.numbers() for record in self.trace]}
        text = np.frombuffer(json.dumps(about).encode(), np.uint8)
        with written(path, new=new) as file, zipfile.ZipFile(file, "w") as archive:
            for name, array in {_ABOUT: text, **arrays}.items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                    kind = {"descr": array.dtype.str, "fortran_order": False, "shape": tuple(array.shape)}
                    np.lib.format.write_array_header_1_0(entry, kind)
                    for piece in array.pieces() if hasattr(array, "pieces") else [array]:
                        entry.write(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)

    def check(self, settings: Settings, pictures: Sequence[str], path: Path) -> None:
        """Refuse to resume a run with other settings or pictures."""
        now = json.loads(json.dumps(dataclasses.asdict(settings)))
        for name, value in now.items():
            then = self.settings.get(name, LACKED.get(name))
            if name not in MAY_CHANGE and then != value:
                raise NSTError(
                    f"{path} is of a run with --{name.replace('_', '-')} {str(then)[:80]}, not {value}: "
                    "resume it with the settings it was started with"
                )
        if list(self.pictures) != list(pictures):
            raise NSTError(f"{path} is of a run with other pictures: resume it with those it was started with")


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, which may come from anybody: every count is compared with the file's size before memory is
    taken, and every value has its type. What the search keeps is checked by the search."""
    with WeightsFile(path, "a checkpoint that a run wrote") as file:
        try:
            archive = Archive(file)
            archive.check_plain()
            search = {name.removesuffix(".npy"): _array(archive, name) for name in archive.entries}
            text = search.pop(_ABOUT).tobytes()
            if len(text) > _ABOUT_LIMIT or text.count(b"[") + text.count(b"{") > 10_000 + len(text) // 50:
                raise ValueError("its description is longer than ours")
            return _checked(json.loads(text), search)
        except _TROUBLE as error:
            raise file.refused("it can't be read as a checkpoint: it is damaged or another kind of file") from error


@dataclass(frozen=True)
class Entry:
    """A large array that stays in the checkpoint: `entry[start:stop]` reads numbers of it, flat."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: Any

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __getitem__(self, part: slice) -> Array:
        start, stop, _ = part.indices(self.size)
        with open(self.path, "rb") as file:
            file.seek(self.offset + start * self.dtype.itemsize)
            return np.fromfile(file, self.dtype, stop - start)


def _array(archive: Archive, name: str) -> Any:
    """An array of numbers, after its header is found to fit its entry; a large one is left where it is."""
    size = archive.size(name)
    head = io.BytesIO(archive.read(name, 0, min(size, 1000)))  # NumPy's headers of such arrays have 118 bytes
    if np.lib.format.read_magic(head) != (1, 0):
        raise ValueError("of another version")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(head, max_header_size=900)
    if dtype.kind not in "biuf" or fortran or math.prod(shape) * dtype.itemsize != size - head.tell():
        raise ValueError("its arrays don't fit their entries")
    if size > LARGE and name not in WHOLE:
        return Entry(archive.file.path, archive.offset(name) + head.tell(), shape, dtype)
    data = archive.read(name, head.tell(), size - head.tell())
    return np.frombuffer(bytearray(data), dtype).reshape(shape)


def _checked(about: Any, arrays: Mapping[str, Array]) -> Checkpoint:
    trace = [_record(record) for record in about["trace"]]
    kept = Checkpoint(**about | {"search": about["search"] | arrays, "trace": trace})
    if type(kept.scale) is not int or not 0 <= kept.scale <= MOST_SCALES:
        raise ValueError("its scale is impossible")
    if not isinstance(kept.settings, dict) or not isinstance(kept.search, dict):
        raise TypeError("its settings are none")
    for texts in (kept.pictures, kept.outputs):
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise TypeError("its names are not texts")
    return kept


def _record(numbers: Mapping[str, Any]) -> Record:
    values: dict[str, Any] = {name: math.nan if value is None else value for name, value in numbers.items()}
    record = Record(**values)
    if not isinstance(record.terms, dict) or "image" in values:
        raise TypeError("no record's terms")
    for name, value in [*values.items(), *record.terms.items()]:
        if name == "terms":
            continue
        whole = name in values and Record.__dataclass_fields__[name].type is int
        if type(value) not in ((int,) if whole else (int, float, type(None))) or (value or 0) > MOST:
            raise TypeError(f"{name} is no such number")
    terms = {str(name): math.nan if value is None else value for name, value in record.terms.items()}
    return dataclasses.replace(record, terms=terms)


def checksum(array: Array) -> str:
    """SHA-256 of an array's shape and numbers."""
    digest = hashlib.sha256(repr(array.shape).encode())
    digest.update(np.ascontiguousarray(array, dtype="<f4").data)
    return digest.hexdigest()
