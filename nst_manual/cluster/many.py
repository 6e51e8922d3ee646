"""Many pictures on a cluster: each worker has a studio of its own, and gets a pair of pictures at a time."""

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import NSTError
from ..optimise import Record
from ..runs.batches import Batch, attempted
from ..runs.outputs import claimed
from ..runs.pairs import Pair
from ..runs.results import Result
from ..runs.watch import Flag
from ..settings import Run, Settings
from .arrived import settled_in_memory, worker_device, worker_threads
from .connection import opened

if TYPE_CHECKING:
    from .pool import Pool

MakeStudio = Callable[[Settings, Run], Any]


class WorkersStudio:
    """A studio that `make` makes on a worker. Pictures come from the machine that gives the work, and go back to it."""

    def __init__(self, make: MakeStudio, settings: Settings, run: Run) -> None:
        self.run = replace(run, threads=worker_threads(run), device=worker_device(run))
        self.studio = make(settings, self.run)

    def work(self, told: Callable[[Any], None], flag: Flag, *given: Any) -> Result | NSTError:
        def callback(record: Record) -> None:
            told({field: value for field, value in vars(record).items() if field != "image"})

        return attempted(lambda: self.studio.picture(self.run, settled_in_memory(given), callback, flag))


class OnCluster(Batch):
    """One at a time on each worker of a cluster; they come in the order in which they are done."""

    def __init__(self, make: MakeStudio, *given: Any) -> None:
        super().__init__(*given)
        self.make = make

    def results(self, pairs: Sequence[Pair], made: Collection[int]) -> Iterator[Pair | None]:
        """As of those in one process."""
        with opened(self.settings, self.run) as client:
            from .pool import Pool

            away = replace(self.run, cluster=None, overwrite=True)
            make = partial(WorkersStudio, self.make, self.settings, away)
            with Pool(client, self.settings, make, self._told).open() as pool:
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
        row, column = self.place(pair)
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
