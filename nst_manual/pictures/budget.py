"""What a picture file may cost, judged before it is decoded: a small file must not take minutes or gigabytes."""

import os
from contextlib import suppress
from typing import Any, BinaryIO

from PIL import Image

from ..errors import NSTError
from .bits16 import is_deep, is_planar_deep
from .metadata import IN_PIECES

READS, BYTES_PER_READ = 20_000, 100  # calls that are always allowed, and one more for each so many bytes of the file
TIMES = 8  # how often a file may be read in whole: twice for 16 bits, and before by Pillow's tests of its format
SPARE = 2**22  # bytes that are always allowed
# Bytes for each pixel while a picture is decoded and made smaller, as measured.
DEEP, TRANSPARENT, WIDE, USUAL = 36, 32, 24, 17
PLAUSIBLE = 10**9  # bytes to decode up to which a file may be as small as it likes …
RATIO = 1000  # … and above which they may be so many for each byte of the file; photographs have at most 200


class BoundedFile:
    """A picture's stream. It raises NSTError when a parser asks for more, or more often, than a picture needs."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        self.reads, self.bytes = READS + size // BYTES_PER_READ, TIMES * size + SPARE
        self.size = size
        with suppress(AttributeError, OSError, ValueError):  # a sparse file counts as what it takes on the disk
            self.size = min(size, 512 * os.fstat(stream.fileno()).st_blocks or size)  # some file systems say 0

    def read(self, count: int = -1) -> bytes:
        return self._counted(self.stream.read(count))

    def readline(self, count: int = -1) -> bytes:
        return self._counted(self.stream.readline(count))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _counted(self, data: bytes) -> bytes:
        self.reads, self.bytes = self.reads - 1, self.bytes - len(data)
        if min(self.reads, self.bytes) < 0:
            raise NSTError(IN_PIECES)
        return data


def check_cost(width: int, height: int, each: int, size: int, limit: float | None) -> None:
    """Refuse a picture that would take `each` bytes per pixel to decode: more than `limit`, or than fits its size."""
    cost = width * height * each
    if limit is not None and cost > limit:
        raise NSTError(
            f"decoding its {width}×{height} pixels would take about {shown(cost)} of memory, more than {shown(limit)}: "
            "make it smaller first"
        )
    if cost > max(PLAUSIBLE, RATIO * size):
        raise NSTError(f"it claims {width}×{height} pixels in {size} bytes, far too few for a picture: make it smaller")


def bytes_per_pixel(picture: Image.Image) -> int:
    """To decode an opened picture whose pixels are not read yet."""
    if is_deep(picture) or is_planar_deep(picture):
        return DEEP
    return TRANSPARENT if picture.has_transparency_data else WIDE if picture.mode[0] in "IF" else USUAL


def shown(count: float) -> str:
    """A number of bytes to two or three digits: 664 MB, 1.5 GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
