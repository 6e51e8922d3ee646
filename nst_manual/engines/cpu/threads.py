"""Threads for the CPU engine: work is spread over a few threads, each of which calls BLAS with one thread.

NumPy releases Python's lock while it computes, so the threads only wait for each other between calls.
"""

import _thread
import ctypes
import os
import platform
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context, copy_context
from queue import Empty, SimpleQueue
from typing import Any

from ...arrays import Array
from ..blas import one_blas_thread
from .memory import Memory, aligned

PATIENCE = 60.0  # seconds for a thread to begin, on a busy machine

_local = threading.local()


def scratch(name: str, size: int, zero: bool = False) -> Array:
    """This thread's flat float32 buffer of that name, `size` long. It holds whatever was last written to it."""
    buffer: Array | None = getattr(_local, name, None)
    if buffer is None or buffer.size < size:
        buffer = aligned((size,), zero)
        setattr(_local, name, buffer)
    return buffer[:size]


def keep_no_freed_arrays() -> None:
    """Makes Linux's allocator return arrays of 4 MB and more to the system as soon as they are freed.

    By default it keeps freed arrays of up to 32 MB for reuse, and cannot join the gaps between them. It still keeps
    smaller ones: to return them and clear them anew for every evaluation would take a twentieth of the time.
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
    """task(item) for every item, in any order, on any of the threads."""

    def __init__(self, task: Callable[[Any], None], items: Iterable[Any]) -> None:
        self.task, self.todo = task, deque(items)
        self.size, self.done = len(self.todo), 0
        self.ended = threading.Event()
        if not self.todo:
            self.ended.set()


class Round:
    """Phases of work that a caller and its helpers do together: each begins when the one before it has ended."""

    def __init__(self, phases: tuple[Phase, ...]) -> None:
        self.phases = phases
        self.is_open, self.helpers, self.lock = True, 0, threading.Lock()
        self.left = threading.Condition(self.lock)  # notified when a helper leaves
        self.error: BaseException | None = None

    def lead(self) -> None:
        """Called by the caller. When it returns, all work is done or has failed, and no helper is at work any more."""
        self._work_or_stop()
        with self.left:
            self.is_open = False
            self.left.wait_for(lambda: not self.helpers)
        self.phases = ()  # a late helper must not keep arrays alive
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # it refers to this frame: the cycle would keep arrays alive, too

    def help(self) -> None:
        """Called by a helper; does nothing if the round is already over."""
        with self.lock:
            if not self.is_open:
                return
            self.helpers += 1
        self._work_or_stop()
        with self.left:
            self.helpers -= 1
            self.left.notify()

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
                    item = phase.todo.popleft()  # atomic: no two threads get the same item
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
    """The engine's threads, for as long as it lives. The caller's own thread is one of them."""

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or available_threads()
        self.memory = Memory()
        self.calls: Calls = SimpleQueue()  # for help; a pool of concurrent.futures would take longer to answer
        _start_helpers(self.calls, self.threads - 1)
        weakref.finalize(self, _dismiss, self.calls, self.threads - 1)

    def shares(self, count: int) -> list[slice]:
        """0 … count in slices: large ones first, few to hand out; small ones last, so that all threads end together."""
        slices: list[slice] = []
        start = 0
        while start < count:
            size = max(1, (count - start) // (2 * self.threads))
            slices.append(slice(start, start + size))
            start += size
        return slices

    def run(self, task: Callable[[Any], None], items: Iterable[Any]) -> None:
        """Calls task(item) for every item, in any order. An exception in any of them is raised here."""
        self.run_phases(Phase(task, items))

    def run_phases(self, *phases: Phase) -> None:
        """Runs the phases one after the other, with one call for help for all of them."""
        together = Round(phases)
        threads = min(self.threads, max(phase.size for phase in phases))
        with one_blas_thread:
            for _ in range(1, threads):
                self.calls.put((copy_context(), together))  # NumPy keeps its error settings in the context
            together.lead()


Calls = SimpleQueue[tuple[Context, Round] | None]


def _start_helpers(calls: Calls, count: int) -> None:
    """Raises MemoryError if a thread can't be started, or doesn't begin: where there is no memory for it."""
    begun: SimpleQueue[None] = SimpleQueue()
    try:
        for _ in range(count):
            _thread.start_new_thread(_serve, (calls, begun))  # threading.Thread waits for ever for one that fails
        for _ in range(count):
            begun.get(timeout=PATIENCE)
    except (RuntimeError, Empty):
        _dismiss(calls, count)
        raise MemoryError(f"{count + 1} threads can't be started: give fewer with --threads") from None


def _serve(calls: Calls, begun: "SimpleQueue[None]") -> None:
    """A helper's loop. Between two rounds it holds no reference to either."""
    begun.put(None)
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
