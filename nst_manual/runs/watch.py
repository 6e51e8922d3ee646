"""A run in progress: it is counted and reported over all scales, saved in checkpoints, and ended when asked."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..arrays import Array
from ..engines import device_errors
from ..errors import Failure, NSTError
from ..optimise import Ended, Outcome, Record, Search
from ..optimise.records import no_image
from ..pictures.alpha import resize
from ..pictures.writing import save_image, to_picture
from ..settings import Run
from .checkpoint import Checkpoint, load_checkpoint
from .inputs import Inputs
from .journal import Journal
from .outputs import own_files
from .recipe import Recipe
from .results import Result
from .scales import Scale

log = logging.getLogger(__name__)

COPY_EVERY = 2.0  # seconds; a GPU that fails may keep what it has
SHARE = 0.05  # of the run's time that writing checkpoints may take, however slow the disk


class Flag(Protocol):
    """Tells a run that it should end, such as threading.Event."""

    def is_set(self) -> bool: ...


class Watch:
    """Follows one run: `begin` and `end` around each scale's search, `record` after each iteration, at last `result`.

    The search calls `guarded`, which leads back to the watch. The watch drops its own references to the search and to
    the network on leaving the `with` block, however the run ends: otherwise they would use memory until Python's
    garbage collector runs.
    """

    def __init__(
        self,
        run: Run,
        inputs: Inputs,
        scales: Sequence[Scale],
        recipe: Recipe,
        to_host: Callable[[Any], Array],
        callback: Callable[[Record], object] | None = None,
        cancel: Flag | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.run, self.inputs, self.scales, self.recipe, self.settings = run, inputs, scales, recipe, recipe.settings
        self.to_host, self.callback, self.cancel = to_host, callback, cancel
        self.trace = list(checkpoint.trace) if checkpoint else []
        self.before = self.trace[-1].seconds if self.trace else 0.0  # spent before the run was resumed
        self.started = self.saved = time.monotonic()
        self.saving = 0.0  # seconds that writing the last checkpoint took
        self.pace = math.nan  # seconds per iteration and pixel
        self.evaluated = self.cancelled = False
        self.copy: Outcome | None = None  # of the best picture on the host, at most COPY_EVERY old
        self.copied = -math.inf
        self.kept = False  # whether there is a checkpoint of this run
        self.journal = Journal(run, partial(write_picture, inputs, recipe, run.strip_metadata))
        self.journal.begin(self.trace)

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *exception: object) -> None:
        for name in ("search", "function"):
            vars(self).pop(name, None)

    def begin(self, number: int, search: Search) -> None:
        """Start of a scale, counted from 0. Its search may be a resumed one."""
        self.number, self.scale, self.search = number, self.scales[number], search
        self.copy, self.copied = None, -math.inf
        done = [record for record in self.trace if record.scale <= number]  # at the previous scales
        self.iterations = done[-1].iteration if done else 0
        self.evaluations = done[-1].evaluations if done else 0
        self.first: tuple[float, int] | None = None  # when this scale's first iteration ended, and its number

    def guarded(self, function: Callable[[Array], Any]) -> Callable[[Array], Any]:
        """The function, which first ends the search if the run is cancelled or its time is up.

        It never ends within an evaluation, so that the search can be resumed; and the first one is always made.
        """
        self.function = function

        def evaluation(image: Array) -> Any:
            if self.evaluated and self.cancel is not None and self.cancel.is_set():
                self.cancelled = True
                raise Ended("interrupted", "interrupted; the picture is the best so far")
            limit = self.run.time_limit
            if self.evaluated and limit is not None and time.monotonic() - self.started >= limit:
                raise Ended("time limit", "the time limit was reached; the picture is the best so far")
            result = self.function(image)
            self.evaluated = True
            return result

        return evaluation

    def record(self, record: Record) -> None:
        """Turn the search's record of an iteration into the run's, and report it."""
        whole = dataclasses.replace(
            record,
            iteration=self.iterations + record.iteration,
            evaluations=self.evaluations + record.evaluations,
            seconds=self.before + time.monotonic() - self.started,
            iterations=self.iterations + sum(scale.iterations for scale in self.scales[self.number :]),
            scale=self.number + 1,
            scales=len(self.scales),
            width=self.scale.width,
            height=self.scale.height,
            left=self._left(record.iteration),
        )
        self.trace.append(whole)
        if self.search.at_hand and time.monotonic() - self.copied >= COPY_EVERY and device_errors():
            self._copy_best()
        shown = dataclasses.replace(whole, image=self.image)
        self.journal(shown)
        if self.callback is not None:
            self.callback(shown)
        if time.monotonic() - self.saved >= max(self.run.checkpoint_every, self.saving / SHARE):
            self._save_checkpoint()

    def rescued(self, why: str, before: Outcome | None) -> Outcome | None:
        """The best picture so far where the device failed, or that of the scale before; None if there is neither."""
        if "search" in vars(self):
            with suppress(*device_errors(), MemoryError):  # unless the device still answers
                self._copy_best()
        found = self.copy or before
        which = f"that of iteration {found.iterations}" if self.copy and found else "that of the previous scale"
        return found and dataclasses.replace(found, stopped="device failed", message=f"{why}; the picture is {which}")

    def _copy_best(self) -> None:
        search = self.search
        if math.isfinite(search.best_loss):
            image = self.scale.cut(self.to_host(search.best)).copy()
            self.copy = Outcome(image, search.best_loss, search.iteration, search.evaluations, "", "")
            self.copied = time.monotonic()

    def image(self) -> Array:
        """The best picture so far, in the result's colours."""
        if "search" not in vars(self):
            return no_image()
        best = self.to_host(self.search.best)
        return self.inputs.finished(self.settings, self.scale.cut(best))

    def _left(self, iteration: int) -> float:
        """Seconds that the rest will take: an iteration's time is proportional to its pixels.

        Loading, preparing a scale and its first line search are not counted. So the first iteration of a run gives no
        estimate, and that of a later scale the one by the scale before.
        """
        now, pixels = time.monotonic(), self.scale.pixels
        if self.first is None:
            self.first = now, iteration
        else:
            began, first = self.first
            self.pace = (now - began) / (iteration - first) / pixels
        later = sum(scale.iterations * scale.pixels for scale in self.scales[self.number + 1 :])
        return self.pace * (max(0, self.scale.iterations - iteration) * pixels + later)

    def end(self, outcome: Outcome) -> None:
        """End of a scale. Ctrl-C within an evaluation leaves the search in a state that cannot be resumed."""
        try:
            if outcome.stopped != "interrupted" or self.cancelled:
                self._save_checkpoint()
        finally:
            del self.search
            self.copy = None

    def rewound(self, number: int) -> Checkpoint | None:
        """The last checkpoint, if it is of this scale: the run is back there, or else at the scale's start."""
        saved = self._saved()
        here = saved if saved is not None and saved.scale == number else None
        self.trace = list(here.trace) if here else [record for record in self.trace if record.scale <= number]
        self.journal.begin(self.trace)
        return here

    def left(self, why: str, before: Outcome | None) -> Outcome:
        """What there is where the workers are gone: the picture of the last checkpoint, or that of the scale before.
        Raises Failure if there is neither."""
        saved, path = self._saved(), self.run.checkpoint or self.run.resume
        if saved is not None and (before is None or saved.scale == self.number):
            scale, search = self.scales[saved.scale], saved.search
            image = scale.cut(np.asarray(search["best"][:]))
            numbers = search["best_loss"], search["iteration"], search["evaluations"]
            message = f"{why}; the picture is that of the last checkpoint, and --resume {path} goes on from there"
            return Outcome(image, *numbers, "cluster lost", message)
        if before is None:
            hint = "" if path else ", with --checkpoint FILE to lose no more than a minute"
            raise Failure(f"{why}, and there is no picture yet: start the run again{hint}")
        return dataclasses.replace(
            before, stopped="cluster lost", message=f"{why}; the picture is that of the scale before"
        )

    def _saved(self) -> Checkpoint | None:
        """This run's last checkpoint."""
        path = self.run.checkpoint or self.run.resume
        return load_checkpoint(path) if path is not None and (self.kept or path == self.run.resume) else None

    def _save_checkpoint(self) -> None:
        """If one was asked for. A failure is logged, and the run goes on."""
        path = self.run.checkpoint or self.run.resume
        if path is None:
            return
        began = time.monotonic()
        state = {k: self.to_host(v) if getattr(v, "ndim", 0) else v for k, v in self.search.kept().items()}
        settings, pictures = dataclasses.asdict(self.settings), self.inputs.checksums()
        try:
            kept = Checkpoint(settings, pictures, own_files(self.run), self.number, state, self.trace)
            kept.save(path, new=not (self.run.overwrite or self.kept or path == self.run.resume))
            self.kept = True
        except (NSTError, Ended) as error:  # nor can a temporary file be read, perhaps
            log.warning("the checkpoint was not updated: %s", error)
        self.saved = time.monotonic()
        self.saving = self.saved - began

    def result(self, outcome: Outcome) -> Result:
        """The run's end: the picture in its full size, saved if an output was asked for."""
        height, width, _ = self.inputs.content.shape
        message, pixels = outcome.message, outcome.image
        iterations = self.trace[-1].iteration if self.trace else 0
        if len(self.scales) > 1 and outcome.stopped == "iterations":
            message = f"all {iterations} iterations done at {len(self.scales)} scales"
        if pixels.shape[:2] != (height, width):
            message += f" (made at {pixels.shape[1]}×{pixels.shape[0]} pixels and enlarged)"
            pixels = resize(pixels, height, width)
        pixels, content = self.inputs.finished(self.settings, pixels), self.inputs.pictures[0]
        ending = {"stopped": outcome.stopped, "iterations": iterations, "loss": outcome.loss}
        result = Result(
            to_picture(pixels, content.alpha),
            pixels,
            outcome.loss,
            self.trace,
            self.settings,
            outcome.stopped,
            message,
            content.alpha,
            content.exif,
            dataclasses.replace(self.recipe, result=ending),
            self.run.strip_metadata,
        )
        path = result.save_somewhere(self.run.output, self.run.overwrite) if self.run.output else None
        unwritten = self.journal.finish(outcome.stopped, message, pixels, saved=path == self.run.output)
        return dataclasses.replace(result, path=path, unwritten=tuple(unwritten))


def write_picture(inputs: Inputs, recipe: Recipe, stripped: bool, pixels: Array, path: Path) -> None:
    """Write an intermediate picture like the result."""
    whole, content = resize(pixels, *inputs.content.shape[:2]), inputs.pictures[0]
    made = dataclasses.replace(recipe, result={"stopped": "not yet"})
    text, exif = ("", b"") if stripped else (made.to_json(str(path)), content.exif)
    save_image(whole, path, alpha=content.alpha, bits=recipe.settings.bits, exif=exif, recipe=text)
