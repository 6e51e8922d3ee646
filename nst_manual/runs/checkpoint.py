"""A run on disk: all that it needs to go on as if it had never been stopped.

A NumPy .npz archive without pickles: the search's arrays, and everything else as JSON. Written whole or not at all.
"""

import dataclasses
import hashlib
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
from ..pictures.files import written
from ..settings import Settings

MAY_CHANGE = ("iterations", "tolerance", "bits")  # settings that a run may go on with another value of
_ABOUT = "about"


@dataclass(frozen=True)
class Checkpoint:
    """`scale` counts from 0; `search` is the state of its search, with arrays of the host; `seconds` were spent."""

    settings: Mapping[str, Any]
    pictures: Sequence[str]  # checksums of all that go in
    outputs: Sequence[str]  # files that the run writes, which it may therefore write again
    scale: int
    search: Mapping[str, Any]
    trace: Sequence[Record]
    seconds: float

    def save(self, path: Path) -> None:
        """To `path`, which is afterwards either this checkpoint or still what it was."""
        arrays = {name: value for name, value in self.search.items() if isinstance(value, np.ndarray)}
        about = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)} | {
            "search": {name: value for name, value in self.search.items() if name not in arrays},
            "trace": [record.numbers() for record in self.trace],
        }
        text = np.frombuffer(json.dumps(about).encode(), np.uint8)
        with written(path) as file:
            np.savez(file, allow_pickle=False, **{_ABOUT: text}, **arrays)

    def check(self, settings: Settings, pictures: Sequence[str], path: Path) -> None:
        """That this run is the one that was stopped."""
        now = json.loads(json.dumps(dataclasses.asdict(settings)))
        for name, value in now.items():
            if name not in MAY_CHANGE and self.settings.get(name) != value:
                raise NSTError(
                    f"{path} is of a run with --{name.replace('_', '-')} {self.settings.get(name)}, not {value}: "
                    "resume it with the settings that it was begun with"
                )
        if list(self.pictures) != list(pictures):
            raise NSTError(f"{path} is of a run with other pictures: resume it with those that it was begun with")


def load_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a file; its values are checked by those who use them."""
    try:
        with zipfile.ZipFile(path) as archive:  # a compressed one could unpack to any size, and ours are not
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it is compressed")
        with np.load(path, allow_pickle=False) as arrays:
            about = json.loads(arrays[_ABOUT].tobytes())
            search = about["search"] | {name: arrays[name] for name in arrays.files if name != _ABOUT}
        trace = [_record(record) for record in about["trace"]]
        about |= {"search": search, "trace": trace}
        kept = Checkpoint(**about)
        if not (type(kept.scale) is int and kept.scale >= 0 and math.isfinite(kept.seconds)):
            raise ValueError("its numbers make no sense")
        return kept
    except FileNotFoundError as error:
        raise NSTError(f"{path} does not exist: there is no checkpoint to resume") from error
    except IsADirectoryError as error:
        raise NSTError(f"{path} is a folder: name a checkpoint in it") from error
    except MemoryError:
        raise
    except Exception as error:  # zip, NumPy's and JSON's readers raise many kinds; all mean that the file is at fault
        raise NSTError(f"{path} can't be read as a checkpoint of a run: it is damaged or something else") from error


def _record(numbers: Mapping[str, Any]) -> Record:
    values: dict[str, Any] = {name: math.nan if value is None else value for name, value in numbers.items()}
    return Record(**values)


def checksum(array: Array) -> str:
    """Of a picture as it goes in: its shape and its numbers."""
    digest = hashlib.sha256(repr(array.shape).encode())
    digest.update(np.ascontiguousarray(array, dtype="<f4").data)
    return digest.hexdigest()
