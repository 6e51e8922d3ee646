"""`serve`: the local page; and `--page`, which shows a run that the command line began."""

import argparse
import contextlib
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import platformdirs

from ..errors import NSTError
from ..optimise import Record
from ..page.feed import Feed
from ..page.orders import input_pictures
from ..page.processes import program
from ..page.serving import HERE, PORT, check_installed, serve
from ..pictures.files import held, reason
from .options import Add, add_command
from .report import DONE, say, say_json

log = logging.getLogger(__name__)

Shown = Callable[[Record], object]


def add_parser(commands: Any) -> None:
    add = add_command(commands, "serve", "[--port N] [--no-browser] [options]", run)
    text = f"port of the page (default: {PORT}, or any free one if that is taken)"
    add("run", "--port", type=int, metavar="N", help=text)
    add("run", "--no-browser", action="store_true", help="print the address, but don't open it")
    text = "keep runs and pictures in this folder (default: one of the user's data)"
    add("files", "--folder", type=Path, metavar="FOLDER", help=text)
    text = f"listen at this address (default: {HERE}); any other lets other machines in, over an unencrypted connection"
    add("run", "--host", default=HERE, metavar="ADDRESS", help=text)
    add("run", "--watch", type=Path, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Open a local page in the browser: drop two pictures, and watch the result grow.

    serve
    serve --port 9000 --no-browser
    """
    check_installed()
    if arguments.port is not None and not 0 <= arguments.port <= 65535:
        raise NSTError(f"--port must be a number from 0 to 65535, not {arguments.port}")

    def tell(address: str) -> None:
        say_json({"address": address}) if arguments.json else say(address)

    if arguments.watch is not None:
        serve(arguments.watch, tell, watching=True)
        return DONE
    folder = arguments.folder or Path(platformdirs.user_data_dir("nst_manual", appauthor=False)) / "page"
    if arguments.host not in (HERE, "localhost", "::1"):
        log.warning(
            "--host %s: whoever can reach this machine and sees the address can use the page, and its traffic is not "
            "encrypted",
            arguments.host,
        )
    with contextlib.ExitStack() as claims:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            why = f"the folder {folder.parent} can't be created ({reason(error)}): give another with --folder"
            raise NSTError(why) from error
        try:
            claims.enter_context(held(folder))
        except NSTError:
            raise NSTError(f"another page is using {folder}: close it, or give another folder with --folder") from None
        serve(folder, tell, host=arguments.host, port=arguments.port, browser=not arguments.no_browser)
    if not arguments.quiet:
        log.info("closed; runs and pictures are in %s", folder)
    return DONE


def add_page(add: Add) -> None:
    """The arguments of a run that a page shows."""
    add("run", "--page", action="store_true", help="show the run on a local page, at the address that is printed")
    add("run", "--feed", type=Path, help=argparse.SUPPRESS)


@contextlib.contextmanager
def shown(arguments: argparse.Namespace) -> Iterator[Feed | None]:
    """The feed of a run that a page shows: one of ours, begun here, or the one that has begun this run."""
    if getattr(arguments, "feed", None) is not None:
        feed = Feed(arguments.feed)
        feed.obey(sys.stdin)
        yield feed
    elif getattr(arguments, "page", False):
        check_installed()
        with _page_of_its_own(arguments) as feed:
            yield feed
    else:
        yield None


@contextlib.contextmanager
def _page_of_its_own(arguments: argparse.Namespace) -> Iterator[Feed]:
    content = getattr(arguments, "content", getattr(arguments, "image", None))
    output: Path = arguments.output
    root = Path(tempfile.mkdtemp(prefix="nst_manual_page_"))
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-0000"
    folder = root / "runs" / name
    folder.mkdir(parents=True)
    inputs = input_pictures(folder, content, getattr(arguments, "style", []))
    about: dict[str, Any] = {"id": name, "made": time.strftime("%Y-%m-%dT%H:%M:%S"), "state": "running", "message": ""}
    about |= {"watched": "standard output" if str(output) == "-" else output.name, "inputs": inputs, "order": None}
    (folder / "run.json").write_text(json.dumps(about), encoding="utf-8")
    words = ["serve", "--watch", str(root), "--no-browser"]
    with program(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdout is not None
        if address := server.stdout.readline().decode().strip():
            say(f"page: {address}", to=sys.stderr)
        else:
            log.warning("the page can't be opened; the run goes on without it")
            shutil.rmtree(root, ignore_errors=True)
        yield Feed(folder)
