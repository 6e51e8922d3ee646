"""How an actor's methods run: in a thread of its own, and with errors that any machine can read.

Dask has one thread for all actors of a worker. There, members of two teams could wait for each other for ever.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

from ..engines import device_errors, what_failed

P = ParamSpec("P")
R = TypeVar("R")


def in_own_thread(method: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
    """A method that the worker's event loop awaits while the actor's `thread` runs it."""

    @wraps(method)
    async def called(*given: P.args, **named: P.kwargs) -> R:
        actor: Any = given[0]
        work = partial(readable, partial(method, *given, **named))
        return await asyncio.get_running_loop().run_in_executor(actor.thread, work)

    return called


def readable(function: Callable[[], R]) -> R:
    """Calls it. Errors of a GPU become plain ones, for whoever has no CuPy can't unpickle its own, not even as the
    context of another one."""
    plain: Exception
    try:
        return function()
    except MemoryError as error:
        plain = MemoryError(str(error))
    except device_errors() as error:
        plain = RuntimeError(what_failed(error))
    raise plain
