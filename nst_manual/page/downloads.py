"""What can be taken from the page: the result in 8 or 16 bits, the run as an animation, its recipe, the proof."""

import asyncio
import dataclasses
import io
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from ..errors import NSTError
from ..pictures.animation import animation
from ..pictures.reading import load_picture
from ..pictures.writing import save_image
from ..runs.recipe import file_name, load_recipe, shown
from .feed import FRAMES
from .jobs import ENDINGS, RESULT

# By the name of the download: (what Pillow calls its format, its media type, bits per channel)
PICTURES = {"result.png": ("png", "image/png", 8), "result.tif": ("tif", "image/tiff", 16)}
ANIMATIONS = {"animation.webp": ("WEBP", "image/webp"), "animation.gif": ("GIF", "image/gif")}


def download(folder: Path, name: str) -> tuple[bytes, str]:
    """The bytes and their media type."""
    if name in ANIMATIONS:
        kind, media = ANIMATIONS[name]
        frames = [path.read_bytes() for path in sorted((folder / FRAMES).glob("*.jpg"))]
        if not frames:
            raise NSTError("the run has no frames yet: wait for its first picture")
        return animation(frames, kind), media
    if name not in PICTURES:
        raise NSTError(f"there is no such download: there are {', '.join((*PICTURES, *ANIMATIONS))}")
    if not (folder / RESULT).exists():
        raise NSTError("the run has no result yet: wait for its end, or stop it")
    ending, media, bits = PICTURES[name]
    picture, made = load_picture(folder / RESULT), load_recipe(folder / RESULT)
    made = dataclasses.replace(made, settings=dataclasses.replace(made.settings, bits=bits))
    file = io.BytesIO()
    rest: dict[str, Any] = {"alpha": picture.alpha, "exif": picture.exif, "recipe": made.to_json(name)}
    save_image(picture.rgb, file, format=ending, bits=bits, **rest)
    return file.getvalue(), media


def recipe(path: Path) -> dict[str, Any]:
    """How a result was made: the command for it, and what else its picture tells."""
    if not path.exists():
        raise NSTError("the run has no result yet: wait for its end, or stop it")
    made = load_recipe(path)
    made = dataclasses.replace(made, settings=dataclasses.replace(made.settings, bits=8))
    others = (*made.content_masks, *made.style_masks, *filter(None, [made.start]))
    return {
        "command": shown(made.command("result.png")),
        "needs": [file_name(source.name) for source in others if source.name],  # besides the pictures
        "whole": made.result.get("stopped") in ENDINGS,
        "weights": made.weights,
        "versions": made.versions,
    }


async def proof(environment: dict[str, str]) -> asyncio.subprocess.Process:
    """`check`, with a line of JSON for each derivative."""
    words = [sys.executable, "-m", "nst_manual", "check", "--json"]
    pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    return await asyncio.create_subprocess_exec(
        *words, stdin=nothing, stdout=pipe, stderr=nothing, env=environment, start_new_session=True
    )


async def rows(proof: asyncio.subprocess.Process) -> AsyncIterator[bytes]:
    """Its lines, each when it is proved; the last says so if it ended before it was done."""
    failed = False
    assert proof.stdout is not None
    while (line := await proof.stdout.readline()).endswith(b"\n"):
        failed = failed or json.loads(line).get("passed") is not True
        yield line
    if await proof.wait() != int(failed):  # 1 says that a row is wrong
        yield b'{"error": "the proof ended before it was done"}\n'
