"""Many pictures: each content picture in each style, one after the other. If one fails, the others still go on.

The network is built once, each content picture is loaded once, and a style's targets are computed once for each size.
"""

import dataclasses
import glob
import logging
import os
import string
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, Unpack

from .engines import open_engine
from .errors import NSTError
from .losses import Moments
from .objective import Style, targets_of
from .optimise import Record
from .options import BatchOptions
from .pictures.files import make_folder
from .pictures.reading import STANDARD_INPUT
from .pictures.writing import check_output
from .problem import build_network, calibrated_weights, pretrained_weights
from .runs.checkpoint import checksum
from .runs.inputs import load_content, load_inputs, load_style
from .runs.memory import check_memory, decoding_limit
from .runs.recipe import describe, load_recipe
from .runs.results import Result
from .runs.watch import Flag, check_outputs
from .settings import Run, Settings, documented, options_of, split_options
from .story import recompose
from .vgg import Network

log = logging.getLogger(__name__)

NAME = "{content}_{style}.png"
ENDINGS = (  # of the files taken from folders and patterns
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".tif", ".tiff", ".gif", ".bmp"),
    *(".avif", ".heic", ".heif", ".jp2", ".ppm", ".pgm", ".tga"),
)
STYLE_ENDINGS = (*ENDINGS, ".npz")  # style files too
STYLES_KEPT = 16  # pictures in memory
TARGETS_KEPT = 32  # sets of moments, one per style and size: 4.9 MB each with the paper's layers


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
    """Recompose every content picture in every style. Yields each pair when done, with its Result or its NSTError.

    Pictures are given as for `transfer`, one or a list; a path may also be a folder, or a pattern such as photos/*.jpg.
    The results are written to `out_dir`, named by the pattern `name`; without `out_dir` they are only returned. A
    mistake that concerns all pairs is raised at once. Each picture is made when the iterator is asked for it. Once
    `cancel` is set, the pair in progress gets the picture so far as its result, and is the last one.
    """
    settings, run = split_options(options)
    _check_options(settings, run)
    folder = None if out_dir is None else Path(out_dir)
    many = found_pictures(contents, folder), found_pictures(styles, folder, STYLE_ENDINGS)
    pairs = planned(settings, *many, folder, name)
    there = [pair for pair in pairs if pair.path is not None and pair.path.exists()]
    if there and not (run.overwrite or skip_existing):
        raise NSTError(
            f"{len(there)} of {len(pairs)} results exist already, such as {there[0].path}: add --overwrite, or "
            "--skip-existing to make only the others"
        )
    for pair in pairs:
        if pair.path is not None and folder is not None:
            if folder.is_dir():
                check_outputs(settings, replace(run, output=pair.path, overwrite=run.overwrite or pair in there))
            else:  # it will be created within an existing one
                check_output(folder.with_name(pair.path.name), settings.bits)
    made = {pair.number for pair in there if skip_existing and _finished(pair.path)}
    studio = _Studio(settings, run, *many, callback, cancel)
    if folder is not None:
        make_folder(folder, "--out-dir")
    return studio.results(pairs, made)


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
    """All pairs, with the files to write. No two are the same, and none is one of the pictures."""
    pairs: list[Pair] = []
    by_file: dict[str, Pair] = {}
    sources = {Path(source).resolve() for source in (*contents, *styles) if isinstance(source, str)}
    for (row, content), (column, style) in product(enumerate(contents, 1), enumerate(styles, 1)):
        number, count = len(pairs) + 1, len(contents) * len(styles)
        stems = _stem(content, f"content{row}"), _stem(style, f"style{column}")
        file = _file_name(settings, name, *stems, number)
        path = None if out_dir is None else out_dir / file
        pair = Pair(number, count, content, style, path)
        pairs.append(pair)
        if path is None:
            continue
        if path.resolve() in sources:
            raise NSTError(f"{path} is one of the pictures: choose another --out-dir or --name")
        if (other := by_file.setdefault(str(path).casefold(), pair)) is not pair:  # some systems ignore case
            raise NSTError(
                f"{other} and {pair} would both be written to {path}: give a --name that differs, such as "
                "{number}_{content}_{style}.png"
            )
    return pairs


class _Studio:
    """What all pairs share: the engine, with pretrained weights the network, and the loaded pictures."""

    def __init__(
        self,
        settings: Settings,
        run: Run,
        contents: Sequence[Any],
        styles: Sequence[Any],
        callback: Callable[[Pair, Record], object] | None,
        cancel: Flag | None,
    ) -> None:
        self.settings, self.run, self.count = settings, run, len(styles)
        self.callback, self.cancel = callback, cancel
        self.weights = pretrained_weights(settings)
        self.engine = open_engine(settings.engine, settings.precision, run.threads)
        self.network = None if self.weights is None else build_network(settings, self.weights, self.engine)
        self.find_targets = KnownTargets()

        def loader(
            load: Callable[[Settings, Any, float | None], Any], sources: Sequence[Any], most: int
        ) -> Callable[[int], Any]:
            @lru_cache(most)
            def loaded(number: int) -> Any:
                """The picture, or the error of a broken one, so that it is read only once."""
                try:
                    return load(settings, sources[number], decoding_limit(run))
                except NSTError as error:
                    return error

            return loaded

        self.content, self.style = loader(load_content, contents, 1), loader(load_style, styles, STYLES_KEPT)

    def results(self, pairs: Sequence[Pair], made: Collection[int]) -> Iterator[Pair]:
        for pair in pairs:
            if self.cancel is not None and self.cancel.is_set():
                return
            if pair.number in made:
                yield pair
                continue
            log.info("%d of %d: %s", pair.number, pair.count, pair)
            result: Result | NSTError
            try:
                result = self.picture(pair)
            except NSTError as error:
                result = error.with_traceback(None)  # which holds the pictures and the network
            except MemoryError as error:
                result = NSTError(f"out of memory ({error}): choose a smaller --size")
            yield replace(pair, result=result)
            if isinstance(result, Result) and result.stopped == "interrupted":
                return

    def picture(self, pair: Pair) -> Result:
        row, column = divmod(pair.number - 1, self.count)
        given = self.content(row), self.style(column)
        for picture in given:
            if isinstance(picture, NSTError):
                raise picture
        inputs = load_inputs(self.settings, given[0], given[1:])
        weights, network, find_targets, callback = self.weights, self.network, self.find_targets, self.callback
        check_memory(self.settings, self.run, inputs, self.engine, loaded=network is not None)
        if weights is None or network is None:  # filters are calibrated on each pair
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
            cancel=self.cancel,
            find_targets=find_targets,
        )


class KnownTargets:
    """`targets_of`, computed once per picture: for one network and one choice of layers."""

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
            raise NSTError(f"--{name} is for a single run, and here are several: leave it out")
    if settings.style_blend is not None:
        raise NSTError(
            "--style-blend mixes several styles in one picture, and here each style makes its own: leave it out"
        )


def _files(name: str, out_dir: Path | None, endings: Sequence[str]) -> list[str]:
    path = Path(name)
    if name == STANDARD_INPUT:
        raise NSTError("standard input is a single picture, and here are several: name files, folders or patterns")
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
        for _, used, _, _ in string.Formatter().parse(name):
            if used is not None and used not in values:
                raise NSTError(f"--name {name!r}: there is no field {{{used}}}: choose from {', '.join(values)}")
        file = name.format_map(values)
    except (ValueError, KeyError, IndexError) as error:
        raise NSTError(f"--name {name!r} can't be used as a pattern: {error}") from error
    if Path(file).name != file:
        raise NSTError(f"--name {name!r} gives {file!r}, which is not a file name: all results go to one folder")
    return file


def _finished(path: Path | None) -> bool:
    """False for a result that was interrupted, by its own record: it is made again."""
    try:
        return path is None or load_recipe(path).result.get("stopped") != "interrupted"
    except NSTError:  # not made by this program
        return True


def _stem(source: Any, otherwise: str) -> str:
    return Path(source).stem if isinstance(source, str) else otherwise


def _shown(source: Any, otherwise: str) -> str:
    return source if isinstance(source, str) else f"a {otherwise} from Python"
