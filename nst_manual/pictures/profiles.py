"""Colour profiles → sRGB.

Pillow's ImageCms converts 8-bit pictures with any profile, but only 8-bit ones. Deeper pictures are converted here, in
floating point, if their profile is one curve (gray) or a matrix with three curves, as those of cameras, screens and
working spaces (Adobe RGB, Display P3, ProPhoto, linear Rec. 2020, …) are.
"""

import io
import logging
import struct
from contextlib import suppress

import numpy as np
from PIL import Image, ImageCms

from ..arrays import Array

log = logging.getLogger(__name__)

# Columns: sRGB's red, green and blue in XYZ, adapted to the D50 of profiles (IEC 61966-2-1, as ICC publishes it).
SRGB_TO_XYZ = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
# A profile's colour space → Pillow's name of it, and the modes of pictures that it fits.
_SPACES = {
    "GRAY": ("L", ("1", "L")),
    "RGB": ("RGB", ("1", "L", "P", "RGB", "YCbCr", "HSV")),
    "CMYK": ("CMYK", ("CMYK",)),
    "Lab": ("LAB", ("LAB",)),
}

_new = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SRGB_PROFILE = _new[:24] + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + _new[36:]  # a fixed date, for identical files


def to_srgb(picture: Image.Image, name: str) -> Image.Image:
    """An 8-bit picture without alpha, as RGB. A profile that is broken or doesn't fit is ignored, as browsers do."""
    profile = picture.info.get("icc_profile")
    if profile and profile != SRGB_PROFILE:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            mode, fitting = _SPACES.get(source.profile.xcolor_space.strip(), ("", ()))
            if picture.mode in fitting:
                srgb = ImageCms.createProfile("sRGB")
                converted = ImageCms.profileToProfile(picture.convert(mode), source, srgb, outputMode="RGB")
                if converted is not None:
                    return converted
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass
        log.info("%s: its colour profile is broken or doesn't fit the picture, and is ignored", name)
    return picture.convert("RGB")


def deep_to_srgb(image: Array, profile: bytes | None, name: str) -> Array:
    """Gray (height, width, 1) or RGB (height, width, 3) → sRGB (height, width, 3), all 0 … 1 and float32."""
    if not profile or profile == SRGB_PROFILE:
        return np.broadcast_to(image, (*image.shape[:2], 3))
    with suppress(KeyError, ValueError, IndexError, struct.error):
        tags = _tags(profile)
        space = profile[16:20].decode("latin-1").strip()
        if (space, image.shape[2]) == ("GRAY", 1):
            converted = np.broadcast_to(_encode(_linear(tags["kTRC"], image)), (*image.shape[:2], 3))
        else:  # a gray picture in an RGB space has red = green = blue
            matrix = np.stack([struct.unpack_from(">3i", tags[f"{c}XYZ"], 8) for c in "rgb"], axis=1) / 65536
            channels = [_linear(tags[f"{c}TRC"], image[:, :, i : i + 1]) for i, c in enumerate("rgb")]
            to_linear_srgb = (np.linalg.inv(SRGB_TO_XYZ) @ matrix).astype(np.float32)
            converted = _encode(np.concatenate(channels, axis=2) @ to_linear_srgb.T)
        if np.isfinite(converted).all():  # hostile curves divide by zero
            return converted
    # A profile of multidimensional tables, or a broken one: use what ImageCms makes of 8 bits.
    log.info("%s: its colour profile is applied at 8 bits", name)
    levels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels)
    picture.info["icc_profile"] = profile
    return np.asarray(to_srgb(picture, name), dtype=np.float32) / 255


def _tags(profile: bytes) -> dict[str, bytes]:
    """The elements of a profile by their four-letter tags."""
    (count,) = struct.unpack_from(">I", profile, 128)
    tags = {}
    for i in range(min(count, 200)):
        letters, offset, size = struct.unpack_from(">4sII", profile, 132 + 12 * i)
        tags[letters.decode("latin-1")] = profile[offset : offset + size]
    if "A2B0" in tags:  # if a profile has tables and a matrix, the tables count
        raise KeyError("tables")
    return tags


def _linear(element: bytes, encoded: Array) -> Array:
    """Apply a tone curve: a gamma, a table, or one of five formulas with a gamma and up to six parameters."""
    x = np.clip(encoded, 0, 1).astype(np.float32)
    if element[:4] == b"curv":
        (count,) = struct.unpack_from(">I", element, 8)
        values = np.frombuffer(element, ">u2", count, 12)
        if count > 1:
            return np.interp(x, np.linspace(0, 1, count), values / 65535).astype(np.float32)
        return np.asarray(x ** np.float32(values[0] / 256)) if count else x
    if element[:4] != b"para":
        raise ValueError("not a curve")
    (kind,) = struct.unpack_from(">H", element, 8)
    given = (1, 3, 4, 5, 7)[kind]
    numbers = struct.unpack_from(f">{given}i", element, 12) + (0,) * (7 - given)
    g, a, b, c, d, e, f = (number / 65536 for number in numbers)
    if kind == 0:
        a, d = 1.0, 0.0
    elif kind in (1, 2):
        c, d, e, f = 0.0, -b / a if a else 0.0, c, c  # y = (a x + b)^g + c for x ≥ −b / a, else c
    curved: Array = np.where(x >= d, np.maximum(a * x + b, 0) ** g + e, c * x + f)
    return curved.astype(np.float32)


def _encode(linear: Array) -> Array:
    """Linear light → sRGB's curve, 0 … 1. What a profile leads beyond is clipped."""
    linear = np.clip(linear, 0, 1)
    curved = 1.055 * np.maximum(linear, 0.0031308) ** np.float32(1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, 12.92 * linear, curved).astype(np.float32)
