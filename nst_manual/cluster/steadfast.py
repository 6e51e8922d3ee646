"""Loaded by each worker of this machine's own cluster: signals are the main process's affair.

Ctrl-C in a terminal reaches every process. A worker that ended by it would take its picture along.
"""

import contextlib
import signal
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # not every system has all of them


def dask_setup(worker: Any) -> None:
    for number in filter(None, (getattr(signal, name, None) for name in NAMES)):
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(number, signal.SIG_IGN)
