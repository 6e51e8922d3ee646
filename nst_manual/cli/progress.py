"""The progress of a run: a bar on a terminal, plain lines on a pipe, JSON lines on request."""

import logging
import math
import sys
import time
from collections import defaultdict
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import Any, TextIO

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..optimise import Record
from .report import say, say_json

LINES = 20  # at least so many plain lines per run …
SECONDS = 60.0  # … and one after this time
COLUMNS = 80  # of a terminal that doesn't say how wide it is
_BAR = "{percentage:3.0f}%|{bar}| "
_BAR_ROOM = 12  # columns: "100%|", five for the bar, "| "


def log_above() -> AbstractContextManager[None]:
    """Log lines appear above the bars. One such block may not overlap another."""
    return logging_redirect_tqdm([logging.getLogger("nst_manual")])


class Progress:
    """The callback of a run. The run goes on, unseen, if the pipe or the terminal is closed.

    Of several pictures in progress, each is told by its number.
    """

    def __init__(
        self, iterations: int, as_json: bool, quiet: bool, stream: TextIO | None = None, picture: int | None = None
    ) -> None:
        self.as_json, self.stream, self.picture = as_json, stream or sys.stderr, picture
        self.plain = not (quiet or as_json or self.stream.isatty())
        self.printed = -math.inf  # when the last plain line was printed
        self.closed = False
        self.bar: Any = None  # made only to be shown: bars share a lock, with all runs of a process
        if not (quiet or as_json or self.plain):
            form = _BAR + "{n_fmt}/{total_fmt}"
            self.bar = tqdm(total=iterations, file=self.stream, dynamic_ncols=True, miniters=1, bar_format=form)
        self.opened = ExitStack()

    def __enter__(self) -> "Progress":
        if self.bar is not None and self.picture is None:
            self.opened.enter_context(log_above())
        return self

    def __exit__(self, *exception: object) -> None:
        self.opened.close()
        if self.bar is not None:
            with suppress(OSError):
                self.bar.close()

    def __call__(self, record: Record) -> None:
        if self.closed:
            return
        try:
            if self.as_json:
                say_json(({} if self.picture is None else {"picture": self.picture}) | record.numbers())
            elif self.plain:
                self._line(record)
            elif self.bar is not None:
                self._draw(record)
        except OSError:
            self.closed = True

    def _draw(self, record: Record) -> None:
        self.bar.total = record.iterations
        columns = self.bar.format_dict["ncols"] or COLUMNS
        self.bar.bar_format = self._whose() + bar_format(record, columns - len(self._whose()))
        self.bar.update(record.iteration - self.bar.n)

    def _line(self, record: Record) -> None:
        now = time.monotonic()
        due = record.iteration % max(1, record.iterations // LINES) == 0 or record.iteration == record.iterations
        if due or now - self.printed >= SECONDS:
            self.printed = now
            count, loss, *rest = _pieces(record)
            text = ", ".join([f"{count} {loss}", *rest, f"{record.seconds:.1f} s"])
            say(self._whose() + text, to=self.stream)

    def _whose(self) -> str:
        return "" if self.picture is None else f"{self.picture}: "


def bar_format(record: Record, columns: int) -> str:
    """tqdm's format: the bar and, beside it, as much as there is room for; without a bar where there is little room."""
    count, loss, *rest = _pieces(record)
    scale, left = _scale(record).partition(" ")[0], _left(record)
    short = loss.partition(" (")[0]
    texts = [
        f"{count} {', '.join(filter(None, pieces))}".rstrip()
        for pieces in ((loss, *rest), (loss, scale, left), (short, scale, left), (short, left), (short,), ())
    ]
    for text in texts[:-2]:
        if _BAR_ROOM + len(text) <= columns:
            return _BAR + text
    return next((text for text in texts[3:] if len(text) <= columns), texts[-1][:columns])


def _pieces(record: Record) -> list[str]:
    """The count, the loss and its terms, then the scale and the time left if they are known."""
    sums: defaultdict[str, float] = defaultdict(float)  # over each kind of term: content, style, tv
    for name, value in record.terms.items():
        sums[name.partition(":")[0]] += value
    terms = ", ".join(f"{kind} {number(sums[kind])}" for kind in sorted(sums)) if len(sums) > 1 else ""
    loss = f"loss {number(record.loss)}" + (f" ({terms})" if terms else "")
    pieces = [f"{record.iteration}/{record.iterations}", loss, _scale(record), _left(record)]
    return [piece for piece in pieces if piece]


def _scale(record: Record) -> str:
    return f"{record.scale}/{record.scales} {record.width}×{record.height}" if record.scales > 1 else ""


def _left(record: Record) -> str:
    return f"{tqdm.format_interval(record.left)} left" if math.isfinite(record.left) else ""


def number(value: float) -> str:
    """Three significant digits in few characters: 182, 0.05, 1.82e5."""
    if not math.isfinite(value) or 1e-3 <= abs(value) < 1e3 or value == 0:
        return f"{value:.3g}"
    digits, _, exponent = f"{value:.2e}".partition("e")
    return f"{digits}e{int(exponent)}"
