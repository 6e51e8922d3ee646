"""Figures, most of them the papers': a series of runs, the cells, drawn as one labelled picture, with their numbers as
CSV."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Unpack

from ...engines import open_engine
from ...errors import NSTError
from ...optimise import Record
from ...options import FigureOptions, parse_numbers
from ...pictures.files import check_new, check_not_inputs, held, make_folder
from ...pictures.writing import check_output
from ...presets import STYLE_LAYERS
from ...problem import settled
from ...runs.inputs import Inputs, load_inputs
from ...runs.plots import check_plot
from ...runs.watch import Flag
from ...settings import DEFAULTS, OF_PRESET, Run, Settings, documented, options_of, settings_of
from .cells import (
    Cell,
    each_layer,
    each_optimizer,
    each_seed,
    growing_layers,
    layers_and_ratios,
    make_cells,
    starts,
    strengths_and_strokes,
)
from .drawing import plot, rows_and_columns, seeds_strip, strip
from .numbers import FinishedFigure, Numbers, curves, measure, save_table, summary, summary_of_seeds

__all__ = ["FIGURES", "SEEDS", "Cell", "Figure", "figure", "folder_of", "make_figure"]


class Figure(NamedTuple):
    """What a figure shows, the command that its cells are runs of, and how it is drawn and put in numbers."""

    title: str
    command: str
    cells: Callable[[Settings, Sequence[float]], list[Cell]]
    defaults: Mapping[str, Any] = {}
    draw: Callable[[FinishedFigure, Path], None] = strip
    table: Callable[[FinishedFigure], list[Numbers]] = summary
    varied: tuple[str, ...] = ()  # settings that differ from cell to cell
    values: str = ""  # the name of an option with numbers that the cells are made from
    values_default: str = ""
    check: Callable[[Path], None] = check_output

    def settings(self, options: Mapping[str, Any]) -> Settings:
        """The settings that all cells share."""
        if unknown := sorted(options.keys() & self.left_out()):
            raise TypeError(f"this figure has no option {unknown[0]!r}")
        return settings_of(self.command, {**self.usual(), **options})

    def usual(self) -> dict[str, Any]:
        """What it sets where the options say nothing."""
        return {**DEFAULTS["figure"], **self.defaults}

    def left_out(self) -> set[str]:
        """The options that a user cannot choose for this figure."""
        return options_of().keys() - options_of(self.command, "figure").keys() | set(self.varied)


@documented("figure")
def figure(
    name: str,
    *pictures: Any,
    output: str | Path,
    values: str = "",
    callback: Callable[[Cell, Record], object] | None = None,
    cancel: Flag | None = None,
    **options: Unpack[FigureOptions],
) -> Path:
    """Make one of FIGURES from a content picture, a style picture or both, as the figure's command takes them.

    `values` are the figure's own numbers, such as the ratios of "grid". Returns the path of the figure's picture.
    """
    if name not in FIGURES:
        raise NSTError(f"there is no figure {name!r}: choose one of {', '.join(FIGURES)}")
    more: dict[str, Any] = {"values": values, "callback": callback, "cancel": cancel, **options}
    return make_figure(FIGURES[name], pictures, Path(output), **more)


def make_figure(
    chosen: Figure,
    pictures: Sequence[Any],
    output: Path,
    *,
    values: str = "",
    overwrite: bool = False,
    threads: int | None = None,
    device: int | None = None,
    max_memory: Any = None,
    tile: int | str = "auto",
    callback: Callable[[Cell, Record], object] | None = None,
    cancel: Flag | None = None,
    **options: Any,
) -> Path:
    """Write the figure's picture to `output` and its numbers beside it, as .csv.

    Finished cells are used again unless `overwrite` is set. `callback` gets each cell's records, counted over the whole
    figure. When `cancel` is set, the run ends with KeyboardInterrupt; the finished cells stay.
    """
    run = Run(overwrite=overwrite, threads=threads, device=device, max_memory=max_memory, tile=tile)
    shared = chosen.settings(options)
    cells = chosen.cells(shared, parse_numbers(values or chosen.values_default, chosen.values) if chosen.values else [])
    table, folder = output.with_suffix(".csv"), folder_of(output)
    chosen.check(output)
    check_not_inputs((output, table), (*pictures, shared.init, shared.weights))
    for path in (output, table):
        check_new(path, overwrite)
    content, *styles = (None, *pictures) if chosen.command == "texture" else pictures
    inputs: dict[float | str, Inputs] = {}  # by the size of the strokes
    for stroke in dict.fromkeys(cell.settings.style_scale for cell in cells):
        inputs[stroke] = load_inputs(replace(shared, style_scale=stroke), content, styles)
        if any(style.image is None for style in inputs[stroke].styles):
            raise NSTError("a figure shows and measures its styles: give pictures instead of style files")
        content = content if inputs[stroke].canvas else inputs[stroke].pictures[0]
    with held(output):
        make_folder(folder, "-o")
        engine = open_engine(shared.engine, shared.precision, run.threads, run.device)
        cells = [cell._replace(settings=settled(cell.settings, engine)) for cell in cells]
        make_cells(chosen.command, cells, inputs, folder, engine, run, callback, cancel)
        finished = measure(chosen.title, inputs, shared, cells, folder, engine)
        save_table(table, chosen.table(finished))
        chosen.draw(finished, output)
    return output


def folder_of(output: Path) -> Path:
    """The folder that holds a figure's cells."""
    return output.with_name(f"{output.name}.cells")


_SMALL = {"size": 256, "iterations": 200}  # a figure is many runs
_CONTENT = {**_SMALL, "content_layers": STYLE_LAYERS}
_TWO_LAYERS = {**_SMALL, "content_layers": "conv2_2,conv4_2"}
_NOISE = {**_SMALL, "init": "noise"}
_DRAFTS = {"quick": True, "style_loss": OF_PRESET, "style_scale": "0.5,1,2"}

FIGURES: Mapping[str, Figure] = {
    "content": Figure("Content reconstructions from one layer each", "reconstruct", each_layer, _CONTENT),
    "style": Figure("Style reconstructions from more and more layers", "texture", growing_layers, _SMALL),
    "grid": Figure(
        "Style layers against the ratio of content weight to style weight",
        "transfer",
        layers_and_ratios,
        _NOISE,
        rows_and_columns,
        varied=("content_weight",),
        values="ratios",
        values_default="1e-5,1e-4,1e-3,1e-2",
    ),
    "init": Figure("Transfers from different starting images", "transfer", starts, _SMALL, varied=("init",)),
    "layers": Figure("Transfers with one content layer each", "transfer", each_layer, _TWO_LAYERS),
    "optimizers": Figure(
        "The loss with each optimiser",
        "transfer",
        each_optimizer,
        _SMALL,
        plot,
        curves,
        varied=("optimizer",),
        check=check_plot,
    ),
    "looks": Figure(
        "Strengths of the style against sizes of its strokes",
        "transfer",
        strengths_and_strokes,
        _DRAFTS,
        partial(rows_and_columns, measured=False),
        varied=("strength",),
        values="strengths",
        values_default="20,35,50,65",
    ),
}
SEEDS: Mapping[str, Figure] = {  # what --compare-seeds makes of a command
    command: Figure(
        f"{name} from two seeds",
        command,
        each_seed,
        draw=seeds_strip,
        table=summary_of_seeds,
        varied=("seed",),
        values="compare-seeds",
        values_default="1,2",
    )
    for command, name in (("reconstruct", "Content reconstructions"), ("texture", "Textures"))
}
