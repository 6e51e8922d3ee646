"""Requests and answers: bodies with a limit, JSON, files, events, and one sentence where something is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response

from ..errors import NSTError
from ..options import OptionError
from ..pictures.files import reason

ORDER = 2**18  # bytes of the longest order
SENTENCE = 500  # letters of the longest sentence


def answered(app: Any, edit: Callable[[str], str] = str) -> Any:
    """A route whose NSTError is an answer: one sentence, edited."""

    async def answered(scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        except NSTError as error:
            name = error.name if isinstance(error, OptionError) else None
            await JSONResponse({"error": edit(str(error))[:SENTENCE], "option": name}, 400)(scope, receive, send)
        except ClientDisconnect:  # in the middle of an upload
            pass
        except OSError as error:
            await JSONResponse({"error": f"the page's folder can't be used: {reason(error)}"}, 500)(
                scope, receive, send
            )

    return answered


async def save_body(request: Request, limit: int, write: Callable[[bytes], object]) -> None:
    count = 0
    async for piece in request.stream():
        count += len(piece)
        if count > limit:
            raise NSTError(f"that is more than {limit >> 20} MB: make the picture smaller first")
        await run_in_threadpool(write, piece)


async def read_json(request: Request) -> dict[str, Any]:
    pieces: list[bytes] = []
    await save_body(request, ORDER, pieces.append)
    try:
        asked = json.loads(b"".join(pieces) or b"{}")
    except (ValueError, RecursionError):
        raise NSTError("the request is not JSON") from None
    if not isinstance(asked, dict):
        raise NSTError("the request must be an object")
    return asked


def file_of(path: Path, otherwise: str, kept: bool = False) -> Response:
    """A file; `kept` by the browser if its address changes with it."""
    if not path.is_file():
        raise NSTError(otherwise)
    return FileResponse(path, headers={"Cache-Control": "max-age=86400, immutable"} if kept else None)


def event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
