"""How many threads BLAS uses: a number that belongs to the whole process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController


class OneBlasThread:
    """BLAS with one thread from the first entering until the last leaving: the number belongs to the whole process, and
    whoever put it back alone would put back another's 1, or let BLAS loose while another still computes."""

    def __init__(self) -> None:
        self.lock, self.inside = threading.Lock(), 0
        self.limits: list[Any] = []  # each knows what was before it

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self._take()
            self.inside += 1

    @contextmanager
    def left(self) -> Iterator[None]:
        """For a while outside again, in the middle of being inside."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

    def look_again(self) -> None:
        """A library has been loaded: it is to be one of those that are set, and the others stay so meanwhile."""
        with self.lock:
            _blas.cache_clear()
            if self.inside:
                self._take()

    def __exit__(self, *exception: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                self._give_back()

    def _take(self) -> None:
        _let_any_thread_set_it()
        self.limits.append(_blas().limit(limits=1))

    def _give_back(self) -> None:
        _let_any_thread_set_it()
        while self.limits:
            self.limits.pop().restore_original_limits()


one_blas_thread = OneBlasThread()


def _let_any_thread_set_it() -> None:
    """Since 3.8, threadpoolctl passes over without a word whoever isn't the thread that set the number first."""
    for library in _blas().lib_controllers:
        if hasattr(library, "clear_controlling_thread"):
            library.clear_controlling_thread(force=True)


@cache
def _blas() -> Any:
    """The BLAS libraries of this process: NumPy's, and SciPy's once it is loaded, each has its own."""
    return ThreadpoolController().select(user_api="blas")
