"""Processes that do for the server what may take long, or may end a process."""

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from ..errors import NSTError

T = TypeVar("T")


def _begin() -> None:
    """In the process: it leaves Ctrl-C to the server, lets a run go first, and ends if the server is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "nice"):  # Windows has no such thing
        os.nice(10)
    threading.Thread(target=_end_with_server, daemon=True).start()


def _end_with_server() -> None:
    server = multiprocessing.parent_process()
    if server is not None:
        server.join()
        os._exit(1)


class Helper:
    """One process, started when it is first needed, and anew if it breaks or takes too long."""

    def __init__(self, seconds: float, task: str) -> None:
        self.seconds, self.task = seconds, task
        self.pool: ProcessPoolExecutor | None = None

    async def __call__(self, function: Callable[..., T], *given: object) -> T:
        """The function's result; NSTError also if its process is gone."""
        if self.pool is None:
            spawn = multiprocessing.get_context("spawn")
            self.pool = ProcessPoolExecutor(1, spawn, _begin)
        pool = self.pool
        work = asyncio.get_running_loop().run_in_executor(pool, function, *given)
        done, _ = await asyncio.wait([work], timeout=self.seconds)
        if not done:
            work.cancel()
            self.close()
            raise NSTError(f"{self.task} was given up after {self.seconds:g} s: try a smaller picture")
        try:
            return work.result()
        except (BrokenProcessPool, asyncio.CancelledError):  # cancelled: another request was given up
            if self.pool is pool:  # else it has begun anew already
                self.close()
            raise NSTError(
                f"{self.task} failed: its process ended unexpectedly; try again, or another picture"
            ) from None

    def close(self) -> None:
        if self.pool is not None:
            processes = list((self.pool._processes or {}).values())
            self.pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.kill()
            self.pool = None
