"""Zip archives, which PyTorch's newer files and NumPy's .npz are: opened and read so that no entry can swell."""

import struct
import zipfile
import zlib

from ..bounded_file import WeightsFile

_TROUBLE = (
    zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, struct.error, zlib.error, EOFError, OSError,
    OverflowError,
)  # fmt: skip
_LARGEST_DIRECTORY = 1 << 20  # VGG-19's take 4 kB; Python keeps ten times as much of each entry as the file does
_LARGEST_PACKED = 1 << 31


class Archive:
    """The entries of a zip file. Nothing is unpacked but what is asked for."""

    def __init__(self, file: WeightsFile) -> None:
        self.file = file
        if self._directory_size() > _LARGEST_DIRECTORY:
            raise file.refused("its zip directory lists far more entries than weights have: refused unread")
        try:
            self._zip = zipfile.ZipFile(file.stream)
        except _TROUBLE as error:
            raise file.damaged("its zip directory cannot be read") from error
        self.entries = {entry.filename: entry for entry in self._zip.infolist()}

    def size(self, name: str) -> int:
        return self.entries[name].file_size

    def read(self, name: str, offset: int, count: int) -> bytes:
        """`count` bytes of an entry. What lies before them is read past, never kept."""
        entry, label = self.entries[name], f"its entry {name[:80]}"
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise self.file.refused(f"{label} is packed in another way than zip's usual: save it again")
        stored = entry.compress_type == zipfile.ZIP_STORED
        if (stored and entry.file_size != entry.compress_size) or entry.compress_size > self.file.size:
            raise self.file.damaged(f"{label} gives a wrong size")
        if not stored and entry.file_size > _LARGEST_PACKED:
            raise self.file.refused(f"{label} would swell to {entry.file_size} bytes: refused unread")
        if offset + count > entry.file_size:
            raise self.file.damaged(f"{label} has {entry.file_size} bytes, fewer than it should hold")
        try:
            with self._zip.open(entry) as stream:
                while offset > 0:
                    passed = len(stream.read(min(offset, 1 << 20)))
                    if not passed:
                        break
                    offset -= passed
                    self.file.unpack(passed)
                data = stream.read(count)
        except _TROUBLE as error:
            raise self.file.damaged(f"{label} cannot be unpacked") from error
        if len(data) != count:
            raise self.file.damaged(f"{label} ends after {len(data)} of {count} bytes")
        return data

    def _directory_size(self) -> int:
        file = self.file
        start = max(0, file.size - 22 - 65535)  # the end record may be followed by a comment of two bytes' length
        tail = file.read(start, file.size - start)
        end = tail.rfind(b"PK\x05\x06")
        if not 0 <= end <= len(tail) - 22:
            raise file.damaged("its zip directory is missing")
        size = int.from_bytes(tail[end + 12 : end + 16], "little")
        if size == 0xFFFFFFFF and tail[end - 20 : end - 16] == b"PK\x06\x07":  # zip64: the number stands elsewhere
            size = file.unsigned(int.from_bytes(tail[end - 12 : end - 4], "little") + 40, 8, "its zip directory")
        return size
