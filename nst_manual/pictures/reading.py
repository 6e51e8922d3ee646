"""Files ↔ arrays. A picture in the program is (height, width, 3), RGB, 0 … 255, floating point.

On the way in, orientation and colour profile are applied, 16-bit and floating-point pictures keep their depth, and
transparent parts are filled with the visible colours near them; on the way out, alpha and EXIF are joined again.
docs/pictures.md says which formats, limits and rules hold.
"""

import hashlib
import importlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..arrays import Array
from ..errors import NSTError
from . import bits16 as deep
from . import metadata
from .files import check_folder, without_warnings, written
from .profiles import SRGB_PROFILE, deep_to_srgb, to_srgb

log = logging.getLogger(__name__)

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
DEEP_FORMATS = ("PNG", "TIFF")  # those that can hold 16 bits
WITHOUT_ALPHA = ("JPEG",)
HEIF_BEGINNINGS = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc")
STANDARD_INPUT = "-"
STANDARD_INPUT_LIMIT = 2**30  # bytes

_WHITE = 255.0
_LEAST_ALPHA = 0.5 / 65535


@dataclass(frozen=True)
class Picture:
    """A picture as loaded, and what is to be joined to the result again: its alpha, 0 … 1, and its EXIF."""

    rgb: Array
    alpha: Array | None = None
    exif: bytes = b""
    name: str | None = None  # of the file, as given
    sha256: str | None = None  # of the file


def load_image(source: Any, size: int | None = None) -> Array:
    """A path, "-", a PIL image or an array, as RGB floats. A picture larger than `size` is made smaller."""
    return load_picture(source, size).rgb


def load_picture(source: Any, size: int | None = None, *, scale: float = 1.0, enlarge: bool = False) -> Picture:
    """The same with what belongs to the picture. Its longer side becomes `scale` times `size`, or times its own length
    if that is None; a smaller picture stays as it is unless `enlarge`."""
    exif, name, sha256 = b"", None, None
    if isinstance(source, np.ndarray):
        image, alpha = _check_array(source), None
    elif isinstance(source, Image.Image):
        with _guarded("the picture"):
            image, alpha = _decode(source, "the picture")
            exif = metadata.kept_exif(source)
    else:
        name = os.fspath(source)
        with _open(name) as stream, _guarded(_shown(name)):
            sha256 = _sha256(stream)
            image, alpha, exif = _read(stream, _shown(name))
    height, width = image.shape[:2]
    longer = max(height, width)
    wanted = max(1, round(scale * (size or longer)))
    if scale > 1 and wanted > longer and not enlarge:
        log.info("%s: its longer side has %d pixels, not %d: --enlarge makes it larger", name, longer, wanted)
    if wanted < longer or (enlarge and wanted > longer):
        height, width = (max(1, round(side * wanted / longer)) for side in (height, width))
        check_pixels(height, width)
    return Picture(*_in_size(image, alpha, height, width), exif, name, sha256)


def check_pixels(height: int, width: int) -> None:
    """Not more than a picture may have."""
    if Image.MAX_IMAGE_PIXELS is not None and height * width > Image.MAX_IMAGE_PIXELS:
        raise NSTError(f"{width}×{height} pixels are more than a picture should have: choose a smaller size")


def _shown(name: str) -> str:
    return "standard input" if name == STANDARD_INPUT else name


def resize(image: Array, height: int, width: int) -> Array:
    """Lanczos, each channel in floating point: nothing is rounded to 8 bits on the way.

    On the values as stored, as other programs do. In linear light paintings' fine strokes would come out harsher, with
    blacker rings about bright grains, and photographs much the same (docs/pictures.md).
    """
    channels = [_resize_channel(image[:, :, c], height, width) for c in range(image.shape[2])]
    resized: Array = np.clip(np.stack(channels, axis=2), 0, 255)
    return resized


def _resize_channel(channel: Array, height: int, width: int) -> Array:
    values = Image.fromarray(np.ascontiguousarray(channel, dtype=np.float32))
    return np.asarray(values.resize((width, height), Image.Resampling.LANCZOS))


def _in_size(image: Array, alpha: Array | None, height: int, width: int) -> tuple[Array, Array | None]:
    """RGB as float32, and alpha 0 … 1, or None where all is opaque. Colours count by their alpha."""
    same = (height, width) == image.shape[:2]
    if alpha is not None and alpha.min() < 255:
        share = alpha.astype(np.float32) / 255
        channels = [image[:, :, c] * share for c in range(3)]
        if not same:
            channels = [_resize_channel(channel, height, width) for channel in channels]
            share = _resize_channel(share, height, width)
        # Lanczos leaves 0 … 1, and colours and alpha by the same: their quotient is the colour.
        visible = np.where(share < _LEAST_ALPHA, 0, np.minimum(share, 1)).astype(np.float32)
        colours = np.clip(np.stack(channels, axis=2) / np.maximum(share, _LEAST_ALPHA)[:, :, None], 0, 255)
        return np.clip(spread(colours * visible[:, :, None], visible), 0, 255), visible
    rgb = image.astype(np.float32) if same else resize(image, height, width)
    return rgb, None


def spread(premultiplied: Array, alpha: Array) -> Array:
    """A picture laid over a ground that its own visible colours, spread outwards, make.

    Each colour is given multiplied by its alpha. The ground is found in ever coarser pictures, half the size each: what
    is transparent takes the colour of the coarser one. So an invisible pixel's colour never counts, and no foreign
    colour (white, black) mixes into an edge, neither here nor where the result gets its alpha again. A picture that is
    nowhere visible is white.
    """
    height, width = alpha.shape
    if height == width == 1:
        share = float(alpha[0, 0])
        return premultiplied / share if share > 0 else np.full_like(premultiplied, _WHITE)
    if alpha.min() >= 1:
        return premultiplied
    odd = ((0, height % 2), (0, width % 2))
    halves = np.pad(premultiplied, (*odd, (0, 0))), np.pad(alpha, odd)
    coarse, share = (a.reshape(a.shape[0] // 2, 2, a.shape[1] // 2, 2, *a.shape[2:]).sum((1, 3)) for a in halves)
    most = np.maximum(share, 1)  # one visible pixel in four is enough to say the colour
    ground = spread(coarse / most[:, :, None], share / most)
    size = 2 * ground.shape[1], 2 * ground.shape[0]
    channels = [Image.fromarray(ground[:, :, c].astype(np.float32)) for c in range(3)]
    larger = [np.asarray(c.resize(size, Image.Resampling.BILINEAR))[:height, :width] for c in channels]
    laid: Array = premultiplied + (1 - alpha[:, :, None]) * np.stack(larger, axis=2)
    return laid


def to_picture(image: Array, alpha: Array | None = None) -> Image.Image:
    """Rounded to the nearest of 256 levels; values outside 0 … 255 are cut off."""
    return Image.fromarray(_levels(image, alpha, 8))


def _levels(image: Array, alpha: Array | None, bits: int) -> Array:
    """(height, width, 3, or 4 with alpha), as whole numbers of 8 or 16 bits."""
    if alpha is not None:
        image = np.concatenate([image, 255 * alpha[:, :, None]], axis=2)
    scaled: Array = np.rint(np.clip(image, 0, 255) * (1 if bits == 8 else 257))
    return scaled.astype(np.uint8 if bits == 8 else np.uint16)


def check_output(path: Path, bits: int = 8) -> None:
    """Finds out before the long work whether `path` can be written and its ending names a format for so many bits."""
    file_format = FORMATS.get(path.suffix.lower())
    if file_format is None:
        raise NSTError(
            f"{path}: the ending {path.suffix!r} names no picture format: end it in .png, .jpg, .webp or .tif"
        )
    if bits == 16 and file_format not in DEEP_FORMATS:
        raise NSTError(f"{path}: {path.suffix} files can't hold 16 bits: end it in .png or .tif, or take --bits 8")
    check_folder(path)


def save_image(
    picture: Image.Image | Array,
    path: Path,
    *,
    alpha: Array | None = None,
    bits: int = 8,
    exif: bytes = b"",
    recipe: str = "",
) -> None:
    """PNG, JPEG, WebP or TIFF by the name's ending, with the sRGB profile, the EXIF kept and the recipe.

    A picture is written as it is; an array, (height, width, 3) of 0 … 255, is joined with `alpha`, or laid over white
    for a format without alpha. `path` is never half a picture.
    """
    check_output(path, bits)
    file_format = FORMATS[path.suffix.lower()]
    if isinstance(picture, Image.Image):
        levels = np.asarray(picture.convert("RGBA" if picture.has_transparency_data else "RGB"))
        if levels.shape[2] == 4 or bits == 16:
            picture, alpha = levels[:, :, :3].astype(np.float32), None
            alpha = levels[:, :, 3].astype(np.float32) / 255 if levels.shape[2] == 4 else None
    if isinstance(picture, np.ndarray):
        if alpha is not None and file_format in WITHOUT_ALPHA:
            _say_no_alpha(path.parent, file_format)
            share = alpha[:, :, None]
            picture, alpha = np.clip(picture, 0, 255) * share + _WHITE * (1 - share), None
        levels = _levels(picture, alpha, bits)
    with written(path) as file, _quietly():
        try:
            _write(file, file_format, levels, exif, recipe)
        except ValueError as error:  # more pixels or bytes than a format can say
            raise NSTError(f"{path} can't be written: {error}") from error


@cache
def _say_no_alpha(folder: Path, file_format: str) -> None:
    """Once, for a run writes many pictures on its way."""
    log.info("%s files have no alpha: pictures in %s are laid over white", file_format, folder)


def _write(file: BinaryIO, file_format: str, levels: Array, kept: bytes, recipe: str) -> None:
    exif = metadata.exif_for(kept, levels.shape[1], levels.shape[0])
    packed = exif.tobytes() if kept else b""
    if file_format == "TIFF":
        ours = [(metadata.XMP_TAG, metadata.xmp(recipe)), (metadata.PROFILE_TAG, SRGB_PROFILE)]
        try:
            deep.write_tiff(file, levels, [*metadata.tiff_tags(exif), *ours])
        except Exception:  # EXIF that Pillow packs for other files, but not as tags; nothing is written yet
            log.info("the content picture's EXIF doesn't fit a TIFF file and is left out")
            deep.write_tiff(file, levels, ours)
    elif levels.dtype == np.uint16:
        deep.write_png16(file, levels, metadata.png_chunks(recipe, packed, SRGB_PROFILE))
    else:
        options: dict[str, Any] = {"icc_profile": SRGB_PROFILE, "exif": packed}
        if file_format == "PNG":
            options["pnginfo"] = metadata.png_text(recipe)
        else:
            options |= {"quality": 95, "xmp": metadata.xmp(recipe)}
        if file_format == "JPEG":
            options["subsampling"] = 0  # small strokes keep their colours
        Image.fromarray(levels).save(file, format=file_format, **options)


def read_recipe(path: Path) -> str | None:
    """What this program stored in a picture that it made; not yet to be trusted. The pixels aren't decoded."""
    with _open(os.fspath(path)) as stream, _guarded(str(path)), Image.open(stream) as picture:
        return metadata.find_recipe(picture)


def _sha256(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    while piece := stream.read(2**20):
        digest.update(piece)
    return digest.hexdigest()


def _check_array(source: Array) -> Array:
    if source.ndim != 3 or source.shape[2] != 3 or source.size == 0:
        raise NSTError(f"an array must be (height, width, 3) RGB, 0 … 255, not {source.shape}")
    image = source.astype(np.float32)
    if not np.isfinite(image).all():
        raise NSTError("the array holds values that are not finite")
    return image


@contextmanager
def _open(name: str) -> Iterator[BinaryIO]:
    if name == STANDARD_INPUT:
        data = sys.stdin.buffer.read(STANDARD_INPUT_LIMIT + 1) if sys.stdin is not None else b""
        if not data:
            raise NSTError("standard input is empty: send a picture to it, and only one, or name a file")
        if len(data) > STANDARD_INPUT_LIMIT:
            raise NSTError("standard input holds more than a picture should: name a file")
        yield io.BytesIO(data)
        return
    path = Path(name)
    if "\0" in name or not path.exists():
        raise NSTError(f"{name} does not exist".replace("\0", "�"))
    if path.is_dir():
        raise NSTError(f"{path} is a folder: name a picture in it")
    if not path.is_file():
        raise NSTError(f"{path} is not a plain file: send it to standard input and name it -")
    try:
        stream = open(path, "rb")  # noqa: SIM115 — closed below
    except OSError as error:
        raise NSTError(f"{path} can't be opened: {error.strerror}") from error
    with stream:
        yield stream


@contextmanager
def _quietly() -> Iterator[None]:
    """Pillow's warnings about odd EXIF are not for the person who makes a picture; those of bombs are errors."""
    with without_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@contextmanager
def _guarded(name: str) -> Iterator[None]:
    """Whatever Pillow makes of a hostile file becomes one sentence."""
    with _quietly():
        try:
            yield
        except NSTError as error:
            raise NSTError(f"{name} can't be read as a picture: {error}") from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise NSTError(f"{name} has more pixels than a picture should: make it smaller first") from error
        except UnidentifiedImageError as error:
            raise NSTError(f"{name} can't be read as a picture: it is broken, or its format isn't known") from error
        except MemoryError as error:
            raise NSTError(f"{name} can't be read as a picture: there is not enough memory for it") from error
        except Exception as error:  # Pillow's readers raise many kinds; all mean that the file is at fault
            reason = " ".join(str(error).split()) or type(error).__name__
            raise NSTError(f"{name} can't be read as a picture: {reason}") from error


def _read(stream: BinaryIO, name: str) -> tuple[Array, Array | None, bytes]:
    """Colours, alpha (both 0 … 255) and EXIF of a file."""
    stream.seek(0)
    try:
        picture: Image.Image = Image.open(stream)
    except UnidentifiedImageError:
        stream.seek(0)
        beginning = stream.read(12)
        if beginning[4:] in HEIF_BEGINNINGS:
            picture = _open_heif(stream)
        elif beginning[:4] in deep.TIFF_BEGINNINGS:
            return *_decode_plain_tiff(stream, name), b""
        else:
            raise
    with picture:
        if picture.format == "EPS":
            raise NSTError("PostScript is a program, and programs aren't run: convert it to PNG first")
        if deep.is_planar_deep(picture):
            image, alpha = _decode_plain_tiff(stream, name)
        elif deep.is_deep(picture):
            samples = deep.read_twice(stream, picture)
            clear = picture.info.get("transparency")
            if isinstance(clear, tuple):  # PNG's one colour that is transparent
                visible = (np.rint(samples * 65535) != np.array(clear)).any(axis=2, keepdims=True)
                samples = np.concatenate([samples, visible.astype(np.float32)], axis=2)
            image, alpha = _from_samples(samples, picture.info.get("icc_profile"), name)
        else:
            image, alpha = _decode(picture, name)
        with suppress(Exception):  # what comes after the first frame may be broken
            if getattr(picture, "is_animated", False):
                log.info("%s holds several pictures: the first is taken", name)
        return image, alpha, metadata.kept_exif(picture)


def _open_heif(stream: BinaryIO) -> Image.Image:
    """Telephones' pictures, for which Pillow needs another package."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError as error:
        raise NSTError("HEIF pictures need `pip install pillow-heif`; or convert it to JPEG first") from error
    stream.seek(0)
    return Image.open(stream)


def _decode_plain_tiff(stream: BinaryIO, name: str) -> tuple[Array, Array | None]:
    samples, tags = deep.read_plain_tiff(stream, Image.MAX_IMAGE_PIXELS)
    orientation = tags.get(metadata.ORIENTATION, 1)
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    return _from_samples(samples, tags.get(metadata.PROFILE_TAG), name)


def _decode(picture: Image.Image, name: str) -> tuple[Array, Array | None]:
    """A picture that Pillow holds in full: colours and alpha, 0 … 255, as bytes or, where they are finer, float32."""
    if 0 in picture.size:
        raise NSTError("it has no pixels")
    steps = deep.levels_per_step(picture)
    picture = ImageOps.exif_transpose(picture)
    clear = picture.info.get("transparency")
    if picture.mode.startswith(("I", "F")):
        values: Array = np.asarray(picture).astype(np.float32)[:, :, None]
        if picture.mode.startswith("I;16"):
            values = values / 65535
        elif picture.mode == "I":
            values = values / (255 if values.max() <= 255 else 65535)
        if isinstance(clear, int):
            visible = np.rint(values * 65535) != clear
            values = np.concatenate([values, visible.astype(np.float32)], axis=2)
        return _from_samples(values, picture.info.get("icc_profile"), name)
    alpha = None
    if picture.has_transparency_data:
        if isinstance(clear, int) and picture.mode == "L":
            picture.info["transparency"] = clear * steps
        whole = picture.convert("LA" if picture.mode in ("1", "L", "LA", "La") else "RGBA")
        alpha = np.asarray(whole.getchannel("A"))
        whole.info.pop("transparency", None)
        picture = whole.convert(whole.mode[:-1])
    return np.asarray(to_srgb(picture, name)), alpha


def _from_samples(samples: Array, profile: bytes | None, name: str) -> tuple[Array, Array | None]:
    """Gray or RGB, perhaps with alpha, in floating point.

    White is 1, and what is brighter is white too. But where the brightest is above 16, white is 255; above 255, 65535;
    above that, the brightest.
    """
    if not np.isfinite(samples).all():
        raise NSTError("it holds values that are not finite")
    colours = samples[:, :, : 1 if samples.shape[2] < 3 else 3]
    brightest = colours.max()
    white = next((white for white, most in ((1, 16), (255, 255), (65535, 65535)) if brightest <= most), brightest)
    rgb = deep_to_srgb(np.clip(colours / np.float32(white), 0, 1), profile, name) * 255
    return rgb, np.clip(samples[:, :, -1], 0, 1) * 255 if samples.shape[2] in (2, 4) else None
