"""Zip archives, such as PyTorch's newer files and NumPy's .npz: no entry can unpack to more than was asked for."""

import struct
import zipfile
import zlib

from ..bounded_file import WeightsFile

_TROUBLE = (
    zipfile.BadZipFile, RuntimeError, ValueError, struct.error, zlib.error, EOFError, OSError, OverflowError,
)  # fmt: skip
_LARGEST_DIRECTORY = 1 << 20  # VGG-19's take 4 kB; Python needs ten times an entry's size in the file
_STEPS = 20  # that opening an entry counts for


class Archive:
    """The entries of a zip file. Only what is asked for is unpacked."""

    def __init__(self, file: WeightsFile) -> None:
        self.file = file
        if self._directory_size() > _LARGEST_DIRECTORY:
            raise file.refused("its zip directory lists far more entries than weights have, so it is not read")
        try:
            self._zip = zipfile.ZipFile(file.stream)
        except _TROUBLE as error:
            raise file.damaged("its zip directory cannot be read") from error
        self.entries = {entry.filename: entry for entry in self._zip.infolist()}

    def check_plain(self) -> None:
        """Refuse compressed entries and those that overlap: small files of them would unpack to any size."""
        entries = self.entries.values()
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not stored or sum(entry.file_size for entry in entries) > self.file.size:
            raise self.file.refused("its entries are compressed or overlap, as ours never do: it is refused unread")

    def size(self, name: str) -> int:
        return self.entries[name].file_size

    def offset(self, name: str) -> int:
        """Where the bytes of an entry that is not compressed begin in the file."""
        header = self.entries[name].header_offset
        return header + 30 + self.file.unsigned(header + 26, 2) + self.file.unsigned(header + 28, 2)

    def read(self, name: str, offset: int, count: int) -> bytes:
        """`count` bytes of an entry. The bytes before them are unpacked if necessary, but never kept."""
        self.file.step(_STEPS)
        entry, label = self.entries[name], f"its entry {name[:80]}"
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise self.file.refused(f"{label} is not compressed in zip's usual way: save it again")
        stored = entry.compress_type == zipfile.ZIP_STORED
        if (stored and entry.file_size != entry.compress_size) or entry.compress_size > self.file.size:
            raise self.file.damaged(f"{label} gives a wrong size")
        if offset + count > entry.file_size:
            raise self.file.damaged(f"{label} has {entry.file_size} bytes, fewer than it should hold")
        if not stored:
            self.file.unpack(offset + count)
        try:
            with self._zip.open(entry) as stream:
                if stored:
                    stream.seek(offset)
                else:
                    while offset > 0 and (passed := len(stream.read(min(offset, 1 << 20)))):
                        offset -= passed
                data = stream.read(count)
        except _TROUBLE as error:
            raise self.file.damaged(f"{label} cannot be unpacked") from error
        if len(data) != count:
            raise self.file.damaged(f"{label} ends after {len(data)} of {count} bytes")
        return data

    def _directory_size(self) -> int:
        file = self.file
        start = max(0, file.size - 22 - 65535)  # a comment of up to 65535 bytes may follow the end record
        tail = file.read(start, file.size - start)
        end = tail.rfind(b"PK\x05\x06")
        if not 0 <= end <= len(tail) - 22:
            raise file.damaged("its zip directory is missing")
        sizes = [int.from_bytes(tail[end + 12 : end + 16], "little")]
        if tail[max(end - 20, 0) : max(end - 16, 0)] == b"PK\x06\x07":  # zip64: Python believes its record instead
            places = (start + end - 76, int.from_bytes(tail[end - 12 : end - 4], "little"))
            sizes += [file.unsigned(place + 40, 8) for place in places if 0 <= place <= file.size - 48]
        return max(sizes)
