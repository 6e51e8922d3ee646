"""What a picture file says besides its pixels: the camera's EXIF, and the recipe by which this program made it.

The recipe (one JSON object, see runs/recipe.py) is an iTXt chunk in PNG and an attribute of the XMP packet in JPEG,
WebP and TIFF. It is found by a regular expression: nothing in a picture is executed or parsed as XML.
"""

import html
import re
import zlib
from typing import Any, BinaryIO, Literal

from PIL import Image, ImageOps, PngImagePlugin

from ..errors import NSTError

KEY = "nst_manual"
RECIPE_LIMIT = 100_000  # characters; ours have a few thousand
EXIF_LIMIT = 65_000  # bytes that are written: one segment of a JPEG file
EXIF_READ_LIMIT = 2**17  # bytes that are parsed: parsing hostile EXIF takes time and memory beyond its length
SEGMENTS = 16  # of EXIF in a JPEG file, those of embedded previews included
# Of a JPEG file: profiles and previews make up to a thousand markers, and progressive files have about ten scans.
MARKERS, SCANS, FILLING = 5000, 100, 10_000
TAGS, NUMBERS = 5000, 1_000_000  # of a TIFF file's directory; an offset for each strip or tile is the most it needs
IN_PIECES = "it is made of far more pieces than a picture should be: save it again with another program"

EXIF_IFD, GPS_IFD, XMP_TAG, PROFILE_TAG = 0x8769, 0x8825, 700, 34675
ORIENTATION, MAKER_NOTE, COLOUR_SPACE, WIDTH, HEIGHT = 0x0112, 0x927C, 0xA001, 0xA002, 0xA003
# Tags that describe how a TIFF file stores its pixels, or that hold the old picture's profile, thumbnail or edits.
_STRUCTURE = {*range(254, 270), *range(273, 282), *range(284, 296), 297, 301, *range(317, 348), *range(512, 533), 559}
_STRUCTURE |= {ORIENTATION, XMP_TAG, PROFILE_TAG, EXIF_IFD, GPS_IFD, 33723, 34377, 37724, 50341, *range(50706, 51200)}
_TIFF_BEGINNINGS = tuple(o + v for o in (b"II", b"MM") for v in (b"*\0", b"\0*", b"+\0", b"\0+"))
_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # not those within the data of a scan


def check_parts(stream: BinaryIO) -> None:
    """Refuse a JPEG or TIFF file whose metadata would keep Pillow busy for minutes."""
    stream.seek(0)
    beginning = stream.read(4)
    if beginning[:2] == b"\xff\xd8":
        _check_jpeg(stream)
    elif beginning in _TIFF_BEGINNINGS:
        _check_tiff(stream, "little" if beginning[:2] == b"II" else "big", 43 in beginning)
    stream.seek(0)


def _check_jpeg(stream: BinaryIO) -> None:
    """Not many segments of EXIF, which are joined in quadratic time, not many tiny segments or much filling between
    them, and not very many scans of the whole picture."""
    stream.seek(2)
    data = stream.read()
    if data.count(b"Exif\0\0") > SEGMENTS:
        raise NSTError("it holds more EXIF than a picture should")
    if _laborious(data):
        raise NSTError(IN_PIECES)


def _check_tiff(stream: BinaryIO, order: Literal["little", "big"], large: bool) -> None:
    """Not many numbers in the tags of the first directory and of its EXIF: each becomes a Python object."""

    def number(data: bytes) -> int:
        return int.from_bytes(data, order)

    width, entry = (8, 20) if large else (4, 12)
    stream.seek(8 if large else 4)
    places, numbers = [number(stream.read(width))], 0
    for place in places:
        stream.seek(place)
        count = number(stream.read(8 if large else 2))
        if count > TAGS:
            raise NSTError(IN_PIECES)
        entries = stream.read(count * entry)
        for k in range(0, len(entries) - entry + 1, entry):
            tag, kind, many, value = (
                number(entries[k + a : k + b]) for a, b in ((0, 2), (2, 4), (4, 4 + width), (4 + width, entry))
            )
            numbers += many * {1: 0, 2: 0, 7: 0, 5: 20, 10: 20}.get(kind, 1)  # bytes, text and rational numbers
            if tag == EXIF_IFD and len(places) == 1:
                places.append(value)
        if numbers > NUMBERS:
            raise NSTError(IN_PIECES)


def upright(picture: Image.Image) -> Image.Image:
    """The decoded picture, turned as its EXIF or XMP says."""
    picture.load()
    return picture.copy() if _too_long(picture) else ImageOps.exif_transpose(picture)


def kept_exif(picture: Image.Image) -> bytes:
    """The picture's EXIF without orientation, thumbnail, what describes its file, and where it was taken: results are
    made to be shown. Empty if there is none or it is broken or too long."""
    if _too_long(picture):
        return b""
    try:
        exif, kept = picture.getexif(), Image.Exif()
        kept.update((tag, value) for tag, value in exif.items() if tag not in _STRUCTURE)
        kept.get_ifd(EXIF_IFD).update(exif.get_ifd(EXIF_IFD))
        if not tiff_tags(kept):
            return b""
        if len(kept.tobytes()) > EXIF_LIMIT:
            kept.get_ifd(EXIF_IFD).pop(MAKER_NOTE, None)
        packed = kept.tobytes()
        return packed if len(packed) <= EXIF_LIMIT else b""
    except Exception:  # Pillow's parser and packer raise many kinds
        return b""


def exif_for(kept: bytes, width: int, height: int) -> Image.Exif:
    """The kept EXIF, with size and colour space (sRGB) updated to the new picture's where it names them."""
    exif = Image.Exif()
    if kept:
        exif.load(kept)
        details = exif.get_ifd(EXIF_IFD)
        now = {COLOUR_SPACE: 1, WIDTH: width, HEIGHT: height}
        details.update((tag, value) for tag, value in now.items() if tag in details)
    return exif


def tiff_tags(exif: Image.Exif) -> list[tuple[int, Any]]:
    """Kept EXIF as tags of a TIFF file, its directory as a mapping."""
    plain = [(tag, value) for tag, value in exif.items() if tag != EXIF_IFD]
    details = dict(exif.get_ifd(EXIF_IFD))
    return [*plain, (EXIF_IFD, details)] if details else plain


def png_text(recipe: str) -> PngImagePlugin.PngInfo:
    """The recipe as text chunks of a PNG file."""
    info = PngImagePlugin.PngInfo()
    if recipe:
        info.add_text("Software", "nst_manual")
        info.add_itxt(KEY, recipe)
    return info


def png_chunks(recipe: str, exif: bytes, profile: bytes) -> list[tuple[bytes, bytes]]:
    """Profile, recipe and EXIF as chunks of a PNG file, in their order."""
    chunks = [(b"iCCP", b"sRGB\0\0" + zlib.compress(profile))]
    chunks += [(name, data) for name, data, *_ in png_text(recipe).chunks]
    if exif:
        chunks.append((b"eXIf", exif.removeprefix(b"Exif\0\0")))
    return chunks


def xmp(recipe: str) -> bytes:
    """The recipe as an XMP packet."""
    return (
        '<?xpacket begin="\N{ZERO WIDTH NO-BREAK SPACE}" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:{KEY}="urn:{KEY}:1" {KEY}:recipe="{html.escape(recipe)}"/>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def find_recipe(picture: Image.Image) -> str | None:
    """The recipe in an opened picture of any format, unchecked."""
    text: Any = picture.info.get(KEY)
    if isinstance(text, str):
        return text[: RECIPE_LIMIT + 1]
    packet: Any = picture.info.get("xmp") or getattr(picture, "tag_v2", {}).get(XMP_TAG)
    if isinstance(packet, bytes):
        pattern = rb'%b:recipe="([^"]{0,%d})"' % (KEY.encode(), 2 * RECIPE_LIMIT)
        if match := re.search(pattern, packet):
            return html.unescape(match[1].decode("utf-8", "replace"))
    return None


def _laborious(data: bytes) -> bool:
    """Whether a JPEG file has very many markers, very many scans, or much filling before its first scan."""
    place = scans = 0
    for _ in range(MARKERS):
        found = _MARKER.search(data, place)
        if found is None or found[1] == b"\xd9":
            return False
        scans += found[1] == b"\xda"
        if scans > SCANS or (scans == 0 and found.end() - place > FILLING):
            return True
        place = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return True


def _too_long(picture: Image.Image) -> bool:
    stored: Any = (picture.info.get(key) or "" for key in ("exif", "Raw profile type exif"))
    return any(len(data) > EXIF_READ_LIMIT for data in stored)
