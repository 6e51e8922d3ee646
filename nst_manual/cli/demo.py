"""`demo`: draws two pictures and transfers one onto the other, without any files."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from ..pictures.demo import painting, scene
from ..pictures.files import check_folder, make_folder
from ..pictures.writing import save_image
from ..settings import DEFAULTS
from ..story import transfer
from .options import add_command, add_options, add_output, given
from .transfer import run_one

FOLDER = Path("nst_manual_demo")


def add_parser(commands: Any) -> None:
    add = add_command(commands, "demo", "[-o FOLDER] [options]", run)
    add_output(add, "FOLDER", f"where to write (default: {FOLDER})", default=FOLDER)
    add_options(add, "demo")


def run(arguments: argparse.Namespace) -> int:
    """Draw two pictures and transfer one onto the other: no files needed.

    demo
    demo -o drawn --size 256 --iterations 30
    """
    folder: Path = arguments.output
    options = {**DEFAULTS["demo"], **given(arguments, "demo")}
    size = options["size"] or 512
    make_folder(folder, "-o")
    check_folder(folder / "result.png")
    paths = folder / "content.png", folder / "style.png"
    for draw, path in zip((scene, painting), paths, strict=True):
        save_image(draw(size, size * 3 // 4), path)
    options |= {"output": folder / "result.png", "overwrite": True}  # all three pictures are the demo's own
    return run_one(partial(transfer, *paths), arguments, "demo", **options)
