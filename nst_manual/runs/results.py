"""What a run ends with: the picture, how it came about, and its file."""

import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from ..arrays import Array
from ..errors import NSTError
from ..optimise import Record
from ..pictures.writing import save_image
from ..settings import Settings
from .recipe import Recipe

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """A finished run. `stopped` says why it ended: iterations, converged, callback, time limit, interrupted, not
    finite or out of memory; `path` is where the picture was written, if it was."""

    image: Image.Image
    pixels: Array  # the same before rounding, (height, width, 3), RGB
    loss: float
    trace: list[Record]
    settings: Settings
    stopped: str
    message: str
    alpha: Array | None  # the content picture's, 0 … 1, which `image` has too; None if it is opaque
    exif: bytes  # the content picture's
    recipe: Recipe
    path: Path | None = None
    unwritten: tuple[str, ...] = ()  # a sentence for each other file that was asked for and isn't there

    def save(self, output: str | Path | BinaryIO, format: str | None = None) -> None:
        """Write the picture, whole or not at all, with the bits per channel of the settings.

        `output` is a path, "-" for standard output, or a file open for writing bytes. `format`, such as "jpg", is by
        default the ending of its name, or PNG if it has none.
        """
        if isinstance(output, str | os.PathLike):
            output = Path(output)
        recipe = self.recipe.to_json(str(output) if isinstance(output, Path) else f"result.{format or 'png'}")
        bits = self.settings.bits
        save_image(self.pixels, output, format=format, alpha=self.alpha, bits=bits, exif=self.exif, recipe=recipe)

    def save_somewhere(self, path: Path) -> Path:
        """To `path`, or if that can't be done any more, wherever it can; returns where."""
        try:
            self.save(path)
            return path
        except NSTError as error:
            for folder in (Path.cwd(), Path.home(), Path(tempfile.gettempdir())):
                elsewhere = folder / f"{path.stem}.{os.getpid()}{path.suffix}"
                try:
                    self.save(elsewhere)
                except NSTError:
                    continue
                log.error("%s; the picture is in %s instead", error, elsewhere)
                return elsewhere
            raise


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run; `result` is the picture so far."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.message)
        self.result = result
