"""Threads for the CPU's engine: strips of work over a few threads, each of which calls BLAS with one thread.

NumPy lets other threads run while it computes, so Python's lock is held only between the calls.
"""

import ctypes
import os
import platform
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import Any

import numpy as np

from ..arrays import Array
from ..blas import one_blas_thread
from .memory import Memory

_local = threading.local()


def scratch(name: str, size: int, zero: bool = False) -> Array:
    """This thread's buffer of that name, at least `size` float32 long, flat; its content is whatever was last in it."""
    buffer: Array | None = getattr(_local, name, None)
    if buffer is None or buffer.size < size:
        buffer = np.zeros(size, np.float32) if zero else np.empty(size, np.float32)
        setattr(_local, name, buffer)
    return buffer[:size]


def keep_no_freed_arrays() -> None:
    """Asks Linux's allocator to give arrays of 4 MB and more that lie outside memory.py's pieces back when they go.

    By itself it comes to keep those of up to 32 MB, in case they are wanted again, and cannot join the gaps. Smaller
    ones it is told to keep: to give them back and clear them anew at each evaluation takes a twentieth of the time.
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
        ctypes.CDLL(None).mallopt(mmap_threshold, 4 << 20)
        ctypes.CDLL(None).mallopt(trim_threshold, 1 << 30)


def available_threads() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Workers:
    """A few threads for as long as the engine lives; the caller's is one of them. Of several `callers` at once, each
    has its part of them."""

    def __init__(self, threads: int | None = None) -> None:
        self.threads, self.callers = threads or available_threads(), 1
        self.memory = Memory()
        self.pool = ThreadPoolExecutor(self.threads - 1, "nst-cpu") if self.threads > 1 else None

    def run(self, task: Callable[[Any], None], items: Iterable[Any]) -> None:
        """task(item) of every item, in any order; an exception in one of them is raised here."""
        todo = deque(items)
        helpers = min(max(1, self.threads // self.callers), len(todo)) - 1

        def work() -> None:
            while True:
                try:
                    item = todo.popleft()  # which no two threads do at once
                except IndexError:
                    return
                try:
                    task(item)
                except BaseException:
                    todo.clear()
                    raise

        with one_blas_thread:
            # In a copy of the caller's context, in which NumPy keeps how it warns.
            futures = [self.pool.submit(copy_context().run, work) for _ in range(helpers)] if self.pool else []
            try:
                work()
            finally:
                wait(futures)
            for future in futures:
                future.result()
