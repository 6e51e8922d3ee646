"""Looking inside a run: its gradients at one picture, computed in a process of its own and kept in the run's folder."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from ..errors import NSTError
from ..pictures.alpha import resize
from ..pictures.colours import gray
from ..pictures.files import written
from ..pictures.heatmap import coloured, scale_of
from ..pictures.reading import load_image
from ..pictures.writing import to_picture
from ..runs.inputs import pink_noise, white_noise
from ..settings import options_of, settings_of
from ..study.gradients import UNIT, Gradients, gradients
from ..study.receptive import fields_of

STUDY, GRADIENTS, ABOUT, PICTURE = "study", "gradients.h5", "study.json", "picture.png"
SIDE = 384  # pixels of the longer side, at most: an evaluation for each term has to be quick
WHERE = ("now", "content", "noise", "pink")  # the pictures at which the gradients can be looked at


def look_inside(
    folder: Path,
    content: Path,
    styles: Sequence[Path],
    masks: Mapping[str, Sequence[Path]],
    options: Mapping[str, Any],
    where: str,
    now: Path | None,
) -> dict[str, Any]:
    """Each term's gradient, share and angles at a picture, and the walk down; written to the folder `study`."""
    known = {name: value for name, value in options.items() if name in options_of("gradient")}
    full = settings_of("transfer", options).size or SIDE
    photo = load_image(content, min(full, SIDE))
    height, width, _ = photo.shape
    if where == "now":
        if now is None:
            raise NSTError("the run has no picture yet: choose another picture to look at, or wait for its first one")
        image = load_image(now, max(height, width))
        image = image if image.shape == photo.shape else resize(image, height, width)
    else:
        noises = {"noise": white_noise, "pink": pink_noise}
        seed = int(known.get("seed", 0))
        image = noises[where](height, width, seed) if where in noises else photo
    if options.get("colors") == "content" and where in ("now", "content"):  # the network sees luminance alone
        image = gray(image)
    given: dict[str, Any] = {"content_mask": masks.get("where", ()), "style_mask": masks.get("part", ())}
    # The content's own size: loading it anew gives it the colours that the settings ask for.
    found = gradients(image, content, list(styles), **given, **{**known, "size": max(height, width)})
    return _saved(found, folder / STUDY, image, where)


def _saved(found: Gradients, folder: Path, image: Any, where: str) -> dict[str, Any]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    found.save(folder / GRADIENTS)
    to_picture(image).save(folder / PICTURE)
    norms, shares = found.norms(), {**found.shares(), "total": 1.0}
    terms = []
    for number, (name, evaluation) in enumerate({"total": found.total, **found.terms}.items()):
        field = evaluation.gradient.astype(np.float64).sum(2)
        limit = scale_of(field)
        Image.fromarray(coloured(field, limit)).save(folder / f"map{number}.png")
        about = {"name": name, "map": number, "loss": evaluation.loss, "norm": norms[name], "share": shares[name]}
        terms.append(about | {"scale": limit})
    layers = [layer._asdict() for layer in found.layers]
    about = {"where": where, "width": image.shape[1], "height": image.shape[0], "unit": UNIT, "terms": terms}
    about |= {"cosines": found.cosines(), "layers": layers, "made": os.urandom(4).hex()}
    with written(folder / ABOUT, "w") as file:
        json.dump(about, file)
    return about


def pixel(folder: Path, options: Mapping[str, Any], row: int, column: int, made: str | None = None) -> dict[str, Any]:
    """How each term would change one pixel, −d(loss)/d(pixel) in red, green and blue; and each layer's field there.

    `made` says of which gradients, lest another tab has computed others meanwhile.
    """
    path = folder / STUDY / GRADIENTS
    if not path.is_file():
        raise NSTError("there are no gradients of this run yet: compute them first")
    if made is not None and json.loads((folder / STUDY / ABOUT).read_text(encoding="utf-8"))["made"] != made:
        raise NSTError("these gradients were computed again, in another tab: reload the page to see the new ones")
    with h5py.File(path, "r") as file, Image.open(folder / STUDY / PICTURE) as picture:
        if not (0 <= row < picture.height and 0 <= column < picture.width):
            raise NSTError(f"the pixel must lie within {picture.width}×{picture.height}")
        wishes = {name: [-float(value) for value in data[row, column]] for name, data in file["gradient"].items()}
        colour = picture.getpixel((column, row))
        height, width = picture.height, picture.width
    steps = settings_of("transfer", options).steps()
    fields = [{"layer": name, "box": list(box)} for name, box in fields_of(steps, row, column, height, width)]
    return {"row": row, "column": column, "colour": colour, "wishes": wishes, "fields": fields}
