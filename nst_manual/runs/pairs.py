"""What a batch is to make: the pictures that its sources name, each in each style, and the files to write."""

import dataclasses
import glob
import os
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from ..errors import NSTError
from ..pictures.reading import STANDARD_INPUT
from ..settings import Run, Settings
from .journal import preview_of
from .outputs import check_apart
from .results import Result

NAME = "{content}_{style}.png"
WIDTH = re.compile(r"0?\d?")  # after a field's name and a colon
ENDINGS = (  # of the files taken from folders and patterns
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".tif", ".tiff", ".gif", ".bmp"),
    *(".avif", ".heic", ".heif", ".jp2", ".ppm", ".pgm", ".tga"),
)
STYLE_ENDINGS = (*ENDINGS, ".npz")  # style files too


@dataclass(frozen=True)
class Pair:
    """The `number`th of `count` pictures to make. Its `result` is an NSTError if it failed, and None if it is not made
    yet or existed already."""

    number: int
    count: int
    content: Any
    style: Any
    path: Path | None
    result: Result | NSTError | None = None

    def __str__(self) -> str:
        return f"{_shown(self.content, 'content picture')} in the style of {_shown(self.style, 'style picture')}"


def found_pictures(sources: Any, out_dir: Path | None = None, endings: Sequence[str] = ENDINGS) -> list[Any]:
    """The pictures that the sources name, once each. Those of a folder or pattern are sorted, and chosen by ending."""
    found: dict[Any, Any] = {}
    for source in sources if isinstance(sources, list | tuple) else [sources]:
        if isinstance(source, str | os.PathLike):
            found |= {file: file for file in _files(os.fspath(source), out_dir, endings)}
        else:
            found[id(source)] = source
    if not found:
        raise NSTError("there are no pictures: give at least one content and one style picture")
    return list(found.values())


def planned(
    settings: Settings, contents: Sequence[Any], styles: Sequence[Any], out_dir: Path | None, name: str = NAME
) -> list[Pair]:
    """All pairs, with the files to write."""
    pairs: list[Pair] = []
    for (row, content), (column, style) in product(enumerate(contents, 1), enumerate(styles, 1)):
        number, count = len(pairs) + 1, len(contents) * len(styles)
        stems = _stem(content, f"content{row}"), _stem(style, f"style{column}")
        file = _file_name(settings, name, *stems, number)
        pairs.append(Pair(number, count, content, style, None if out_dir is None else out_dir / file))
    return pairs


def check_pairs_apart(run: Run, pairs: Sequence[Pair]) -> None:
    """Refuse two files of one name among all that the pairs will write, and any that is one of the pictures."""
    sources = {os.path.realpath(s) for pair in pairs for s in (pair.content, pair.style) if isinstance(s, str)}
    files: list[tuple[str, Path]] = []
    for pair in pairs:
        if pair.path is not None:
            files.append((str(pair), pair.path))
            if run.preview_every is not None:
                files.append((f"the preview of {pair}", preview_of(pair.path)))
    for _, path in files:
        if os.path.realpath(path) in sources:
            raise NSTError(f"{path} is one of the pictures: choose another --out-dir or --name")
    numbered = [pair.path for pair in pairs if pair.path is not None] if run.save_every else []
    check_apart(files, numbered, "give a --name that differs, such as {number}_{content}_{style}.png")


def _files(name: str, out_dir: Path | None, endings: Sequence[str]) -> list[str]:
    if name == STANDARD_INPUT:
        raise NSTError("standard input is a single picture, and here are several: name files, folders or patterns")
    if os.path.isdir(name):  # unlike a Path, os.path never raises
        pattern = os.path.join(glob.escape(name), "*")
    elif any(letter in name for letter in "*?[") and not os.path.exists(name):
        pattern = name
    else:
        try:
            os.stat(name)
        except FileNotFoundError:
            raise NSTError(f"{name} does not exist") from None
        except (OSError, ValueError) as error:  # no permission, a name too long or with a zero byte
            raise NSTError(f"{name} can't be read ({getattr(error, 'strerror', None) or error})") from None
        return [name]
    files = [Path(file) for file in sorted(glob.glob(pattern, recursive=True))]
    files = [file for file in files if file.suffix.lower() in endings and os.path.isfile(file)]
    if not files:
        raise NSTError(f"{name}: there are no pictures, which are files that end in {', '.join(endings)}")
    if out_dir is not None and (within := [file for file in files if file.resolve().parent == out_dir.resolve()]):
        raise NSTError(f"{name} includes {within[0]}, which is in the folder of the results: choose another --out-dir")
    return [str(file) for file in files]


def _file_name(settings: Settings, name: str, content: str, style: str, number: int) -> str:
    values: dict[str, Any] = {"content": content, "style": style, "number": number}
    for field in dataclasses.fields(Settings):
        value = getattr(settings, field.name)
        values[field.name] = (field.metadata["word"] or "") if value is None else value
    try:
        for _, used, width, _ in string.Formatter().parse(name):
            if used is not None and used not in values:
                raise NSTError(f"--name {name!r}: there is no field {{{used}}}: choose from {', '.join(values)}")
            if width and not WIDTH.fullmatch(width):  # it could ask for gigabytes
                raise ValueError(f"the width {width!r} must be one digit, as in {{number:03}}")
        file = name.format_map(values)
    except (ValueError, KeyError, IndexError) as error:
        raise NSTError(f"--name {name!r} can't be used as a pattern: {error}") from error
    if Path(file).name != file:
        raise NSTError(f"--name {name!r} gives {file!r}, which is not a file name: all results go to one folder")
    return file


def _stem(source: Any, otherwise: str) -> str:
    return Path(source).stem if isinstance(source, str) else otherwise


def _shown(source: Any, otherwise: str) -> str:
    return source if isinstance(source, str) else f"a {otherwise} from Python"
