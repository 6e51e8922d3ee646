"""Ctrl-C, SIGTERM and a closed terminal end a run so that its picture is saved."""

import contextlib
import signal
from collections.abc import Iterator


class Cancel:
    """The flag that a signal sets. Before the first iteration there is no picture to save, so the run stops at once."""

    def __init__(self) -> None:
        self.begun, self.wanted = False, False

    def is_set(self) -> bool:
        return self.wanted

    def __call__(self, *signal: object) -> None:
        again, self.wanted = self.wanted, True
        if again or not self.begun:
            raise KeyboardInterrupt


@contextlib.contextmanager
def signals_caught() -> Iterator[Cancel]:
    """The first signal ends a run after its current evaluation; a second one ends it at once.

    Where signals can't be handled, as in a thread, they keep their usual effect.
    """
    cancel, before = Cancel(), {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):  # not every system has all of them
        number = getattr(signal, name, None)
        with contextlib.suppress(ValueError):
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, cancel)
    try:
        yield cancel
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
