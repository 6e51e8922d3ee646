"""Many pictures: each content picture in each style, one after the other, and one's failure is not the others'.

The network is made once, each content picture is loaded once, and a style's targets are computed once for each size.
"""

import dataclasses
import glob
import logging
import os
import string
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Unpack

from .engines import open_engine
from .errors import NSTError
from .losses import Moments
from .objective import Style, targets_of
from .optimise import Record
from .options import BatchOptions
from .pictures.files import make_folder
from .pictures.reading import STANDARD_INPUT, Picture
from .pictures.writing import check_output
from .problem import build_network, calibrated_weights, pretrained_weights
from .runs.checkpoint import checksum
from .runs.inputs import load_content, load_inputs, load_style
from .runs.memory import check_memory
from .runs.recipe import describe, load_recipe
from .runs.results import Result
from .runs.style_files import StyleTargets
from .runs.watch import Flag, check_outputs
from .settings import Run, Settings, documented, options_of, split_options
from .story import recompose
from .vgg import Network

log = logging.getLogger(__name__)

NAME = "{content}_{style}.png"
ENDINGS = (  # of the files that are taken from folders and by patterns
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".tif", ".tiff", ".gif", ".bmp"),
    *(".avif", ".heic", ".heif", ".jp2", ".ppm", ".pgm", ".tga"),
)
STYLE_ENDINGS = (*ENDINGS, ".npz")  # kept styles too
STYLES_KEPT = 16  # pictures in memory
TARGETS_KEPT = 64  # Gram matrices of a style in a size: 2.4 MB with the layers of the paper


@dataclass(frozen=True)
class Pair:
    """One of the pictures to be made, the `number`th of `count`. Its `result` is an NSTError if it failed, and None
    before it is made, or if it was there already."""

    number: int
    count: int
    content: Any
    style: Any
    path: Path | None
    result: Result | NSTError | None = None

    def __str__(self) -> str:
        return f"{_shown(self.content, 'content picture')} in the style of {_shown(self.style, 'style picture')}"


@documented("batch")
def transfer_many(
    contents: Any,
    styles: Any,
    *,
    out_dir: str | Path | None = None,
    name: str = NAME,
    skip_existing: bool = False,
    callback: Callable[[Pair, Record], object] | None = None,
    cancel: Flag | None = None,
    **options: Unpack[BatchOptions],
) -> Iterator[Pair]:
    """Every content picture in every style: each pair when it is done, with its Result or the NSTError that ended it.

    Pictures are given as for `transfer`, one or a list; a path may also be a folder, or a pattern such as photos/*.jpg.
    The results are written to `out_dir`, under names that the pattern `name` makes; without it they are only returned.
    A mistake that concerns all of them is raised at once. The work is done while one asks for the pairs.
    """
    settings, run = split_options(options)
    _check_options(settings, run)
    folder = None if out_dir is None else Path(out_dir)
    many = found_pictures(contents, folder), found_pictures(styles, folder, STYLE_ENDINGS)
    pairs = planned(settings, *many, folder, name)
    there = [pair for pair in pairs if pair.path is not None and pair.path.exists()]
    if there and not (run.overwrite or skip_existing):
        raise NSTError(
            f"{there[0].path} exists already, one of {len(there)} of {len(pairs)}: add --overwrite, or --skip-existing "
            "to make only the others"
        )
    for pair in pairs:
        if pair.path is not None and folder is not None:  # the folder may still have to be made, in its own folder
            if folder.is_dir():
                check_outputs(settings, replace(run, output=pair.path, overwrite=run.overwrite or pair in there))
            else:
                check_output(folder.with_name(pair.path.name), settings.bits)
    made = {pair.number for pair in there if skip_existing and _finished(pair.path)}
    studio = _Studio(settings, run, *many)
    if folder is not None:
        make_folder(folder, "--out-dir")
    return _results(studio, pairs, made, callback, cancel)


def found_pictures(sources: Any, out_dir: Path | None = None, endings: Sequence[str] = ENDINGS) -> list[Any]:
    """The pictures that are meant: once each, those of a folder or pattern sorted and only where they are pictures."""
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
    """All pairs, with the files that they become; none is another's or one of the pictures."""
    values = _values(settings, name)
    pairs: list[Pair] = []
    count = len(contents) * len(styles)
    by_file: dict[str, Pair] = {}
    sources = {Path(source).resolve() for source in (*contents, *styles) if isinstance(source, str)}
    for row, content in enumerate(contents, 1):
        for column, style in enumerate(styles, 1):
            number = len(pairs) + 1
            pair = Pair(number, count, content, style, None)
            if out_dir is not None:
                stems = {"content": _stem(content, f"content{row}"), "style": _stem(style, f"style{column}")}
                pair = replace(pair, path=out_dir / _file_name(name, values | stems | {"number": number}))
                other = by_file.setdefault(str(pair.path).casefold(), pair)  # the same on systems that don't mind case
                if other is not pair:
                    raise NSTError(
                        f"{other} and {pair} would both be {pair.path}: give a --name that tells them apart, as "
                        "{number}_{content}_{style}.png"
                    )
                if pair.path is not None and pair.path.resolve() in sources:
                    raise NSTError(f"{pair.path} is one of the pictures: give another --out-dir or --name")
            pairs.append(pair)
    return pairs


def _results(
    studio: "_Studio",
    pairs: Sequence[Pair],
    made: Collection[int],
    callback: Callable[[Pair, Record], object] | None,
    cancel: Flag | None,
) -> Iterator[Pair]:
    for pair in pairs:
        if cancel is not None and cancel.is_set():
            raise KeyboardInterrupt
        if pair.number in made:
            yield pair
            continue
        log.info("%d of %d: %s", pair.number, pair.count, pair)
        result: Result | NSTError
        try:
            result = studio.picture(pair, callback, cancel)
        except NSTError as error:
            result = error
        except MemoryError as error:
            result = NSTError(f"out of memory ({error}): choose a smaller --size")
        yield replace(pair, result=result)


class _Studio:
    """What all pairs share."""

    def __init__(self, settings: Settings, run: Run, contents: Sequence[Any], styles: Sequence[Any]) -> None:
        self.settings, self.run, self.count = settings, run, len(styles)
        self.weights = pretrained_weights(settings)
        self.engine = open_engine(settings.engine, settings.precision, run.threads)
        self.network = None if self.weights is None else build_network(settings, self.weights, self.engine)
        self.find_targets = KnownTargets()

        @lru_cache(maxsize=1)
        def content(number: int) -> Picture:
            return load_content(settings, contents[number])

        @lru_cache(maxsize=STYLES_KEPT)
        def style(number: int) -> Picture | StyleTargets:
            return load_style(settings, styles[number])

        self.content, self.style = content, style

    def picture(self, pair: Pair, callback: Callable[[Pair, Record], object] | None, cancel: Flag | None) -> Result:
        row, column = divmod(pair.number - 1, self.count)
        inputs = load_inputs(self.settings, self.content(row), [self.style(column)])
        weights, network, find_targets = self.weights, self.network, self.find_targets
        check_memory(self.settings, self.run, inputs, self.engine, loaded=network is not None)
        if weights is None or network is None:  # each pair has filters of its own, and so targets
            weights, find_targets = calibrated_weights(self.settings, inputs), KnownTargets()
            network = build_network(self.settings, weights, self.engine)
        inputs.check(self.settings, weights)
        return recompose(
            self.settings,
            replace(self.run, output=pair.path),
            inputs,
            network,
            describe(self.settings, inputs, weights),
            callback=None if callback is None else lambda record: callback(pair, record),
            cancel=cancel,
            find_targets=find_targets,
        )


class KnownTargets:
    """`targets_of`, but what it has found once for a picture it knows: for one network and always the same layers."""

    def __init__(self) -> None:
        self.known: dict[Any, Mapping[str, Moments]] = {}

    def __call__(self, network: Network, style: Style, layers: Collection[str]) -> Mapping[str, Moments]:
        if style.image is None:
            return targets_of(network, style, layers)
        key = checksum(style.image), None if style.mask is None else checksum(style.mask)
        if key not in self.known:
            if len(self.known) >= TARGETS_KEPT:
                del self.known[next(iter(self.known))]  # the oldest
            self.known[key] = targets_of(network, style, layers)
        return self.known[key]


def _check_options(settings: Settings, run: Run) -> None:
    for name in sorted(options_of("transfer").keys() - options_of("batch") - {"style_blend"}):
        if getattr(run, name) is not None:
            raise NSTError(f"--{name} is one run's, and here are several: leave it out")
    if settings.style_blend is not None:
        raise NSTError("--style-blend is for several styles in one picture, and here each makes its own: leave it out")


def _files(name: str, out_dir: Path | None, endings: Sequence[str]) -> list[str]:
    path = Path(name)
    if name == STANDARD_INPUT:
        raise NSTError("standard input is one picture, and here are several: name files, folders or patterns")
    if path.is_file():
        return [name]
    if path.is_dir():
        pattern = os.path.join(glob.escape(name), "*")
    elif any(letter in name for letter in "*?["):
        pattern = name
    else:
        raise NSTError(f"{name} does not exist")
    files = [Path(file) for file in sorted(glob.glob(pattern, recursive=True))]
    files = [file for file in files if file.suffix.lower() in endings and file.is_file()]
    if not files:
        raise NSTError(f"{name}: there are no pictures, files that end in {', '.join(endings)}")
    if out_dir is not None and (within := [file for file in files if file.resolve().parent == out_dir.resolve()]):
        raise NSTError(f"{name} has {within[0]} in it, of the folder of the results: give another --out-dir")
    return [str(file) for file in files]


def _values(settings: Settings, name: str) -> dict[str, Any]:
    """What the pattern's fields may stand for, those of a pair still missing."""
    values: dict[str, Any] = {"content": "", "style": "", "number": 0}
    for field in dataclasses.fields(Settings):
        value = getattr(settings, field.name)
        values[field.name] = (field.metadata["word"] or "") if value is None else value
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(name) if field is not None]
    except ValueError as error:
        raise NSTError(f"--name {name!r} can't be used as a pattern: {error}") from error
    if unknown := [field for field in fields if field not in values]:
        raise NSTError(f"--name {name!r}: there is no {{{unknown[0]}}}: there are {', '.join(values)}")
    return values


def _file_name(name: str, values: Mapping[str, Any]) -> str:
    try:
        file = name.format_map(values)
    except (ValueError, KeyError, IndexError) as error:
        raise NSTError(f"--name {name!r} can't be used as a pattern: {error}") from error
    if Path(file).name != file:
        raise NSTError(f"--name {name!r} makes {file!r}, which is no file's name: results are in one folder")
    return file


def _finished(path: Path | None) -> bool:
    """A picture that says of itself that its run was interrupted is to be made again."""
    try:
        return path is None or load_recipe(path).result.get("stopped") != "interrupted"
    except NSTError:  # not ours
        return True


def _stem(source: Any, otherwise: str) -> str:
    return Path(source).stem if isinstance(source, str) else otherwise


def _shown(source: Any, otherwise: str) -> str:
    return source if isinstance(source, str) else f"a {otherwise} from Python"
