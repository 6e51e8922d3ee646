"""`demo`: draws two pictures and transfers one onto the other, without any files."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import NSTError
from ..pictures.demo import painting, scene
from ..pictures.files import check_folder, check_new, make_folder
from ..pictures.writing import save_image
from ..settings import DEFAULTS
from ..story import transfer
from .options import add_command, add_options, add_output, given
from .report import DONE, tell
from .transfer import run_one

FOLDER = Path("nst_manual_demo")


def add_parser(commands: Any) -> None:
    add = add_command(commands, "demo", "[-o FOLDER | --pictures FOLDER] [options]", run)
    add_output(add, "FOLDER", f"where to write (default: {FOLDER})")
    text = "only draw the two pictures, as photo.jpg and painting.jpg in this folder, which is created if necessary"
    add("output", "--pictures", type=Path, metavar="FOLDER", help=text)
    add("output", "--overwrite", action="store_true", help="replace pictures that --pictures finds there")
    add_options(add, "demo")


def run(arguments: argparse.Namespace) -> int:
    """Draw two pictures and transfer one onto the other: no files needed.

    demo
    demo -o drawn --size 256 --iterations 30
    demo --pictures .
    """
    options = {**DEFAULTS["demo"], **given(arguments, "demo")}
    if arguments.pictures is not None:
        return _draw_only(arguments, options["size"])
    folder: Path = arguments.output or FOLDER
    make_folder(folder, "-o")
    check_folder(folder / "result.png")
    paths = folder / "content.png", folder / "style.png"
    _draw(paths, options["size"], overwrite=True)
    options |= {"output": folder / "result.png", "overwrite": True}  # all three pictures are the demo's own
    return run_one(partial(transfer, *paths), arguments, "demo", **options)


def _draw_only(arguments: argparse.Namespace, size: int | None) -> int:
    folder: Path = arguments.pictures
    if arguments.output is not None:
        raise NSTError("--pictures makes no transfer, whose folder -o would name: leave one of them out")
    paths = folder / "photo.jpg", folder / "painting.jpg"
    for path in paths:
        check_new(path, arguments.overwrite)
    make_folder(folder, "--pictures")
    for path in paths:
        check_folder(path)
    _draw(paths, size, arguments.overwrite)
    drawn = " and ".join(map(str, paths))
    tell(arguments, {"pictures": [str(path) for path in paths]}, f"{drawn}, drawn by the program")
    return DONE


def _draw(paths: Sequence[Path], size: int | None, overwrite: bool) -> None:
    side = size or 512
    for draw, path in zip((scene, painting), paths, strict=True):
        save_image(draw(side, side * 3 // 4), path, overwrite=overwrite)
