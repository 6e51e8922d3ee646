"""Files ↔ arrays. A picture in the program is (height, width, 3), RGB, 0 … 255, floating point.

Orientation and colour profile are applied on the way in; transparency is laid over white.
"""

import io
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

from .arrays import Array
from .errors import NSTError

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def load_image(source: Any, size: int | None = None) -> Array:
    """A path, a PIL image or an array, as RGB floats. A picture whose longer side exceeds `size` is made smaller."""
    if isinstance(source, np.ndarray):
        image = _check_array(source)
    elif isinstance(source, Image.Image):
        image = _decode(source, "the picture")
    else:
        image = _load_file(Path(source))
    height, width = image.shape[:2]
    if size is None or max(height, width) <= size:
        return image
    scale = size / max(height, width)
    return resize(image, max(1, round(height * scale)), max(1, round(width * scale)))


def resize(image: Array, height: int, width: int) -> Array:
    """Lanczos, each channel in floating point: nothing is rounded to 8 bits on the way."""
    channels = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(image[:, :, c], dtype=np.float32)).resize(
                (width, height), Image.Resampling.LANCZOS
            )
        )
        for c in range(3)
    ]
    resized: Array = np.clip(np.stack(channels, axis=2), 0, 255)
    return resized


def to_picture(image: Array) -> Image.Image:
    """Rounded to the nearest of 256 levels; values outside 0 … 255 are cut off."""
    return Image.fromarray(np.rint(np.clip(image, 0, 255)).astype(np.uint8))


def check_output(path: Path) -> None:
    """Finds out before the long work whether `path` can be written and its ending names a format."""
    if path.suffix.lower() not in Image.registered_extensions():
        raise NSTError(
            f"{path}: the ending {path.suffix!r} names no picture format: end it in .png, .jpg, .webp or .tif"
        )
    check_folder(path)


def check_folder(path: Path) -> None:
    """The folder of `path` exists and a file can be made in it; `path` itself is not a folder."""
    if path.is_dir():
        raise NSTError(f"{path} is a folder: name a file in it")
    if not path.parent.is_dir():
        raise NSTError(f"the folder {path.parent} does not exist: make it first, or write elsewhere")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise NSTError(f"the folder {path.parent} can't be written ({error.strerror}): write elsewhere") from error


def save_image(picture: Image.Image, path: Path) -> None:
    """Written under a temporary name beside `path`, then renamed: `path` is never half a picture."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            picture.save(file, format=Image.registered_extensions()[path.suffix.lower()], quality=95)
        temporary.replace(path)
    except OSError as error:
        raise NSTError(f"{path} can't be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _check_array(source: Array) -> Array:
    if source.ndim != 3 or source.shape[2] != 3 or source.size == 0:
        raise NSTError(f"an array must be (height, width, 3) RGB, 0 … 255, not {source.shape}")
    image = source.astype(np.float32)
    if not np.isfinite(image).all():
        raise NSTError("the array holds values that are not finite")
    return image


def _load_file(path: Path) -> Array:
    if path.is_dir():
        raise NSTError(f"{path} is a folder: name a picture in it")
    if not path.exists():
        raise NSTError(f"{path} does not exist")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                return _decode(picture, str(path))
    except NSTError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise NSTError(f"{path} has more pixels than a picture should: make it smaller first") from error
    except Exception as error:  # Pillow's readers raise many kinds; all mean that the file is at fault
        raise NSTError(f"{path} can't be read as a picture: {error}") from error


def _decode(picture: Image.Image, name: str) -> Array:
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith(("I", "F")):
        return _deep_gray(picture)
    alpha = None
    if picture.has_transparency_data:
        if picture.mode not in ("LA", "RGBA"):
            picture = picture.convert("RGBA")
        alpha = np.asarray(picture.getchannel("A"), dtype=np.float32)[:, :, None] / 255
        picture = picture.convert("L" if picture.mode == "LA" else "RGB")
    rgb: Array = np.asarray(_to_srgb(picture), dtype=np.float32)
    if alpha is not None:
        rgb = rgb * alpha + 255 * (1 - alpha)
    return rgb


def _to_srgb(picture: Image.Image) -> Image.Image:
    profile = picture.info.get("icc_profile")
    if profile and picture.mode in ("L", "RGB", "CMYK", "LAB"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(picture, source, SRGB, outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError):
            pass  # a broken profile: the numbers are taken as sRGB, as browsers do
    return picture.convert("RGB")


def _deep_gray(picture: Image.Image) -> Array:
    """16-bit and 32-bit gray, scaled to 0 … 255 without losing depth: 65535 is white; floats in 0 … 1 or 0 … 255."""
    gray = np.asarray(picture, dtype=np.float32)
    gray = np.nan_to_num(gray, nan=0.0, posinf=0.0, neginf=0.0)
    top = gray.max(initial=0)
    scale = 255 / 65535 if picture.mode.startswith("I") and top > 255 else 255 if 0 < top <= 1 else 1
    return np.repeat(np.clip(gray * scale, 0, 255)[:, :, None], 3, axis=2)
