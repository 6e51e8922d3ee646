"""Ctrl-C, SIGTERM and a closed terminal end a run so that its picture is saved."""

import contextlib
import math
import signal
import time
from collections.abc import Iterator

AGAIN = 1.0  # seconds after which a second signal counts: closing a terminal sends two at once


class Cancel:
    """The flag that a signal sets. Before the first iteration there is no picture to save, so the run stops at once."""

    def __init__(self) -> None:
        self.begun = self.wanted = False
        self.heard = -math.inf  # when the last signal that counted came

    def is_set(self) -> bool:
        return self.wanted

    def __call__(self, *signal: object) -> None:
        now = time.monotonic()
        if now - self.heard < AGAIN:
            return
        self.heard = now
        again, self.wanted = self.wanted, True
        if again or not self.begun:
            raise KeyboardInterrupt


@contextlib.contextmanager
def signals_caught() -> Iterator[Cancel]:
    """The first signal ends a run after its current evaluation; another one, a second later, ends it at once.

    A block within such a block shares its flag. Where signals can't be handled, as in a thread, they keep their usual
    effect.
    """
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # not every system has all of them
    before = {number: signal.getsignal(number) for name in names if (number := getattr(signal, name, None))}
    cancel = next((handler for handler in before.values() if isinstance(handler, Cancel)), Cancel())
    for number, handler in before.items():
        with contextlib.suppress(ValueError):
            if handler is not signal.SIG_IGN:
                signal.signal(number, cancel)
    try:
        yield cancel
    finally:
        cancel.begun = False
        for number, handler in before.items():
            with contextlib.suppress(ValueError):
                signal.signal(number, handler)
