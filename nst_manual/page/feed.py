"""What a run tells the page, in files: its records as JSON lines, a picture for the screen, frames for an animation.

The page's server reads them when it likes, so that a run never waits for it. Needs no web library.
"""

import _thread
import json
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from ..arrays import Array
from ..errors import NSTError
from ..optimise import Record
from ..pictures.animation import is_due, packed
from ..pictures.writing import save_image
from ..runs.machine import resident
from ..runs.results import Result

RECORDS, PREVIEW, FRAMES, EXACT = "records.jsonl", "preview.jpg", "frames", "now.png"
FLUSHED = 0.2  # seconds from one line that is written to the next: a GPU makes hundreds of them a second
EVERY = 1.0  # seconds from one preview to the next …
SHARE = 0.03  # … or longer, where previews would take more than this share of the time
SCREEN = 1024  # pixels of a preview's longer side, at most


class Feed:
    """The callback of a run that a page shows. The run goes on, unseen, if the folder is gone or the disk is full."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wanted = threading.Event()  # whether the page has asked for the exact picture
        self.lines: list[dict[str, Any]] = []  # not yet written
        self.shown = self.called = self.written = time.monotonic()
        self.cost = 0.0  # seconds that the last preview took

    def __call__(self, record: Record) -> None:
        with suppress(OSError, NSTError):
            now = time.monotonic()
            self.lines.append(record.numbers())
            if record.iteration in (1, record.iterations) or now - self.written >= FLUSHED:
                self._write()
            pace, self.called = now - self.called, now
            if record.iteration == 1 or now + pace - self.shown >= max(EVERY, self.cost / SHARE):
                self._show(record.image())
                self.shown = time.monotonic()
                self.cost = self.shown - now
            if is_due(record.iteration, record.iterations):
                self._frame(record.iteration, record.image())
            if self.wanted.is_set():
                self.wanted.clear()
                save_image(record.image(), self.folder / EXACT)

    def finish(self, result: Result) -> None:
        """The run's last line, and its result for the screen."""
        with suppress(OSError, NSTError):
            self._show(result.pixels)
            if result.trace:
                self._frame(result.trace[-1].iteration, result.pixels)
            self.lines.append({"stopped": result.stopped, "message": result.message, "loss": _finite(result.loss)})
            self._write()

    def obey(self, orders: IO[str]) -> None:
        """Follow the lines that the server sends: "picture" asks for the exact picture. At "stop", or when the server
        is gone, the run ends as by Ctrl-C."""
        threading.Thread(target=self._obey, args=(orders,), daemon=True).start()

    def _obey(self, orders: IO[str]) -> None:
        with suppress(OSError, ValueError):
            for line in orders:
                if line.strip() == "picture":
                    self.wanted.set()
                elif line.strip() == "stop":
                    break
        _thread.interrupt_main()

    def _write(self) -> None:
        """The new lines, the last of them with the memory in use."""
        lines, self.lines, self.written = self.lines, [], time.monotonic()
        if used := resident():
            lines[-1]["memory"] = used.now
        with open(self.folder / RECORDS, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)

    def _show(self, pixels: Array) -> None:
        every = max(1, max(pixels.shape) // SCREEN)  # of a large picture, single pixels do
        self._replace(PREVIEW, packed(pixels[::every, ::every], quality=88, side=SCREEN))

    def _frame(self, iteration: int, pixels: Array) -> None:
        (self.folder / FRAMES).mkdir(exist_ok=True)
        self._replace(f"{FRAMES}/{iteration:06}.jpg", packed(pixels))

    def _replace(self, name: str, data: bytes) -> None:
        """Whole or not at all, but not forced onto the disk, which would take longer than all the rest."""
        path = self.folder / name
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(data)
        temporary.replace(path)


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
