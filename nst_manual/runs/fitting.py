"""What a run does with the memory there is: it is made as asked, or in tiles, with another optimiser, or with its
history on disk; whatever costs least time and keeps to --max-memory."""

import dataclasses
import logging
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..arrays import Array
from ..engines import Engine
from ..errors import NSTError
from ..optimise.history import check_room
from ..pictures.budget import shown
from ..settings import Run, Settings
from .checkpoint import Checkpoint
from .inputs import Inputs
from .machine import physical
from .memory import HALO, Forecast

log = logging.getLogger(__name__)

TILES = (2048, 1536, 1024, 768, 512, 384, 256)  # pixels on a side
AGAIN = 1.5  # walks, of a picture in tiles: up, up and down instead of up and down
LAYERS = 0.85  # of a halo is computed, on the average of all layers: it shrinks on the way up
ON_DISK = 1.2  # times the time, about, with the history there
SPARE = 1.07  # a forecast may be too low by this factor


class Way(NamedTuple):
    """One way to make the picture: settings, tiles (None is no tiles) and where the history is; and its time, in units
    of the way that was asked for."""

    settings: Settings
    tile: int | None
    on_disk: bool
    time: float

    def forecast(self, asked: Forecast) -> Forecast:
        return dataclasses.replace(asked, settings=self.settings, tile=self.tile, on_disk=self.on_disk)

    def __str__(self) -> str:
        settings = self.settings
        parts = [f"--tile {self.tile}"] * (self.tile is not None) + [f"--optimizer {settings.optimizer}"]
        parts += ["--history-bits 16"] * (settings.history_bits == 16) + ["--history-on disk"] * self.on_disk
        return " ".join(parts) + (f" (about {self.time:.1f} times the time)" if self.time >= 1.1 else "")


def fitted(
    settings: Settings, run: Run, inputs: Inputs, engine: Engine, *, loaded: bool = False, fixed: bool = False
) -> tuple[Settings, Run]:
    """The run as it will be made, after a line in the log about the memory that it will need.

    With --max-memory, it is made in the quickest way that keeps to it; the log says which. Without, or if `fixed`, only
    tiles are chosen: where the machine or the card has not enough memory. Raises NSTError if there is no way.
    """
    asked = Forecast.of(settings, inputs, engine, loaded, run.threads)
    whose = "GPU memory" if asked.cost.on_card else "memory"
    free = engine.free_memory() if asked.cost.on_card else physical()
    limit = min(math.inf if free is None else free, math.inf if run.max_memory is None else run.max_memory)
    every = sorted(ways(settings, run, asked.content, fixed), key=lambda way: way.time)
    fitting = [way for way in every if way.forecast(asked).total * SPARE <= limit]
    if fitting:
        way = fitting[0]
    elif run.max_memory is None:  # less would do; the system may have ways of its own
        way = min(every, key=lambda way: way.forecast(asked).total)
        has = "GPU has only" if asked.cost.on_card else "machine has only"
        log.warning("memory: the %s %s; a smaller --size would be faster", has, shown(limit))
    else:
        leanest = min(every, key=lambda way: way.forecast(asked).total)
        size = leanest.forecast(asked).fitting(limit / SPARE)
        raise NSTError(
            f"the run would need about {shown(leanest.forecast(asked).total)} of {whose}, even with {leanest}, more "
            f"than the {shown(limit)} of --max-memory: "
            + ("no size would fit" if size is None else f"--size {size} would fit")
        )
    log.info("%s: about %s", whose if asked.cost.on_card else "memory", shown(way.forecast(asked).total))
    if way != every[0]:
        whole = every[0].forecast(asked).total
        why = "--max-memory" if run.max_memory is not None else f"the machine, as {shown(whole)} would be needed"
        log.info("memory: with %s, for %s", way, why)
    tile = "off" if run.tile == "off" else way.tile or "auto"
    run = dataclasses.replace(run, tile=tile, history_on="disk" if way.on_disk else "memory")
    if (folder := scratch_folder(run)) is not None:
        check_room(folder, way.forecast(asked).on_disk_bytes)
    return way.settings, run


def as_before(settings: Settings, run: Run, checkpoint: Checkpoint) -> tuple[Settings, Run]:
    """What --max-memory chose when the run was started is chosen again when it is resumed."""
    if run.max_memory is None:
        return settings, run
    chosen = {name: checkpoint.settings.get(name, getattr(settings, name)) for name in ("optimizer", "history_bits")}
    rows = checkpoint.search.get("rows")
    on_disk = chosen["history_bits"] == 32 and len(getattr(rows, "shape", ())) == 1
    run = dataclasses.replace(run, history_on="disk") if on_disk else run
    return dataclasses.replace(settings, **chosen), run


def ways(settings: Settings, run: Run, size: tuple[int, int], fixed: bool) -> Iterator[Way]:
    """Every way there is, the one that was asked for first."""
    asked = run.history_on == "disk"
    optimisers = [(settings, asked, 1.0)]
    if run.max_memory is not None and not fixed:
        lbfgs = settings if settings.optimizer != "l-bfgs-b" else dataclasses.replace(settings, optimizer="lbfgs")
        optimisers.append((lbfgs, asked, 1.001))
        if lbfgs.optimizer == "lbfgs":
            optimisers.append((dataclasses.replace(lbfgs, history_bits=16), asked, 1.01))
            optimisers.append((lbfgs, True, ON_DISK))
    tiles: list[int | None] = [None, *(tile for tile in TILES if tile < max(size))]
    if run.tile != "auto":
        tiles = [run.tile if isinstance(run.tile, int) and run.tile < max(size) else None]
    for tile in tiles:
        work = 1.0 if tile is None else AGAIN * halos(size, tile)
        for own, on_disk, time in dict.fromkeys(optimisers):
            yield Way(own, tile, on_disk, time * work)


def halos(size: tuple[int, int], tile: int) -> float:
    """The work of walking all tiles, in units of that of walking the picture."""
    work = 1.0
    for length in size:
        count = -(-length // tile)
        work *= 1 + (count - 1) * LAYERS * HALO / length
    return work


def tile_of(run: Run, image: Array) -> int | None:
    """The side of the tiles in which a picture is computed; None where it never is. With `auto`, the picture is one
    tile until memory runs out."""
    if run.tile == "off":
        return None
    return max(image.shape[:2]) if isinstance(run.tile, str) else run.tile


def scratch_folder(run: Run) -> Path | None:
    """Where temporary files go, if there are to be any: beside the result."""
    if run.history_on == "memory":
        return None
    beside = run.output or run.checkpoint or run.resume
    return Path(tempfile.gettempdir()) if beside is None else beside.parent
