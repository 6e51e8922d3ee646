"""Arrays → picture files: PNG, JPEG, WebP and TIFF, of 8 or 16 bits, with the sRGB profile, EXIF and recipe.

The ending of the name gives the format. `-` is standard output, which gets PNG.
"""

import io
import logging
import sys
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from ..arrays import Array
from ..errors import NSTError
from . import bits16, metadata
from .alpha import WHITE
from .files import check_folder, without_warnings, written
from .profiles import SRGB_PROFILE

log = logging.getLogger(__name__)

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
DEEP_FORMATS = ("PNG", "TIFF")  # those that can hold 16 bits
WITHOUT_ALPHA = ("JPEG",)
STANDARD_OUTPUT = "-"


def check_output(path: Path, bits: int = 8) -> None:
    """Check, before the long work, that `path` can be written and that its format can hold so many bits."""
    if not is_standard_output(path):
        check_folder(path)
        check_format(path, bits)
    elif sys.stdout is None or sys.stdout.isatty():
        raise NSTError("standard output is a terminal: send the picture to a file, as in -o - > picture.png")


def check_format(path: Path, bits: int = 8) -> None:
    """Check that the name's ending says a format, one that can hold so many bits."""
    _format_of(path, None, bits)


def is_standard_output(path: object) -> bool:
    """Whether the picture goes to standard output, where nothing can be overwritten and nothing else may be printed."""
    return isinstance(path, Path) and str(path) == STANDARD_OUTPUT


def save_image(
    picture: Image.Image | Array,
    output: Path | BinaryIO,
    *,
    format: str | None = None,
    alpha: Array | None = None,
    bits: int = 8,
    exif: bytes = b"",
    recipe: str = "",
    overwrite: bool = True,
) -> None:
    """Write a picture to a path, to standard output ("-") or to a binary file; to a path whole or not at all.

    `format` is an ending such as "jpg". By default the ending of the name counts; standard output and files without a
    name get PNG. `picture` is a PIL image, or an array (height, width, 3) of 0 … 255 with `alpha`, 0 … 1.
    """
    if hasattr(output, "encoding") or (not isinstance(output, Path) and not hasattr(output, "write")):
        raise NSTError("a picture is written to a path or to a file opened in binary mode, as in open(path, 'wb')")
    name, file_format = _name(output), _format_of(output, format, bits)
    if isinstance(picture, Image.Image):
        levels = np.asarray(picture.convert("RGBA" if picture.has_transparency_data else "RGB"), dtype=np.float32)
        picture, alpha = levels[:, :, :3], levels[:, :, 3] / 255 if levels.shape[2] == 4 else None
    if alpha is not None and file_format in WITHOUT_ALPHA:
        _say_no_alpha(file_format, Path(name).parent)
        share = alpha[:, :, None]
        picture, alpha = np.clip(picture, 0, 255) * share + WHITE * (1 - share), None
    levels = _levels(picture, alpha, bits)
    try:
        whole = io.BytesIO()
        with without_warnings():
            _write(whole, file_format, levels, exif, recipe)
        if isinstance(output, Path) and not is_standard_output(output):
            with written(output, new=not overwrite) as file:
                file.write(whole.getbuffer())
        else:
            stream = sys.stdout.buffer if isinstance(output, Path) else output
            stream.write(whole.getbuffer())
            stream.flush()
    except (OSError, ValueError) as error:  # or more pixels or bytes than the format can hold, or a closed file
        raise NSTError(f"{name} can't be written: {getattr(error, 'strerror', None) or error}") from error


def to_picture(image: Array, alpha: Array | None = None) -> Image.Image:
    """Rounded to the nearest of 256 levels; values outside 0 … 255 are clipped."""
    return Image.fromarray(_levels(image, alpha, 8))


def _name(output: Path | BinaryIO) -> str:
    if isinstance(output, Path):
        return "standard output" if is_standard_output(output) else str(output)
    name = getattr(output, "name", None)
    return name if isinstance(name, str) else "the file"


def _format_of(output: Path | BinaryIO, given: str | None, bits: int) -> str:
    """Pillow's name of the format."""
    ending = "." + given.removeprefix(".") if given else Path(_name(output)).suffix
    if not ending and (is_standard_output(output) or not isinstance(output, Path)):
        ending = ".png"
    file_format = FORMATS.get(ending.lower())
    if file_format is None:
        what = f"{ending[1:].upper()} is not supported" if ending else "its name has no ending, which says the format"
        raise NSTError(f"{_name(output)}: {what}: use .png, .jpg, .webp or .tif")
    if bits == 16 and file_format not in DEEP_FORMATS:
        raise NSTError(f"{_name(output)}: {file_format} can't hold 16 bits: use .png or .tif, or 8 bits")
    return file_format


def _levels(image: Array, alpha: Array | None, bits: int) -> Array:
    """(height, width, 3, or 4 with alpha), as integers of 8 or 16 bits."""
    if alpha is not None:
        image = np.concatenate([image, 255 * alpha[:, :, None]], axis=2)
    scale, kind = (1, np.uint8) if bits == 8 else (257, np.uint16)
    return (image.clip(0, 255) * scale).round().astype(kind)


@cache
def _say_no_alpha(file_format: str, folder: Path) -> None:
    """Once per folder: a run may write many previews."""
    log.info("%s has no transparency: transparent areas become white (in %s)", file_format, folder)


def _write(file: BinaryIO, file_format: str, levels: Array, kept: bytes, recipe: str) -> None:
    exif = metadata.exif_for(kept, levels.shape[1], levels.shape[0])
    packed = exif.tobytes() if kept else b""
    if file_format == "TIFF":
        told = [(metadata.XMP_TAG, metadata.xmp(recipe))] if recipe else []
        ours: list[tuple[int, Any]] = [*told, (metadata.PROFILE_TAG, SRGB_PROFILE)]
        try:
            bits16.write_tiff(file, levels, [*metadata.tiff_tags(exif), *ours])
        except Exception:  # Pillow can pack some EXIF for other files but not as tags; nothing is written yet
            log.info("the content picture's EXIF doesn't fit a TIFF file and is left out")
            bits16.write_tiff(file, levels, ours)
    elif levels.dtype == np.uint16:
        bits16.write_png(file, levels, metadata.png_chunks(recipe, packed, SRGB_PROFILE))
    else:
        options: dict[str, Any] = {"icc_profile": SRGB_PROFILE, "exif": packed}
        if file_format == "PNG":
            options["pnginfo"] = metadata.png_text(recipe)
        else:
            options |= {"quality": 95} | ({"xmp": metadata.xmp(recipe)} if recipe else {})
        if file_format == "JPEG":
            options["subsampling"] = 0  # keeps the colours of small strokes
        Image.fromarray(levels).save(file, format=file_format, **options)
