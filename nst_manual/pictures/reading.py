"""Picture files → arrays. A picture in the program is (height, width, 3), RGB, 0 … 255, floating point.

Orientation and colour profile are applied, 16-bit and floating-point pictures keep their depth, and transparent parts
are filled with the visible colours near them. docs/pictures.md lists the formats, limits and rules.
"""

import hashlib
import importlib
import io
import logging
import os
import stat
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..arrays import Array
from ..errors import NSTError
from . import bits16, metadata
from .alpha import fit
from .budget import DEEP, BoundedFile, bytes_per_pixel, check_cost
from .files import without_warnings
from .profiles import deep_to_srgb, to_srgb

log = logging.getLogger(__name__)

HEIF_BEGINNINGS = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc")
STANDARD_INPUT = "-"
FILE_LIMIT = 2**31  # bytes: the most pixels that are allowed, as floating-point RGBA, need 1.4 billion


@dataclass(frozen=True)
class Picture:
    """A picture as loaded, with the alpha, 0 … 1, and the EXIF that the result gets back."""

    rgb: Array
    alpha: Array | None = None
    exif: bytes = b""
    name: str | None = None  # of the file, as given; None for pictures from Python
    sha256: str | None = None  # of the file or the bytes


def load_image(source: Any, size: int | None = None) -> Array:
    """RGB of a path, "-" (standard input), bytes, a binary file, a PIL image or an array; at most `size` pixels wide
    and high."""
    return load_picture(source, size).rgb


def load_picture(
    source: Any,
    size: int | None = None,
    *,
    scale: float = 1.0,
    enlarge: bool = False,
    max_memory: float | None = None,
) -> Picture:
    """Load a picture with its alpha and EXIF.

    Its longer side becomes `scale` times `size`, or `scale` times its own length without `size`. A smaller picture is
    enlarged only if `enlarge` is set. A file that would take more than `max_memory` bytes to decode is refused before.
    """
    exif, sha256 = b"", None
    name = os.fsdecode(source) if isinstance(source, str | os.PathLike) else None
    if isinstance(source, np.ndarray):
        image, alpha = _check_array(source), None
    elif isinstance(source, Image.Image):
        with _guarded("the image"):
            image, alpha = _decode(source, "the image")
            exif = metadata.kept_exif(source)
    else:
        with _opened(source) as (stream, shown), _guarded(shown):
            image, alpha, exif = _read(BoundedFile(stream), shown, max_memory)
            stream.seek(0)
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    height, width = image.shape[:2]
    longer = max(height, width)
    wanted = max(1, round(scale * (size or longer)))
    if scale > 1 and wanted > longer and not enlarge:
        log.info("%s stays %d pixels on its longer side, not %d: --enlarge enlarges it", name, longer, wanted)
    if wanted < longer or (enlarge and wanted > longer):
        height, width = (max(1, round(side * wanted / longer)) for side in (height, width))
        check_pixels(height, width)
    return Picture(*fit(image, alpha, height, width), exif, name, sha256)


def check_pixels(height: int, width: int) -> None:
    """Refuse more pixels than a picture may have."""
    if Image.MAX_IMAGE_PIXELS is not None and height * width > Image.MAX_IMAGE_PIXELS:
        raise NSTError(
            f"{width}×{height} pixels are more than a picture should have, {Image.MAX_IMAGE_PIXELS}: choose a smaller "
            "size"
        )


def read_recipe(path: Any) -> str | None:
    """The recipe that this program stored in a picture, unchecked. The pixels are not decoded."""
    with _opened(path) as (stream, shown), _guarded(shown):
        metadata.check_parts(stream)
        with Image.open(BoundedFile(stream)) as picture:
            return metadata.find_recipe(picture)


def picture_size(path: Any) -> tuple[int, int]:
    """(height, width) of a picture as stored. The pixels are not decoded."""
    with _opened(path) as (stream, shown), _guarded(shown):
        metadata.check_parts(stream)
        with Image.open(BoundedFile(stream)) as picture:
            return picture.height, picture.width


def _check_array(source: Array) -> Array:
    if source.ndim != 3 or source.shape[2] != 3 or source.size == 0:
        raise NSTError(f"an array must be (height, width, 3), RGB, 0 … 255, not {source.shape}")
    if not np.issubdtype(source.dtype, np.number) and source.dtype != np.bool_:
        raise NSTError(f"an array must hold numbers, not {source.dtype}")
    image = source.astype(np.float32)
    if not np.isfinite(image).all():
        raise NSTError("the array holds values that are not finite")
    brightest = image.max()
    if np.issubdtype(source.dtype, np.integer):
        if brightest > 255:
            raise NSTError(f"the array's values go up to {brightest:g}, but must be 0 … 255: divide them")
    elif 0 < brightest <= 1:  # a fade to black has such values, too; a guess would be silent or wrong
        raise NSTError("the array's values are within 0 … 1, but must be 0 … 255: multiply them by 255")
    return image


@contextmanager
def _opened(source: Any) -> Iterator[tuple[io.BytesIO | io.BufferedReader, str]]:
    """The bytes of a picture given as a path, "-", bytes or a binary file, and what messages call it."""
    given = getattr(source, "name", None)
    name = given if isinstance(given, str) else "the data"
    if isinstance(source, bytes | bytearray | memoryview):
        yield io.BytesIO(source), name
    elif isinstance(source, str | os.PathLike) and os.fsdecode(source) == STANDARD_INPUT:
        data = b"" if sys.stdin is None else _all_of(sys.stdin.buffer, "standard input")
        if not data:
            raise NSTError("standard input is empty: send one picture to it, or name a file")
        yield io.BytesIO(data), "standard input"
    elif isinstance(source, str | os.PathLike):
        with _open_file(os.fsdecode(source)) as stream:
            yield stream, os.fsdecode(source)
    elif hasattr(source, "read"):
        with suppress(AttributeError, OSError, ValueError):  # a stream that can't be rewound is read from where it is
            source.seek(0)
        yield io.BytesIO(_all_of(source, name)), name
    else:
        kind = type(source).__name__
        raise NSTError(f"a picture must be a path, bytes, a binary file, a PIL image or an array, not {kind}")


def _open_file(name: str) -> io.BufferedReader:
    try:
        found = os.stat(name)
        if stat.S_ISDIR(found.st_mode):
            raise NSTError(f"{name} is a folder: name a picture in it")
        if not stat.S_ISREG(found.st_mode):
            raise NSTError(f"{name} is not a regular file: send it to standard input, and give - as its name")
        if found.st_size == 0:  # or without end, as in /proc
            raise NSTError(f"{name} is empty")
        if found.st_size > FILE_LIMIT:
            raise NSTError(f"{name} has {found.st_size} bytes, more than a picture should, {FILE_LIMIT}")
        return open(name, "rb")
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise NSTError(f"{name} does not exist".replace("\0", "�")) from error
    except OSError as error:
        raise NSTError(f"{name} can't be opened: {error.strerror}") from error


def _all_of(stream: Any, name: str) -> bytearray:
    data = bytearray()
    try:
        while piece := stream.read(2**20):
            data += piece
            if len(data) > FILE_LIMIT:
                raise NSTError(f"{name} has more bytes than a picture should, {FILE_LIMIT}")
    except TypeError as error:
        raise NSTError(f"{name} is open as text: open it in binary mode, 'rb'") from error
    except (OSError, ValueError) as error:
        raise NSTError(f"{name} can't be read: {error}") from error
    return data


@contextmanager
def _guarded(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises for a hostile file into one sentence. Its warnings are silenced, those of
    decompression bombs are errors."""
    with without_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            yield
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise NSTError(f"{name} has more pixels than a picture should: make it smaller first") from error
        except Exception as error:  # Pillow's readers raise many kinds, each for a fault of the file
            reason = " ".join(str(error).split()) or type(error).__name__
            if isinstance(error, UnidentifiedImageError):
                reason = "it is broken or its format is unknown"
            elif isinstance(error, MemoryError):
                reason = "there is not enough memory for it"
            raise NSTError(f"{name} can't be read as a picture: {reason}") from error


def _read(stream: BoundedFile, name: str, limit: float | None) -> tuple[Array, Array | None, bytes]:
    """Colours, alpha (both 0 … 255) and EXIF of a file."""
    metadata.check_parts(stream.stream)
    try:
        picture: Image.Image = Image.open(stream)
    except UnidentifiedImageError:
        stream.seek(0)
        beginning = stream.read(12)
        if beginning[4:] in HEIF_BEGINNINGS:
            picture = _open_heif(stream)
        elif beginning[:4] in bits16.TIFF_BEGINNINGS:
            return *_decode_plain_tiff(stream, name, limit), b""
        else:
            raise
    with picture:
        if picture.format == "EPS":
            raise NSTError("PostScript is a program and is not run: convert it to PNG first")
        check_cost(*picture.size, bytes_per_pixel(picture), stream.size, limit)
        if bits16.is_planar_deep(picture):
            image, alpha = _decode_plain_tiff(stream, name, limit)
        elif bits16.is_deep(picture):
            image, alpha = _from_samples(bits16.read_twice(stream, picture), picture.info, name)
        else:
            image, alpha = _decode(picture, name)
        with suppress(Exception):  # what follows the first frame may be broken
            if getattr(picture, "is_animated", False):
                log.info("%s holds several pictures: the first is used", name)
        return image, alpha, metadata.kept_exif(picture)


def _open_heif(stream: BoundedFile) -> Image.Image:
    """The format of many phones, for which Pillow needs another package."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError as error:
        raise NSTError("HEIF needs `pip install pillow-heif`; or convert it to JPEG first") from error
    stream.seek(0)
    return Image.open(stream)


def _decode_plain_tiff(stream: BoundedFile, name: str, limit: float | None) -> tuple[Array, Array | None]:
    def check(width: int, height: int) -> None:
        if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError(f"{width}×{height} pixels")
        check_cost(width, height, DEEP, stream.size, limit)

    samples, tags = bits16.read_plain_tiff(stream, check)
    orientation = tags.get(metadata.ORIENTATION, 1)
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    return _from_samples(samples, {"icc_profile": tags.get(metadata.PROFILE_TAG)}, name)


def _decode(picture: Image.Image, name: str) -> tuple[Array, Array | None]:
    """Colours and alpha, 0 … 255, of a picture whose depth Pillow keeps: uint8, or float32 for deeper ones."""
    if 0 in picture.size:
        raise NSTError("it has no pixels")
    steps = bits16.levels_per_step(picture)
    picture = metadata.upright(picture)
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture).astype(np.float32)[:, :, None]
        if picture.mode != "F":
            values /= 255 if picture.mode == "I" and values.max() <= 255 else 65535
        return _from_samples(values, picture.info, name)
    alpha = None
    if picture.has_transparency_data:
        clear = picture.info.get("transparency")
        if isinstance(clear, int) and picture.mode == "L":
            picture.info["transparency"] = clear * steps
        whole = picture.convert("LA" if picture.mode in ("1", "L", "LA", "La") else "RGBA")
        alpha = np.asarray(whole.getchannel("A"))
        whole.info.pop("transparency", None)
        picture = whole.convert(whole.mode[:-1])
    return np.asarray(to_srgb(picture, name)), alpha


def _from_samples(samples: Array, info: dict[Any, Any], name: str) -> tuple[Array, Array | None]:
    """Colours and alpha, 0 … 255, of gray or RGB samples, perhaps with alpha, in floating point.

    Pillow's `info` may hold a colour profile, and the one transparent level or colour of a PNG file.

    White is 1, and brighter values are clipped to it. If the brightest value is above 16, white is 255; if above 255,
    65535; if above that, the brightest value itself. The samples are changed in place.
    """
    if not np.isfinite(samples).all():
        raise NSTError("it holds values that are not finite")
    clear = info.get("transparency")
    if isinstance(clear, int | tuple):
        visible = (np.rint(samples * 65535) != np.array(clear)).any(axis=2, keepdims=True)
        samples = np.concatenate([samples, visible.astype(np.float32)], axis=2)
    colours = samples[:, :, : 1 if samples.shape[2] < 3 else 3]
    brightest = colours.max()
    white = next((white for white, most in ((1, 16), (255, 255), (65535, 65535)) if brightest <= most), brightest)
    if white != 1:
        colours /= np.float32(white)
    np.clip(colours, 0, 1, out=colours)  # in place: large pictures are gigabytes
    rgb = deep_to_srgb(colours, info.get("icc_profile"), name) * 255
    return rgb, np.clip(samples[:, :, -1], 0, 1) * 255 if samples.shape[2] in (2, 4) else None
