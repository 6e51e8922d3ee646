"""A run under way, over all of its scales: it is counted, told to those who watch, kept in checkpoints, and ended."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..arrays import Array
from ..errors import NSTError
from ..optimise import Ended, Outcome, Record, Search
from ..pictures.alpha import resize
from ..pictures.files import check_folder, check_new
from ..pictures.writing import check_output, is_standard_output, save_image, to_picture
from ..settings import Run, Settings
from .checkpoint import Checkpoint
from .inputs import Inputs
from .journal import Journal
from .recipe import Recipe
from .results import Result
from .scales import Scale

log = logging.getLogger(__name__)

SHARE = 0.05  # of the run's time that writing checkpoints may take, however slow the disk


class Flag(Protocol):
    """What a run looks at to know that it shall end, such as threading.Event."""

    def is_set(self) -> bool: ...


class Watch:
    """Made for one run, and told of each scale's search by `begin` and `end`, of each iteration by `record`; then
    `result` makes of the last outcome what the run ends with."""

    def __init__(
        self,
        settings: Settings,
        run: Run,
        inputs: Inputs,
        scales: Sequence[Scale],
        recipe: Recipe,
        to_host: Callable[[Any], Array],
        *,
        callback: Callable[[Record], object] | None = None,
        cancel: Flag | None = None,
        kept: Checkpoint | None = None,
    ) -> None:
        self.settings, self.run, self.inputs, self.scales = settings, run, inputs, scales
        self.recipe, self.to_host = recipe, to_host
        self.callback, self.cancel = callback, cancel
        self.trace = list(kept.trace) if kept else []
        self.before = self.trace[-1].seconds if self.trace else 0.0  # spent by the part of the run that is resumed
        self.started = self.kept = time.monotonic()
        self.keeping = 0.0  # seconds that writing the last checkpoint took
        self.evaluated = self.ended = False
        self.journal = new_journal(run, self._write)
        self.journal.begin(self.trace)

    def seconds(self) -> float:
        """Spent on the run, by the part of it that is resumed too."""
        return self.before + time.monotonic() - self.started

    def begin(self, number: int, search: Search) -> None:
        """The scale of that number, counted from 0, with its search; a search may be in the middle of its way."""
        self.number, self.scale, self.search = number, self.scales[number], search
        done = [record for record in self.trace if record.scale <= number]  # by the scales before
        self.iterations = done[-1].iteration if done else 0
        self.evaluations = done[-1].evaluations if done else 0
        self.began, self.iteration_then = time.monotonic(), search.iteration

    def guarded(self, function: Callable[[Array], Any]) -> Callable[[Array], Any]:
        """The function until it is time to end. Every evaluation is finished, so that the search can go on from there;
        and there is at least one."""
        self.function = function

        def evaluation(image: Array) -> Any:
            if self.evaluated:
                self._check()
            result = self.function(image)
            self.evaluated = True
            return result

        return evaluation

    def _check(self) -> None:
        if self.cancel is not None and self.cancel.is_set():
            self.ended = True
            raise Ended("interrupted", "interrupted; the picture is the best so far")
        limit = self.run.time_limit
        if limit is not None and time.monotonic() - self.started >= limit:
            raise Ended("time limit", "the time is up; the picture is the best so far")

    def record(self, record: Record) -> None:
        """One iteration of the scale's search, as one of the run."""
        whole = dataclasses.replace(
            record,
            iteration=self.iterations + record.iteration,
            evaluations=self.evaluations + record.evaluations,
            seconds=self.seconds(),
            iterations=self.iterations + sum(scale.iterations for scale in self.scales[self.number :]),
            scale=self.number + 1,
            scales=len(self.scales),
            width=self.scale.width,
            height=self.scale.height,
            left=self._left(record.iteration),
        )
        self.trace.append(whole)
        shown = dataclasses.replace(whole, image=self.image)
        self.journal(shown)
        if self.callback is not None:
            self.callback(shown)
        if time.monotonic() - self.kept >= max(self.run.checkpoint_every, self.keeping / SHARE):
            self._keep()

    def image(self) -> Array:
        """The best picture so far, as the result would be."""
        best = self.to_host(self.search.best)
        return self.inputs.finished(self.settings, best.reshape(self.scale.height, self.scale.width, 3))

    def _left(self, iteration: int) -> float:
        """Seconds until the last scale's end, an iteration's time being proportional to the pixels."""
        made = iteration - self.iteration_then
        if made <= 0:
            return math.nan
        each = (time.monotonic() - self.began) / made
        pixels = self.scale.height * self.scale.width
        later = sum(scale.iterations * scale.height * scale.width for scale in self.scales[self.number + 1 :])
        return each * (max(0, self.scale.iterations - iteration) + later / pixels)

    def end(self, outcome: Outcome) -> None:
        """The scale's search is over. Ctrl-C in the middle of an evaluation leaves nothing that could be kept."""
        if outcome.stopped != "interrupted" or self.ended:
            self._keep()

    def _keep(self) -> None:
        """A checkpoint, if there shall be any. One that can't be written is told, and the run goes on."""
        path = self.run.checkpoint or self.run.resume
        if path is None:
            return
        began = time.monotonic()
        state = {k: self.to_host(v) if getattr(v, "ndim", 0) else v for k, v in self.search.state().items()}
        settings, pictures = dataclasses.asdict(self.settings), self.inputs.checksums()
        trace, seconds = list(self.trace), self.seconds()
        try:
            Checkpoint(settings, pictures, _names(self.run), self.number, state, trace, seconds).save(path)
        except NSTError as error:
            log.warning("there is no new checkpoint: %s", error)
        self.kept = time.monotonic()
        self.keeping = self.kept - began

    def result(self, outcome: Outcome) -> Result:
        """The run's end: the picture in its full size, written where it was asked for."""
        del self.function  # the search and we know each other, so the network would stay until Python looks for such
        height, width, _ = self.inputs.content.shape
        message, pixels = outcome.message, outcome.image
        if len(self.scales) > 1 and outcome.stopped == "iterations":
            message = (
                f"all {self.trace[-1].iteration if self.trace else 0} iterations done at {len(self.scales)} scales"
            )
        if pixels.shape[:2] != (height, width):
            message += f" (made at {pixels.shape[1]}×{pixels.shape[0]} pixels and enlarged)"
            pixels = resize(pixels, height, width)
        pixels, content = self.inputs.finished(self.settings, pixels), self.inputs.pictures[0]
        iterations = self.trace[-1].iteration if self.trace else 0
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
        )
        path = result.save_somewhere(self.run.output) if self.run.output else None
        unwritten = self.journal.finish(outcome.stopped, message, saved=path == self.run.output)
        return dataclasses.replace(result, path=path, unwritten=tuple(unwritten))

    def _write(self, pixels: Array, path: Path) -> None:
        """A picture on the way, as the result will be."""
        height, width, _ = self.inputs.content.shape
        whole = pixels if pixels.shape[:2] == (height, width) else resize(pixels, height, width)
        content, recipe = self.inputs.pictures[0], dataclasses.replace(self.recipe, result={"stopped": "not yet"})
        text = recipe.to_json(str(path))
        save_image(whole, path, alpha=content.alpha, bits=self.settings.bits, exif=content.exif, recipe=text)


def check_outputs(settings: Settings, run: Run, kept: Checkpoint | None = None) -> None:
    """Finds out before the long work whether all files can be written. A run that is resumed may replace its own."""
    if run.output:
        check_output(run.output, settings.bits)
    mine = kept is not None and set(kept.outputs) >= set(_names(run))
    for path in (run.output, run.checkpoint):
        if path is not None and not is_standard_output(path):
            check_folder(path)
            check_new(path, run.overwrite or mine or path == run.resume)
    new_journal(run, lambda pixels, path: None).check_new(run.overwrite or mine)


def new_journal(run: Run, write: Callable[[Array, Path], None]) -> Journal:
    return Journal(run.output, run.trace, run.plot, run.save_every, run.preview_every, write)


def _names(run: Run) -> list[str]:
    """Of the files that a run writes, as its checkpoint keeps them."""
    return [str(path.resolve()) for path in (run.output, run.trace, run.plot) if path is not None]
