"""What a picture file says besides its pixels: the camera's EXIF, and the recipe by which this program made it.

The recipe (one JSON object, see runs/recipe.py) is an iTXt chunk in PNG and an attribute of the XMP packet in JPEG,
WebP and TIFF. It is found by a regular expression: nothing in a picture is executed or parsed as XML.
"""

import html
import re
import zlib
from typing import Any, BinaryIO

from PIL import Image, ImageOps, PngImagePlugin

from ..errors import NSTError

KEY = "nst_manual"
RECIPE_LIMIT = 100_000  # characters; ours have a few thousand
EXIF_LIMIT = 65_000  # bytes that are written: one segment of a JPEG file
EXIF_READ_LIMIT = 2**17  # bytes that are parsed: parsing hostile EXIF takes time and memory beyond its length
SEGMENTS = 16  # of EXIF in a JPEG file, those of embedded previews included

EXIF_IFD, GPS_IFD, XMP_TAG, PROFILE_TAG = 0x8769, 0x8825, 700, 34675
ORIENTATION, MAKER_NOTE, COLOUR_SPACE, WIDTH, HEIGHT = 0x0112, 0x927C, 0xA001, 0xA002, 0xA003
# Tags that describe how a TIFF file stores its pixels, or that hold the old picture's profile, thumbnail or edits.
_STRUCTURE = {*range(254, 270), *range(273, 282), *range(284, 296), 297, 301, *range(317, 348), *range(512, 533), 559}
_STRUCTURE |= {ORIENTATION, XMP_TAG, PROFILE_TAG, EXIF_IFD, GPS_IFD, 33723, 34377, 37724, 50341, *range(50706, 51200)}


def check_jpeg(stream: BinaryIO) -> None:
    """Refuse a JPEG file with many segments of EXIF, which Pillow joins in quadratic time when it opens the file."""
    stream.seek(0)
    if stream.read(2) == b"\xff\xd8" and stream.read().count(b"Exif\0\0") > SEGMENTS:
        raise NSTError("it holds more EXIF than a picture should")
    stream.seek(0)


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


def _too_long(picture: Image.Image) -> bool:
    stored: Any = (picture.info.get(key) or "" for key in ("exif", "Raw profile type exif"))
    return any(len(data) > EXIF_READ_LIMIT for data in stored)
