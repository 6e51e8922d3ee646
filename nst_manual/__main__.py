"""python -m nst_manual, also installed as nst-manual.

Loading the program takes about half a second. Until then, and after its end, Ctrl-C ends it at once and in silence.
"""

import os
import signal
import sys

INTERRUPTED = 130


def main() -> int:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    from .cli.main import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
