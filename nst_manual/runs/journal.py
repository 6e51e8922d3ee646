"""What a run writes beside its picture: a trace of its numbers, pictures on the way, and a plot of its losses.

A write that fails must not end a run of hours: it is told once, the others go on, and it is tried again at the next
occasion.
"""

import dataclasses
import glob
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..arrays import Array
from ..errors import NSTError
from ..optimise import Record
from ..pictures.files import check_folder, check_new
from .plots import check_plot, plot_losses
from .traces import Trace, TraceFile

log = logging.getLogger(__name__)


class Journal:
    """Made before the long work, which finds out what can't be written; `begin`, then each record, then `finish`.

    `write(pixels, path)` writes a picture, (height, width, 3), RGB, 0 … 255, as it writes the result. With `save_every`
    it gets numbered ones beside `output`, with `preview_every` one that is replaced after so many seconds.
    """

    def __init__(
        self,
        output: Path | None,
        trace: Path | None,
        plot: Path | None,
        save_every: int | None,
        preview_every: float | None,
        write: Callable[[Array, Path], None],
    ) -> None:
        if output is None and (save_every is not None or preview_every is not None):
            raise NSTError("pictures on the way are written beside the result: name one, as output or -o")
        if output is not None:
            check_folder(output)
        if plot is not None:
            check_plot(plot)
        self.output, self.plot, self.write = output, plot, write
        self.save_every, self.preview_every = save_every, preview_every
        self.trace = None if trace is None else TraceFile(trace)
        self.records: list[Record] = []
        self.failing: dict[str, str] = {}  # what can't be written at the moment, and why
        self.shown = time.monotonic()  # when the last preview was written

    def check_new(self, overwrite: bool) -> None:
        """No file that the run may write is there already."""
        trace = None if self.trace is None else self.trace.path
        for path in (trace, self.plot, self.preview, *self._numbered()):
            if path is not None:
                check_new(path, overwrite)

    def begin(self, records: Sequence[Record] = ()) -> None:
        """With those of an earlier part of the run, which the trace begins with. Raises NSTError."""
        self.records = [dataclasses.replace(record, image=None) for record in records]
        if self.trace is not None:
            self.trace.begin(self.records)
        self.shown = time.monotonic()

    def __call__(self, record: Record) -> None:
        self.records.append(dataclasses.replace(record, image=None))  # the image would be kept as long as the record
        if self.trace is not None:
            with self._going_on("the trace"):
                self.trace.update(self.records)
        if self.output is None or record.image is None:
            return
        if self.save_every is not None and record.iteration % self.save_every == 0:
            with self._going_on("the picture of this iteration"):
                name = f"{self.output.stem}_{record.iteration:06}{self.output.suffix}"
                self.write(record.image(), self.output.with_name(name))
        if self.preview is not None and time.monotonic() - self.shown >= (self.preview_every or 0):
            with self._going_on("the preview"):
                self.write(record.image(), self.preview)
            self.shown = time.monotonic()

    def finish(self, stopped: str, message: str, saved: bool = True) -> list[str]:
        """Why the run stopped goes to the trace, the plot is drawn, and the preview goes if the result is saved.

        Returns a sentence for each file that was asked for and isn't there, or not whole.
        """
        if self.trace is not None:
            with self._going_on("the trace"):
                self.trace.update(self.records, {"stopped": stopped, "message": " ".join(message.split())})
        if self.plot is not None:
            with self._going_on("the plot"):
                plot_losses(self.plot, Trace.of(self.records))
        if saved and self.preview is not None:
            with suppress(OSError):
                self.preview.unlink(missing_ok=True)
            self.failing.pop("the preview", None)
        return [f"{what}: {reason}" for what, reason in self.failing.items()]

    @property
    def preview(self) -> Path | None:
        if self.output is None or self.preview_every is None:
            return None
        return self.output.with_name(f"{self.output.stem}.preview{self.output.suffix}")

    def _numbered(self) -> list[Path]:
        """Pictures of an earlier run with the same output."""
        if self.output is None or self.save_every is None:
            return []
        found = self.output.parent.glob(f"{glob.escape(self.output.stem)}_*{self.output.suffix}")
        return sorted(path for path in found if path.stem.removeprefix(f"{self.output.stem}_").isdecimal())

    @contextmanager
    def _going_on(self, what: str) -> Iterator[None]:
        try:
            yield
        except (NSTError, OSError, MemoryError) as error:
            reason = str(error) or "there is not enough memory"
            if what not in self.failing:
                log.warning("%s; the run goes on without %s", reason, what)
            self.failing[what] = reason
        else:
            self.failing.pop(what, None)
