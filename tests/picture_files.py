"""Picture files and colour profiles that Pillow can't write, made byte by byte, and pictures that are quick to make."""

import struct
import zlib
from functools import cache

import numpy as np
from PIL import Image

FILES = [(".png", 8), (".png", 16), (".jpg", 8), (".webp", 8), (".tif", 8), (".tif", 16)]  # all that can be written

# Red, green and blue of Adobe RGB (1998) and of Display P3, adapted to D50.
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
DISPLAY_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))


@cache
def drawn(draw, width, height):
    """scene or painting, which takes a second, drawn once for all tests. Don't change the picture."""
    return draw(width, height)


def grains(width, height):
    """A picture of random colours, always the same for a size."""
    rng = np.random.default_rng((width, height))
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def fixed(*numbers):
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def gamma_curve(gamma):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def table_curve(values):
    return b"curv\0\0\0\0" + struct.pack(f">I{len(values)}H", len(values), *(round(65535 * v) for v in values))


def formula_curve(kind, *parameters):
    return b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + fixed(*parameters)


SRGB_CURVE = formula_curve(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def profile(space, tags, kind=b"mntr", connection=b"XYZ "):
    tags = {"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1, 0.8249), **tags}
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += struct.pack(">4sII", name.encode(), start + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    header = struct.pack(
        ">I4sI4s4s4s6H4s", start + len(body), b"", 0x02400000, kind, space, connection, *(2000, 1, 1, 0, 0, 0), b"acsp"
    )
    header = header.ljust(68, b"\0") + fixed(0.9642, 1, 0.8249)
    return header.ljust(128, b"\0") + table + body


def rgb_profile(primaries, curve):
    columns = {f"{c}XYZ": b"XYZ \0\0\0\0" + fixed(*xyz) for c, xyz in zip("rgb", primaries, strict=True)}
    return profile(b"RGB ", columns | {f"{c}TRC": curve for c in "rgb"})


def gray_profile(curve):
    return profile(b"GRAY", {"kTRC": curve})


def cmyk_profile(lab):
    """`lab` maps (c, m, y, k), each 0 or 1, to L*, a*, b*; values in between are interpolated."""
    corners = [(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    table = bytes(
        round(value) for corner in corners for value in np.array(lab(*corner)) * (2.55, 1, 1) + np.array((0, 128, 128))
    )
    straight = bytes(range(256))
    tables = (
        b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + 4 * straight + table + 3 * straight
    )
    return profile(b"CMYK", {"A2B0": tables}, kind=b"prtr", connection=b"Lab ")


def png(width, height, bits, kind, rows, before=()):
    """`rows` has the bytes of all rows, unfiltered; `before` has the chunks that precede them."""
    row = len(rows) // height
    data = zlib.compress(b"".join(b"\0" + rows[i * row : (i + 1) * row] for i in range(height)))
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    chunks = [(b"IHDR", header), *before, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def tiff(samples, order="<", compression=1, predictor=1, planar=1, tile=None, rows=None, tags=None):
    """Samples (height, width, channels) of any type, in strips of `rows` or in square tiles."""
    height, width, channels = samples.shape
    down, across = (tile, tile) if tile else (rows or height, width)
    blocks = []
    for plane in np.split(samples, channels, axis=2) if planar == 2 else [samples]:
        for y in range(0, height, down):
            for x in range(0, width, across):
                block = plane[y : y + down, x : x + across]
                if tile:
                    block = np.pad(block, ((0, down - block.shape[0]), (0, across - block.shape[1]), (0, 0)))
                blocks.append(_block(block, order, compression, predictor))
    kind = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    entries = {256: width, 257: height, 258: (8 * samples.dtype.itemsize,) * channels, 259: compression}
    entries |= {262: 2 if channels > 2 else 1, 277: channels, 284: planar, 317: predictor, 339: (kind,) * channels}
    if channels in (2, 4):
        entries[338] = 2
    entries |= {322: tile, 323: tile} if tile else {278: down}
    entries |= {324 if tile else 273: tuple(0 for _ in blocks), 325 if tile else 279: tuple(map(len, blocks))}
    entries |= tags or {}
    offsets, start = [], 8
    for block in blocks:
        offsets.append(start)
        start += len(block) + len(block) % 2
    entries[324 if tile else 273] = tuple(offsets)
    values, directory = b"", struct.pack(f"{order}H", len(entries))
    after = start + 2 + 12 * len(entries) + 4
    for tag, value in sorted(entries.items()):
        if isinstance(value, bytes):
            letter, number, data = 7, len(value), value
        else:
            numbers = value if isinstance(value, tuple) else (value,)
            letter, number, data = 4, len(numbers), struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(data) > 4:
            values, data = values + data + b"\0" * (len(data) % 2), struct.pack(f"{order}I", after + len(values))
        directory += struct.pack(f"{order}HHI4s", tag, letter, number, data)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start)
    body = b"".join(block + b"\0" * (len(block) % 2) for block in blocks)
    return head + body + directory + b"\0\0\0\0" + values


def _block(block, order, compression, predictor):
    if predictor == 2:
        block = np.diff(block, axis=1, prepend=block[:, :1] * 0)
    data = block.astype(block.dtype.newbyteorder(order)).tobytes()
    if predictor == 3:
        rows, across, channels = block.shape
        planes = np.ascontiguousarray(block.astype(block.dtype.newbyteorder(">"))).view(np.uint8)
        planes = planes.reshape(rows, across * channels, -1).transpose(0, 2, 1).reshape(rows, -1, channels)
        data = np.diff(planes, axis=1, prepend=planes[:, :1] * 0).astype(np.uint8).tobytes()
    return zlib.compress(data) if compression == 8 else data
