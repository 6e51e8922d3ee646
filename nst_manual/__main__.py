"""python -m nst_manual, also installed as nst-manual.

Loading the program takes about half a second. Until then, and after its end, Ctrl-C ends it at once and in silence.
"""

import mmap
import os
import signal
import sys

INTERRUPTED = 130
ROOM = 256 << 20  # bytes: a little more than loading takes, and less than the smallest run


def main() -> int:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    try:
        mmap.mmap(-1, ROOM).close()  # where there is less, NumPy's BLAS would abort the program, or wait for ever
    except OSError as error:
        reason = f"nst_manual: out of memory ({error.strerror}): it takes at least {ROOM >> 20} MiB"
        raise SystemExit(reason) from None  # which means exit code 1
    from .cli.main import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
