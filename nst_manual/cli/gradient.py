"""`gradient`: every term's value and gradient at a picture, as HDF5, as pictures and as a table."""

import argparse
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import NSTError
from ..pictures.files import check_folder, check_hdf5, check_not_inputs, held, make_folder
from ..study.gradients import Gradients, gradients
from .options import add_command, add_options, add_output, given
from .report import DONE, tell
from .transfer import add_masks


def add_parser(commands: Any) -> None:
    add = add_command(commands, "gradient", "IMAGE CONTENT STYLE [STYLE …] [-o OUT.h5] [--maps FOLDER] [options]", run)
    for name, text in (
        ("image", "the picture at which to compute"),
        ("content", "the photograph, of the same size"),
    ):
        add("pictures", name, help=text)
    add("pictures", "style", nargs="+", help="the painting, or several, blended as in `transfer`")
    add_masks(add)
    add_output(add, "OUT.h5", "the HDF5 file to write")
    add("output", "--maps", type=Path, metavar="FOLDER", help="draw a picture of each term's gradient in this folder")
    add("output", "--overwrite", action="store_true", help="replace files that already exist")
    add_options(add, "gradient")


def run(arguments: argparse.Namespace) -> int:
    """Compute every term's value and gradient at IMAGE, without optimising.

    gradient image.png content.png style.png -o gradient.h5
    gradient image.png content.png style.png --maps maps --preset paper
    """
    output, maps = arguments.output, arguments.maps
    options = given(arguments, "gradient")
    masks = {"content_mask": arguments.content_mask, "style_mask": arguments.style_mask}
    inputs = arguments.image, arguments.content, *arguments.style
    read = *inputs, *arguments.content_mask, *arguments.style_mask, options.get("weights")
    if output is not None:
        check_not_inputs([output], read)
        check_hdf5(output, "gradients", arguments.overwrite)
    if maps is not None:
        if not arguments.overwrite and os.path.isdir(maps) and any(maps.glob("*.png")):
            raise NSTError(f"{maps} has pictures in it already: name another folder, or add --overwrite")
        if os.path.lexists(maps):
            make_folder(maps, "--maps")  # checks it
        else:  # a mistake leaves no empty folder
            check_folder(maps)
    with contextlib.ExitStack() as claims:
        for path in filter(None, (output, maps)):
            claims.enter_context(held(path))
        result = gradients(arguments.image, arguments.content, arguments.style, **masks, **options)
        if maps is not None:
            make_folder(maps, "--maps")
            check_not_inputs(result.maps(maps).values(), read)
        if output is not None:
            result.save(output, new=not arguments.overwrite)
        pictures = [] if maps is None else result.save_maps(maps)
    record = {
        "output": None if output is None else str(output),
        "maps": [str(path) for path in pictures],
        "loss": {"total": result.total.loss, **{name: term.loss for name, term in result.terms.items()}},
        "norm": result.norms(),
        "share": result.shares(),
        "cosine": result.cosines(),
        "layers": [layer._asdict() for layer in result.layers],
    }
    tell(arguments, record, *_table(result))
    return DONE


def _table(result: Gradients) -> Iterator[str]:
    shares, norms, cosines = {**result.shares(), "total": 1.0}, result.norms(), result.cosines()
    wide = max(len(name) for name in norms) + 1
    yield f"{'term':<{wide}}{'loss':>16}{'|gradient|':>14}{'share':>9}  cosine with each term above"
    for number, (name, norm) in enumerate(norms.items()):
        loss = result.total.loss if name == "total" else result.terms[name].loss
        angles = "".join("     —" if c is None else f"{c:6.2f}" for c in list(cosines[name].values())[:number])
        yield f"{name:<{wide}}{loss:>16.9g}{norm:>14.4g}{shares[name]:>9.1%}{angles}"
    if not result.layers:
        return
    yield ""
    yield f"{'on the way down':<{wide}}{'|gradient|':>16}{'ReLUs open':>14}"
    for layer in result.layers:
        yield f"{layer.name:<{wide}}{layer.norm:>16.4g}{'' if layer.open is None else f'{layer.open:.1%}':>14}"
