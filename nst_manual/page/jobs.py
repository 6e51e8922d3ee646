"""Runs, one after the other, each in a process of its own: the same program that a person would start by hand.

A process that crashes takes only its run with it, and the optimiser shares no interpreter with the server.
"""

import asyncio
import logging
import math
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import NSTError
from ..pictures.reading import picture_size
from . import orders
from .feed import FRAMES, PREVIEW, RECORDS
from .hub import Hub, Tail
from .processes import program, why_ended
from .store import Store

log = logging.getLogger(__name__)

TICK = 0.25  # seconds between two looks at what a run has written
RESULT, CHECKPOINT, SAID, START = "result.png", "run.ckpt", "said.txt", "start.png"
MOST_RECORDS = 2000  # of a run, as the page gets them
# What a run's summary has of its last record.
LAST = ("iteration", "iterations", "loss", "seconds", "left", "width", "height", "scale", "scales")
PREPARING = "reading the pictures and making the network …"
OVER = ("paused", "stopped", "done", "failed")
ENDINGS = {"iterations": "done", "converged": "done"}  # all others but "interrupted": failed


class Jobs:
    """All runs by their ids, and the one that computes. `step` is called again and again."""

    def __init__(self, store: Store, hub: Hub, watching: bool = False) -> None:
        self.store, self.hub = store, hub
        self.runs: dict[str, dict[str, Any]] = {run["id"]: run for run in store.saved_runs()}
        self.process: subprocess.Popen[bytes] | None = None
        self.current: dict[str, Any] | None = None
        self.tail: Tail | None = None
        self.ending: dict[str, Any] = {}  # the current run's last line
        self.then = "paused"  # what the current run becomes if it is told to end
        self.closing = False
        if watching:  # one run, begun elsewhere
            (self.current,) = self.runs.values()
            self.tail = Tail(self.folder(self.current))
            return
        for run in self.runs.values():  # nothing begins by itself when the server does
            if run["state"] not in OVER:
                self._find_again(run)
        store.tidy({name for run in self.runs.values() for name in _pictures(run["order"])})

    def _find_again(self, run: dict[str, Any]) -> None:
        """A run whose server was killed: its records know how far it came."""
        if records := [line for line in Tail(self.folder(run)).lines() if "iteration" in line]:
            run["last"] = {name: records[-1].get(name) for name in LAST}
        self._set(run, state="paused", message="the server was closed before it was done; resume it")

    def folder(self, run: Mapping[str, Any]) -> Path:
        return self.store.runs / str(run["id"])  # which a person may have removed

    def run(self, name: str) -> dict[str, Any]:
        if name not in self.runs:
            raise NSTError("there is no such run: it was deleted")
        return self.runs[name]

    def add(self, order: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Queue a new run."""
        name, _ = self.store.new_run()
        run = {"id": name, "made": time.strftime("%Y-%m-%dT%H:%M:%S"), "state": "queued", "message": "", "order": order}
        added = self.runs[name] = run | more
        self._set(added)
        return added

    def summary(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """What the page shows of a run without its curves."""
        folder, order = self.folder(run), run["order"]
        preview = folder / PREVIEW
        version = preview.stat().st_mtime_ns if preview.exists() else None
        about = {**run, "preview": version, "result": (folder / RESULT).exists()}
        about["message"] = self.store.without_paths(run["message"])
        if order is None:  # of a run that was begun elsewhere
            return about
        styles = [style | {"about": self._about(style["picture"])} for style in order["styles"]]
        return about | {"content": self._about(order["content"]), "order": order | {"styles": styles}}

    def title(self, run: Mapping[str, Any]) -> str:
        """What its downloads are called, as in a batch: content_style."""
        pictures = [run["order"]["content"], *(style["picture"] for style in run["order"]["styles"])]
        stems = (Path(self._about(picture)["name"]).stem for picture in pictures)
        return "_".join(stems).encode("ascii", "replace").decode().replace("?", "_")[:120]

    def _about(self, picture: str) -> dict[str, Any]:
        with suppress(NSTError, OSError, ValueError):
            about = self.store.picture(picture)
            return {name: about[name] for name in ("name", "width", "height")}
        return {"name": "a lost picture", "width": 0, "height": 0}

    def summaries(self) -> list[dict[str, Any]]:
        """Newest first."""
        return [self.summary(run) for run in sorted(self.runs.values(), key=lambda run: run["id"], reverse=True)]

    def records(self, run: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What the run has reported so far; of a long run, evenly spread records, the last two of them always."""
        records = list(Tail(self.folder(run)).lines())
        step = -(-len(records) // MOST_RECORDS)
        return records if step < 2 else [*records[:-2:step], *records[-2:]]

    # What a person asks for

    def end(self, name: str, then: str) -> None:
        """Pause or stop a run: its picture and its state are saved."""
        run = self.run(name)
        if run is self.current:
            self.then = then
            self._order("stop")
            self._set(run, message="saving its picture …")
        elif run["state"] == "queued":
            self._set(run, state=then, message="it had not begun")
        elif run["state"] == "paused" and then == "stopped":
            self._set(run, state=then)
        else:
            raise NSTError("this run is not running")

    def resume(self, name: str) -> None:
        run = self.run(name)
        if run["state"] not in ("paused", "stopped", "failed"):
            raise NSTError("this run can't be resumed: it is not paused")
        orders.checked(run["order"], self.store)  # an older version may have made it
        self._set(run, state="queued", message="", waiting=time.time())

    def again(self, name: str, changes: dict[str, Any], start: str, kind: str) -> dict[str, Any]:
        """A new run with this one's pictures and settings, and changes to these.

        `start` is "begin", or "picture": from this one's picture, which ends this one if it is still running.
        """
        run = self.run(name)
        changed = {**run["order"], **changes}
        options = changes.get("options", {})
        if not isinstance(options, dict):
            raise NSTError("the options must be an object")
        changed["options"] = run["order"]["options"] | options
        order = orders.checked(changed, self.store)
        if start == "begin":
            begun = (self.folder(run) / START).exists() and kind == "repeated"
            more = {"extra": run.get("extra", {})} if begun else {}
            new = self.add(order, parent={"id": name, "kind": kind}, **more)
            if begun:
                shutil.copyfile(self.folder(run) / START, self.folder(new) / START)
            return new
        if run is not self.current and not (self.folder(run) / RESULT).exists():
            raise NSTError("this run has no picture yet to continue from: wait for its first one")
        place = {"waiting": 0} if run is self.current else {}  # it takes this one's place, before all others
        new = self.add(order, parent={"id": name, "kind": kind}, start_from=name, **place)
        if run is self.current:
            self.end(name, "stopped")
        return new

    def delete(self, name: str) -> None:
        run = self.run(name)
        if run is self.current:
            raise NSTError("this run is running: stop it first")
        if any(other.get("start_from") == name for other in self.runs.values()):
            raise NSTError("another run waits to go on from this picture: delete that one first, or let it begin")
        del self.runs[name]
        self.store.delete_run(name)
        self._changed()

    def want_picture(self) -> bool:
        """Ask the current run for its exact picture, which appears in its folder; False if nothing runs."""
        return self.process is not None and self._order("picture")

    # What goes on by itself

    async def follow(self) -> None:
        """Call `step` for ever; a full disk must not end that."""
        while True:
            try:
                self.step()
            except (NSTError, OSError) as error:
                log.warning("the page's folder can't be used: %s", error)
            await asyncio.sleep(TICK)

    def step(self) -> None:
        """Pass on what the current run has written; at its end, begin the next."""
        if self.current is not None and self.tail is not None:
            code = self.process.poll() if self.process is not None else None
            lines = list(self.tail.lines())
            if lines:
                self._report(self.current, lines)
            if code is not None:
                self._ended(self.current, code)
        elif self.current is None and not self.closing:
            queue = [run for run in self.runs.values() if run["state"] == "queued"]
            if queue:
                self._begin(min(queue, key=lambda run: (run.get("waiting", math.inf), run["id"])))

    def _report(self, run: dict[str, Any], lines: list[dict[str, Any]]) -> None:
        records = [line for line in lines if "iteration" in line]
        if records:
            last = records[-1]
            memory = next((line["memory"] for line in reversed(lines) if line.get("memory")), None)
            run["last"] = {name: last.get(name) for name in LAST} | {"memory": memory}
            if run["message"] == PREPARING and self.process is not None:
                self._set(run, message="")
        self.ending = next((line for line in lines if "stopped" in line), self.ending)
        if self.process is None and self.ending:  # of the run that is watched
            run.update(state=ENDINGS.get(self.ending["stopped"], "stopped"), message=self.ending["message"])
            self._changed()
        preview = self.folder(run) / PREVIEW
        version = preview.stat().st_mtime_ns if preview.exists() else None
        self.hub.tell("records", {"run": run["id"], "records": records, "last": run.get("last"), "preview": version})

    def _begin(self, run: dict[str, Any]) -> None:
        folder = self.folder(run)
        try:
            self._prepare(run, folder)
            words = [*orders.words(run, self.store, folder), "--overwrite", f"--feed={folder}"]
            checkpoint = folder / CHECKPOINT
            words.append(f"--{'resume' if checkpoint.exists() else 'checkpoint'}={checkpoint}")
            if not checkpoint.exists():
                for name in (RECORDS, PREVIEW):
                    (folder / name).unlink(missing_ok=True)
                shutil.rmtree(folder / FRAMES, ignore_errors=True)
            self.tail = Tail(folder)
            with suppress(OSError):
                self.tail.place = (folder / RECORDS).stat().st_size
            with open(folder / SAID, "wb") as said:
                self.process = program(words, subprocess.DEVNULL, said)
        except (NSTError, OSError) as error:
            self._set(run, state="failed", message=str(error))
            return
        self.current, self.then, self.ending = run, "paused", {}
        self._set(run, state="running", message=PREPARING)

    def _prepare(self, run: dict[str, Any], folder: Path) -> None:
        """The picture to start from, if it is that of another run."""
        parent = run.get("start_from")
        if parent is None:
            return
        source = self.folder(self.run(parent))
        if not (source / RESULT).exists():  # it was ended before its first picture
            del run["start_from"]
            return
        shutil.copyfile(source / RESULT, folder / START)
        about = self.run(parent).get("last") or {}
        reached = max(about.get("width") or 0, about.get("height") or 0) or max(picture_size(folder / START))
        content = self.store.picture(run["order"]["content"])
        longer = max(content["width"], content["height"])
        size = orders.size_of(run["order"])
        full = size if run["order"]["options"].get("enlarge") else min(size, longer)
        changed = orders.differ(self.run(parent)["order"], run["order"])
        run["extra"] = orders.going_on(run["order"], min(reached, full), full, changed)
        del run["start_from"]

    def _ended(self, run: dict[str, Any], code: int) -> None:
        folder = self.folder(run)
        if self.process is not None and self.process.stdin is not None:
            with suppress(OSError):
                self.process.stdin.close()
        self.process = self.current = self.tail = None
        ending = self.ending
        stopped = ending.get("stopped") if code in (0, 1, 130) else None
        if stopped == "interrupted" or code == 130:
            message = ending.get("message") if stopped else None
            self._set(run, state=self.then, message=message or "it was ended before there was a picture")
        elif stopped in ENDINGS and code == 0:
            (folder / CHECKPOINT).unlink(missing_ok=True)
            self._set(run, state=ENDINGS[stopped], message=ending["message"])
        elif stopped in ENDINGS:
            self._set(run, state="failed", message="its picture could not be saved: make room on the disk, then resume")
        else:
            self._set(run, state="failed", message=ending.get("message") if stopped else why_ended(folder / SAID, code))

    def _order(self, text: str) -> bool:
        if self.process is None or self.process.stdin is None:
            return False
        try:
            self.process.stdin.write(f"{text}\n".encode())
            self.process.stdin.flush()
        except OSError:  # it has just ended
            return False
        return True

    def close(self) -> None:
        """Save what runs, and wait until it is saved."""
        self.closing = True
        if self.current is not None and self.process is not None:
            self.then = "paused"
            log.info("saving the picture that is being painted: this takes until its iteration is done")
            self._order("stop")
            self.process.wait()
            self.step()

    def _set(self, run: dict[str, Any], **changes: Any) -> None:
        run.update(changes)
        self.store.save_run(run)
        self._changed()

    def _changed(self) -> None:
        self.hub.tell("runs", self.summaries())


def _pictures(order: Mapping[str, Any]) -> Iterator[str]:
    yield order["content"]
    for style in order["styles"]:
        yield from filter(None, (style["picture"], style["where"], style["part"]))
