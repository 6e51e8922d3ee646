"""Pictures of 16 bits and of floating point, which Pillow cuts to 8 bits or can't open.

Pillow's own decoders read most of them, run twice: once for the upper byte of every sample, once for the lower. TIFF
files with gray and alpha or with floating-point colours are read here, uncompressed or with Deflate. Samples are
float32, 0 … 1, (height, width, channels).
"""

import io
import struct
import sys
import zlib
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, TiffImagePlugin

from ..arrays import Array
from ..errors import NSTError
from .metadata import upright

TIFF_BEGINNINGS = (b"II*\0", b"MM\0*")
PLAIN = (1, 8, 32946)  # TIFF's numbers for no compression and for Deflate


def is_deep(picture: Image.Image) -> bool:
    """Whether Pillow would cut this picture's colours to 8 bits."""
    modes = ("RGB", "RGBX", "RGBA", "RGBa")
    return _raw_mode(picture) in ("LA;16B", *(f"{mode};16{order}" for mode in modes for order in "BLN"))


def is_planar_deep(picture: Image.Image) -> bool:
    """Whether it is a TIFF file with 16-bit channels in separate planes, which Pillow decodes wrongly."""
    tags = getattr(picture, "tag_v2", {})
    return tags.get(284) == 2 and 16 in _numbers(tags.get(258, 8)) and tags.get(259, 1) in PLAIN


def levels_per_step(picture: Image.Image) -> int:
    """The factor from 2 or 4 bits to 8 for a gray PNG, which Pillow doesn't apply to the transparent level."""
    return {"L;2": 85, "L;4": 17}.get(_raw_mode(picture), 1)


def read_twice(stream: Any, picture: Image.Image) -> Array:
    """The samples of a picture that `is_deep`, upright. It leaves `picture` loaded, at 8 bits."""
    raw = _raw_mode(picture)
    if raw == "LA;16B":  # read the four bytes of gray and alpha as R, G, B and A
        four = np.asarray(_unpacked_as("RGBA", picture), dtype=np.float32)
        return (four[:, :, 0::2] * 256 + four[:, :, 1::2]) / 65535
    mode, order = raw.split(";16")
    big = order == "B" or (order == "N" and sys.byteorder == "big")
    # RGBa is RGB multiplied by alpha. Pillow would divide each byte by it, not the whole sample.
    first, second = (f"{mode.upper()};16{letter}" for letter in ("BL" if big else "LB"))
    levels = np.asarray(_unpacked_as(first, picture)).astype(np.uint16) << 8
    stream.seek(0)
    with Image.open(stream) as again:
        levels |= np.asarray(_unpacked_as(second, again))
    samples = levels.astype(np.float32)
    samples /= 65535
    if mode == "RGBa":
        samples[:, :, :3] = np.clip(samples[:, :, :3] / np.maximum(samples[:, :, 3:], 1e-6), 0, 1)
    return samples


def _raw_mode(picture: Image.Image) -> str:
    """Pillow's raw mode, which tells a decoder how to unpack the picture's bytes; the same for all tiles."""
    tiles = getattr(picture, "tile", None)
    if not tiles:
        return ""
    arguments = tiles[0].args
    return str(arguments if isinstance(arguments, str) else arguments[0] if arguments else "")


def _unpacked_as(raw: str, picture: Any) -> Image.Image:
    picture.tile = [
        tile._replace(args=raw if isinstance(tile.args, str) else (raw, *tile.args[1:])) for tile in picture.tile
    ]
    return upright(picture)


def read_plain_tiff(stream: Any, check: Callable[[int, int], None]) -> tuple[Array, dict[int, Any]]:
    """The samples and tags of a TIFF file that Pillow refuses: 16-bit or floating-point, gray or RGB, with or without
    alpha, in strips or tiles, uncompressed or with Deflate. `check` refuses a width and height that are too large."""
    stream.seek(0)
    tags = TiffImagePlugin.ImageFileDirectory_v2(stream.read(8))
    stream.seek(tags.next)
    tags.load(stream)
    width, height, channels = int(tags[256]), int(tags[257]), int(tags.get(277, 1))
    check(width, height)
    if width < 1 or height < 1 or not 1 <= channels <= 5:
        raise NSTError(f"it claims {width}×{height} pixels of {channels} channels")
    kind, bits = tags.get(339, (1,))[0], tags[258][0]
    if (kind, bits) not in ((1, 8), (1, 16), (1, 32), (3, 16), (3, 32), (3, 64)) or tags.get(262) not in (1, 2):
        raise NSTError("this kind of TIFF is not supported: store it as 16-bit RGB")
    compression = tags.get(259, 1)
    if compression not in PLAIN:
        raise NSTError("this kind of TIFF must be stored without compression or with Deflate")
    dtype = np.dtype(f"{'<' if tags.prefix == b'II' else '>'}{'u' if kind == 1 else 'f'}{bits // 8}")
    tiled = 324 in tags
    across, down = (int(tags[322]), int(tags[323])) if tiled else (width, min(int(tags.get(278, height)), height))
    planes, together = (channels, 1) if tags.get(284, 1) == 2 else (1, channels)
    if across < 1 or down < 1 or across * down > 4 * max(width, 64) * max(height, 64):
        raise NSTError(f"it claims tiles of {across}×{down} pixels")
    offsets, counts = (_numbers(tags[tag]) for tag in ((324, 325) if tiled else (273, 279)))
    if not planes * -(-height // down) * -(-width // across) == len(offsets) == len(counts):
        raise NSTError("its strips or tiles don't cover the picture")
    image = np.zeros((height, width, channels), np.float32)
    places = [(p, y, x) for p in range(planes) for y in range(0, height, down) for x in range(0, width, across)]
    for (plane, y, x), offset, count in zip(places, offsets, counts, strict=True):
        rows = down if tiled else min(down, height - y)
        wanted = rows * across * together * dtype.itemsize
        stream.seek(offset)
        data = stream.read(min(count, wanted + wanted // 100 + 1000 if compression != 1 else wanted))
        if compression != 1:
            data = zlib.decompressobj().decompress(data, wanted)
        if len(data) < wanted:
            raise NSTError("it is truncated")
        block = _undo_predictor(data, tags.get(317, 1), (rows, across, together), dtype)
        if kind == 1:
            block = block / np.float32(2**bits - 1)
        part = image[y : y + rows, x : x + across, plane : plane + together]
        part[...] = block[: part.shape[0], : part.shape[1]]
    if channels not in (2, 4):  # without alpha
        return image[:, :, :3], dict(tags)
    if kind == 3:
        image[:, :, -1] = np.clip(image[:, :, -1], 0, 1)
    if _numbers(tags.get(338, 0))[:1] == (1,):  # stored multiplied by alpha
        image[:, :, :-1] /= np.maximum(image[:, :, -1:], 1e-6)
    return image, dict(tags)


def _numbers(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple) else (value,)


def _undo_predictor(data: bytes, predictor: int, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> Array:
    """Sum up the differences of neighbours: of integers (2), or of floating-point numbers' bytes, each byte of a
    number in a plane of its own (3)."""
    if predictor == 3 and dtype.kind == "f":
        rows, across, together = shape
        planes = np.frombuffer(data, np.uint8).reshape(rows, -1, together)
        planes = np.cumsum(planes, axis=1, dtype=np.uint8).reshape(rows, dtype.itemsize, across * together)
        ordered = np.ascontiguousarray(planes.transpose(0, 2, 1))  # the most significant byte first, on any machine
        return ordered.view(dtype.newbyteorder(">")).reshape(shape)
    values = np.frombuffer(data, dtype).reshape(shape)
    if predictor == 2 and dtype.kind == "u":
        return np.cumsum(values, axis=1, dtype=dtype.newbyteorder("="))
    if predictor != 1:
        raise NSTError(f"its predictor {predictor} is unknown")
    return values


def write_png(file: BinaryIO, levels: Array, extra: Iterable[tuple[bytes, bytes]]) -> None:
    """Write 16-bit levels, (height, width, 3 or 4), as PNG. `extra` holds further chunks by name."""
    height, width, channels = levels.shape
    rows = levels.astype(">u2").view(np.uint8).reshape(height, -1)
    filtered = np.insert(np.diff(rows, axis=0, prepend=np.uint8(0)), 0, 2, axis=1)  # 2: each row minus the row above
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if channels == 3 else 6, 0, 0, 0)
    file.write(b"\x89PNG\r\n\x1a\n")
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b"")]
    for name, data in chunks:
        file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name))))


def write_tiff(file: BinaryIO, levels: Array, extra: Iterable[tuple[int, Any]]) -> None:
    """Write 8- or 16-bit levels, (height, width, 3 or 4), as TIFF in one Deflate strip. `extra` has further tags."""
    height, width, channels = levels.shape
    bits = 8 * levels.dtype.itemsize
    differences = np.diff(levels, axis=1, prepend=levels.dtype.type(0))
    data = zlib.compress(differences.astype(f"<u{levels.dtype.itemsize}").tobytes(), 6)
    tags = TiffImagePlugin.ImageFileDirectory_v2(b"II*\0\0\0\0\0")
    structure: dict[int, Any] = {256: width, 257: height, 258: (bits,) * channels, 259: 8, 262: 2, 273: 0}
    structure |= {277: channels, 278: height, 279: len(data), 284: 1, 317: 2, 339: (1,) * channels}
    if channels == 4:
        structure[338] = (2,)  # alpha, not multiplied
    for tag, value in (*extra, *structure.items()):
        tags[tag] = value
    tags.tagtype[273] = tags.tagtype[279] = 4
    buffer = io.BytesIO()
    tags.save(buffer)  # it adds its own length to the strip's offset, 0
    file.write(buffer.getvalue() + data)
