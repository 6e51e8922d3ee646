"""How much memory a run will need, told before it: the phases of a run one after the other, and what is alive in each.

A walk up and down is gone through as objective.py walks it, adding up sizes; what a step needs its engine knows.
How near this comes to what is measured: docs/runs.md, "Memory", made by tools/forecast.py.
"""

import logging
import math
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..engines import Engine
from ..engines.needs import Needs, Shape
from ..errors import NSTError
from ..settings import Run, Settings
from ..vgg import VGG19, Conv, ConvPool, Linear, Pool, Relu, Step, Steps, convolutions, joined, smallest_side
from ..weights import find_weights
from ..weights.calibrated import memory_of_calibration
from .inputs import Inputs
from .machine import physical, resident

log = logging.getLogger(__name__)

FLOAT, DOUBLE = 4, 8
START = 100_000_000  # bytes of a process that can't be asked for its own
MORE = 15_000_000  # of modules, threads and BLAS's own buffers, which come when they are first used
STEP = 8  # the size that would fit is told as a multiple of it

# SciPy's L-BFGS-B, bytes for each number of the picture: its vectors, copies of the image and the gradient, and its
# forms of the bounds. Measured with SciPy 1.17. Two vectors of each remembered step come to it.
SCIPY, SCIPY_BOUNDED = 129, 176
SCIPY_ITSELF = 49_000_000  # bytes; it is loaded by the first search

VERBS = {Conv: "conv_relu", Pool: "pool", ConvPool: "conv_relu_pool", Linear: "conv", Relu: "relu"}  # of an engine
CHANNELS = {step.name: step.c_out for step in VGG19 if isinstance(step, Conv)}


class Size(NamedTuple):
    height: int
    width: int

    def pixels(self) -> int:
        return self.height * self.width

    def times(self, share: float) -> "Size":
        return Size(*(max(1, round(side * share)) for side in self))


@dataclass(frozen=True)
class Forecast:
    """Of a run's settings, engine and pictures: `total` bytes, for pictures as large as these or smaller."""

    settings: Settings
    needs: Needs | int
    content: Size
    styles: tuple[Size, ...]
    regions: int  # styles that go to a region of their own
    now: int  # what the process has already
    peak: int  # the most that it has had
    loaded: bool = False  # whether the filters are there already
    coming: int = 0  # what the first search loads, for all

    @classmethod
    def of(cls, settings: Settings, inputs: Inputs, engine: Engine, loaded: bool = False) -> "Forecast":
        shown = [style.image for style in inputs.styles if style.image is not None]
        regions = sum(style.region is not None for style in inputs.styles)
        known = resident()
        now, peak = known if known else (START, START)
        coming = SCIPY_ITSELF * (settings.optimizer == "l-bfgs-b" and "scipy.optimize" not in sys.modules)
        content, *styles = (Size(*image.shape[:2]) for image in (inputs.content, *shown))
        return cls(settings, engine.needs(), content, tuple(styles), regions, now, peak, loaded, coming)

    @property
    def total(self) -> int:
        return self._total(self.content, self.styles)

    def side_by_side(self, runs: int) -> int:
        """Of so many such runs at once in one process."""
        shared = self.now + self.coming
        return shared + runs * (self.total - shared)

    def at(self, side: int) -> int:
        """The same with pictures for a result whose longer side is that, not longer than now."""
        share = side / max(self.content)
        styles = self.styles
        if self.settings.style_size is None:
            limit = side * self.settings.style_scale
            styles = tuple(style.times(min(1.0, limit / max(style))) for style in styles)
        return self._total(self.content.times(share), styles)

    def fitting(self, limit: int) -> int | None:
        """The largest longer side with which a run needs no more than that; None if there is none."""
        least, most = smallest_side(self.settings.steps()), max(self.content)
        sides = [side for side in range(STEP, most + 1, STEP) if side >= least * most / min(self.content)]
        low, high = 0, len(sides)  # the first that is too large
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.at(sides[middle]) <= limit else (low, middle)
        return sides[low - 1] if low else None

    def _total(self, content: Size, styles: Sequence[Size]) -> int:
        if isinstance(self.needs, int):
            return self.needs * content.pixels()
        steps = self.settings.steps()
        pictures = 3 * FLOAT * (1 + (self.settings.colors != "style"))
        saved = sum(
            a.pixels() - b.pixels() for a, b in zip((self.content, *self.styles), (content, *styles), strict=True)
        )
        base = self.now - pictures * saved + MORE
        weights, filters = (0, 0) if self.loaded else filters_of(self.needs, steps)
        before = weights + filters
        if not self.loaded and find_weights(self.settings.weights) is None:
            before = max(before, weights + memory_of_calibration([content, *styles], convolutions(steps)[-1]))
        targets, finding = self._targets(self.needs, content, styles)
        taps = self._taps()
        evaluated = joined(steps, taps)
        run = self.coming + vectors(self.settings, self.needs, content)
        run += walk(self.needs, evaluated, self.settings.pooling, taps, content)
        fixed = self.needs.fixed([(VERBS[type(step)], shape) for step, shape in shapes(evaluated, content)])
        return max(self.peak, base + before, base + filters + fixed + targets + max(finding, run))

    def _taps(self) -> dict[str, list[str]]:
        """The terms' kinds at each layer."""
        taps: dict[str, list[str]] = {layer: ["content"] for layer in self.settings.content_layer_weights()}
        for layer in self.settings.style_layer_weights():
            kinds = taps.setdefault(layer, [])
            kinds += ["style"] * (self.regions == 0) + ["guided"] * self.regions
        return taps

    def _targets(self, needs: Needs, content: Size, styles: Sequence[Size]) -> tuple[int, int]:
        """All of them together, and the most that a walk to one of them needs."""
        steps, size = self.settings.steps(), DOUBLE if needs.precise else FLOAT
        layers, style_layers = self.settings.content_layer_weights(), self.settings.style_layer_weights()
        kept, finding = 0, walk_to(needs, steps, self.settings.pooling, layers, content)
        for step, shape in shapes(joined(steps, self._taps()), content):
            name = step.name
            kept += (name in layers) * shape.pixels() * shape.c_out * size
            if name in style_layers:
                kept += max(1, self.regions) * shape.c_out**2 * size + self.regions * shape.pixels() * size
        for style in styles:
            finding = max(finding, walk_to(needs, steps, self.settings.pooling, style_layers, style))
        return kept, finding


def check_memory(
    settings: Settings, run: Run, inputs: Inputs, engine: Engine, loaded: bool = False, runs: int = 1
) -> int:
    """Says what a run will need, and refuses one that needs more than --max-memory. Of so many `runs` that could be
    made side by side, returns how many there is the memory for."""
    forecast = Forecast.of(settings, inputs, engine, loaded)
    total, limit, there = forecast.total, run.max_memory, physical()
    whose = "of the GPU's memory" if isinstance(forecast.needs, int) else "of memory"
    if limit is not None and total > limit:
        fits = forecast.fitting(int(limit))
        what = "no size would fit" if fits is None else f"--size {fits} would fit"
        sentence = f"the run would need about {shown(total)} {whose}, more than the {shown(limit)} of --max-memory"
        raise NSTError(f"{sentence}: {what}")
    least = min(limit or math.inf, there or math.inf)
    while runs > 1 and forecast.side_by_side(runs) > least:
        runs -= 1
    total = forecast.side_by_side(runs)
    log.info("memory: about %s", shown(total))
    if there is not None and total > there and whose == "of memory":
        log.warning("memory: the machine has only %s; a smaller --size would be quicker", shown(there))
    return runs


def shown(count: float) -> str:
    """Bytes as people say them, to two or three digits."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def filters_of(needs: Needs, steps: Steps) -> tuple[int, int]:
    """The weights as they are read, and the filters as the engine has them."""
    weights = filters = 0
    for step, shape in shapes(list(steps), Size(1, 1)):
        if isinstance(step, Conv | Linear):
            weights += 9 * shape.c_in * shape.c_out * FLOAT
            filters += needs.filters(shape.c_in, shape.c_out, isinstance(step, Linear))
    return weights, filters


def vectors(settings: Settings, needs: Needs, content: Size) -> int:
    """What the optimiser has between two evaluations, the image and the best one included."""
    numbers, size = 3 * content.pixels(), DOUBLE if needs.precise else FLOAT
    if settings.optimizer == "l-bfgs-b":
        image = 0 if needs.precise else FLOAT  # as the engine wants it
        pairs = min(settings.history, settings.iterations)  # what SciPy has not written to yet takes no memory
        return numbers * ((SCIPY_BOUNDED if settings.bounds else SCIPY) + 2 * DOUBLE * pairs + image)
    if settings.optimizer == "lbfgs":
        return numbers * (size * (7 + 2 * settings.history) + 2 * settings.bounds)
    return numbers * size * (7 + (settings.averaging > 0))


def walk(needs: Needs, steps: Sequence[Step], pooling: str, taps: Mapping[str, Sequence[str]], size: Size) -> int:
    """The most that an evaluation needs, up and down, as objective.py and vgg.py let go of what they have."""
    most = held = 0  # on the tape
    x = 3 * size.pixels() * (DOUBLE if needs.precise else FLOAT)
    tape = []
    for step, shape in shapes(steps, size):
        up = needs.up(VERBS[type(step)], shape, pooling)
        most = max(most, held + x + up.most)
        x, held, d_features = up.result, held + up.saved, 0
        for kind in taps.get(step.name, ()):
            loss = needs.loss(kind, shape if isinstance(step, Conv) else shape._replace(c_in=shape.c_out))
            most = max(most, held + x + d_features + loss.most)
            d_features = max(d_features, loss.result)
        held += d_features
        tape.append((step, shape, up.saved, d_features))
    d = 0
    for step, shape, saved, d_features in reversed(tape):
        most = max(most, held + d)
        d, held = max(d, d_features), held - d_features
        down = needs.down(VERBS[type(step)], shape, pooling)
        most = max(most, held + d + down.most)
        d, held = down.result, held - saved
    return most


def walk_to(needs: Needs, steps: Steps, pooling: str, layers: Collection[str], size: Size) -> int:
    """The most that a walk up to the deepest of the layers needs."""
    most, missing = 0, set(layers)
    x = 3 * size.pixels() * (DOUBLE if needs.precise else FLOAT)
    for step, shape in shapes(joined(steps, layers), size):
        if not missing:
            break
        up = needs.up(VERBS[type(step)], shape, pooling)
        most = max(most, x + up.most, up.result + up.saved + (step.name in missing) * needs.gram(shape, False))
        x = up.result
        missing.discard(step.name)
    return most


def shapes(steps: Sequence[Step], size: Size) -> list[tuple[Step, Shape]]:
    """Each step with the shape of its input and its channels out."""
    (height, width), channels, found = size, 3, []
    for step in steps:
        c_in = channels
        if isinstance(step, Conv | ConvPool | Linear):
            channels = CHANNELS[step.name if isinstance(step, Conv) else step.conv]
        found.append((step, Shape(height, width, c_in, channels)))
        if isinstance(step, Pool | ConvPool):
            height, width = height // 2, width // 2
    return found
