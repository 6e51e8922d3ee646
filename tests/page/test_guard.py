"""Who may speak to the server."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

pytest.importorskip("starlette")

from nst_manual.page.guard import Guard

TOKEN, COOKIE = "s3cret", "nst_manual_8765=s3cret"
NAMES = frozenset({"127.0.0.1", "localhost"})


async def answer(method, path, any_address=False, query="", **headers):
    """(status, headers) of one request."""
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message):
        sent.append(message)

    headers = {"host": "127.0.0.1:8765", "cookie": COOKIE} | headers
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(k.replace("_", "-").encode(), v.encode("latin-1")) for k, v in headers.items() if v is not None],
    }
    await Guard(app, TOKEN, NAMES, 8765, any_address)(scope, None, send)
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}


def status(*given, **more):
    return asyncio.run(answer(*given, **more))[0]


def test_only_the_token_opens_the_door():
    assert status("GET", "/") == 200
    for cookie in (None, "", "nst_manual_8765=", "nst_manual_8765=S3cret", "other=s3cret", "nst_manual_8765=s3cret2"):
        assert status("GET", "/", cookie=cookie) == 403
        assert status("GET", "/runs", cookie=cookie) == 403
    assert status("GET", "/", cookie=None, query="token=s3cre") == 403


@pytest.mark.parametrize("other", ['prefs={"a":1}', "a b=1", "version=3", "flag", "x=\xe9", "nst_manual_9=x"])
def test_other_servers_cookies_do_not_hide_ours(other):
    assert status("GET", "/runs", cookie=f"{other}; {COOKIE}") == 200
    assert status("GET", "/runs", cookie=other) == 403


def test_the_first_visit_gets_a_cookie_and_an_address_without_the_token():
    code, headers = asyncio.run(answer("GET", "/", cookie=None, query="token=s3cret"))
    assert (code, headers["location"]) == (303, "/")
    assert headers["set-cookie"].startswith(COOKIE)
    assert {"HttpOnly", "SameSite=lax"} <= set(headers["set-cookie"].split("; "))
    assert status("GET", "/runs", cookie=None, query="token=s3cret") == 403  # elsewhere the address is not enough


def test_the_browser_that_we_start_gets_a_word_that_opens_once():
    guard = Guard(None, TOKEN, NAMES, 8765)
    once = guard.once
    assert guard._opens(once, None)
    assert not guard._opens(once, None)
    assert guard._opens(TOKEN, None)
    assert guard._opens(TOKEN, None)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux tells whose a connection is")
def test_that_word_is_of_no_use_to_other_users(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as visitor:
        guard = Guard(None, TOKEN, NAMES, server.getsockname()[1])
        once, address = guard.once, visitor.getsockname()
        with monkeypatch.context() as patched:
            patched.setattr(os, "getuid", lambda: -1)
            assert not guard._opens(once, address)
        assert guard._opens(once, address)


@pytest.mark.parametrize("host", ["evil.example:8765", "127.0.0.1", "127.0.0.1:80", "127.0.0.1.evil.example:8765", ""])
def test_another_sites_name_for_this_machine_is_refused(host):
    assert status("GET", "/", host=host) == 403
    assert status("GET", "/", host=host, any_address=True) == 403


def test_with_any_address_numbers_are_names_of_ours():
    assert status("GET", "/", host="192.168.1.7:8765") == 403
    assert status("GET", "/", host="192.168.1.7:8765", any_address=True) == 200
    assert status("GET", "/", host="[fe80::1]:8765", any_address=True) == 200


def test_only_the_page_itself_changes_anything():
    ours, other = "http://127.0.0.1:8765", "http://127.0.0.1:9999"
    assert status("POST", "/runs", origin=ours) == 200
    for origin in (None, "null", other, "https://127.0.0.1:8765", "http://localhost:8765"):
        assert status("POST", "/runs", origin=origin) == 403
    assert status("GET", "/runs", origin=other) == 403
    for site in ("cross-site", "same-site"):  # another port of this machine is the same site
        assert status("GET", "/runs", sec_fetch_site=site) == 403
        assert status("GET", "/", sec_fetch_site=site) == 200  # a link that leads here
    for site in ("same-origin", "none"):
        assert status("GET", "/runs", sec_fetch_site=site) == 200


def test_every_answer_keeps_other_servers_out():
    for cookie in (COOKIE, None):
        _, headers = asyncio.run(answer("GET", "/", cookie=cookie))
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers
