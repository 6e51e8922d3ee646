"""How much memory a run will need: a table of measured bytes per pixel for each engine, and what to do with the answer.

The numbers come from `python tools/memory.py`; docs/runs.md compares forecasts with measured peaks.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from ..engines import Engine
from ..engines.cpu.threads import available_threads
from ..engines.cuda.paths import PATHS
from ..settings import Run, Settings
from ..vgg import BEFORE, VGG19, Pool, convolutions, smallest_side
from ..weights import find_weights
from ..weights.calibrated import SIDE
from ..weights.naming import SHAPES
from .inputs import Inputs
from .machine import physical, resident

Size = tuple[int, int]  # height, width
POOLED = {one.name for one, behind in pairwise(VGG19) if isinstance(behind, Pool)}


class Cost(NamedTuple):
    """What an engine needs: bytes, or multiples of the bytes of a layer's features."""

    pixel: int  # for each pixel of the picture, by an evaluation
    tile: int  # for each pixel that a tile sees, with all that the tile needs
    style: int = 0  # for each pixel of a style picture, by the walk to its targets
    regions: int = 0  # more for each pixel, where styles have regions of their own
    content: float = 0  # times the features of each content layer: its target, and they, unless a style layer's
    pooled: float = 0  # times the features of each layer in front of a pooling that is used
    moment: int = 0  # for each number of the style layers' second moments
    before: float = 0  # times the features of each layer that is used before its ReLU
    weight: int = 0  # for each weight of the network, in the engine's form
    number: int = 0  # for each number of a feature map and of an optimiser's vector
    fixed: int = 0
    thread: int = 0  # for each thread
    on_card: bool = False  # all of it is the GPU's memory


NUMBER = {("cuda", "float16"): 2, ("cuda plain", "float64"): 8}  # bytes of a feature; others have 4
COSTS = {
    ("cpu", "float32"): Cost(
        310,
        tile=190,
        style=210,
        regions=100,
        content=1.1,
        pooled=1,
        moment=82,
        before=2.3,
        weight=16,
        number=4,
        fixed=27_000_000,
        thread=7_500_000,
    ),
    ("reference", "float32"): Cost(1740, tile=1350, style=1360, content=2, moment=82, weight=4, number=4),
    ("reference", "float64"): Cost(3580, tile=2600, style=2720, content=2, moment=82, weight=8, number=8),
    # With optimizer=lbfgs, measured on an H200 by tools/bench_cuda.py; the plain paths' are estimates.
    **{
        (engine.name, precision): Cost(pixel, pixel, number=NUMBER.get((engine.name, precision), 4), on_card=True)
        for engine in PATHS.values()
        for precision, pixel in engine.bytes_per_pixel.items()
    },
}
MEASURED_WITH = "conv4_2"  # the content layer; more features count twice, as targets and as gradients
L2 = 140  # numbers for each pixel: the features in front of and behind every L2 pooling, which its derivative needs

VECTORS = 6  # as long as the picture, of lbfgs and adam; lbfgs has two more for each remembered step

# SciPy's L-BFGS-B, in bytes for each number of the picture, without and with bounds; and for each remembered step.
SCIPY, SCIPY_BOUNDED, SCIPY_STEP = 125, 173, 16
SCIPY_TABLE, TABLE = 88, 16  # and for each pair of remembered steps: SciPy's, and lbfgs' in any engine
SCIPY_ITSELF = 45_000_000  # bytes; the first search loads it

PROCESS = 100_000_000  # bytes of a process whose system can't tell
LIBRARIES = 27_000_000  # bytes of modules, threads and BLAS's buffers that come with first use
READ = 4  # bytes of each weight as it is read or made
MAKING, MAKING_PIXEL = 45_000_000, 400  # bytes for making calibrated weights, and for each pixel they are made from
PICTURE = 12  # bytes for each pixel of a loaded picture
TILED = 3  # numbers for each pixel of a picture in tiles: its gradient
STORED = 1.2  # times the content's features of a picture in tiles, in memory
HALO = 150  # pixels around a tile, both sides together
STRIPS = 40_000_000  # bytes for terms of the pixels, where they are computed in strips
STEP = 8  # a size that would fit is given as a multiple of this


@dataclass(frozen=True)
class Forecast:
    """The memory of a run with these settings, this engine and these pictures, or with smaller ones."""

    settings: Settings
    cost: Cost
    content: Size
    styles: tuple[Size, ...] = ()
    scales: tuple[float, ...] = ()  # of the styles, by --style-scale
    regions: bool = False
    loaded: bool = False  # whether the engine has its filters already
    threads: int = 1
    now: int = PROCESS  # what the process has at present
    peak: int = PROCESS  # the most that it has had
    tile: int | None = None  # the side of the tiles, if the picture is computed in tiles
    on_disk: bool = False  # whether lbfgs' history is there, and the content's features

    @classmethod
    def of(
        cls, settings: Settings, inputs: Inputs, engine: Engine, loaded: bool = False, threads: int | None = None
    ) -> "Forecast":
        every = zip(inputs.styles, settings.style_scales(len(inputs.styles)), strict=True)
        shown = [(style.image, scale) for style, scale in every if style.image is not None]
        content, *styles = ((image.shape[0], image.shape[1]) for image, _ in ((inputs.content, 1), *shown))
        regions = any(style.region is not None for style in inputs.styles)
        cost, threads = COSTS[engine.name, engine.precision], threads or available_threads()
        now, peak = resident() or (PROCESS, PROCESS)
        scales = tuple(scale for _, scale in shown)
        return cls(settings, cost, content, tuple(styles), scales, regions, loaded, threads, now, peak)

    @property
    def total(self) -> int:
        """The process's peak in bytes, or the card's if the engine computes on one."""
        return self._total(self.content, self.styles)

    def at(self, side: int) -> int:
        """The same for a result whose longer side is `side`, at most as long as now."""
        return self._total(*self._sizes(side))

    def fitting(self, limit: float) -> int | None:
        """The largest longer side, no longer than now, with which a run needs at most `limit`; None if none does."""
        least, most = smallest_side(self.settings.steps()), max(self.content)
        for side in range(most - most % STEP, 0, -STEP):
            content, styles = self._sizes(side)
            if min(map(min, (content, *styles))) < least:
                break
            if self._total(content, styles) <= limit:
                return side
        return None

    @property
    def on_disk_bytes(self) -> int:
        """What the temporary files take."""
        if not self.on_disk:
            return 0
        settings, size, number = self.settings, self._framed(self.content), 8 if self.cost.number == 8 else 4
        pixels = math.prod(size)
        each = number * sum(map(_numbers, settings.content_layer_weights())) * (self._seen(size) < pixels)
        if settings.optimizer == "lbfgs":
            each += 2 * settings.history * 3 * min(number, settings.history_bits // 8)
        return round(pixels * each)

    def _framed(self, size: Size) -> Size:
        """With the margin."""
        height, width = size
        return height + 2 * self.settings.margin, width + 2 * self.settings.margin

    def _sizes(self, side: int) -> tuple[Size, tuple[Size, ...]]:
        """The pictures' sizes where the result's longer side is `side`."""
        styles = self.styles
        if self.settings.style_size is None:
            every = zip(styles, self.scales, strict=True)
            styles = tuple(_scaled(style, min(1.0, side * scale / max(style))) for style, scale in every)
        return _scaled(self.content, side / max(self.content)), styles

    def _total(self, content: Size, styles: Sequence[Size]) -> int:
        if self.cost.on_card:
            size = self._framed(content)
            more = sum(map(_numbers, self.settings.content_layer_weights())) - _numbers(MEASURED_WITH)
            return self._evaluation(size) + round(2 * self.cost.number * max(0, more) * self._seen(size))
        smaller = sum(map(math.prod, (self.content, *self.styles))) - sum(map(math.prod, (content, *styles)))
        freed = smaller * PICTURE * (1 if self.settings.colors == "style" else 2)
        weights = sum(math.prod(SHAPES[layer]) for layer in convolutions(self.settings.steps()))
        loading = 0 if self.loaded else self._loading(weights, (content, *styles))
        of_style = max(map(self._seen, styles), default=0)
        running = weights * self.cost.weight + self._running(self._framed(content), of_style)
        return max(self.peak, self.now - freed + LIBRARIES + max(loading, running))

    def _loading(self, weights: int, pictures: Sequence[Size]) -> int:
        """While the network is made."""
        prepared, made = weights * (READ + self.cost.weight), 0
        if find_weights(self.settings.weights) is None:
            seen = sum(min(math.prod(size), SIDE**2) for size in pictures)
            made = weights * READ + MAKING + MAKING_PIXEL * seen
        return max(prepared, made)

    def _seen(self, size: Size) -> int:
        """The pixels that are computed at a time."""
        return math.prod(size if self.tile is None else (min(side, self.tile + HALO) for side in size))

    def _running(self, size: Size, of_style: int) -> int:
        """While the targets are found, from the largest style, and then the picture; without filters."""
        cost, settings, pixels, seen = self.cost, self.settings, math.prod(size), self._seen(size)
        content, style = settings.content_layer_weights(), settings.style_layer_weights()
        features = cost.number * sum(map(_numbers, content))
        waiting = cost.number * sum(_numbers(one) for one in content if one not in style)
        each: float = self.regions * cost.regions + cost.content * (features + waiting)
        each += cost.pooled * cost.number * sum(_numbers(one) for one in {*content, *style} & POOLED)
        each += cost.before * cost.number * sum(_numbers(one) for one in (*content, *style) if one.startswith(BEFORE))
        searching = self._evaluation(size) + round(seen * each) + 3 * pixels * self._vectors()
        if seen < pixels:
            stored = 0 if self.on_disk else STORED * features
            searching += round(pixels * (TILED * cost.number + stored)) + STRIPS
        if settings.optimizer == "l-bfgs-b" and "scipy.optimize" not in sys.modules:
            searching += SCIPY_ITSELF
        searching += self._table()
        walking = cost.style * of_style + round(seen * features)  # with the content's targets at hand
        covariances = cost.moment * sum(_channels(one) ** 2 for one in style)
        return cost.fixed + self.threads * cost.thread + covariances + max(walking, searching)

    def _evaluation(self, size: Size) -> int:
        """Bytes of an evaluation."""
        seen = self._seen(size)
        each = self.cost.tile if seen < math.prod(size) else self.cost.pixel
        return seen * (each + (L2 * self.cost.number if self.settings.pooling == "l2" else 0))

    def _table(self) -> int:
        """Bytes of the optimiser's dot products of remembered steps."""
        if self.settings.optimizer == "l-bfgs-b":
            return SCIPY_TABLE * min(self.settings.history, self.settings.iterations) ** 2
        return TABLE * self.settings.history**2 if self.settings.optimizer == "lbfgs" else 0

    def _vectors(self) -> int:
        """Bytes of the optimiser's vectors for each number of the picture."""
        settings = self.settings
        if settings.optimizer == "l-bfgs-b":  # takes memory for a step only when it writes to it
            steps = min(settings.history, settings.iterations)
            return (SCIPY_BOUNDED if settings.bounds else SCIPY) + SCIPY_STEP * steps
        remembered = 2 * settings.history if settings.optimizer == "lbfgs" and not self.on_disk else 0
        free = 2 if settings.optimizer == "lbfgs" and settings.bounds else 0  # which pixels can move, now and before
        return self.cost.number * VECTORS + free + remembered * min(self.cost.number, settings.history_bits // 8)


def decoding_limit(run: Run) -> float | None:
    """Bytes that decoding one picture may take: those of --max-memory, or those that the machine has."""
    return physical() if run.max_memory is None else run.max_memory


def _channels(layer: str) -> int:
    return SHAPES[layer.removeprefix(BEFORE)][3]


def _numbers(layer: str) -> float:
    """A layer's features for each pixel of the picture."""
    halvings = int(layer.removeprefix(BEFORE)[len("conv")]) - 1
    return _channels(layer) * 0.25**halvings


def _scaled(size: Size, share: float) -> Size:
    height, width = (max(1, round(side * share)) for side in size)
    return height, width
