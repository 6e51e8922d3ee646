"""`figure NAME`, and `--compare-seeds`: a labelled picture of many runs, with progress over all of them."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from ..errors import NSTError
from ..optimise import Record
from ..study.figures.figures import FIGURES, SEEDS, Cell, Figure, folder_of, make_figure
from .options import add_command, add_commands, add_options, add_output, given
from .progress import Progress
from .report import DONE, INTERRUPTED, fail, say, say_json
from .signals import signals_caught

PICTURES = {"transfer": ("content", "style"), "reconstruct": ("image",), "texture": ("style",)}  # of each figure


def add_parser(commands: Any) -> None:
    names = add_commands(
        commands, "figure", "Draw a labelled picture of many runs, and CSV: the papers' figures, or many looks", "NAME"
    )
    for name, figure in FIGURES.items():
        pictures = PICTURES[figure.command]
        files = " ".join("painting.jpg" if picture == "style" else "photo.jpg" for picture in pictures)
        example = f"figure {name} {files} -o {name}.{'svg' if name == 'optimizers' else 'png'}"
        add = add_command(
            names,
            name,
            f"{' '.join(pictures).upper()} -o OUT [options]",
            partial(run, figure),
            f"{figure.title}.\n{example}\n{example} --size 128 --iterations 50",
        )
        for picture in pictures:
            add("pictures", picture, help=f"the {picture} picture")
        if figure.values:
            text = f"values of the columns (default: {figure.values_default})"
            add("look", f"--{figure.values}", dest="values", default="", metavar="LIST", help=text)
        add_output(add, "OUT", "the picture to write", required=True)
        add_options(add, figure.command, "figure", defaults=figure.usual(), leave_out=figure.left_out())


def run(figure: Figure, arguments: argparse.Namespace) -> int:
    return _make(figure, [getattr(arguments, name) for name in PICTURES[figure.command]], arguments)


def compare_seeds(arguments: argparse.Namespace, command: str, pictures: Sequence[str]) -> int:
    """`reconstruct` and `texture` with --compare-seeds: a figure, which takes fewer options than a run."""
    masks = {name for name in ("content_mask", "style_mask") if getattr(arguments, name, ())}
    left_out = SEEDS[command].left_out() - {"output"}
    if wrong := sorted(given(arguments, command).keys() & left_out | masks):
        flag = wrong[0].replace("_", "-")
        raise NSTError(f"--{flag} and --compare-seeds don't go together: leave one of them out")
    return _make(SEEDS[command], pictures, arguments)


def _make(figure: Figure, pictures: Sequence[str], arguments: argparse.Namespace) -> int:
    options = {**given(arguments, figure.command), "values": arguments.values if figure.values else ""}
    latest = None
    with Progress(0, arguments.json, arguments.quiet) as progress, signals_caught() as cancel:

        def callback(cell: Cell, record: Record) -> None:
            nonlocal latest
            if arguments.json and cell is not latest:
                say_json({"cell": cell.name})
            latest, cancel.begun = cell, True
            progress(record)

        try:
            path = make_figure(figure, pictures, callback=callback, cancel=cancel, **options)
        except KeyboardInterrupt:
            kept = f"the finished runs are kept in {folder_of(arguments.output)}, and the same command makes the rest"
            return fail(f"interrupted; {kept}", INTERRUPTED, arguments.json)
    numbers = path.with_suffix(".csv")
    if arguments.json:
        say_json({"output": str(path), "numbers": str(numbers)})
    elif not arguments.quiet:
        say(f"{path}, and its numbers in {numbers}", to=sys.stderr)
    return DONE
