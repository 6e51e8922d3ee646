"""Many tasks on the workers of a cluster, one at a time on each, and each worker makes what all of them need only once.

A `Bench` is what a worker works at. It is made when a worker has its first task: by `make()`, on that worker. A task is
a call of its `work`. Dask gives the tasks of a worker that dies to another one.
"""

import logging
import math
import queue
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from distributed import KilledWorker, WorkerPlugin, get_worker
from distributed.client import FutureCancelledError

from ..errors import NSTError
from ..settings import Settings
from .connection import PATIENCE, Fit, gone

log = logging.getLogger(__name__)

LOOK = 0.5  # seconds between two looks at who is there


class Bench(Protocol):
    def work(self, told: Callable[[Any], None], flag: Any, *given: Any) -> Any:
        """One task. It reports what msgpack can write with `told`, and should end soon once the flag is set."""


class Pool:
    """Tasks in progress on a client's cluster.

    `told` is called with a task's number and what it reports, by `done`, in the thread that waits there.
    """

    def __init__(
        self, client: Any, settings: Settings, make: Callable[[], Bench], told: Callable[[int, Any], None]
    ) -> None:
        self.client, self.settings, self.told = client, settings, told
        self.name = f"nst_manual-{secrets.token_hex(8)}"
        self.news: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self.futures: dict[int, Any] = {}
        self.places: dict[int, str] = {}  # the worker that each task in progress was meant for
        self.sent: dict[str, Any] = {}
        self.looked: list[str] = []
        self.alone: float | None = None  # since when there has been no worker
        self.plugin = Held(self.name, make)

    @contextmanager
    def open(self) -> Iterator["Pool"]:
        with self._answering():
            with suppress(OSError):  # of a worker that goes away just now; any other has it, and so have later ones
                self.client.register_plugin(self.plugin, name=self.name)
            self.client.subscribe_topic(self.name, self._heard)
            self.fit = Fit(self.client, self.settings)
            self.looked = self.fit.there()
        try:
            yield self
        finally:
            with suppress(Exception):  # the cluster may be gone
                self.client.cancel(list(self.futures.values()), force=True)
                self.stop()
                self.client.unsubscribe_topic(self.name)
                self.client.unregister_worker_plugin(self.name)

    @property
    def idle(self) -> list[str]:
        """The workers that have no task."""
        return [address for address in self.looked if address not in self.places.values()]

    def start(self, number: int, given: Mapping[str, Any]) -> None:
        """Gives an idle worker a task; another one gets it should that one die. What is given has names: it is sent to
        a worker once."""
        with self._answering():
            for name, thing in given.items():
                if name not in self.sent:  # as a task of its own, it is there again if the worker that has it dies
                    self.sent[name] = self.client.submit(_itself, thing, key=f"{self.name}-{name}")
            place = self.idle[0]
            own: Any = {"key": f"{self.name}-{number}", "workers": [place], "allow_other_workers": True}
            future = self.client.submit(_worked, self.name, number, *(self.sent[name] for name in given), **own)
            self.futures[number], self.places[number] = future, place
            future.add_done_callback(lambda _: self.news.put((number, None)))

    def forget(self, name: str) -> None:
        """A shared thing that no later task needs."""
        self.sent.pop(name, None)

    def stop(self, number: int | None = None) -> None:
        """Ask a task, or all, to end."""
        with self._answering():
            self.client.run(_stop, self.name, number, on_error="ignore")

    def done(self) -> Iterator[tuple[int, Any]]:
        """Waits a little: the number of each task that has ended meanwhile, with what came out or the NSTError."""
        try:
            number, said = self.news.get(timeout=LOOK)
        except queue.Empty:
            self._look()
            return
        if said is not None:
            if number in self.futures:
                self.told(number, said)
            return
        if number in self.futures:
            future = self.futures.pop(number)
            self.places.pop(number)
            yield number, self._outcome(future)

    def _look(self) -> None:
        """Who is there now, workers that have come meanwhile included."""
        with self._answering():
            if self.client.status != "running":
                raise OSError("it is gone")
            self.looked = self.fit.there()
        if self.looked:
            self.alone = None
        elif self.alone is None:
            self.alone = time.monotonic()
        elif time.monotonic() - self.alone > PATIENCE:
            log.warning("cluster: no worker is left; waiting for one (Ctrl-C ends this)")
            self.alone = math.inf  # it is said once

    def _outcome(self, future: Any) -> Any:
        with self._answering():
            try:
                return future.result()
            except KilledWorker as error:
                return NSTError(
                    f"{error.allowed_failures + 1} workers that made it died, the last of them "
                    f"{getattr(error.last_worker, 'address', 'unknown')}: they may have had too little memory"
                )

    def _heard(self, event: Any) -> None:
        number, said = event[1]
        self.news.put((number, said))

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (OSError, FutureCancelledError, TimeoutError) as error:
            raise gone(self.client, "what is done is saved, and --skip-existing makes the rest") from error
        except RuntimeError as error:
            if self.client.status == "running":
                raise
            raise gone(self.client, "what is done is saved, and --skip-existing makes the rest") from error


class Held(WorkerPlugin):
    """What each worker holds, also one that comes later: its bench, once it has a task, and which tasks should end."""

    def __init__(self, name: str, make: Callable[[], Bench]) -> None:
        self.name, self.make = name, make

    def setup(self, worker: Any) -> None:
        self.worker = worker
        self.bench: Bench | None = None
        self.turn = threading.Lock()
        self.ending: set[int | None] = set()

    def work(self, number: int, *given: Any) -> Any:
        with self.turn:
            if self.bench is None:
                self.bench = self.make()
            told = partial(self._tell, number)
            return self.bench.work(told, Flag(self.ending, number), *given)

    def _tell(self, number: int, said: Any) -> None:
        self.worker.log_event(self.name, [number, said])


@dataclass(frozen=True)
class Flag:
    """Whether a task should end."""

    ending: Collection[int | None]  # numbers of tasks; None means all
    number: int

    def is_set(self) -> bool:
        return None in self.ending or self.number in self.ending


def _worked(name: str, number: int, *given: Any) -> Any:
    held: Any = get_worker().plugins[name]
    return held.work(number, *given)


def _stop(name: str, number: int | None, dask_worker: Any) -> None:
    if name in dask_worker.plugins:
        dask_worker.plugins[name].ending.add(number)


def _itself(thing: Any) -> Any:
    return thing
