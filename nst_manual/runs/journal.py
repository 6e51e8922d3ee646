"""The files that a run writes beside its result: a trace of its numbers, pictures on the way, a plot, an animation.

A failed write does not end the run: it is logged once, the other files go on, and it is tried again the next time.
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
from ..optimise.records import no_image
from ..pictures.animation import check_animation, is_due, packed, save_animation
from ..pictures.files import check_folder, check_new
from ..settings import Run
from .plots import check_plot, plot_losses
from .traces import Trace, TraceFile

log = logging.getLogger(__name__)


def preview_of(output: Path) -> Path:
    return output.with_name(f"{output.stem}.preview{output.suffix}")


def numbered_of(output: Path, iteration: int) -> Path:
    return output.with_name(f"{output.stem}_{iteration:06}{output.suffix}")


class Journal:
    """Writes these files: `begin` once, then a call for each record, then `finish`. Creating it checks the names.

    `write(pixels, path)` writes a picture, (height, width, 3), RGB, 0 … 255.
    """

    def __init__(self, run: Run, write: Callable[[Array, Path], None]) -> None:
        self.run, self.write = run, write
        self.preview: Path | None = None
        if run.output is not None:
            check_folder(run.output)
            if run.preview_every is not None:
                self.preview = preview_of(run.output)
        elif run.save_every is not None or run.preview_every is not None:
            raise NSTError("intermediate pictures are written beside the result: name it with -o or output")
        if run.plot is not None:
            check_plot(run.plot)
        if run.animation is not None:
            check_animation(run.animation)
        self.frames: list[bytes] = []  # of the animation
        self.trace = None if run.trace is None else TraceFile(run.trace)
        self.records: list[Record] = []
        self.failing: dict[str, str] = {}  # what cannot be written at present, and why
        self.shown = time.monotonic()  # when the last preview was written, or the run began

    def check_new(self, overwrite: bool) -> None:
        """Refuse, without `overwrite`, if a file that the run may write exists already."""
        for path in filter(None, (self.run.trace, self.run.plot, self.run.animation, self.preview, *self.numbered())):
            check_new(path, overwrite)

    def begin(self, records: Sequence[Record] = ()) -> None:
        """Start the trace with the records of the run before it was resumed. Raises NSTError."""
        self.records = [dataclasses.replace(record, image=no_image) for record in records]
        if self.trace is not None:
            self.trace.begin(self.records)

    def __call__(self, record: Record) -> None:
        self.records.append(dataclasses.replace(record, image=no_image))  # so that the image is not kept in memory
        if self.trace is not None:
            with self._going_on("the trace"):
                self.trace.update(self.records)
        if self.run.animation is not None and is_due(record.iteration, record.iterations):
            self.frames.append(packed(record.image()))
        output, every = self.run.output, self.run.save_every
        if output is None or record.image is no_image:
            return
        if every is not None and record.iteration % every == 0:
            with self._going_on("the picture of this iteration"):
                self.write(record.image(), numbered_of(output, record.iteration))
        if self.preview is not None and time.monotonic() - self.shown >= (self.run.preview_every or 0):
            with self._going_on("the preview"):
                self.write(record.image(), self.preview)
            self.shown = time.monotonic()

    def finish(self, stopped: str, message: str, pixels: Array | None = None, saved: bool = True) -> list[str]:
        """Complete the trace, draw the plot and the animation, and remove the preview if the result is saved.

        The animation ends with `pixels`, the result.

        Returns a sentence for each file that was asked for but is missing or incomplete.
        """
        if self.trace is not None:
            with self._going_on("the trace"):
                self.trace.update(self.records, {"stopped": stopped, "message": " ".join(message.split())})
        if self.run.plot is not None:
            with self._going_on("the plot"):
                plot_losses(self.run.plot, Trace.of(self.records), new=not self.run.overwrite)
        if self.run.animation is not None:
            with self._going_on("the animation"):
                last = [] if pixels is None else [packed(pixels)]
                frames = self.frames[:-1] if self.frames[-1:] == last else self.frames
                save_animation([*frames, *last], self.run.animation, new=not self.run.overwrite)
        if saved and self.preview is not None:
            with suppress(OSError):
                self.preview.unlink(missing_ok=True)
            self.failing.pop("the preview", None)
        return [f"{what}: {reason}" for what, reason in self.failing.items()]

    def numbered(self) -> list[Path]:
        """The numbered pictures of an earlier run with the same output."""
        output = self.run.output
        if output is None or self.run.save_every is None:
            return []
        found = output.parent.glob(f"{glob.escape(output.stem)}_*{output.suffix}")
        return sorted(path for path in found if path.stem.removeprefix(f"{output.stem}_").isdecimal())

    @contextmanager
    def _going_on(self, what: str) -> Iterator[None]:
        try:
            yield
        except (NSTError, OSError, MemoryError) as error:
            reason = str(error) or "not enough memory"
            if what not in self.failing:
                log.warning("%s; the run goes on without %s", reason, what)
            self.failing[what] = reason
        else:
            self.failing.pop(what, None)
