"""Many pictures: each content picture in each style, one after the other. If one fails, the others still go on.

The network is built once, each content picture is loaded once, and a style's targets are computed once for each size.
"""

import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Unpack

from .engines import device_errors, open_engine, what_failed
from .errors import NSTError
from .losses import Moments
from .objective import Style, Targets, targets_of
from .optimise import Record
from .options import BatchOptions, shown_duration
from .pictures.files import make_folder
from .pictures.writing import check_format
from .problem import build_network, calibrated_weights, pretrained_weights, settled, targets_finder
from .runs.checkpoint import checksum
from .runs.inputs import load_content, load_inputs, load_style
from .runs.memory import check_memory, decoding_limit
from .runs.outputs import check_outputs, claimed
from .runs.pairs import NAME, STYLE_ENDINGS, Pair, check_pairs_apart, found_pictures, planned
from .runs.recipe import describe, load_recipe
from .runs.results import Result
from .runs.watch import Flag
from .settings import Run, Settings, documented, options_of, split_options
from .story import recompose
from .vgg import Network

log = logging.getLogger(__name__)

STYLES_KEPT = 16  # pictures in memory
TARGETS_KEPT = 32  # sets of moments, one per style and size: 4.9 MB each with the paper's layers


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
    check_pairs_apart(run, pairs)
    there = {pair.number: pair.path for pair in pairs if pair.path is not None and os.path.exists(pair.path)}
    if there and not (run.overwrite or skip_existing):
        raise NSTError(
            f"{len(there)} of {len(pairs)} results exist already, such as {next(iter(there.values()))}: add "
            "--overwrite, or --skip-existing to make only the others"
        )
    if folder is not None:
        pairs = _checked(settings, run, pairs, folder, there)
    made = {number for number, path in there.items() if skip_existing and _finished(path)}
    studio = _Studio(settings, run, *many, there, skip_existing, callback, cancel)
    if folder is not None:
        make_folder(folder, "--out-dir")
    return studio.results(pairs, made)


class _Studio:
    """What all pairs share: the engine, with pretrained weights the network, and the loaded pictures."""

    def __init__(
        self,
        settings: Settings,
        run: Run,
        contents: Sequence[Any],
        styles: Sequence[Any],
        there: Collection[int],
        skip_existing: bool,
        callback: Callable[[Pair, Record], object] | None,
        cancel: Flag | None,
    ) -> None:
        self.run, self.count = run, len(styles)
        self.there, self.skip_existing = there, skip_existing
        self.callback, self.cancel = callback, cancel
        self.weights = pretrained_weights(settings)
        self.engine = open_engine(settings.engine, settings.precision, run.threads, run.device)
        self.settings = settled(settings, self.engine)
        self.network = None if self.weights is None else build_network(settings, self.weights, self.engine)
        self.find = targets_finder(run.tile if isinstance(run.tile, int) else None)
        self.find_targets = KnownTargets(self.find)

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
        """`made` are the numbers of those that are not made again; nor is one that has an error already."""
        to_make = [pair.number for pair in pairs if pair.number not in made and pair.result is None]
        seconds: list[float] = []  # that each picture took
        for pair in pairs:
            if self.cancel is not None and self.cancel.is_set():
                return
            if pair.number not in to_make:
                yield pair
                continue
            left = ""
            if seconds:
                rest = sum(seconds) / len(seconds) * len(to_make)
                left = f"; about {shown_duration(rest)} left for all"
            log.info("%d of %d: %s%s", pair.number, pair.count, pair, left)
            began = time.monotonic()
            result: Result | NSTError | None
            try:
                result = self.picture(pair)
            except NSTError as error:
                result = error.with_traceback(None)  # which holds the pictures and the network
                if self.skip_existing and pair.number not in self.there and pair.path and os.path.exists(pair.path):
                    result = None  # another batch has just made it
            except MemoryError as error:
                result = NSTError(f"out of memory ({error}): choose a smaller --size")
            except device_errors() as error:
                result = NSTError(what_failed(error))
            to_make.remove(pair.number)
            if isinstance(result, Result):  # a failure takes no time
                seconds.append(time.monotonic() - began)
            yield replace(pair, result=result)
            if isinstance(result, Result) and result.stopped == "interrupted":
                return

    def picture(self, pair: Pair) -> Result:
        row, column = divmod(pair.number - 1, self.count)
        given = self.content(row), self.style(column)
        for picture in given:
            if isinstance(picture, NSTError):
                raise picture
        overwrite = self.run.overwrite or pair.number in self.there
        with claimed(self.settings, replace(self.run, output=pair.path, overwrite=overwrite)) as run:
            inputs = load_inputs(self.settings, given[0], given[1:])
            weights, network, find_targets, callback = self.weights, self.network, self.find_targets, self.callback
            check_memory(self.settings, run, inputs, self.engine, loaded=network is not None)
            if weights is None or network is None:  # filters are calibrated on each pair
                weights, find_targets = calibrated_weights(self.settings, inputs), KnownTargets(self.find)
                network = build_network(self.settings, weights, self.engine)
            inputs.check(self.settings, weights)
            return recompose(
                self.settings,
                run,
                inputs,
                network,
                describe(self.settings, inputs, weights),
                callback=None if callback is None else lambda record: callback(pair, record),
                cancel=self.cancel,
                find_targets=find_targets,
            )


class KnownTargets:
    """Targets, computed once per picture: for one network and one choice of layers."""

    def __init__(self, find: Targets = targets_of) -> None:
        self.find = find
        self.known: dict[Any, Mapping[str, Moments]] = {}

    def __call__(self, network: Network, style: Style, layers: Collection[str]) -> Mapping[str, Moments]:
        if style.image is None:
            return targets_of(network, style, layers)
        key = checksum(style.image), None if style.mask is None else checksum(style.mask)
        if key not in self.known:
            if len(self.known) >= TARGETS_KEPT:
                del self.known[next(iter(self.known))]  # the oldest
            self.known[key] = self.find(network, style, layers)
        return self.known[key]


def _check_options(settings: Settings, run: Run) -> None:
    settings.style_scales(1)
    for name in sorted(options_of("transfer").keys() - options_of("batch") - {"style_blend"}):
        if getattr(run, name) is not None:
            raise NSTError(f"--{name} is for a single run, and here are several: leave it out")
    if settings.style_blend is not None:
        raise NSTError(
            "--style-blend mixes several styles in one picture, and here each style makes its own: leave it out"
        )


def _checked(settings: Settings, run: Run, pairs: Sequence[Pair], folder: Path, there: Collection[int]) -> list[Pair]:
    """The pairs. Those whose files can't be written have the error as their result; it is raised if none can."""
    exists = os.path.isdir(folder)
    place = folder if exists else folder.parent  # where it will be created
    checked = []
    for pair in pairs:
        output = None if pair.path is None else place / pair.path.name
        own = replace(run, output=output, overwrite=run.overwrite or pair.number in there or not exists)
        try:
            if pair.path is not None:
                check_format(pair.path, settings.bits)  # whose sentence names the right folder
            check_outputs(settings, own)
            checked.append(pair)
        except NSTError as error:
            checked.append(replace(pair, result=error.with_traceback(None)))
    if all(pair.result for pair in checked):
        raise next(pair.result for pair in checked if isinstance(pair.result, NSTError))
    return checked


def _finished(path: Path | None) -> bool:
    """False for a result that was interrupted, by its own record: it is made again."""
    try:
        return path is None or load_recipe(path).result.get("stopped") != "interrupted"
    except NSTError:  # not made by this program
        return True
