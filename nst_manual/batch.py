"""Many pictures: each content picture in each style, one after the other. If one fails, the others still go on.

The network is built once, each content picture is loaded once, and a style's targets are computed once for each size.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

from .cluster.connection import opened, settled_in_memory, worker_device, worker_threads
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
from .runs.fitting import fitted
from .runs.inputs import load_content, load_inputs, load_style
from .runs.memory import decoding_limit
from .runs.outputs import check_outputs, claimed
from .runs.pairs import NAME, STYLE_ENDINGS, Pair, check_pairs_apart, found_pictures, planned
from .runs.recipe import describe, load_recipe
from .runs.results import Result
from .runs.watch import Flag
from .settings import Run, Settings, documented, options_of, split_options
from .story import recompose
from .vgg import Network

if TYPE_CHECKING:
    from .cluster.pool import Pool

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
    studios = _Studios if run.cluster is None else _OnCluster
    makers = studios(settings, run, *many, there, skip_existing, callback, cancel)
    results = makers.results(pairs, made)
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


class StudioOfWorker(Studio):
    """The same, of a cluster's worker. Pictures come from the machine that gives the work, and go back to it."""

    def __init__(self, settings: Settings, run: Run) -> None:
        super().__init__(settings, replace(run, threads=worker_threads(run), device=worker_device(run)))

    def work(self, told: Callable[[Any], None], flag: Flag, *given: Any) -> Result | NSTError:
        def callback(record: Record) -> None:
            told({field: value for field, value in vars(record).items() if field != "image"})

        return attempted(lambda: self.picture(self.run, settled_in_memory(given), callback, flag))


def attempted(make: Callable[[], Result]) -> Result | NSTError:
    """The picture, or why there is none."""
    try:
        return make()
    except NSTError as error:
        return error.with_traceback(None)  # which holds the pictures and the network
    except MemoryError as error:
        return NSTError(f"out of memory ({error}): choose a smaller --size")
    except device_errors() as error:
        return NSTError(what_failed(error))


class _Makers:
    """All pairs of a batch: their pictures as loaded, and which are to be made."""

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
        self.settings, self.run, self.count = settings, run, len(styles)
        self.there, self.skip_existing = there, skip_existing
        self.callback, self.cancel = callback, cancel

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

    def loaded(self, pair: Pair) -> tuple[Any, Any]:
        """Content and style of a pair; raises the error of a broken one."""
        row, column = divmod(pair.number - 1, self.count)
        given = self.content(row), self.style(column)
        for picture in given:
            if isinstance(picture, NSTError):
                raise picture
        return given

    def own_run(self, pair: Pair) -> Run:
        return replace(self.run, output=pair.path, overwrite=self.run.overwrite or pair.number in self.there)

    def outcome(self, pair: Pair, result: Result | NSTError) -> Pair:
        """The pair with its result, which is none where another batch has just made it."""
        made = self.skip_existing and pair.number not in self.there and pair.path and os.path.exists(pair.path)
        return replace(pair, result=None if made and isinstance(result, NSTError) else result)

    def begin(self, pair: Pair, left: float | None) -> None:
        rest = "" if left is None else f"; about {shown_duration(left)} left for all"
        log.info("%d of %d: %s%s", pair.number, pair.count, pair, rest)

    @property
    def cancelled(self) -> bool:
        return self.cancel is not None and self.cancel.is_set()


class _Studios(_Makers):
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


class _OnCluster(_Makers):
    """One at a time on each worker of a cluster; they come in the order in which they are done."""

    def results(self, pairs: Sequence[Pair], made: Collection[int]) -> Iterator[Pair | None]:
        """As above."""
        with opened(self.settings, self.run) as client:
            from .cluster.pool import Pool

            away = replace(self.run, cluster=None, overwrite=True)
            with Pool(client, self.settings, partial(StudioOfWorker, self.settings, away), self._told).open() as pool:
                yield None
                yield from self._spread(pool, pairs, made)

    def _spread(self, pool: "Pool", pairs: Sequence[Pair], made: Collection[int]) -> Iterator[Pair]:
        waiting = [pair for pair in pairs if pair.number not in made and pair.result is None]
        yield from (pair for pair in pairs if pair not in waiting)
        self.pool, self.working = pool, dict[int, Pair]()
        began, ended, ending = time.monotonic(), 0, False
        with contextlib.ExitStack() as every:
            claims = dict[int, contextlib.ExitStack]()
            while waiting or self.working:
                if self.cancelled and not ending:
                    ending, waiting = True, []
                    pool.stop()
                while waiting and pool.idle:
                    pair = waiting.pop(0)
                    rest = len(self.working) + len(waiting) + 1
                    self.begin(pair, (time.monotonic() - began) / ended * rest if ended else None)
                    claims[pair.number] = every.enter_context(contextlib.ExitStack())
                    failure = attempted(partial(self._begun, pool, pair, claims[pair.number]))
                    self._forget(pair, waiting)
                    if isinstance(failure, NSTError):
                        claims.pop(pair.number).close()
                        yield self.outcome(pair, failure)
                for number, found in pool.done():
                    pair, ended = self.working.pop(number), ended + 1
                    with claims.pop(number):
                        result = attempted(partial(self._saved, pair, found))
                    yield self.outcome(pair, result)

    def _begun(self, pool: "Pool", pair: Pair, claims: contextlib.ExitStack) -> Any:
        content, style = self.loaded(pair)
        claims.enter_context(claimed(self.settings, self.own_run(pair)))
        pool.start(pair.number, dict(zip(self._names(pair), (content, style), strict=True)))
        self.working[pair.number] = pair
        return None

    def _names(self, pair: Pair) -> tuple[str, str]:
        """Of its pictures, in the cluster's memory."""
        row, column = divmod(pair.number - 1, self.count)
        return f"content{row}", f"style{column}"

    def _forget(self, pair: Pair, waiting: Sequence[Pair]) -> None:
        """Its pictures leave the cluster's memory unless others need them."""
        for name in self._names(pair):
            if not any(name in self._names(other) for other in waiting):
                self.pool.forget(name)

    def _saved(self, pair: Pair, result: Result | NSTError) -> Result:
        if isinstance(result, NSTError):
            raise result
        result = replace(result, strip_metadata=self.run.strip_metadata)
        path = result.save_somewhere(pair.path, self.own_run(pair).overwrite) if pair.path else None
        return replace(result, path=path)

    def _told(self, number: int, said: Mapping[str, Any]) -> None:
        if self.callback is not None:
            try:
                self.callback(self.working[number], Record(**said))
            except StopIteration:
                self.pool.stop(number)


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
