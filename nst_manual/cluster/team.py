"""One picture on a cluster, as the run sees it: a search whose arrays are on the workers.

The picture comes here only where it is asked for: at the end of a scale, in a checkpoint, in a preview.
"""

import logging
import math
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
from distributed import KilledWorker, wait
from distributed.client import FutureCancelledError

from ..arrays import Array
from ..errors import NSTError
from ..losses import Moments
from ..objective import Style
from ..optimise import OPTIMIZERS, Ended, Search
from ..optimise.history import flat
from ..problem import DAMAGED, Guard
from ..settings import Run, Settings
from ..weights import Weights
from .board import Peer
from .connection import PATIENCE, Fit, WorkerLost, workers_of
from .grid import Grid, Rectangle
from .member import Member
from .pixels import MARGIN

log = logging.getLogger(__name__)

KINDS = {"pixels": "halos", "gradient": "halos", "moments": "moments", "coefficients": "moments", "numbers": "numbers"}


MOST_LOST = 20  # workers, in a row
LOST = (OSError, RuntimeError, TimeoutError, FutureCancelledError, KilledWorker)


class Team:
    """A member on each worker, each with a network of its own. `weights` are sent to them, unless they have them."""

    def __init__(self, client: Any, settings: Settings, run: Run, weights: Weights | None) -> None:
        self.client, self.settings, self.kind = client, settings, OPTIMIZERS[settings.optimizer].search
        self.run, self.weights = replace(run, cluster=None, output=None), weights
        self.members: list[Any] = []
        self.futures: list[Any] = []
        self.many, self.lost, self.address = 0, 0, client.scheduler.address
        self.reached = 0, 0
        self.fit = Fit(client, settings)

    def gather(self) -> None:
        """A member on every worker that is there now."""
        with self._whole():
            key, given = secrets.token_hex(8), (Member, self.settings, self.run, self.weights)
            self.members, places = [], sorted(self.fit.there())
            if not places:
                raise OSError("there is none")
            waited: Any = wait
            self.many = max(self.many, len(places))
            self.futures = [
                self.client.submit(*given, actor=True, workers=[place], key=f"nst_manual-{key}-{number}")
                for number, place in enumerate(places)
            ]
            while not all(future.done() for future in self.futures):
                if lost := set(places) - set(workers_of(self.client)):  # what is meant for it would wait for ever
                    raise OSError(f"{min(lost)} went away")
                with suppress(TimeoutError):
                    waited(self.futures, timeout=0.5)
            self.members = [future.result() for future in self.futures]

    def renew(self, error: WorkerLost, where: str) -> None:
        """New members after a loss: on the worker that Dask starts in the lost one's place, too, where it does."""
        self.members, self.futures = [], []
        while not self.members:
            self.lost += 1
            if not self._present():
                raise WorkerLost(f"no workers of {self.address} answer any more") from error
            if self.lost > MOST_LOST:
                why = f"{self.lost} workers of {self.address} were lost without any progress, the last by: {error}"
                raise WorkerLost(f"{why}; they may have too little memory") from error
            try:
                self.gather()
            except WorkerLost as another:
                error = another
        log.warning("cluster: a worker is gone (%s); %d go on from %s", error, len(self.members), where)

    def progressed(self, pixels: int, iteration: int) -> None:
        """Losses count from the last iteration that nobody had made before."""
        if (pixels, iteration) > self.reached:
            self.reached, self.lost = (pixels, iteration), 0

    def _present(self) -> int:
        """How many workers there are, after some time in which they may become as many again."""
        deadline, count = time.monotonic() + PATIENCE, 0
        while time.monotonic() < deadline and count < self.many and self.client.status in ("running", "connecting"):
            time.sleep(0.2)
            count = 0
            with suppress(*LOST):
                count = len(workers_of(self.client))
        return count if self.client.status == "running" else 0

    def search(
        self,
        content: Array,
        styles: Sequence[Style],
        start: Callable[[], Array],
        state: Mapping[str, Any] | None,
        guarded: Guard,
    ) -> "TeamSearch":
        """The search for one scale's picture, from a start or from a state, which holds whole arrays."""
        if not self.members:
            self.gather()
        settings, steps = self.settings, self.settings.steps()
        size = content.shape[0], content.shape[1]
        grid = Grid.of(size, len(self.members), steps)
        self.call("join", [(number, self._peers()[: len(grid.parts)]) for number in range(len(grid.parts))])
        layers = [*settings.style_layer_weights()]
        known = [self._with_targets(style, layers, len(grid.parts)) for style in styles]
        everywhere = len(grid.parts)
        windows = self.call("window_of", [(grid, [*settings.taps()], MARGIN)] * everywhere)
        self.call("see", [(grid, windows, np.ascontiguousarray(content[seen.place]), known) for seen in windows])
        if state is None:
            begun = [(np.ascontiguousarray(part), None) for part in grid.cut(start())]
            self.call("begin", begun)
        else:
            self._restore(grid, state)
        return TeamSearch(self, grid, settings, guarded)

    def _restore(self, grid: Grid, state: Mapping[str, Any]) -> None:
        try:
            if tuple(state["shape"]) != (*grid.size, 3):
                raise ValueError("its image has another size")
            if any(state[name] != getattr(self.settings, name) for name in self.kind.settings):
                raise ValueError("its search has other settings")
            if "rows" in self.kind.arrays and len(state["rows"].shape) != 2:
                raise NSTError("the checkpoint is of a run with --history-on disk: resume it without --cluster")
            for number, part in enumerate(grid.parts):
                own = part_of(state, grid.size, part)
                self.call("begin", [(own.pop("image").reshape(part.shape), own)], number)
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise NSTError(DAMAGED) from error

    def call(self, method: str, given: Sequence[Sequence[Any]], first: int = 0) -> list[Any]:
        """The results of as many members as are given arguments, from that one on."""
        with self._whole():
            members = self.members[first : first + len(given)]
            called = [getattr(member, method)(*own) for member, own in zip(members, given, strict=True)]
            for one in called:
                while not one.done():
                    with suppress(Exception):  # whatever it is, `result` says it again
                        one.result(timeout=PATIENCE)
                    if not one.done():  # Dask may leave a lost worker's calls unanswered
                        self._check_present(members)
            return [one.result() for one in called]

    def _check_present(self, members: Sequence[Any]) -> None:
        if lost := {member._address for member in members} - set(workers_of(self.client)):
            raise OSError(f"{min(lost)} went away")

    def _peers(self) -> list[Peer]:
        return [Peer(member._address, member.key) for member in self.members]

    def _with_targets(self, style: Style, layers: Sequence[str], count: int) -> Style:
        """The style with its moments in place of its picture, of which each member has seen a part."""
        if style.targets is not None or style.image is None:
            return style
        image = style.image
        grid = Grid.of((image.shape[0], image.shape[1]), count, self.settings.steps())
        many = len(grid.parts)
        seen = self.call("window_of", [(grid, layers)] * many)
        found = self.call("moments_of", [(grid, layers, area, image[area.place], style.mask) for area in seen])
        targets = {layer: Moments(*(sum(one[layer][k] for one in found) for k in range(2))) for layer in layers}
        return replace(style, image=None, mask=None, targets=targets)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """If a member is lost, the others are told not to wait for it."""
        try:
            with self.client.as_current():
                yield
        except (NSTError, MemoryError, Ended):
            raise
        except BaseException as error:
            for member in self.members:
                with suppress(Exception):
                    member.abort("the work has ended")
            if isinstance(error, LOST):
                raise WorkerLost(" ".join(str(error).split()) or type(error).__name__) from error
            raise


class TeamSearch(Search):
    """A search of the members, as if it were in this process. Its arrays are fetched when they are asked for."""

    at_hand = False

    def __init__(self, team: Team, grid: Grid, settings: Settings, guarded: Guard) -> None:
        kind = team.kind
        self.rule, self.settings, self.arrays, self.numbers = kind.rule, kind.settings, kind.arrays, kind.numbers
        self.team, self.grid, self.shape = team, grid, (*grid.size, 3)
        self.iterate = guarded(self._iterated)
        self.limit, self.tolerance, self.bounds, self.history = 0, 0.0, settings.bounds, settings.history
        self.moved_bytes: dict[str, int] = {}
        self._know(team.call("numbers", [()] * len(grid.parts))[0])

    def _know(self, found: Mapping[str, Any]) -> None:
        for name in ("iteration", "evaluations", "loss", "best_loss", "terms", "norm", "moved"):
            setattr(self, name, found.get(name, math.nan))

    def _iterated(self, image: Any) -> Any:
        before = self.evaluations
        every = self.team.call("iterate", [(self.limit, self.tolerance)] * len(self.grid.parts))
        found = every[0]
        self._know(found)
        if failed := [found["memory"] for found in every if "memory" in found]:
            raise MemoryError(failed[0])
        self.team.progressed(math.prod(self.shape), self.iteration)
        self._count([found["bytes"] for found in every], self.evaluations - before)
        if "ended" in found:
            raise Ended(*found["ended"])
        return found["reason"]

    def _minimise(self, iterations: int, tolerance: float, report: Callable[[], None]) -> str | None:
        self.tolerance = tolerance
        if math.isinf(self.loss):
            self.limit = 0
            self.iterate(None)
        while self.iteration < iterations:
            before, self.limit = self.iteration, self.iteration + 1
            reason: str | None = self.iterate(None)
            if self.iteration > before:
                report()
            if reason:
                return reason
        return None

    def _count(self, parts: Sequence[Mapping[str, int]], evaluations: int) -> None:
        """Says once what an evaluation moves between the workers."""
        if self.moved_bytes or not evaluations:
            return
        kinds = dict.fromkeys(KINDS.values(), 0)
        for part in parts:
            for kind, count in part.items():
                kinds[KINDS[kind]] += count // evaluations
        self.moved_bytes = kinds
        if len(self.grid.parts) > 1:
            text = ", ".join(f"{count / 1e6:.2f} MB of {kind}" for kind, count in kinds.items())
            picture = f"{4 * math.prod(self.shape) / 1e6:.2f} MB"
            log.info(
                "cluster: %d×%d pixels in %d parts; an evaluation moves %s (the picture has %s)",
                *self.shape[1::-1],
                len(self.grid.parts),
                text,
                picture,
            )

    def state(self) -> dict[str, Any]:
        [first, *_] = self.team.call("numbers", [()] * len(self.grid.parts))
        return {**first, "shape": list(self.shape)} | {name: self.fetched(name) for name in self.arrays}

    @property
    def best(self) -> Array:  # type: ignore[override]
        return self.fetched("best")

    def kept(self) -> dict[str, Any]:
        """The same without its arrays: no more than one vector of them comes here at a time."""
        everywhere = [()] * len(self.grid.parts)
        [first, *_], [kinds, *_] = self.team.call("numbers", everywhere), self.team.call("kinds", everywhere)
        arrays = {name: Away(self, name, *kind) for name, kind in kinds.items()}
        return {**first, "shape": list(self.shape)} | arrays

    def fetched(self, name: str, row: int | None = None) -> Array:
        """One of the search's arrays, whole, or one of its rows."""
        parts: list[Array] = self.team.call("part", [(name, row)] * len(self.grid.parts))
        if not parts[0].size:
            return parts[0]
        rows = len(parts[0]) if parts[0].ndim == 2 else 1
        whole = np.empty((rows, *self.shape), parts[0].dtype)
        for area, part in zip(self.grid.parts, parts, strict=True):
            whole[:, *area.place] = part.reshape(rows, *area.shape)
        found: Array = whole.reshape(*parts[0].shape[:-1], -1)
        return found


class Away:
    """An array of a team's search, as long as the search stays where it is."""

    def __init__(self, search: TeamSearch, name: str, shape: tuple[int, ...], dtype: str) -> None:
        """`shape` and `dtype` are those of a member's part."""
        self.search, self.name, self.dtype = search, name, np.dtype(dtype)
        self.shape = (*shape[:-1], math.prod(search.shape)) if math.prod(shape) else shape

    def pieces(self) -> Iterator[Array]:
        rows = range(self.shape[0]) if len(self.shape) == 2 else [None]
        for row in rows:
            yield self.search.fetched(self.name, row)


def part_of(state: Mapping[str, Any], size: tuple[int, int], area: Rectangle) -> dict[str, Any]:
    """The state of the search for a part of the picture. Its arrays have numbers for each of the picture's; or none."""

    def cut(array: Any) -> Any:
        if not hasattr(array, "dtype") or not array.size:
            return array
        several, length, width = array.shape[:-1], math.prod(size) * 3, size[1] * 3
        if array.shape[-1] != length:
            raise ValueError("its arrays have another size")
        numbers, (rows, columns) = flat(array), area.place
        bands = [
            numbers[start + rows.start * width : start + rows.stop * width].reshape(-1, size[1], 3)[:, columns]
            for start in range(0, array.size, length)
        ]
        return np.stack(bands).reshape(*several, -1)

    return {name: cut(value) for name, value in state.items()}
