"""How figures are drawn: labelled sheets of pictures, and a plot."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...pictures.sheets import Tile, sheet
from ...pictures.writing import save_image, to_picture
from ...runs.plots import plot_searches
from .numbers import BLOCK, FinishedCell, FinishedFigure, difference

SHOWN = 64  # levels of 0 … 255: the root mean square to which the difference of two seeds is amplified
COLUMNS = 6  # at most, in a strip


def strip(figure: FinishedFigure, output: Path, *more: Tile) -> None:
    """The originals, all cells and any further tiles, one after the other."""
    tiles = [*_originals(figure), *map(_tile, figure.cells), *more]
    columns = -(-len(tiles) // -(-len(tiles) // COLUMNS))  # rows of equal length
    rows = [tiles[k : k + columns] for k in range(0, len(tiles), columns)]
    save_image(sheet(_heading(figure), rows), output)


def seeds_strip(figure: FinishedFigure, output: Path) -> None:
    """A strip that ends with the difference between the first two cells."""
    array, rms, rms_of_blocks = difference(figure)
    factor = max(1, round(SHOWN / max(rms, 0.25)))
    caption = f"difference x {factor} (grey: none)\nrms {rms:.1f}, of {BLOCK}x{BLOCK} means {rms_of_blocks:.1f}"
    strip(figure, output, Tile(to_picture(127.5 + factor * array), caption))


def rows_and_columns(figure: FinishedFigure, output: Path, measured: bool = True) -> None:
    """Cells with the same caption in a row, those with the same column's in a column; the originals below."""
    rows: dict[str, list[Tile]] = {}
    for made in figure.cells:
        title = made.cell.caption.replace(" ... ", "\nto ")
        numbers = ", ".join(_measurements(made)) if measured else ""
        rows.setdefault(title, []).append(Tile(to_picture(made.picture), numbers))
    columns = list(dict.fromkeys(made.cell.column for made in figure.cells))
    heading = _heading(figure) if measured else figure.title
    save_image(sheet(heading, [*rows.values(), _originals(figure)], [*rows, ""], columns), output)


def plot(figure: FinishedFigure, output: Path) -> None:
    """The loss against evaluations and against seconds."""
    plot_searches(output, _heading(figure), {made.cell.caption: made.trace for made in figure.cells})


def _heading(figure: FinishedFigure) -> str:
    settings = figure.cells[0].cell.settings
    return f"{figure.title}  ({settings.pooling} pooling, {settings.iterations} iterations)"


def _originals(figure: FinishedFigure) -> list[Tile]:
    content, *styles = (to_picture(picture.rgb) for picture in figure.inputs.pictures)
    for style in () if figure.inputs.canvas else styles:
        style.thumbnail(content.size)  # a tile no larger than the others
    tiles = [] if figure.inputs.canvas else [Tile(content, "content" if styles else "original")]
    return tiles + [Tile(style, "style" if tiles else "original") for style in styles]


def _tile(made: FinishedCell) -> Tile:
    return Tile(to_picture(made.picture), "\n".join((made.cell.caption, *_measurements(made))))


def _measurements(made: FinishedCell) -> Iterator[str]:
    """The PSNR of a reconstruction; otherwise the mean distances at the cell's own content and style layers."""
    contents, styles = made.cell.settings.content_layer_weights(), made.cell.settings.style_layer_weights()
    if not styles:
        yield f"PSNR {made.distances['psnr']:.1f} dB"
        return
    if contents:
        yield f"content {np.mean([made.distances[f'content:{layer}'] for layer in contents]):.2g}"
    logs = [math.log(max(made.distances[f"style:{layer}"], 1e-300)) for layer in styles]
    yield f"style {math.exp(np.mean(logs)):.2g}"
