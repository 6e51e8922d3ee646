"""A run under way, over all of its scales: it is counted, told to those who watch, kept in checkpoints, and ended."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from .arrays import Array
from .checkpoint import Checkpoint
from .errors import NSTError
from .optimise import AnySearch, Ended, Outcome, Record
from .scales import Scale
from .settings import Run

log = logging.getLogger(__name__)

SHARE = 0.05  # of the run's time that writing checkpoints may take, however slow the disk


class Flag(Protocol):
    """What a run looks at to know that it shall end, such as threading.Event."""

    def is_set(self) -> bool: ...


class Watch:
    """Made for one run, and told of each scale's search by `begin` and `end`, of each iteration by `record`.

    `picture` makes of a search's image what the result would be; `checkpoint` tells all of a run at a scale and search.
    """

    def __init__(
        self,
        run: Run,
        scales: Sequence[Scale],
        picture: Callable[[Array], Array],
        checkpoint: Callable[[int, AnySearch], Checkpoint],
        *,
        callback: Callable[[Record], object] | None = None,
        cancel: Flag | None = None,
        trace: Sequence[Record] = (),
    ) -> None:
        self.run, self.scales, self.picture, self.checkpoint = run, scales, picture, checkpoint
        self.callback, self.cancel, self.trace = callback, cancel, list(trace)
        self.before = self.trace[-1].seconds if self.trace else 0.0  # spent by the part of the run that is resumed
        self.started = self.kept = time.monotonic()
        self.keeping = 0.0  # seconds that writing the last checkpoint took
        self.evaluated = self.ended = False

    def seconds(self) -> float:
        """Spent on the run, by the part of it that is resumed too."""
        return self.before + time.monotonic() - self.started

    def begin(self, number: int, search: AnySearch) -> None:
        """The scale of that number, counted from 0, with its search; a search may be in the middle of its way."""
        self.number, self.scale, self.search = number, self.scales[number], search
        done = [record for record in self.trace if record.scale <= number]  # by the scales before
        self.iterations = done[-1].iteration if done else 0
        self.evaluations = done[-1].evaluations if done else 0
        self.began, self.iteration_then = time.monotonic(), search.iteration

    def guarded(self, function: Callable[[Array], Any]) -> Callable[[Array], Any]:
        """The function until it is time to end. Every evaluation is finished, so that the search can go on from there;
        and there is at least one."""

        def evaluation(image: Array) -> Any:
            if self.evaluated:
                self._check()
            result = function(image)
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
        if self.callback is not None:
            self.callback(dataclasses.replace(whole, image=self.image))
        if time.monotonic() - self.kept >= max(self.run.checkpoint_every, self.keeping / SHARE):
            self._keep()

    def image(self) -> Array:
        """The best picture so far, as the result would be."""
        return self.picture(self.search.best.reshape(self.scale.height, self.scale.width, 3))

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
        try:
            self.checkpoint(self.number, self.search).save(path)
        except NSTError as error:
            log.warning("there is no new checkpoint: %s", error)
        self.kept = time.monotonic()
        self.keeping = self.kept - began
