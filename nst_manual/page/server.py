"""The page's server: what may be asked for, and where it is answered. See guard.py for who may ask.

Pictures come and go as files; everything else is JSON, and a stream of events tells all open pages what is new.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ..errors import NSTError
from . import downloads, inside, orders
from .answers import answered, event, file_of, read_json, save_body
from .feed import EXACT, PREVIEW
from .helpers import Helper
from .hub import Hub
from .jobs import RESULT, Jobs
from .processes import environment
from .store import SCREEN, THUMB, Store, demo_picture, take_in

UPLOAD = 100 * 2**20  # bytes of the largest picture
STATIC = Path(__file__).with_name("static")
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
PATIENCE = 60.0  # seconds to wait for a run's exact picture
QUIET = 15.0  # seconds after which a stream says something, lest it be taken for dead

Handler = Callable[[Request], Awaitable[Response]]


class Page:
    """The server's rooms and its routes. `closing` says when its streams have to end."""

    def __init__(self, folder: Path, closing: Callable[[], bool], watching: bool = False) -> None:
        self.store, self.hub, self.closing, self.watching = Store(folder), Hub(), closing, watching
        self.jobs = Jobs(self.store, self.hub, watching)
        self.reader, self.student = Helper(180, "reading the picture"), Helper(900, "the computation")
        self.checking = asyncio.Lock()
        self.prover: asyncio.subprocess.Process | None = None

    def app(self) -> Starlette:
        get, post = ["GET"], ["POST"]
        routes = [
            Route("/", self.static, methods=get),
            Route("/static/{name}", self.static, methods=get),
            Route("/events", self.events, methods=get),
            Route("/about", self.about, methods=get),
            Route("/runs/{run}/records", self.records, methods=get),
            Route("/runs/{run}/preview.jpg", self.preview, methods=get),
            Route("/runs/{run}/inputs/{name}", self.input_picture, methods=get),
            Route("/pictures/{picture}/{name}", self.picture, methods=get),
        ]
        if not self.watching:
            routes += [
                Route("/pictures", self.upload, methods=post),
                Route("/pictures/demo", self.demo, methods=post),
                Route("/runs", self.begin, methods=post),
                Route("/runs/{run}/again", self.again, methods=post),
                Route("/runs/{run}/study", self.study, methods=post),
                Route("/runs/{run}/study", self.studied, methods=get),
                Route("/runs/{run}/study/pixel", self.pixel, methods=get),
                Route("/runs/{run}/study/{name}", self.study_picture, methods=get),
                Route("/runs/{run}/recipe", self.recipe, methods=get),
                Route("/runs/{run}/download/{name}", self.download, methods=get),
                Route("/runs/{run}/{what}", self.change, methods=post),
                Route("/runs/{run}", self.delete, methods=["DELETE"]),
                Route("/check", self.check, methods=post),
            ]
        for route in routes:
            route.app = answered(route.app, self.store.without_paths)
        return Starlette(routes=routes, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.jobs.follow()), asyncio.create_task(self._give_up())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            self.close()
            await run_in_threadpool(self.jobs.close)

    async def _give_up(self) -> None:
        """When the server is told to end, nobody waits for gradients or a proof."""
        while not self.closing():
            await asyncio.sleep(0.2)
        self.close()

    def close(self) -> None:
        """End the processes that no run needs."""
        for helper in (self.reader, self.student):
            helper.close()
        if self.prover is not None:
            with suppress(ProcessLookupError):
                self.prover.kill()

    # The page itself

    async def static(self, request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        path = STATIC / name
        if path.suffix not in KINDS or not path.is_file() or path.parent != STATIC:
            raise NSTError("there is no such file")
        return FileResponse(path, media_type=KINDS[path.suffix], headers={"Cache-Control": "no-cache"})

    async def about(self, request: Request) -> Response:
        network = await run_in_threadpool(orders.network)
        runs = self.jobs.summaries()
        return JSONResponse(
            {"options": orders.offered(), "network": network, "runs": runs, "watching": self.watching, "most": UPLOAD}
        )

    async def events(self, request: Request) -> Response:
        async def stream() -> AsyncIterator[str]:
            listener = self.hub.listen()
            try:
                yield event("runs", self.jobs.summaries())
                quiet = 0.0
                while not self.closing() and listener in self.hub.listeners:
                    try:
                        yield event(*await asyncio.wait_for(listener.get(), 1.0))
                        quiet = 0.0
                    except TimeoutError:
                        quiet += 1.0
                        if quiet >= QUIET:
                            quiet = 0.0
                            yield ": still here\n\n"
                while not listener.empty():
                    yield event(*listener.get_nowait())
                if self.closing():
                    yield event("closed", {})
            finally:
                self.hub.listeners.discard(listener)

        return StreamingResponse(stream(), media_type="text/event-stream")

    # Pictures

    async def upload(self, request: Request) -> Response:
        """A picture, as the body of the request, with its name in the query."""
        path = self.store.pictures / f".{secrets.token_hex(8)}.upload"
        try:
            with open(path, "wb") as file:
                await save_body(request, UPLOAD, file.write)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        name = request.query_params.get("name", "picture")[:200]
        return JSONResponse(await self.reader(take_in, path, name, self.store.pictures))

    async def demo(self, request: Request) -> Response:
        """The two pictures that the program draws."""
        drawn = {}
        for which in ("scene", "painting"):
            path = self.store.pictures / f".{secrets.token_hex(8)}.upload"
            await self.reader(demo_picture, which, path)
            drawn[which] = await self.reader(take_in, path, f"{which}.png", self.store.pictures)
        return JSONResponse(drawn)

    async def picture(self, request: Request) -> Response:
        about = self.store.picture(request.path_params["picture"])
        name = request.path_params["name"]
        if name not in (THUMB, SCREEN):
            raise NSTError("there is no such picture")
        return FileResponse(about["path"].parent / name, headers={"Cache-Control": "max-age=86400, immutable"})

    async def preview(self, request: Request) -> Response:
        return file_of(self._folder(request) / PREVIEW, "the run has no picture yet", "v" in request.query_params)

    async def input_picture(self, request: Request) -> Response:
        name = request.path_params["name"]
        if not (self.watching and name.isalnum()):
            raise NSTError("there is no such picture")
        return file_of(self._folder(request) / f"{name}.jpg", "there is no such picture")

    # Runs

    async def begin(self, request: Request) -> Response:
        order = await run_in_threadpool(orders.checked, await read_json(request), self.store)
        return JSONResponse(self.jobs.summary(self.jobs.add(order)), 201)

    async def again(self, request: Request) -> Response:
        """A new run from this one: repeated, or continued from its picture with other settings."""
        asked = await read_json(request)
        start, kind = asked.get("start", "begin"), asked.get("kind", "repeated")
        changes = asked.get("changes", {})
        if start not in ("begin", "picture") or kind not in ("repeated", "continued") or not isinstance(changes, dict):
            raise NSTError("a run is repeated from the beginning or continued from its picture")
        run = self.jobs.again(self._run(request)["id"], changes, start, kind)
        return JSONResponse(self.jobs.summary(run), 201)

    async def change(self, request: Request) -> Response:
        name, what = self._run(request)["id"], request.path_params["what"]
        if what == "resume":
            self.jobs.resume(name)
        elif what in ("pause", "stop"):
            self.jobs.end(name, {"pause": "paused", "stop": "stopped"}[what])
        else:
            raise NSTError("a run can be paused, stopped or resumed")
        return JSONResponse({})

    async def delete(self, request: Request) -> Response:
        self.jobs.delete(self._run(request)["id"])
        return JSONResponse({})

    async def records(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self.jobs.records, self._run(request)))

    async def recipe(self, request: Request) -> Response:
        path = self._folder(request) / RESULT
        return JSONResponse(await run_in_threadpool(downloads.recipe, path))

    async def download(self, request: Request) -> Response:
        """The result as result.png or result.tif, or the run as animation.webp or animation.gif."""
        name = request.path_params["name"]
        data, kind = await self.reader(downloads.download, self._folder(request), name)
        saved = f'attachment; filename="{self.jobs.title(self._run(request))}.{name.rpartition(".")[2]}"'
        return Response(data, media_type=kind, headers={"Content-Disposition": saved})

    # Study

    async def study(self, request: Request) -> Response:
        run, asked = self._run(request), await read_json(request)
        where = asked.get("where", "now")
        if where not in inside.WHERE:
            raise NSTError(f"gradients can be looked at in {', '.join(inside.WHERE)}")
        folder = self._folder(request)
        content, styles, masks = orders.arguments(run["order"], self.store, folder)
        options = run["order"]["options"] | orders.blended(run["order"])
        now = await self._exact(run, folder) if where == "now" else None
        about = await self.student(inside.look_inside, folder, content, styles, masks, options, where, now)
        return JSONResponse(about)

    async def _exact(self, run: dict[str, Any], folder: Path) -> Path | None:
        """The run's picture, not the preview's, which is rounded and packed."""
        if run is self.jobs.current:
            path, waited = folder / EXACT, 0.0
            path.unlink(missing_ok=True)
            self.jobs.want_picture()
            while run is self.jobs.current and not path.exists() and waited < PATIENCE:
                await asyncio.sleep(0.1)
                waited += 0.1
            if path.exists():
                return path
        return folder / RESULT if (folder / RESULT).exists() else None

    async def studied(self, request: Request) -> Response:
        """What was computed last, if anything."""
        path = self._folder(request) / inside.STUDY / inside.ABOUT
        return JSONResponse(json.loads(path.read_text(encoding="utf-8")) if path.exists() else None)

    async def study_picture(self, request: Request) -> Response:
        name = request.path_params["name"]
        stem = name.removesuffix(".png")
        if name != inside.PICTURE and not (stem.startswith("map") and stem.removeprefix("map").isdecimal()):
            raise NSTError("there is no such picture")
        path = self._folder(request) / inside.STUDY / name
        return file_of(path, "there are no gradients of this run yet", "v" in request.query_params)

    async def pixel(self, request: Request) -> Response:
        try:
            row, column = (int(request.query_params.get(name, "")) for name in ("row", "column"))
        except ValueError:
            raise NSTError("a pixel is a row and a column") from None
        options, made = self._run(request)["order"]["options"], request.query_params.get("made")
        return JSONResponse(await run_in_threadpool(inside.pixel, self._folder(request), options, row, column, made))

    async def check(self, request: Request) -> Response:
        """The rows of `check`, each when it is proved."""
        if self.checking.locked():
            raise NSTError("the proof is running already, in another tab: wait until it is done")

        async def rows() -> AsyncIterator[bytes]:
            async with self.checking:
                process = self.prover = await downloads.proof(environment())
                try:
                    async for row in downloads.rows(process):
                        yield row
                finally:
                    with suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()

        return StreamingResponse(rows(), media_type="application/x-ndjson")

    def _run(self, request: Request) -> dict[str, Any]:
        return self.jobs.run(request.path_params["run"])

    def _folder(self, request: Request) -> Path:
        return self.jobs.folder(self._run(request))
