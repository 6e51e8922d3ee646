"""Many pictures: each content picture in each style, one after the other. If one fails, the others still go on.

The network is built once, each content picture is loaded once, and a style's targets are computed once for each size.
"""

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack, cast

from .cluster.many import OnCluster
from .engines import open_engine
from .errors import NSTError
from .losses import Moments
from .objective import Style, Targets, targets_of
from .optimise import Record
from .options import BatchOptions
from .pictures.files import make_folder
from .pictures.writing import check_format
from .problem import build_network, calibrated_weights, pretrained_weights, settled, targets_finder
from .runs.batches import Batch, attempted
from .runs.checkpoint import checksum
from .runs.fitting import fitted
from .runs.inputs import load_inputs
from .runs.outputs import check_outputs, claimed
from .runs.pairs import NAME, STYLE_ENDINGS, Pair, check_pairs_apart, found_pictures, planned
from .runs.recipe import describe, load_recipe
from .runs.results import Result
from .runs.watch import Flag
from .settings import Run, Settings, documented, options_of, split_options
from .story import recompose
from .vgg import Network

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
    batch: Callable[..., Any] = InTurn if run.cluster is None else partial(OnCluster, Studio)
    results = batch(settings, run, *many, there, skip_existing, callback, cancel).results(pairs, made)
    next(results)  # whatever is wrong with weights, engine or cluster is told now
    if folder is not None:
        make_folder(folder, "--out-dir")
    return cast(Iterator[Pair], results)


class Studio:
    """What all pictures share that are made in one process: the engine and, with pretrained weights, the network."""

    def __init__(self, settings: Settings, run: Run) -> None:
        self.run = run
        self.weights = pretrained_weights(settings)
        self.engine = open_engine(settings.engine, settings.precision, run.threads, run.device)
        self.settings = settled(settings, self.engine)
        self.network = None if self.weights is None else build_network(settings, self.weights, self.engine)
        self.find_targets = KnownTargets()

    def picture(
        self, run: Run, given: Sequence[Any], callback: Callable[[Record], object] | None, cancel: Flag | None
    ) -> Result:
        """The content picture, the first of those given, in the style of the others: all loaded."""
        inputs = load_inputs(self.settings, given[0], given[1:])
        weights, network, find_targets = self.weights, self.network, self.find_targets
        settings, run = fitted(self.settings, run, inputs, self.engine, loaded=network is not None)
        if weights is None or network is None:  # filters are calibrated on each pair
            weights, find_targets = calibrated_weights(settings, inputs), KnownTargets()
            network = build_network(settings, weights, self.engine)
        find_targets.find = targets_finder(run.tile if isinstance(run.tile, int) else None)
        inputs.check(settings, weights)
        recipe = describe(settings, inputs, weights)
        more: Any = {"callback": callback, "cancel": cancel, "find_targets": find_targets}
        return recompose(settings, run, inputs, network, recipe, **more)


class InTurn(Batch):
    """One after the other, in this process."""

    def results(self, pairs: Sequence[Pair], made: Collection[int]) -> Iterator[Pair | None]:
        """None as soon as all is ready. `made` are the numbers of those that are not made again; nor is one that has an
        error already."""
        studio = Studio(self.settings, self.run)
        yield None
        to_make = [pair.number for pair in pairs if pair.number not in made and pair.result is None]
        seconds: list[float] = []  # that each picture took
        for pair in pairs:
            if self.cancelled:
                return
            if pair.number not in to_make:
                yield pair
                continue
            self.begin(pair, sum(seconds) / len(seconds) * len(to_make) if seconds else None)
            began = time.monotonic()
            result = attempted(partial(self._made, studio, pair))
            to_make.remove(pair.number)
            if isinstance(result, Result):  # a failure takes no time
                seconds.append(time.monotonic() - began)
            yield self.outcome(pair, result)
            if isinstance(result, Result) and result.stopped == "interrupted":
                return

    def _made(self, studio: Studio, pair: Pair) -> Result:
        given, callback = self.loaded(pair), self.callback
        with claimed(self.settings, self.own_run(pair)) as run:
            own = None if callback is None else partial(callback, pair)
            return studio.picture(run, given, own, self.cancel)


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
    for name in ("save_every", "preview_every"):
        if run.cluster is not None and getattr(run, name) is not None:
            flag = name.replace("_", "-")
            raise NSTError(f"--{flag} needs the pictures in progress, and these are on the workers: leave it out")
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
