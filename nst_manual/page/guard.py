"""Who may speak to the server: whoever has the token, through an address that is this server's own."""

import hmac
import ipaddress
import os
import secrets
from contextlib import suppress
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SAFE = ("GET", "HEAD")
HEADERS = {
    # Nothing but this server is ever asked for anything, and no other page may show this one within itself.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Guard:
    """Lets a request through that has the token in its cookie, and says 403 to all others.

    The first visit brings the token in its address, gets the cookie, and is led to the address without the token. So
    does one with the word `once`, but only one: it is for a browser that we start, whose command line others may see.
    On Linux, where everybody sees it, it must be a browser of this user.
    Host must be a name of this server, lest another site's name be pointed at this machine; and what changes anything
    must come from the page itself.
    """

    def __init__(self, app: ASGIApp, token: str, names: frozenset[str], port: int, any_address: bool = False) -> None:
        self.app, self.token, self.names, self.port, self.any_address = app, token, names, port, any_address
        self.once = secrets.token_urlsafe(24)
        self.cookie = f"nst_manual_{port}"  # a browser sends it to all ports of this machine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await (self._answer(scope) or self.app)(scope, receive, with_headers)

    def _answer(self, scope: Scope) -> Response | None:
        """What to say instead of what was asked for; None lets the request through."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_ours(host):
            return _refused("this is not the server's name: open the address that it printed")
        if origin != f"http://{host}" and (origin is not None or scope["method"] not in SAFE):
            return _refused("only the page itself may do this")
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and scope["path"] != "/":
            return _refused("only the page itself may ask for this")
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and scope["method"] in SAFE and self._opens(given, scope.get("client")):
            answer = RedirectResponse("/", 303)
            # Not "strict": who follows a link on another site's page would be led on to / without that cookie.
            answer.set_cookie(self.cookie, self.token, httponly=True, samesite="lax")
            return answer
        # Starlette reads cookies as browsers do: at an odd one of another local server, Python's own reader gives up.
        if not self._is_token(HTTPConnection(scope).cookies.get(self.cookie, "")):
            return _refused("the token is missing: open the address that the server printed, up to its last letter")
        return None

    def _opens(self, given: str, visitor: tuple[str, int] | None) -> bool:
        if hmac.compare_digest(given.encode(), self.once.encode()):
            if visitor is not None and _is_another_users(visitor[1], self.port):
                return False
            self.once = secrets.token_urlsafe(24)
            return True
        return self._is_token(given)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())

    def _is_ours(self, host: str) -> bool:
        name, _, port = host.rpartition(":") if not host.endswith("]") else (host, "", "80")
        if not name:
            name, port = host, "80"
        if port != str(self.port):
            return False
        return name.lower() in self.names or (self.any_address and _is_address(name.strip("[]")))


def _is_another_users(visitor: int, server: int) -> bool:
    """Whether the connection between these two ports of this machine is another user's; only Linux can tell."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError), open(table) as file:
            for _, here, there, *rest in map(str.split, file):
                if here.endswith(f":{visitor:04X}") and there.endswith(f":{server:04X}"):
                    return int(rest[4]) != os.getuid()
    return False


def _is_address(name: str) -> bool:
    """Whether this is a number, which no other site can own."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _refused(why: str) -> Response:
    return Response(f"403: {why}\n", 403, media_type="text/plain")
