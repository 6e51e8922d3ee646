"""Limits BLAS to one thread for a while. The number of threads belongs to the whole process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController


class OneBlasThread:
    """A context in which BLAS uses one thread. Several threads may be inside at once.

    The first one to enter sets the limit and the last one to leave restores the number before. If each restored what
    it had found, one could restore another's 1, or lift the limit while another still computes.
    """

    def __init__(self) -> None:
        self.lock, self.inside = threading.Lock(), 0
        self.limits: list[Any] = []  # each restores what it found

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self._limit()
            self.inside += 1

    def __exit__(self, *exception: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                _let_any_thread_set_it()
                while self.limits:
                    self.limits.pop().restore_original_limits()

    @contextmanager
    def released(self) -> Iterator[None]:
        """Leaves the context for a while."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

    def include_new_libraries(self) -> None:
        """Finds BLAS libraries that were loaded since, and limits them too if the limit is on."""
        with self.lock:
            _blas.cache_clear()
            if self.inside:
                self._limit()

    def _limit(self) -> None:
        _let_any_thread_set_it()
        self.limits.append(_blas().limit(limits=1))


one_blas_thread = OneBlasThread()


def _let_any_thread_set_it() -> None:
    """Since 3.8, threadpoolctl silently ignores every thread but the first one that set the number."""
    for library in _blas().lib_controllers:
        if hasattr(library, "clear_controlling_thread"):
            library.clear_controlling_thread(force=True)


@cache
def _blas() -> Any:
    """The BLAS libraries of this process: NumPy has its own, and so has SciPy once it is loaded."""
    return ThreadpoolController().select(user_api="blas")
