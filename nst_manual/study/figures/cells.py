"""The cells of a figure: one run each, made one after the other.

Finished cells stay in a folder beside the figure's picture, each as a PNG with its recipe and a CSV with its trace.
When the figure is asked for again, only the missing cells are made.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ...arrays import Array
from ...engines import Engine
from ...errors import NSTError
from ...optimise import OPTIMIZERS, Record
from ...options import parse_layers, parse_numbers
from ...pictures.reading import load_image
from ...runs.fitting import fitted
from ...runs.inputs import Inputs
from ...runs.recipe import file_name, load_recipe
from ...runs.traces import Trace, TraceFile, load_trace
from ...runs.watch import Flag
from ...settings import Run, Settings, options_of
from ...story import make

log = logging.getLogger(__name__)


class Cell(NamedTuple):
    """One run of a figure: the name of its files, its caption and its settings; in a figure of rows and columns, the
    caption is its row's, and it has its column's, too."""

    name: str
    caption: str
    settings: Settings
    column: str = ""


def each_layer(settings: Settings, values: Sequence[float]) -> list[Cell]:
    """A cell for each content layer."""
    return [
        Cell(layer.replace(":", "_"), layer, replace(settings, content_layers=text))
        for layer, text in _layers(settings.content_layers).items()
    ]


def growing_layers(settings: Settings, values: Sequence[float]) -> list[Cell]:
    """A cell for the first style layer, one for the first two, and so on."""
    texts = _layers(settings.style_layers)
    first = next(iter(texts))
    return [
        Cell(
            f"to_{layer.replace(':', '_')}",
            layer if layer == first else f"{first} ... {layer}",
            replace(settings, style_layers=",".join(list(texts.values())[:count])),
        )
        for count, layer in enumerate(texts, 1)
    ]


def layers_and_ratios(settings: Settings, values: Sequence[float]) -> list[Cell]:
    """The cells of `growing_layers`, each with every ratio α/β in `values`."""
    return [
        Cell(
            f"{name}_{ratio:g}",
            caption,
            replace(own, content_weight=ratio * own.style_weight),
            f"alpha/beta = {ratio:.3g}",
        )
        for name, caption, own, _ in growing_layers(settings, values)
        for ratio in values
    ]


def strengths_and_strokes(settings: Settings, values: Sequence[float]) -> list[Cell]:
    """A cell with every stroke of the list --stroke and every strength in `values`."""
    return [
        Cell(
            f"stroke_{stroke:g}_strength_{strength:g}",
            f"stroke {stroke:g}",
            replace(settings, style_scale=stroke, strength=strength),
            f"strength {strength:g}",
        )
        for stroke in dict.fromkeys(parse_numbers(str(settings.style_scale), "style_scale"))
        for strength in dict.fromkeys(values)
    ]


def starts(settings: Settings, values: Sequence[float]) -> list[Cell]:
    """A cell for each kind of starting image, and one for white noise of another seed."""
    kinds = {"content": "content", "style": "style", "noise": "white noise", "pink": "pink noise"}
    cells = [Cell(kind, f"from {caption}", replace(settings, init=kind)) for kind, caption in kinds.items()]
    seed = settings.seed + 1
    return [*cells, Cell(f"noise_{seed}", f"from white noise, seed {seed}", replace(settings, init="noise", seed=seed))]


def each_optimizer(settings: Settings, values: Sequence[float]) -> list[Cell]:
    """A cell for each optimiser."""
    return [Cell(name, name, replace(settings, optimizer=name)) for name in OPTIMIZERS]


def each_seed(settings: Settings, values: Sequence[float]) -> list[Cell]:
    """A cell for each of two seeds."""
    seeds = [int(value) for value in values]
    if len(set(seeds)) != 2 or seeds != list(values):
        raise NSTError("--compare-seeds needs two different whole numbers, such as 1,2")
    return [Cell(f"seed_{seed}", f"seed {seed}", replace(settings, seed=seed)) for seed in seeds]


def make_cells(
    command: str,
    cells: Sequence[Cell],
    inputs_of: Mapping[float | str, Inputs],
    folder: Path,
    engine: Engine,
    run: Run,
    callback: Callable[[Cell, Record], object] | None,
    cancel: Flag | None,
) -> None:
    """Make the cells that the folder lacks or, with `run.overwrite`, all of them, from the inputs of their strokes.

    `callback` gets each record with its iterations and seconds counted over the whole figure.
    """
    inputs = {cell: inputs_of[cell.settings.style_scale] for cell in cells}
    missing = [cell for cell in cells if run.overwrite or not _is_finished(folder, command, cell, inputs[cell])]
    pixels = {cell: sum(picture.rgb.size for picture in inputs[cell].pictures) for cell in missing}
    for cell in {cell.settings.optimizer: cell for cell in sorted(missing, key=pixels.__getitem__)}.values():
        # Of cells of one size the last has the deepest layers.
        _, run = fitted(cell.settings, run, inputs[cell], engine, fixed=True)
    iterations = {cell: sum(scale.iterations for scale in inputs[cell].scales(cell.settings)) for cell in cells}
    total, began = sum(iterations.values()), time.monotonic()
    done = found = total - sum(iterations[cell] for cell in missing)

    def tell(cell: Cell, before: int, record: Record) -> None:
        if callback is not None:
            seconds, done = time.monotonic() - began, before + record.iteration
            left = seconds / max(1, done - found) * (total - done)
            callback(cell, replace(record, iteration=done, iterations=total, seconds=seconds, left=left))

    for cell in missing:
        content, *styles = (None, *inputs[cell].pictures[1:]) if inputs[cell].canvas else inputs[cell].pictures
        caption = ", ".join(filter(None, (cell.caption, cell.column)))
        log.info("%d of %d: %s", cells.index(cell) + 1, len(cells), caption)
        options = {k: v for k, v in asdict(cell.settings).items() if k in options_of(command)}
        options["tile"] = run.tile
        told = partial(tell, cell, done)
        result = make(command, options, content, styles, callback=told, cancel=cancel, engine=engine)
        if result.stopped == "interrupted":
            raise KeyboardInterrupt
        picture, trace = _files(folder, cell)
        TraceFile(trace).begin(result.trace)
        result.save(picture)  # last: a cell that has its picture is finished
        done += iterations[cell]


def load_cell(folder: Path, cell: Cell) -> tuple[Array, Trace]:
    """The picture of a finished cell as stored, and the trace of its run."""
    picture, trace = _files(folder, cell)
    return load_image(picture), _load_trace(trace)


def _layers(text: str) -> dict[str, str]:
    """Each layer's name, and how an option gives it together with its weight."""
    layers = parse_layers(text, "layers")
    if not layers:
        raise NSTError("a figure needs at least one layer")
    return {layer: layer if weight is None else f"{layer}:{weight:g}" for layer, weight in layers.items()}


def _files(folder: Path, cell: Cell) -> tuple[Path, Path]:
    """A cell's picture and trace."""
    return folder / f"{cell.name}.png", folder / f"{cell.name}.csv"


def _load_trace(path: Path) -> Trace:
    """An empty file is the trace of a run that could not improve its start."""
    return Trace.of([]) if os.path.isfile(path) and not os.path.getsize(path) else load_trace(path)


def _is_finished(folder: Path, command: str, cell: Cell, inputs: Inputs) -> bool:
    """Whether the folder has this cell, made with these settings, pictures and weights."""
    picture, trace = _files(folder, cell)
    try:
        recipe = load_recipe(picture)
        _load_trace(trace)
    except NSTError:
        return False
    pictures = [source.sha256 for source in inputs.pictures[inputs.canvas :]]
    same = [source.sha256 for source in recipe.pictures()] == pictures and None not in pictures
    named = recipe.with_sources(lambda source: source, cell.settings.weights)  # with the folder, for their checksum
    start = file_name(cell.settings.init)
    settings = replace(cell.settings, init=start)
    if not same or (recipe.kind(), named.settings) != (command, settings) or any(named.changes()):
        log.info("%s was made with other settings, pictures or weights, so it is made again", picture)
        return False
    return True
