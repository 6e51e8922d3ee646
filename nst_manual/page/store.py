"""The page's folder: pictures that were given to it, each under its checksum, and runs, each in a folder of its own.

Everything that a reload or a restart must not lose is a file in here. Names of files come from us alone.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import NSTError
from ..pictures.animation import packed
from ..pictures.files import make_folder, written
from ..pictures.reading import load_picture

PICTURE_ID, RUN_ID = re.compile(r"[0-9a-f]{20}"), re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")
STYLE = {"picture", "share", "where", "part"}
THUMB, SCREEN, ABOUT = "thumb.jpg", "screen.jpg", "about.json"
THUMB_SIDE, SCREEN_SIDE = 320, 1024
MOST_MEMORY = 2e9  # bytes that reading one picture may take
UNUSED = 24 * 3600  # seconds that a picture stays which no run uses


class Store:
    """The folder, read and written whole file by whole file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pictures, self.runs = folder, folder / "pictures", folder / "runs"
        self.known: dict[str, dict[str, Any]] = {}  # pictures never change
        for path in (folder, self.pictures, self.runs):
            make_folder(path, "--folder")
        for path in (self.pictures, self.runs):  # other users of this machine have no token, either
            with suppress(OSError):
                path.chmod(0o700)

    def picture(self, name: Any) -> dict[str, Any]:
        """What is known of a picture: its id, name, size, and its file's path."""
        folder = self.pictures / name if isinstance(name, str) and PICTURE_ID.fullmatch(name) else None
        if folder is None or not (folder / ABOUT).is_file():
            raise NSTError("there is no such picture: drop it again")
        if name not in self.known:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            self.known[name] = about | {"path": folder / about["name"]}
        return self.known[name]

    def without_paths(self, text: str) -> str:
        """A sentence for the page, which is told no folder of this machine."""
        text, home = text.replace(f"{self.folder}{os.sep}", ""), os.path.expanduser("~")
        return text.replace(home, "~") if len(home) > 1 else text

    def new_run(self) -> tuple[str, Path]:
        """A new run's id and its empty folder. Ids sort by time."""
        seconds, part = divmod(time.time(), 1)
        name = f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(seconds))}-{int(part * 65536):04x}"
        folder = self.runs / name
        folder.mkdir()
        return name, folder

    def saved_runs(self) -> Iterator[dict[str, Any]]:
        """What was written of each run, oldest first. A damaged one is left alone."""
        for folder in sorted(self.runs.iterdir()):
            if RUN_ID.fullmatch(folder.name):
                with suppress(OSError, ValueError):
                    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
                    if _is_whole(run) and run["id"] == folder.name:
                        yield run

    def save_run(self, run: dict[str, Any]) -> None:
        with written(self.runs / run["id"] / "run.json", "w") as file:
            json.dump(run, file)

    def delete_run(self, name: str) -> None:
        shutil.rmtree(self.runs / name, ignore_errors=True)

    def tidy(self, used: set[str]) -> None:
        """Remove what interrupted uploads left, and pictures that no run has used for a day."""
        for path in self.pictures.iterdir():
            with suppress(OSError):
                old = time.time() - path.stat().st_mtime > UNUSED
                if path.is_file() and old:
                    path.unlink()
                elif PICTURE_ID.fullmatch(path.name) and path.name not in used and old:
                    shutil.rmtree(path)


def _is_whole(run: Any) -> bool:
    """Whether this is what `save_run` writes."""
    if not isinstance(run, dict) or not all(
        isinstance(run.get(key), str) for key in ("id", "made", "state", "message")
    ):
        return False
    order = run.get("order")
    if order is None:
        return "watched" in run
    if not isinstance(order, dict) or not isinstance(order.get("options"), dict):
        return False
    styles = order.get("styles")
    whole = isinstance(styles, list) and all(isinstance(style, dict) and set(style) >= STYLE for style in styles)
    return whole and "content" in order


def take_in(upload: Path, name: str, pictures: Path) -> dict[str, Any]:
    """Read an uploaded picture as any that may be hostile, and keep it with two small ones for the screen.

    It runs in a process of its own, so that not even a picture that ends it ends the server.
    """
    try:
        with open(upload, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:20]
        folder = pictures / digest
        if (folder / ABOUT).is_file():
            known: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            os.utime(folder)  # it is wanted again: see `tidy`
            return known
        try:
            picture = load_picture(upload, max_memory=MOST_MEMORY)
        except NSTError as error:
            raise NSTError(str(error).replace(str(upload), plain_name(name))) from None
        folder.mkdir(exist_ok=True)
        (folder / SCREEN).write_bytes(packed(picture.rgb, side=SCREEN_SIDE))
        (folder / THUMB).write_bytes(packed(picture.rgb, side=THUMB_SIDE))
        height, width = picture.rgb.shape[:2]
        about = {"id": digest, "name": plain_name(name), "width": width, "height": height}
        upload.replace(folder / about["name"])
        with written(folder / ABOUT, "w") as file:
            json.dump(about, file)
        return about
    finally:
        upload.unlink(missing_ok=True)


def plain_name(name: str) -> str:
    """A name for a file of ours, as like the given one as is safe anywhere: no folder, no dot or dash in front."""
    last = re.split(r"[/\\]", name)[-1]
    stem, dot, ending = last.rpartition(".")
    safe = [re.sub(r"[^\w-]+", "_", part).strip("_-")[:50] for part in (stem if dot else last, ending)]
    return f"{safe[0] or 'picture'}.{safe[1][:8] or 'img'}" if dot else (safe[0] or safe[1] or "picture")


def demo_picture(which: str, upload: Path) -> None:
    """Draw one of the demo's two pictures."""
    from ..pictures.demo import painting, scene

    drawn: Image.Image = {"scene": scene, "painting": painting}[which](512, 384)
    drawn.save(upload, "PNG")
