"""Checkpoints: all that a stopped run needs to go on as if it had never been stopped.

The file is a NumPy .npz archive without pickles: the search's arrays, and everything else as JSON.
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

MAY_CHANGE = ("iterations", "tolerance", "bits")  # settings that may differ when a run is resumed
_ABOUT = "about"


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
        arrays = {name: value for name, value in self.search.items() if isinstance(value, np.ndarray)}
        numbers = {name: value for name, value in self.search.items() if name not in arrays}
        about = vars(self) | {"search": numbers, "trace": [record.numbers() for record in self.trace]}
        text = np.frombuffer(json.dumps(about).encode(), np.uint8)
        with written(path, new=new) as file:
            np.savez(file, allow_pickle=False, **{_ABOUT: text}, **arrays)

    def check(self, settings: Settings, pictures: Sequence[str], path: Path) -> None:
        """Refuse to resume a run with other settings or pictures."""
        now = json.loads(json.dumps(dataclasses.asdict(settings)))
        for name, value in now.items():
            if name not in MAY_CHANGE and self.settings.get(name) != value:
                raise NSTError(
                    f"{path} is of a run with --{name.replace('_', '-')} {self.settings.get(name)}, not {value}: "
                    "resume it with the settings it was started with"
                )
        if list(self.pictures) != list(pictures):
            raise NSTError(f"{path} is of a run with other pictures: resume it with those it was started with")


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint. Its values are checked where they are used."""
    try:
        with zipfile.ZipFile(path) as archive:  # a compressed archive could unpack to any size
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it is compressed")
        with np.load(path, allow_pickle=False) as arrays:
            about = json.loads(arrays[_ABOUT].tobytes())
            search = about["search"] | {name: arrays[name] for name in arrays.files if name != _ABOUT}
        trace = [_record(record) for record in about["trace"]]
        kept = Checkpoint(**about | {"search": search, "trace": trace})
        if type(kept.scale) is not int or kept.scale < 0:
            raise ValueError("its scale is impossible")
        return kept
    except FileNotFoundError as error:
        raise NSTError(f"{path} does not exist: there is no checkpoint to resume") from error
    except IsADirectoryError as error:
        raise NSTError(f"{path} is a folder: name a checkpoint in it") from error
    except MemoryError:
        raise
    except Exception as error:  # the readers of zip, NumPy and JSON raise many types for a bad file
        raise NSTError(f"{path} can't be read as a checkpoint: it is damaged or another kind of file") from error


def _record(numbers: Mapping[str, Any]) -> Record:
    values: dict[str, Any] = {name: math.nan if value is None else value for name, value in numbers.items()}
    return Record(**values)


def checksum(array: Array) -> str:
    """SHA-256 of an array's shape and numbers."""
    digest = hashlib.sha256(repr(array.shape).encode())
    digest.update(np.ascontiguousarray(array, dtype="<f4").data)
    return digest.hexdigest()
