"""What the members of a team tell each other: each puts things up under a name, and others come and read them.

A reader waits until what it wants is there. It asks the other worker directly: nothing passes through the scheduler.
"""

import asyncio
import math
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from distributed.protocol.serialize import to_serialize

from ..arrays import Array

Name = tuple[Any, ...]  # of a thing: what it is, and of which evaluation


class Board:
    """One member's own: `put` in its thread, `read` in its worker's event loop."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.things: defaultdict[Name, Future[Any]] = defaultdict(Future)
        self.left: dict[Name, int] = {}  # how often each will be read
        self.error: Exception | None = None

    def put(self, name: Name, thing: Any, readers: int) -> None:
        if readers:
            with self.lock:
                if self.error is not None:
                    raise self.error
                self.left[name] = readers
                self.things[name].set_result(thing)

    async def read(self, name: Name, part: Callable[[Any], Any]) -> Any:
        with self.lock:
            if self.error is not None:
                raise self.error
            future = self.things[name]
        thing = part(await asyncio.wrap_future(future))
        with self.lock:
            self.left[name] -= 1
            if not self.left[name]:
                del self.left[name], self.things[name]
        return thing

    def fail(self, error: Exception) -> None:
        """All who wait, and all who come, get the error: nothing more is to be had here."""
        with self.lock:
            if self.error is None:
                self.error = error
                for future in self.things.values():
                    if not future.done():
                        future.set_exception(error)


class Peer(NamedTuple):
    """Another member: its worker's address and its actor's key there."""

    address: str
    key: str


class Peers:
    """All members, as one of them sees them from its thread. It counts what it gets, by the kind of thing."""

    def __init__(self, worker: Any, board: Board, index: int, peers: list[Peer]) -> None:
        self.worker, self.board, self.index, self.peers = worker, board, index, peers
        self.bytes: dict[str, int] = {}
        self.sums = 0

    def ask(self, number: int, kind: str, name: Name, *given: Any) -> list[Array]:
        """What that member has put up under this name, or will."""
        future = asyncio.run_coroutine_threadsafe(
            self._asked(self.peers[number], (name, *given)), self.worker.loop.asyncio_loop
        )
        found = future.result()
        self.bytes[kind] = self.bytes.get(kind, 0) + sum(array.nbytes for array in found)
        return found

    async def _asked(self, peer: Peer, given: Any) -> list[Array]:
        wrapped: Any = to_serialize
        answer = await self.worker.rpc(peer.address).actor_execute(
            function="read", actor=peer.key, args=[wrapped(one) for one in given], kwargs={}
        )
        if answer["status"] != "OK":
            raise answer["exception"]
        found: list[Array] = answer["result"]
        return found

    def summed(self, kind: str, own: Any) -> Array:
        """The sum of all members' numbers, which all get, to the last bit the same."""
        self.sums += 1
        numbers = np.asarray(own, np.float64)
        total = self.up(kind, ("sum", self.sums), numbers.reshape(-1), 0)
        [found] = self.down(kind, ("sum", self.sums), None if total is None else [total], 0)
        return found.reshape(numbers.shape)

    def up(self, kind: str, name: Name, own: Array, root: int) -> Array | None:
        """Adds what the members below have; the whole sum at the root, and None elsewhere."""
        rank, below = self._below(root)
        for number in below:
            [found] = self.ask(number, kind, ("up", *name))
            own = own + found
        if rank:
            self.board.put(("up", *name), [own], 1)
        return None if rank else own

    def down(self, kind: str, name: Name, things: list[Array] | None, root: int) -> list[Array]:
        """What the root gives to all."""
        rank, below = self._below(root)
        if things is None:
            things = self.ask(self._number((rank - 1) // 2, root), kind, ("down", *name))
        self.board.put(("down", *name), things, len(below))
        return things

    def _below(self, root: int) -> tuple[int, list[int]]:
        """This member's rank in the tree of that root, and who stands below it."""
        count = len(self.peers)
        rank = (self.index - root) % count
        return rank, [self._number(child, root) for child in (2 * rank + 1, 2 * rank + 2) if child < count]

    def _number(self, rank: int, root: int) -> int:
        return (rank + root) % len(self.peers)


def packed(mean: Array, second: Array) -> Array:
    """A mean, and half of a symmetric matrix: what has to be sent."""
    return np.concatenate([mean, second[_half(len(second))]])


def unpacked(numbers: Array, n: int | None = None) -> tuple[Array, Array]:
    """The reverse, of a matrix of n rows, and a mean of so many numbers or of none."""
    n = n or (math.isqrt(9 + 8 * len(numbers)) - 3) // 2
    rows, columns = _half(n)
    start = len(numbers) - len(rows)
    second = np.empty((n, n))
    second[rows, columns] = second[columns, rows] = numbers[start:]
    return numbers[:start].copy(), second


@lru_cache(8)
def _half(n: int) -> Any:
    return np.triu_indices(n)
