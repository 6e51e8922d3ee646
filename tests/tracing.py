"""The memory that an action needs."""

import tracemalloc
from collections.abc import Callable


def memory_of(action: Callable[[], object]) -> int:
    """The peak of bytes that Python and NumPy held during the action, beyond those held before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        action()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
