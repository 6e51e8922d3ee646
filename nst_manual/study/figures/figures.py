"""The papers' figures: a series of runs, the cells, drawn as one labelled picture, and their numbers as CSV.

Finished cells are kept in a folder beside the picture, each with how it was made: asked again, a figure makes only what
is missing. Small cells are made side by side, each with its part of the cores: a single one of theirs would often leave
some of them idle. What that gains: docs/paper.md, "Cells side by side".
"""

import csv
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...arrays import Array
from ...engines import Engine, open_engine
from ...errors import NSTError
from ...objective import style_targets
from ...optimise import OPTIMIZERS, Record
from ...pictures.files import check_new, make_folder, written
from ...pictures.reading import STANDARD_INPUT, load_image
from ...pictures.sheets import Tile, sheet
from ...pictures.writing import check_output, save_image, to_picture
from ...presets import STYLE_LAYERS
from ...problem import build_network, choose_weights
from ...runs.inputs import Inputs, load_inputs, starting_image
from ...runs.memory import Forecast, check_memory
from ...runs.plots import check_plot, plot_searches
from ...runs.recipe import load_recipe
from ...runs.traces import Trace, TraceFile, load_trace
from ...runs.watch import Flag
from ...settings import COMMANDS, Run, Settings, parse_layers, parse_numbers, settings_of
from ...story import make
from ...vgg import tapped

log = logging.getLogger(__name__)

SHOWN = 64  # levels of 0 … 255 to which the difference of two seeds is amplified, as its root mean square
BLOCK = 8  # pixels: what is left of a difference when the mean of so many, squared, is taken is not mere grain
COLUMNS = 6  # of a strip, at most
SMALL = 512 * 512  # pixels of the largest cells that are made side by side; beyond, one keeps two cores busy by itself
TURN = 1e-3  # seconds after which a thread gives up Python's lock to another
PATIENCE = 0.2  # seconds between two looks for signals while cells are made
Numbers = Mapping[str, Any]


class Cell(NamedTuple):
    """One run of a figure: the name of its files, its caption, and the settings that are its own."""

    name: str
    caption: str
    changes: Mapping[str, Any]


class Figure(NamedTuple):
    """What it shows, the command whose runs its cells are, and how cells are made, drawn and told in numbers."""

    title: str
    command: str
    cells: Callable[[Settings, Sequence[float]], list[Cell]]
    draw: Callable[["Made", Path], None]
    table: Callable[["Made"], list[Numbers]]
    defaults: Mapping[str, Any] = {}
    varied: tuple[str, ...] = ()  # settings that the cells set
    values: str = ""  # what else can be asked for …
    values_default: str = ""
    check: Callable[[Path], None] = check_output
    timed: bool = False  # whether it compares its cells' seconds: then nothing else may compute beside a cell

    def settings(self, options: Mapping[str, Any]) -> Settings:
        """Those that all cells share."""
        if unknown := sorted(options.keys() & set(self.left_out())):
            raise TypeError(f"this figure has no option {unknown[0]!r}")
        return settings_of(self.command, {**self.defaults, **options})

    def left_out(self) -> tuple[str, ...]:
        """Settings that a figure's user can't choose."""
        colours = ("colors", "color_match")  # distances are measured in the pictures' own
        return tuple(dict.fromkeys((*COMMANDS[self.command].without, *self.varied, *colours)))


@dataclass(frozen=True)
class Made:
    """A figure's cells, made: their pictures as stored, RGB, and the traces of their runs."""

    figure: Figure
    inputs: Inputs
    settings: Sequence[Settings]
    cells: Sequence[Cell]
    pictures: Sequence[Array]
    traces: Sequence[Trace]
    distances: Sequence[Mapping[str, float]]  # of each cell
    start: Mapping[str, float]  # of the picture that all runs start from


def figure(name: str, *pictures: Any, output: str | Path, **options: Any) -> Path:
    """One of FIGURES, of a content picture, a style picture or both, as the figure's command wants them.

    `options` are those of `make_figure`, and of Settings.
    """
    if name not in FIGURES:
        raise NSTError(f"there is no figure {name!r}: there are {', '.join(FIGURES)}")
    return make_figure(FIGURES[name], pictures, Path(output), **options)


def make_figure(
    chosen: Figure,
    pictures: Sequence[Any],
    output: Path,
    *,
    values: str = "",
    overwrite: bool = False,
    threads: int | None = None,
    max_memory: Any = None,
    callback: Callable[[Cell, Record], object] | None = None,
    cancel: Flag | None = None,
    **options: Any,
) -> Path:
    """The figure's picture at `output`, and its numbers beside it as .csv. Cells that are there already are used, but
    with `overwrite`. `callback` gets each cell's records, counted over the whole figure, one after the other."""
    run = Run(threads=threads, max_memory=max_memory)
    shared = chosen.settings(options)
    cells = chosen.cells(shared, parse_numbers(values or chosen.values_default, chosen.values) if chosen.values else [])
    settings = [replace(shared, **cell.changes) for cell in cells]
    table, folder = output.with_suffix(".csv"), folder_of(output)
    chosen.check(output)
    for path in (output, table):
        check_new(path, overwrite)
    if STANDARD_INPUT in pictures:
        raise NSTError("a figure reads its pictures for every cell: give files instead of standard input")
    inputs = load_inputs(shared, *_by_kind(chosen.command, pictures))
    if any(style.image is None for style in inputs.styles):
        raise NSTError("a figure shows its styles and measures its cells by them: give pictures, not kept styles")
    make_folder(folder, "-o")
    engine = open_engine(shared.engine, shared.precision, run.threads)
    progress = _Progress([sum(scale.iterations for scale in inputs.scales(one)) for one in settings], callback)

    def path_of(number: int) -> Path:
        return folder / f"{cells[number].name}.png"

    def make_cell(number: int, cancel: Flag | None) -> None:
        log.info("%d of %d: %s", number + 1, len(cells), cells[number].caption)
        options, told = _options(chosen.command, settings[number]), progress.of(number, cells[number])
        given = _by_kind(chosen.command, pictures)
        result = make(chosen.command, options, *given, callback=told, cancel=cancel, engine=engine)
        TraceFile(path_of(number).with_suffix(".csv")).begin(result.trace)
        result.save(path_of(number))  # last: where it is, the cell is made
        progress.end(number)

    missing = []
    for number, one in enumerate(settings):
        if overwrite or not _is_made(path_of(number), chosen.command, one, inputs):
            missing.append(number)
        else:
            progress.skip(number)
    if missing:
        at_once = _at_once(chosen, [settings[number] for number in missing], run, inputs, engine)
        if at_once > 1:
            longest_first = sorted(missing, key=lambda number: -len(settings[number].steps()))  # lest one ends alone
            _side_by_side(make_cell, longest_first, at_once, engine, cancel)
        else:
            for number in missing:
                make_cell(number, cancel)
    made = _measured(chosen, inputs, shared, settings, cells, folder, engine)
    _save_table(table, chosen.table(made))
    chosen.draw(made, output)
    return output


def folder_of(output: Path) -> Path:
    """Where a figure's cells are kept."""
    return output.with_name(f"{output.name}.cells")


def _by_kind(command: str, pictures: Sequence[Any]) -> tuple[Any | None, Sequence[Any]]:
    """(content, styles)"""
    return (None, pictures) if command == "texture" else (pictures[0], pictures[1:])


def _options(command: str, settings: Settings) -> dict[str, Any]:
    return {name: value for name, value in asdict(settings).items() if name not in COMMANDS[command].without}


def _is_made(path: Path, command: str, settings: Settings, inputs: Inputs) -> bool:
    """Whether this cell is there, finished, of these settings, pictures and weights."""
    if not path.exists():
        return False
    try:
        recipe = load_recipe(path)
        _trace(path.with_suffix(".csv"))
    except NSTError:
        return False
    pictures = [picture.sha256 for picture in inputs.pictures[inputs.canvas :]]
    same = [source.sha256 for source in recipe.pictures()] == pictures and None not in pictures
    if not same or (recipe.kind(), recipe.settings) != (command, settings) or any(recipe.changes()):
        log.info("%s is of other pictures, settings or weights, and made again", path)
        return False
    return True


def _trace(path: Path) -> Trace:
    """Empty where the start couldn't be bettered."""
    return Trace.of([]) if path.exists() and not path.stat().st_size else load_trace(path)


def _at_once(chosen: Figure, missing: Sequence[Settings], run: Run, inputs: Inputs, engine: Engine) -> int:
    """How many cells are made side by side: where they are small, as many as there are threads, and memory."""
    height, width, _ = inputs.content.shape
    alone = chosen.timed or height * width > SMALL
    largest = max(missing, key=lambda one: Forecast.of(one, inputs, engine).total)
    return check_memory(largest, run, inputs, engine, runs=1 if alone else min(len(missing), engine.threads))


def _side_by_side(
    make_cell: Callable[[int, Flag], None], missing: Sequence[int], at_once: int, engine: Engine, cancel: Flag | None
) -> None:
    """So many of them at once. What ends one is raised when the others have ended after their evaluation."""
    log.info("%d cells side by side", at_once)
    stop = _Stop(cancel)
    with _quick_turns(), ThreadPoolExecutor(at_once, "nst-cell") as pool:
        running: set[Future[None]] = set()
        try:
            for number in missing:
                running.add(pool.submit(copy_context().run, make_cell, number, stop))
            while running:
                engine.share(min(at_once, len(running)))  # the last ones have the cores of those that are done
                done, running = wait(running, PATIENCE, FIRST_COMPLETED)  # on Windows, Ctrl-C doesn't end the waiting
                for future in done:
                    future.result()
        except BaseException:
            stop.set()
            for future in running:
                future.cancel()
            raise
    engine.share(1)


class _Stop(threading.Event):
    """The cells' own flag, set too where the caller's is."""

    def __init__(self, cancel: Flag | None) -> None:
        super().__init__()
        self.cancel = cancel

    def is_set(self) -> bool:
        return super().is_set() or (self.cancel is not None and self.cancel.is_set())


@contextmanager
def _quick_turns() -> Iterator[None]:
    """Python's lock goes from thread to thread sooner: whoever only starts NumPy's next step needs it for a moment."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(TURN, before))
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class _Progress:
    """Each cell's records as those of the whole figure, of which several cells may be under way."""

    def __init__(self, iterations: Sequence[int], callback: Callable[[Cell, Record], object] | None) -> None:
        self.iterations, self.callback, self.began, self.skipped = iterations, callback, time.monotonic(), 0
        self.done, self.lock = [0] * len(iterations), threading.Lock()

    def skip(self, number: int) -> None:
        self.skipped += self.iterations[number]
        self.end(number)

    def end(self, number: int) -> None:
        """However many iterations it was, all that it would have been are behind."""
        with self.lock:
            self.done[number] = self.iterations[number]

    def of(self, number: int, cell: Cell) -> Callable[[Record], object]:
        def told(record: Record) -> None:
            with self.lock:
                self.done[number] = record.iteration
                if self.callback is not None:
                    done, total, seconds = sum(self.done), sum(self.iterations), time.monotonic() - self.began
                    left = seconds / max(1, done - self.skipped) * (total - done)
                    self.callback(cell, replace(record, iteration=done, iterations=total, seconds=seconds, left=left))

        return told


def _measured(
    chosen: Figure,
    inputs: Inputs,
    shared: Settings,
    settings: Sequence[Settings],
    cells: Sequence[Cell],
    folder: Path,
    engine: Engine,
) -> Made:
    """All cells as stored, and how far each is from content and style at every layer that any of them looks at."""
    distance = distances(inputs, shared, settings, engine)
    pictures = [load_image(folder / f"{cell.name}.png") for cell in cells]
    traces = [_trace(folder / f"{cell.name}.csv") for cell in cells]
    start = distance(np.clip(starting_image(shared, inputs.content, inputs.styles), 0, 255))
    return Made(chosen, inputs, settings, cells, pictures, traces, [distance(picture) for picture in pictures], start)


def distances(
    inputs: Inputs, shared: Settings, settings: Sequence[Settings], engine: Engine
) -> Callable[[Array], Mapping[str, float]]:
    """A picture's PSNR in dB, ‖F − P‖²/‖P‖² at each content layer and ‖G − A‖²/‖A‖² at each style layer."""
    content_layers = list(dict.fromkeys(layer for one in settings for layer in one.content_layer_weights()))
    style_layers = list(dict.fromkeys(layer for one in settings for layer in one.style_layer_weights()))
    every = replace(shared, content_layers=",".join(content_layers), style_layers=",".join(style_layers))
    network = build_network(every, choose_weights(every, inputs), engine)
    host = network.engine.to_host

    def seen(image: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        features = {layer: host(x) for layer, x in tapped(network, image, content_layers)}
        return features, {layer: host(x.second) for layer, x in style_targets(network, image, style_layers).items()}

    features = seen(inputs.content)[0]
    styles = [(style.share, seen(style.image)[1]) for style in inputs.styles if style.image is not None]
    whole = sum(share for share, _ in styles)
    grams: dict[str, Any] = {
        layer: sum(share / whole * found[layer] for share, found in styles) for layer in style_layers
    }

    def distance(picture: Array) -> Mapping[str, float]:
        found, found_grams = seen(picture)
        values = {} if inputs.canvas else {"psnr": _psnr(picture, inputs.pictures[0].rgb)}
        values |= {f"content:{layer}": _relative(found[layer], features[layer]) for layer in content_layers}
        return values | {f"style:{layer}": _relative(found_grams[layer], grams[layer]) for layer in style_layers}

    return distance


def _relative(x: Array, target: Array) -> float:
    return float(np.sum((x - target) ** 2, dtype=np.float64) / max(np.sum(target**2, dtype=np.float64), 1e-300))


def _psnr(picture: Array, original: Array) -> float:
    error = float(np.mean((picture - original) ** 2, dtype=np.float64))
    return 10 * math.log10(255**2 / error) if error else math.inf


def _save_table(path: Path, rows: Sequence[Numbers]) -> None:
    columns = dict.fromkeys(name for row in rows for name in row)
    with written(path, "w") as file:
        writer = csv.DictWriter(file, list(columns), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


# Numbers


def summary(made: Made) -> list[Numbers]:
    """A line for each cell, and one for the noise or picture that all of them started from."""
    rows = [{"cell": f"start: {made.settings[0].init}", **made.start}] if "init" not in made.figure.varied else []
    for cell, distances, trace in zip(made.cells, made.distances, made.traces, strict=True):
        names = ("loss", "iteration", "evaluations", "seconds")
        last = {name: float(trace[name][-1]) if len(trace) else None for name in names}
        rows.append({"cell": cell.name, **distances, **last})
    return [{name: _digits(value) for name, value in row.items()} for row in rows]


def summary_of_seeds(made: Made) -> list[Numbers]:
    """The same, and the root of the mean square of the two pictures' difference, in levels of 0 … 255."""
    fine, coarse = _difference(made)[1:]
    return [
        *summary(made),
        {"cell": "difference", "rms": _digits(fine), f"rms of {BLOCK}x{BLOCK} means": _digits(coarse)},
    ]


def curves(made: Made) -> list[Numbers]:
    """A line for each iteration of each cell."""
    names = ("iteration", "evaluations", "seconds", "loss")
    return [
        {"cell": cell.name, **{name: _digits(float(trace[name][k])) for name in names}}
        for cell, trace in zip(made.cells, made.traces, strict=True)
        for k in range(len(trace))
    ]


def _difference(made: Made) -> tuple[Array, float, float]:
    """Of the first two pictures, and its root mean square: of pixels, and of the means of blocks of them."""
    difference = made.pictures[1] - made.pictures[0]
    height, width, _ = difference.shape
    rows, columns = max(1, height // BLOCK), max(1, width // BLOCK)
    size = height // rows, width // columns
    blocks = difference[: rows * size[0], : columns * size[1]].reshape(rows, size[0], columns, size[1], 3)
    return difference, _rms(difference), _rms(blocks.mean((1, 3)))


def _rms(difference: Array) -> float:
    return math.sqrt(float(np.mean(difference**2, dtype=np.float64)))


def _digits(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


# Drawing


def strip(made: Made, output: Path) -> None:
    """The originals and all cells, one after the other."""
    _save_sheet(made, [*_originals(made), *_tiles(made)], output)


def seeds_strip(made: Made, output: Path) -> None:
    """The same with the difference of the first two."""
    difference, fine, coarse = _difference(made)
    factor = max(1, round(SHOWN / max(fine, 0.25)))
    caption = f"difference, {factor} times; grey: none\nrms {fine:.1f}, of {BLOCK}x{BLOCK} means {coarse:.1f}"
    tile = Tile(to_picture(127.5 + factor * difference), caption)
    _save_sheet(made, [*_originals(made), *_tiles(made), tile], output)


def rows_and_columns(made: Made, output: Path) -> None:
    """The cells of equal style layers in a row, those of equal α/β in a column; the originals below."""
    tiles = [tile._replace(caption=", ".join(tile.caption.splitlines()[1:])) for tile in _tiles(made)]
    sets = [one.style_layers for one in made.settings]
    rows = [[tile for tile, own in zip(tiles, sets, strict=True) if own == layers] for layers in dict.fromkeys(sets)]
    columns = [f"alpha/beta = {one.content_weight / one.style_weight:.3g}" for one in made.settings[: len(rows[0])]]
    names = list(dict.fromkeys(cell.caption.replace(" ... ", "\nto ") for cell in made.cells))
    page = sheet(_heading(made), [*rows, _originals(made)], [*names, ""], columns)
    save_image(page, output)


def plot(made: Made, output: Path) -> None:
    """The loss against evaluations and seconds."""
    plot_searches(
        output, _heading(made), {cell.caption: trace for cell, trace in zip(made.cells, made.traces, strict=True)}
    )


def _save_sheet(made: Made, tiles: Sequence[Tile], output: Path) -> None:
    columns = -(-len(tiles) // -(-len(tiles) // COLUMNS))  # rows of equal length
    rows = [tiles[k : k + columns] for k in range(0, len(tiles), columns)]
    save_image(sheet(_heading(made), rows), output)


def _heading(made: Made) -> str:
    one = made.settings[0]
    return f"{made.figure.title}  ({one.pooling} pooling, {one.iterations} iterations)"


def _originals(made: Made) -> list[Tile]:
    content, *styles = (to_picture(picture.rgb) for picture in made.inputs.pictures)
    tiles = [] if made.inputs.canvas else [Tile(content, "content" if styles else "original")]
    return tiles + [Tile(style, "style" if tiles else "original") for style in styles]


def _tiles(made: Made) -> list[Tile]:
    return [
        Tile(to_picture(picture), "\n".join((cell.caption, *_told(one, distances))))
        for picture, cell, one, distances in zip(made.pictures, made.cells, made.settings, made.distances, strict=True)
    ]


def _told(settings: Settings, distances: Mapping[str, float]) -> Iterator[str]:
    """PSNR of a reconstruction; else the distances from content and style, each the mean of the cell's own layers'."""
    contents, styles = settings.content_layer_weights(), settings.style_layer_weights()
    if not styles:
        yield f"PSNR {distances['psnr']:.1f} dB"
        return
    if contents:
        yield f"content {np.mean([distances[f'content:{layer}'] for layer in contents]):.2g}"
    logs = [math.log(max(distances[f"style:{layer}"], 1e-300)) for layer in styles]
    yield f"style {math.exp(np.mean(logs)):.2g}"


# Cells


def one_layer_each(settings: Settings, values: Sequence[float]) -> list[Cell]:
    """A cell for each content layer."""
    return [
        Cell(layer.replace(":", "_"), layer, {"content_layers": text})
        for layer, text in _layers(settings.content_layers).items()
    ]


def growing_layers(settings: Settings, values: Sequence[float]) -> list[Cell]:
    """A cell for the first style layer, for the first two, …"""
    texts = _layers(settings.style_layers)
    return [
        Cell(
            f"to_{layer.replace(':', '_')}",
            layer if number == 1 else f"{next(iter(texts))} ... {layer}",
            {"style_layers": ",".join(list(texts.values())[:number])},
        )
        for number, layer in enumerate(texts, 1)
    ]


def layers_and_ratios(settings: Settings, values: Sequence[float]) -> list[Cell]:
    """The growing style layers, each with every α/β."""
    return [
        Cell(f"{cell.name}_{ratio:g}", cell.caption, {**cell.changes, "content_weight": ratio * settings.style_weight})
        for cell in growing_layers(settings, values)
        for ratio in values
    ]


def starts(settings: Settings, values: Sequence[float]) -> list[Cell]:
    """A cell for each picture to start from, and two for white noise."""
    seed = settings.seed + 1
    other = Cell(f"noise_{seed}", "from other white noise", {"init": "noise", "seed": seed})
    own = {"content": "content", "style": "style", "noise": "white noise", "pink": "pink noise"}
    return [*(Cell(name, f"from {caption}", {"init": name}) for name, caption in own.items()), other]


def each_optimizer(settings: Settings, values: Sequence[float]) -> list[Cell]:
    """A cell for each optimiser."""
    return [Cell(name, name, {"optimizer": name}) for name in OPTIMIZERS]


def each_seed(settings: Settings, values: Sequence[float]) -> list[Cell]:
    """A cell for each of two seeds."""
    seeds = [int(value) for value in values]
    if len(set(seeds)) != 2 or seeds != list(values):
        raise NSTError("--compare-seeds needs two different whole numbers, as 1,2")
    return [Cell(f"seed_{seed}", f"seed {seed}", {"seed": seed}) for seed in seeds]


def _layers(text: str) -> dict[str, str]:
    """{name: as one gives it, with its weight}"""
    found = parse_layers(text, "layers")
    if not found:
        raise NSTError("a figure needs at least one layer")
    return {layer: layer if weight is None else f"{layer}:{weight:g}" for layer, weight in found.items()}


_SMALL = {"size": 256, "iterations": 200}  # a figure is many runs
FIGURES: Mapping[str, Figure] = {
    "content": Figure(
        "Content reconstructions from one layer each",
        "reconstruct",
        one_layer_each,
        strip,
        summary,
        {**_SMALL, "content_layers": STYLE_LAYERS},
    ),
    "style": Figure(
        "Style reconstructions from more and more layers", "texture", growing_layers, strip, summary, _SMALL
    ),
    "grid": Figure(
        "Style layers against the weight of content to style",
        "transfer",
        layers_and_ratios,
        rows_and_columns,
        summary,
        {**_SMALL, "init": "noise"},
        ("content_weight",),
        "ratios",
        "1e-5,1e-4,1e-3,1e-2",
    ),
    "init": Figure("Transfers from different starts", "transfer", starts, strip, summary, _SMALL, ("init",)),
    "layers": Figure(
        "Transfers with one content layer each",
        "transfer",
        one_layer_each,
        strip,
        summary,
        {**_SMALL, "content_layers": "conv2_2,conv4_2"},
    ),
    "optimizers": Figure(
        "The loss by each optimiser",
        "transfer",
        each_optimizer,
        plot,
        curves,
        _SMALL,
        ("optimizer",),
        check=check_plot,
        timed=True,
    ),
}
SEEDS: Mapping[str, Figure] = {  # what --compare-seeds makes of a command
    command: Figure(
        f"{name} from two seeds",
        command,
        each_seed,
        seeds_strip,
        summary_of_seeds,
        {},
        ("seed",),
        "compare-seeds",
        "1,2",
    )
    for command, name in (("reconstruct", "Content reconstructions"), ("texture", "Textures"))
}
