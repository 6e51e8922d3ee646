"""`style-targets save` and `load`: a style kept as a small file."""

import argparse
from pathlib import Path
from typing import Any

from ..errors import NSTError
from ..pictures.files import check_folder, check_new, check_not_inputs, held
from ..runs.style_files import StyleTargets
from ..styles import compute_targets
from .options import add_command, add_commands, add_options, add_output, given
from .report import DONE, tell


def add_parser(commands: Any) -> None:
    actions = add_commands(commands, "style-targets", "Keep a style as a small file, and look into one", "ACTION")
    add = add_command(actions, "save", "STYLE -o OUT.npz [options]", run_save)
    add("pictures", "style", help="the painting")
    text = "which part of the painting to use: a gray picture, white inside"
    add("pictures", "--style-mask", metavar="FILE", help=text)
    add_output(add, "OUT.npz", "the file to write", required=True)
    add("output", "--overwrite", action="store_true", help="replace a file that already exists")
    add_options(add, "style-targets")

    add = add_command(actions, "load", "FILE [options]", run_load)
    add("files", "file", type=Path, help="a file written by `style-targets save`")


def run_save(arguments: argparse.Namespace) -> int:
    """Compute a style's moments, which `transfer` takes in place of its picture.

    style-targets save painting.jpg -o painting.npz
    style-targets save painting.jpg -o painting.npz --size 1024 --style-mask sky.png
    """
    output: Path = arguments.output
    if output.suffix.lower() != ".npz":
        raise NSTError(f"{output}: the name of a style file must end in .npz")
    options = given(arguments, "style-targets")
    check_folder(output)
    check_new(output, arguments.overwrite)
    check_not_inputs([output], (arguments.style, arguments.style_mask, options.get("weights")))
    with held(output):
        compute_targets(arguments.style, style_mask=arguments.style_mask, **options).save(output)
    arguments.file = output
    return run_load(arguments)


def run_load(arguments: argparse.Namespace) -> int:
    """Check such a file and say what is in it.

    style-targets load painting.npz
    style-targets load painting.npz --json
    """
    about = StyleTargets.load(arguments.file).about()
    sizes = ", ".join(f"{width}×{height}" for width, height in about["sizes"])
    tell(
        arguments,
        about,
        f"{about['file']}: the style of {about['picture'] or 'a picture from Python'} at {sizes}",
        f"    {', '.join(about['layers'])}; {about['pooling']} pooling, {about['padding']} padding; "
        f"weights: {about['weights']}",
    )
    return DONE
