"""What is new: from a run's file of records to every page that listens."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from .feed import RECORDS

WAITING = 256  # events that a page may be behind before it has to ask for everything again


class Hub:
    """Passes events on to every page that listens."""

    def __init__(self) -> None:
        self.listeners: set[asyncio.Queue[tuple[str, Any]]] = set()

    def tell(self, event: str, data: Any) -> None:
        for listener in list(self.listeners):
            try:
                listener.put_nowait((event, data))
            except asyncio.QueueFull:  # its stream ends, and it asks again
                self.listeners.discard(listener)

    def listen(self) -> "asyncio.Queue[tuple[str, Any]]":
        listener: asyncio.Queue[tuple[str, Any]] = asyncio.Queue(WAITING)
        self.listeners.add(listener)
        return listener


class Tail:
    """The lines that a run's process adds to its file of records."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.place, self.rest = folder, 0, b""

    def lines(self) -> Iterator[dict[str, Any]]:
        """Those that are new since the last call."""
        with suppress(OSError), open(self.folder / RECORDS, "rb") as file:
            file.seek(self.place)
            data = file.read()
            self.place += len(data)
            *whole, self.rest = (self.rest + data).split(b"\n")
            for line in whole:
                with suppress(ValueError):
                    yield json.loads(line)
