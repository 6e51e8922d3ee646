"""Opening the server: its port, its token, its address, and its orderly end."""

import logging
import os
import secrets
import shutil
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import NSTError

if TYPE_CHECKING:
    import uvicorn

    from .hub import Hub

log = logging.getLogger(__name__)

PORT = 8765  # unless it is taken
HERE = "127.0.0.1"
LINGER = 3.0  # seconds that a page of a watched run has to fetch its end


def check_installed() -> None:
    """Say how to install what the page needs."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise NSTError(f"the page needs {error.name}: python -m pip install starlette uvicorn") from error


def serve(
    folder: Path,
    say: Callable[[str], object],
    *,
    host: str = HERE,
    port: int | None = None,
    browser: bool = False,
    watching: bool = False,
) -> None:
    """Serve the page until Ctrl-C. `say` is given its address.

    A watched run's page ends when its standard input does, and takes its folder with it.
    """
    import uvicorn

    from .guard import Guard
    from .server import Page

    with _bound(host, port) as bound:
        number, token = bound.getsockname()[1], secrets.token_urlsafe(24)
        anywhere = host in ("0.0.0.0", "::")
        named = "localhost" if host == "::1" else HERE if anywhere else host
        page = Page(folder, lambda: server.should_exit, watching)
        app = Guard(page.app(), token, names_of(host), number, anywhere)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=5, lifespan="on"
        )
        server = uvicorn.Server(config)
        address = f"http://{f'[{named}]' if ':' in named else named}:{number}/?token="
        if anywhere:
            log.info("from a telephone or another machine: http://%s:%d/?token=%s", _outer_name(), number, token)
        say(address + token)
        if browser:
            threading.Thread(target=webbrowser.open, args=(address + app.once,), daemon=True).start()
        if watching:
            threading.Thread(target=_end_with_input, args=(server, page.hub), daemon=True).start()
        try:
            server.run(sockets=[bound])
        except KeyboardInterrupt:  # uvicorn repeats the signal that ended it
            pass
        finally:
            if watching:
                shutil.rmtree(folder, ignore_errors=True)


def names_of(host: str) -> frozenset[str]:
    """What a request may call the server that listens there. An address of IPv6 stands in brackets."""
    here = frozenset({HERE, "localhost"})
    if host == HERE:
        return here
    own = f"[{host.lower()}]" if ":" in host else host.lower()
    return here | {"[::1]", own, socket.gethostname().lower()}


def _outer_name() -> str:
    """This machine's address in its network, for a telephone to use; its name if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # an address that nobody has; connecting sends nothing
        return str(probe.getsockname()[0])
    return socket.gethostname()


def _end_with_input(server: "uvicorn.Server", hub: "Hub") -> None:
    """The run that is watched holds our standard input open. Whoever looks on at its end sees its last picture."""
    sys.stdin.read()
    ended = time.monotonic()
    while hub.listeners and time.monotonic() - ended < LINGER:
        time.sleep(0.1)
    server.should_exit = True


def _bound(host: str, port: int | None) -> socket.socket:
    """A socket at that port; without one at ours, or at any that is free."""
    for number in (PORT, 0) if port is None else (port,):
        bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            if os.name != "nt":
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((host, number))
            bound.listen(128)  # who follows the address at once has to wait, and is not refused
            return bound
        except (OSError, OverflowError) as error:
            bound.close()
            if number == 0 or port is not None:
                why = getattr(error, "strerror", None) or error
                raise NSTError(
                    f"the page can't be served at {host}, port {number}: {why}: give another --port"
                ) from error
    raise AssertionError("the last port ends the loop")
