"""The numbers of a figure: how far each cell is from its content and style, and the rows of the figure's CSV file."""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...arrays import Array
from ...engines import Engine
from ...objective import style_targets
from ...pictures.files import written
from ...problem import build_network, choose_weights
from ...runs.inputs import Inputs, starting_image
from ...runs.traces import Trace
from ...settings import Settings
from ...vgg import tapped
from .cells import Cell, load_cell

BLOCK = 8  # pixels: averaging a difference over blocks of this side removes mere grain

Numbers = Mapping[str, Any]


@dataclass(frozen=True)
class FinishedCell:
    """A cell with its picture as stored (RGB), the trace of its run, and the picture's distances."""

    cell: Cell
    picture: Array
    trace: Trace
    distances: Mapping[str, float]


@dataclass(frozen=True)
class FinishedFigure:
    """All that a figure is drawn from: its cells, the pictures to show beside them, and, where all cells start from one
    image and have one target, the distances of this `start`."""

    title: str
    inputs: Inputs
    cells: Sequence[FinishedCell]
    start: Mapping[str, float] | None


def measure(
    title: str,
    inputs_of: Mapping[float | str, Inputs],
    shared: Settings,
    cells: Sequence[Cell],
    folder: Path,
    engine: Engine,
) -> FinishedFigure:
    """Load all cells and measure their pictures by the inputs of their strokes; `shared` are the settings that all
    cells have in common."""
    finished, start = [], None
    for stroke, inputs in inputs_of.items():
        distance = distances(inputs, shared, [cell.settings for cell in cells], engine)
        for cell in cells:
            if cell.settings.style_scale == stroke:
                picture, trace = load_cell(folder, cell)
                finished.append(FinishedCell(cell, picture, trace, distance(picture)))
        if len(inputs_of) == len({cell.settings.init for cell in cells}) == 1:
            start = distance(np.clip(starting_image(shared, inputs.content, inputs.styles), 0, 255))
    shown = list(inputs_of.values())[len(inputs_of) // 2]
    return FinishedFigure(title, shown, finished, start)


def distances(
    inputs: Inputs, shared: Settings, settings: Sequence[Settings], engine: Engine
) -> Callable[[Array], Mapping[str, float]]:
    """A function that measures a picture at every layer that any of the settings uses.

    It returns the PSNR in dB, ‖F − P‖²/‖P‖² at each content layer and ‖G − A‖²/‖A‖² at each style layer.
    """
    content_layers = list(dict.fromkeys(layer for one in settings for layer in one.content_layer_weights()))
    style_layers = list(dict.fromkeys(layer for one in settings for layer in one.style_layer_weights()))
    every = replace(shared, content_layers=",".join(content_layers), style_layers=",".join(style_layers))
    network = build_network(every, choose_weights(every, inputs), engine)
    host = network.engine.to_host

    def responses(image: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        features = {layer: host(x) for layer, x in tapped(network, image, content_layers)}
        moments = style_targets(network, image, style_layers)
        return features, {layer: host(found.second) for layer, found in moments.items()}

    target_features, _ = responses(inputs.content)
    styles = [(style.share, responses(style.image)[1]) for style in inputs.styles if style.image is not None]
    target_grams: dict[str, Any] = {
        layer: sum(share * grams[layer] for share, grams in styles) for layer in style_layers
    }

    def distance(picture: Array) -> Mapping[str, float]:
        features, grams = responses(picture)
        found = {} if inputs.canvas else {"psnr": _psnr(picture, inputs.pictures[0].rgb)}
        found |= {f"content:{layer}": _relative(features[layer], target_features[layer]) for layer in content_layers}
        return found | {f"style:{layer}": _relative(grams[layer], target_grams[layer]) for layer in style_layers}

    return distance


def summary(figure: FinishedFigure) -> list[Numbers]:
    """A row for each cell, and one for the image that all cells start from."""
    rows: list[Numbers] = []
    if figure.start is not None:
        rows.append({"cell": f"start: {figure.cells[0].cell.settings.init}", **figure.start})
    for made in figure.cells:
        names = ("loss", "iteration", "evaluations", "seconds")
        last = {name: float(made.trace[name][-1]) if len(made.trace) else None for name in names}
        rows.append({"cell": made.cell.name, **made.distances, **last})
    return rows


def summary_of_seeds(figure: FinishedFigure) -> list[Numbers]:
    """The summary, and the root mean square of the difference between the two pictures in levels of 0 … 255."""
    _, rms, rms_of_blocks = difference(figure)
    return [*summary(figure), {"cell": "difference", "rms": rms, f"rms of {BLOCK}x{BLOCK} means": rms_of_blocks}]


def curves(figure: FinishedFigure) -> list[Numbers]:
    """A row for each iteration of each cell."""
    names = ("iteration", "evaluations", "seconds", "loss")
    return [
        {"cell": made.cell.name, **{name: float(made.trace[name][k]) for name in names}}
        for made in figure.cells
        for k in range(len(made.trace))
    ]


def difference(figure: FinishedFigure) -> tuple[Array, float, float]:
    """The difference between the first two pictures, its root mean square, and that of its means over blocks."""
    array: Array = figure.cells[1].picture - figure.cells[0].picture
    height, width, _ = array.shape
    rows, columns = max(1, height // BLOCK), max(1, width // BLOCK)
    down, across = height // rows, width // columns
    blocks = array[: rows * down, : columns * across].reshape(rows, down, columns, across, 3)
    return array, _rms(array), _rms(blocks.mean((1, 3)))


def save_table(path: Path, rows: Sequence[Numbers]) -> None:
    """Write rows as CSV, with six significant digits."""
    columns = dict.fromkeys(name for row in rows for name in row)
    with written(path, "w") as file:
        writer = csv.DictWriter(file, list(columns), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: f"{x:.6g}" if isinstance(x, float) else x for name, x in row.items()} for row in rows)


def _relative(x: Array, target: Array) -> float:
    return float(np.sum((x - target) ** 2, dtype=np.float64) / max(np.sum(target**2, dtype=np.float64), 1e-300))


def _psnr(picture: Array, original: Array) -> float:
    error = float(np.mean((picture - original) ** 2, dtype=np.float64))
    return 10 * math.log10(255**2 / error) if error else math.inf


def _rms(array: Array) -> float:
    return math.sqrt(float(np.mean(array**2, dtype=np.float64)))
