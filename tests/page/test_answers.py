"""Bodies have a limit, and what is wrong is one sentence."""

import asyncio
import json

import pytest

pytest.importorskip("starlette")

from nst_manual import NSTError
from nst_manual.page.answers import answered, read_json, save_body


class Sent:
    """A request whose body comes in pieces."""

    def __init__(self, *pieces):
        self.pieces = pieces

    async def stream(self):
        for piece in self.pieces:
            yield piece


def test_a_body_that_is_too_long_is_not_read_to_its_end():
    taken = []
    with pytest.raises(NSTError, match="more than 1 MB"):
        asyncio.run(save_body(Sent(b"x" * 2**19, b"x" * 2**19, b"x", b"never"), 2**20, taken.append))
    assert sum(map(len, taken)) == 2**20


@pytest.mark.parametrize("body", [b"{", b"[1]", b"\xff", b"[" * 100_000, b"null"])
def test_what_is_no_object_is_refused(body):
    with pytest.raises(NSTError, match="request"):
        asyncio.run(read_json(Sent(body)))


@pytest.mark.parametrize(
    ("error", "status"), [(NSTError("too small " * 100), 400), (OSError(28, "No space left"), 500)]
)
def test_an_error_is_an_answer(error, status):
    sent = []

    async def app(scope, receive, send):
        raise error

    async def send(message):
        sent.append(message)

    asyncio.run(answered(app)({"type": "http", "method": "GET", "headers": []}, None, send))
    said = json.loads(sent[1]["body"])["error"]
    assert sent[0]["status"] == status
    assert said.startswith("too small") or said.endswith("No space left")
    assert len(said) <= 500
