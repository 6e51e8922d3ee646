"""`transfer`, `texture` and `reconstruct`: one picture each, with progress, Ctrl-C and a report at the end."""

import argparse
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

from ..errors import NSTError
from ..optimise import Record
from ..pictures.writing import STANDARD_OUTPUT
from ..runs.results import Interrupted, Result
from ..settings import split_options
from ..story import reconstruct, texture, transfer
from . import batch, serve
from .figure import compare_seeds
from .options import Add, add_command, add_options, add_output, given
from .progress import Progress
from .report import exit_code, report
from .signals import signals_caught


def add_parser(commands: Any) -> None:
    usage = "CONTENT STYLE [STYLE …] (-o OUT | --out-dir FOLDER) [options]"
    add = add_command(commands, "transfer", usage, run_transfer)
    add("pictures", "content", help="the photograph; with --out-dir also a folder, or a pattern in quotes")
    text = "the painting, or several to blend; with --out-dir, each is used alone"
    add("pictures", "style", nargs="+", help=text)
    add_masks(add)
    add_output(add, "OUT", "the picture to write")
    serve.add_page(add)
    batch.add_arguments(add)
    add_options(add, "transfer")

    add = add_command(commands, "texture", "STYLE [STYLE …] -o OUT [options]", run_texture)
    add("pictures", "style", nargs="+", help="the picture, or several to blend")
    add_masks(add)
    _add_single(add, "texture")

    add = add_command(commands, "reconstruct", "IMAGE -o OUT [options]", run_reconstruct)
    add("pictures", "image", help="the picture")
    _add_single(add, "reconstruct")


def add_masks(add: Add) -> None:
    for kind, what in (("content", "where each style goes"), ("style", "which part of each style picture to use")):
        text = f"{what}: a gray picture per style, white inside (default: everywhere)"
        add("pictures", f"--{kind}-mask", nargs="+", default=(), metavar="FILE", help=text)


def _add_single(add: Add, command: str) -> None:
    add_output(add, "OUT", "the picture to write", required=True)
    text = "show the results of two seeds, such as 1,2, and their difference in OUT"
    serve.add_page(add)
    add("output", "--compare-seeds", dest="values", metavar="LIST", help=text)
    add_options(add, command)


def run_transfer(arguments: argparse.Namespace) -> int:
    """Recompose a photograph in the style of a painting.

    transfer photo.jpg painting.jpg -o result.png
    transfer photos/ painting.jpg --out-dir results --size 768
    """
    masks = _masks(arguments)
    if (arguments.output is None) == (arguments.out_dir is None):
        raise NSTError("give either -o OUT for one picture, or --out-dir FOLDER for several")
    if arguments.out_dir is not None:
        if arguments.page:
            raise NSTError("--page shows one run, and --out-dir makes several: leave --page out, or use -o")
        if any(masks.values()):
            raise NSTError("a mask belongs to one picture, and --out-dir makes several: leave the mask out, or use -o")
        return batch.run(arguments)
    if arguments.name is not None or arguments.skip_existing:
        raise NSTError("--name and --skip-existing are for several pictures: give --out-dir instead of -o")
    return run_one(partial(transfer, arguments.content, arguments.style, **masks), arguments, "transfer")


def run_texture(arguments: argparse.Namespace) -> int:
    """Make a texture from the style features of a picture, starting from noise.

    texture bark.jpg -o texture.png
    texture bark.jpg -o wide.png --width 800 --height 300 --layers conv1_1,conv2_1
    """
    if arguments.values:
        _check_unshown(arguments)
        return compare_seeds(arguments, "texture", arguments.style)
    return run_one(partial(texture, arguments.style, **_masks(arguments)), arguments, "texture")


def run_reconstruct(arguments: argparse.Namespace) -> int:
    """Reconstruct a picture from its content features, starting from noise.

    reconstruct photo.jpg -o again.png
    reconstruct photo.jpg -o seeds.png --layer conv5_2 --compare-seeds 1,2
    """
    if arguments.values:
        _check_unshown(arguments)
        return compare_seeds(arguments, "reconstruct", [arguments.image])
    return run_one(partial(reconstruct, arguments.image), arguments, "reconstruct")


def _check_unshown(arguments: argparse.Namespace) -> None:
    if arguments.page:
        raise NSTError("--page shows one run, and --compare-seeds makes several: leave one of them out")


def _masks(arguments: argparse.Namespace) -> dict[str, Any]:
    return {"content_mask": arguments.content_mask, "style_mask": arguments.style_mask}


def run_one(make: Callable[..., Result], arguments: argparse.Namespace, command: str, **more: Any) -> int:
    """Runs one of story.py's functions, which has its pictures already, with this command's options."""
    options = given(arguments, command)
    settings, _ = split_options(options, command)
    options |= more
    if arguments.json and str(options["output"]) == STANDARD_OUTPUT:
        raise NSTError("--json and -o - would both write to standard output: leave one of them out")
    with contextlib.ExitStack() as opened:
        cancel = opened.enter_context(signals_caught())
        feed = opened.enter_context(serve.shown(arguments))
        progress = opened.enter_context(Progress(settings.iterations, arguments.json, arguments.quiet))

        def callback(record: Record) -> None:
            cancel.begun = True
            progress(record)
            if feed is not None:
                feed(record)

        try:
            result = make(callback=callback, cancel=cancel, **options)
        except Interrupted as interruption:
            result = interruption.result
        if feed is not None:
            feed.finish(result)
    report(result, arguments)
    return exit_code(result, options["output"])
