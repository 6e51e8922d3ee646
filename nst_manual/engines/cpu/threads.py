"""Threads for the CPU's engine: strips of work over a few threads, each of which calls BLAS with one thread.

NumPy lets other threads run while it computes, so Python's lock is held only between the calls.
"""

import ctypes
import os
import platform
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context, copy_context
from queue import SimpleQueue
from typing import Any

from ...arrays import Array
from ..blas import one_blas_thread
from .memory import Memory, aligned

_local = threading.local()


def scratch(name: str, size: int, zero: bool = False) -> Array:
    """This thread's buffer of that name, at least `size` float32 long, flat; its content is whatever was last in it."""
    buffer: Array | None = getattr(_local, name, None)
    if buffer is None or buffer.size < size:
        buffer = aligned((size,), zero)
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


class Phase:
    """task(item) of every item, in any order, by any of the threads."""

    def __init__(self, task: Callable[[Any], None], items: Iterable[Any]) -> None:
        self.task, self.todo = task, deque(items)
        self.size, self.done = len(self.todo), 0
        self.ended = threading.Event()
        if not self.todo:
            self.ended.set()


class Round:
    """A few phases of work that a caller and its helpers do together: each begins when the one before has ended."""

    def __init__(self, phases: tuple[Phase, ...]) -> None:
        self.phases = phases
        self.lock = threading.Lock()
        self.is_open, self.helpers, self.alone = True, 0, threading.Event()
        self.alone.set()
        self.error: BaseException | None = None

    def lead(self) -> None:
        """By the caller. When it returns, all is done and nobody is at work any more, also if somebody has failed."""
        self._work_or_stop()
        with self.lock:
            self.is_open = False
        self.alone.wait()
        self.phases = ()  # a helper that comes too late must not keep arrays alive
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # it refers to this frame: a circle would keep arrays alive, too

    def help(self) -> None:
        """By a helper, unless it comes too late."""
        with self.lock:
            if not self.is_open:
                return
            self.helpers += 1
            self.alone.clear()
        self._work_or_stop()
        with self.lock:
            self.helpers -= 1
            if not self.helpers:
                self.alone.set()

    def _work_or_stop(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self.error = self.error or error
            for phase in self.phases:
                phase.todo.clear()
                phase.ended.set()

    def _work(self) -> None:
        for number, phase in enumerate(self.phases, 1):
            while True:
                try:
                    item = phase.todo.popleft()  # which no two threads do at once
                except IndexError:
                    break
                phase.task(item)
                with self.lock:
                    phase.done += 1
                    if phase.done == phase.size:
                        phase.ended.set()
            if number < len(self.phases):
                phase.ended.wait()


class Workers:
    """A few threads for as long as the engine lives; the caller's is one of them."""

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or available_threads()
        self.memory = Memory()
        self.calls: Calls = SimpleQueue()  # for help; one of concurrent.futures' pools would take longer to answer
        for number in range(1, self.threads):
            threading.Thread(target=_serve, args=(self.calls,), name=f"nst-cpu-{number}", daemon=True).start()
        weakref.finalize(self, _dismiss, self.calls, self.threads - 1)

    def shares(self, count: int) -> list[slice]:
        """0 … count in slices, large ones first: few to be handed out, and small ones to be done with together."""
        slices: list[slice] = []
        start = 0
        while start < count:
            size = max(1, (count - start) // (2 * self.threads))
            slices.append(slice(start, start + size))
            start += size
        return slices

    def run(self, task: Callable[[Any], None], items: Iterable[Any]) -> None:
        """task(item) of every item, in any order; an exception in one of them is raised here."""
        self.run_phases(Phase(task, items))

    def run_phases(self, *phases: Phase) -> None:
        """Each phase when the one before has ended: one call for help for all of them."""
        together = Round(phases)
        threads = min(self.threads, max(phase.size for phase in phases))
        with one_blas_thread:
            for _ in range(1, threads):
                self.calls.put((copy_context(), together))  # in which NumPy keeps how it warns
            together.lead()


Calls = SimpleQueue[tuple[Context, Round] | None]


def _serve(calls: Calls) -> None:
    """A helper's life. Between two rounds it refers to none."""
    while True:
        call = calls.get()
        if call is None:
            return
        context, together = call
        context.run(together.help)
        del call, context, together


def _dismiss(calls: Calls, helpers: int) -> None:
    for _ in range(helpers):
        calls.put(None)
