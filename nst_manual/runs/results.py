"""What a run ends with: the picture, how it was made, and where it was saved."""

import logging
import os
import tempfile
from contextlib import suppress
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


@dataclass(frozen=True, repr=False)
class Result:
    """A finished run. A notebook shows it as its picture.

    `stopped` says why the run ended: iterations, converged, callback, time limit, interrupted, not finite, out of
    memory, disk full, disk failed, device failed or cluster lost. `message` says it in a sentence.
    """

    image: Image.Image
    pixels: Array  # `image` before rounding to whole levels, (height, width, 3), RGB
    loss: float
    trace: list[Record]
    settings: Settings
    stopped: str
    message: str
    alpha: Array | None  # the content picture's transparency, 0 … 1, which `image` has too; None if it is opaque
    exif: bytes  # the content picture's
    recipe: Recipe
    strip_metadata: bool = False  # whether `save` leaves EXIF and recipe out
    path: Path | None = None  # where the picture was written, if it was
    unwritten: tuple[str, ...] = ()  # a sentence for each other file that was asked for but could not be written

    def __repr__(self) -> str:
        path = f", path={str(self.path)!r}" if self.path else ""
        size, iterations = f"{self.image.width}×{self.image.height}", len(self.trace)
        return f"<Result {size}, loss={self.loss:.6g}, iterations={iterations}, stopped={self.stopped!r}{path}>"

    def _repr_png_(self) -> bytes | None:
        """For notebooks."""
        png: bytes | None = self.image._repr_png_()
        return png

    def save(self, output: str | Path | BinaryIO, format: str | None = None, *, overwrite: bool = True) -> None:
        """Write the picture, whole or not at all, with the bits per channel of the settings.

        `output` is a path, "-" for standard output, or a file open for writing bytes. `format`, such as "jpg", is by
        default the ending of its name, or PNG if it has none.
        """
        if isinstance(output, str | os.PathLike):
            output = Path(output)
        recipe, exif = "", b""
        if not self.strip_metadata:
            recipe = self.recipe.to_json(str(output) if isinstance(output, Path) else f"result.{format or 'png'}")
            exif = self.exif
        save_image(
            self.pixels,
            output,
            format=format,
            alpha=self.alpha,
            bits=self.settings.bits,
            exif=exif,
            recipe=recipe,
            overwrite=overwrite,
        )

    def save_somewhere(self, path: Path, overwrite: bool = True) -> Path:
        """Save to `path` or, if that is no longer possible, under another name; return where it was saved."""
        try:
            self.save(path, overwrite=overwrite)
            return path
        except NSTError as error:
            for folder in (path.parent, Path.cwd(), Path.home(), Path(tempfile.gettempdir())):
                elsewhere = folder / f"{path.stem}.{os.getpid()}{path.suffix}"
                with suppress(NSTError):
                    self.save(elsewhere, overwrite=False)
                    log.error("%s; the picture was saved as %s instead", error, elsewhere)
                    return elsewhere
            raise


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run. `result` holds the picture so far, which has been written if an output was asked for."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.message)
        self.result = result
