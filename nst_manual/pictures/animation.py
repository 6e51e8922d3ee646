"""A run as an animated GIF or WebP: frames evenly spread over its iterations, all of one size."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..arrays import Array
from ..errors import NSTError
from .files import check_folder, without_warnings, written
from .writing import to_picture

FRAMES = 60  # of a whole run
SIDE = 512  # pixels of the longer side, at most
FRAME_TIME, LAST_TIME = 80, 2000  # milliseconds: of a frame, and of the result
FORMATS = {".gif": "GIF", ".webp": "WEBP"}


def check_animation(path: Path) -> None:
    """Check, before the long work, that an animation can be written there."""
    if path.suffix.lower() not in FORMATS:
        raise NSTError(f"{path}: an animation is a .gif or .webp file: rename it")
    check_folder(path)


def is_due(iteration: int, iterations: int) -> bool:
    """Whether a run of so many iterations gives a frame after this one."""
    count = max(1, iterations)
    return iteration == 1 or iteration * FRAMES // count > (iteration - 1) * FRAMES // count


def small(picture: Array | Image.Image, side: int = SIDE) -> Image.Image:
    """A picture that is at most `side` pixels wide and high."""
    image = picture if isinstance(picture, Image.Image) else to_picture(picture)
    shrunk = image.convert("RGB")
    shrunk.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return shrunk


def packed(picture: Array | Image.Image, quality: int = 92, side: int = SIDE) -> bytes:
    """A small picture as JPEG, so that many of them take little memory."""
    file = io.BytesIO()
    small(picture, side).save(file, "JPEG", quality=quality)
    return file.getvalue()


def save_animation(frames: Sequence[bytes], output: Path, new: bool = False) -> None:
    """Write the frames, which are JPEG files, as the kind of animation that the name's ending says; with `new`, over
    no other file. Frames of coarse scales are enlarged to the size of the last one."""
    if not frames:
        raise NSTError(f"{output} can't be written: the run has no frames yet")
    data = animation(frames, FORMATS[output.suffix.lower()])
    with written(output, new=new) as file:
        file.write(data)


def animation(frames: Sequence[bytes], kind: str) -> bytes:
    """The frames as one GIF or WEBP file."""
    pictures = [Image.open(io.BytesIO(frame)) for frame in frames]
    size = pictures[-1].size
    first, *others = (p if p.size == size else p.resize(size, Image.Resampling.BICUBIC) for p in pictures)
    times = [FRAME_TIME] * len(others) + [LAST_TIME]
    options = {"quality": 85, "method": 2} if kind == "WEBP" else {}
    file = io.BytesIO()
    with without_warnings():
        first.save(file, kind, save_all=True, append_images=others, duration=times, loop=0, **options)
    return file.getvalue()
