"""The proof: dot tests and finite differences, as a library and as the table of `check`.

Kinks are handled by method. Within one pattern of open ReLUs and pooling winners the network is affine in the image,
so a loss of the paper is a polynomial of degree at most 4 along any line; such patterns fill convex regions, so a
segment whose ends share a pattern lies in one region. There the five-point central difference has no truncation
error at all: what is left is rounding. Steps that leave the region are shortened, not tolerated.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from .. import layers
from ..arrays import Array, Scalar
from ..engines import Engine, open_engine
from ..guides import region_weights
from ..losses import STYLE_LOSSES, content_loss, moments, style_loss, tv_loss, tv_normalised_loss, tv_power_loss
from ..objective import Evaluation, ImageTerm, Objective, Style, content_terms, style_terms
from ..presets import PRESETS, Formula
from ..vgg import BEFORE, POOLINGS, Conv, Network, Operation, Pool, Relu, Step, Steps, steps_to, vgg_table, walk_up
from .by_torch import (
    STYLE_FORMULAS,
    eecs498_tv,
    keras_tv,
    paper_content,
    torch_evaluation,
    torch_gradient,
    torch_installed,
    torch_layers,
    whole_tv,
)

Region = Callable[[Array], bytes]

# Narrow, but with every convolution and pooling of VGG-19 up to the deepest style layer.
NARROW = steps_to("conv5_1", vgg_table(((2, 6), (2, 8), (4, 8), (4, 10), (4, 10))))
MEAN = (123.68, 116.779, 103.939)
LAYER_WEIGHTS = ({"conv4_2": 2.0}, {"conv1_1": 1.0, "conv2_1": 2.0, "conv3_1": 1.0, "conv4_1": 3.0, "conv5_1": 1.0})
TV_WEIGHT = 0.01
PROGRAMS = tuple(name for name in PRESETS if name != "default")  # whose formulas are those of `gatys`
POLYNOMIAL = ("gram",)  # style losses that are polynomials of degree 4 in the features
BEFORE_RELU = ("pytorch-tutorial",)  # presets whose layers are tapped before their ReLU

# The largest relative error that passes, for each column of the table.
LIMITS = {"adjoint": 1e-13, "numeric": 1e-7, "pytorch": 1e-10}
AGAINST = {
    "adjoint": "the dot test",
    "numeric": "finite differences",
    "pytorch": "PyTorch's autograd",
    "engine": "the float64 reference",
}
ENGINE_LIMITS = {"float64": 1e-10, "float32": 1e-4, "tf32": 1e-2, "float16": 5e-2}


class Finding(NamedTuple):
    """Where a derivative differs most from what it is compared with, and by how much."""

    where: str
    expected: float
    found: float
    step: float | None = None  # of the finite differences

    def __str__(self) -> str:
        step = "" if self.step is None else f" (step {self.step:.3g})"
        return f"at {self.where} expected {self.expected:.9g}, found {self.found:.9g}{step}"


@dataclass(frozen=True)
class Check:
    """One row of the table: the relative errors of one derivative, each None where a comparison does not apply."""

    name: str
    adjoint: float | None = None  # dot test
    numeric: float | None = None  # finite differences
    pytorch: float | None = None  # autograd, in float64
    engine: float | None = None  # the engine in use against the float64 reference
    engine_limit: float = ENGINE_LIMITS["float32"]
    findings: Mapping[str, Finding] = field(default_factory=dict)  # by column, the worst place of each
    fault: str = ""  # of a whole objective: the first step of the network whose own derivative is wrong

    @property
    def passed(self) -> bool:
        return not self.failed()

    def failed(self) -> dict[str, float]:
        """The columns whose error is too large, with their limits."""
        limits = {**LIMITS, "engine": self.engine_limit}
        errors = self.errors().items()
        return {column: limits[column] for column, error in errors if error is not None and not error <= limits[column]}

    def explanation(self) -> str:
        """What is wrong, where, and what was expected; nothing if nothing is."""
        parts = []
        for column, limit in self.failed().items():
            parts.append(f"by {AGAINST[column]} its relative error is {self.errors()[column]:.2g}, above {limit:.0e}")
            if column in self.findings:
                parts[-1] += f": {self.findings[column]}"
        if self.fault:
            parts.append(self.fault)
        return f"{self.name}: {'; '.join(parts)}" if parts else ""

    def worse(self, other: "Check") -> "Check":
        """The larger error of two checks of the same derivative, column by column."""
        worst: dict[str, Any] = {}
        for column, error in self.errors().items():
            both = (error, getattr(other, column))
            worst[column] = max((e for e in both if e is not None), default=None)
        mine = self.errors()
        theirs = {column: finding for column, finding in other.findings.items() if worst[column] != mine[column]}
        return replace(self, **worst, findings={**self.findings, **theirs})

    def errors(self) -> dict[str, float | None]:
        return {column: getattr(self, column) for column in (*LIMITS, "engine")}


def checks(engine: str = "auto", precision: str = "float32", threads: int | None = None) -> Iterator[Check]:
    """A row for each layer and each loss, and for the whole objective with every preset, both poolings, and regions."""
    rng = np.random.default_rng(0)
    for pair in layer_pairs(rng):
        yield check_layer(pair, rng)
    f, p, s = rng.random((5, 4, 3)), rng.random((5, 4, 3)), rng.random((7, 3, 3))
    yield check_loss("content loss", lambda f: content_loss(f, p), f, rng, lambda f: paper_content(f, f.new_tensor(p)))
    yield from style_checks(f, s, rng)
    yield check_loss("total variation", tv_loss, f, rng, whole_tv)
    yield check_loss("total variation, keras", tv_power_loss, f, rng, keras_tv, step=1e-4)
    yield check_loss("total variation, eecs498", tv_normalised_loss, f, rng, eecs498_tv)
    chosen = open_engine(engine, precision, threads)
    pictures = rng.uniform(0, 255, (33, 38, 3)), rng.uniform(0, 255, (33, 38, 3))
    styles = [Style(rng.uniform(0, 255, (41, 32, 3)))]
    for preset in PROGRAMS:
        for pooling in POOLINGS:
            yield check_objective(preset, pooling, pictures, styles, rng, chosen)
    yield check_objective("gatys", "avg", pictures, two_regions(pictures[0].shape, rng), rng, chosen, "two regions")


def style_checks(f: Array, s: Array, rng: np.random.Generator) -> Iterator[Check]:
    """Two rows for each style loss: of a whole map, and of a region of it."""
    share = rng.random(f.shape[:2])
    for name, loss in STYLE_LOSSES.items():
        for kind, part in (("style loss", None), ("guided style loss", share)):

            def ours(f: Array, loss: Any = loss, part: Any = part) -> tuple[Scalar, Array]:
                weights = None if part is None else region_weights(part, "a layer")
                return style_loss(f, moments(s), weights, loss)

            def theirs(f: Any, name: str = name, part: Any = part) -> Any:
                return STYLE_FORMULAS[name](f, s, part)

            row = kind if name == "gram" else f"{kind}, {name}"
            yield check_loss(row, ours, f, rng, theirs, step=1.0 if name in POLYNOMIAL else 1e-4)


def two_regions(shape: tuple[int, ...], rng: np.random.Generator) -> list[Style]:
    """Two styles with unequal shares: one for the left, from a part of its picture, and one for the right."""
    left = np.clip(0.5 + (0.4 * shape[1] - np.arange(shape[1])) / 6, 0, 1) * np.ones((shape[0], 1))
    first, second = rng.uniform(0, 255, (41, 32, 3)), rng.uniform(0, 255, (35, 40, 3))
    return [Style(first, 0.4, mask=rng.random((41, 32)), region=left), Style(second, 0.6, region=1 - left)]


@dataclass(frozen=True)
class Pair:
    """A layer and its derivative. Without a region it is affine everywhere, and the dot test applies too."""

    name: str
    forward: Callable[[Array], Array]
    backward: Callable[[Array, Array], Array]  # (x, d_y) → d_x
    by_torch: Callable[[Any], Any]
    region: Region | None = None


def layer_pairs(rng: np.random.Generator) -> list[Pair]:
    """Every layer of VGG, for features of 3 channels."""
    kernel, bias = rng.standard_normal((3, 3, 3, 4)), rng.standard_normal(4)
    by_torch = torch_layers(kernel, bias)
    return [
        Pair(
            "convolution",
            lambda x: layers.conv(x, kernel, bias),
            lambda x, d_y: layers.conv_backward(d_y, kernel),
            by_torch["convolution"],
        ),
        Pair(
            "ReLU",
            lambda x: layers.relu(x)[0],
            lambda x, d_y: layers.relu_backward(d_y, layers.relu(x)[1]),
            by_torch["ReLU"],
            lambda x: layers.relu(x)[1].tobytes(),
        ),
        Pair(
            "average pooling",
            layers.average_pool,
            lambda x, d_y: layers.average_pool_backward(d_y, x.shape),
            by_torch["average pooling"],
        ),
        Pair(
            "max pooling",
            lambda x: layers.max_pool(x)[0],
            lambda x, d_y: layers.max_pool_backward(d_y, layers.max_pool(x)[1], x.shape),
            by_torch["max pooling"],
            lambda x: layers.max_pool(x)[1].tobytes(),
        ),
    ]


LAYER_SIZES = ((2, 2), (3, 2), (2, 5), (7, 10))


def check_layer(pair: Pair, rng: np.random.Generator, sizes: Sequence[tuple[int, int]] = LAYER_SIZES) -> Check:
    """The worst of several sizes, odd and unequal ones among them. The layer is weighed: x → ⟨forward(x), d_y⟩."""
    worst = Check(pair.name)
    for height, width in sizes:
        x = rng.standard_normal((height, width, 3))
        d_y = rng.standard_normal(pair.forward(x).shape)

        def weighed(x: Array, d_y: Array = d_y) -> tuple[float, Array]:
            return float(np.vdot(pair.forward(x), d_y)), pair.backward(x, d_y)

        def by_torch(x: Any, d_y: Array = d_y) -> Any:
            return (pair.by_torch(x) * x.new_tensor(d_y)).sum()

        def transposed(d_y: Array, x: Array = x) -> Array:
            return pair.backward(x, d_y)

        check = check_loss(pair.name, weighed, x, rng, by_torch, pair.region)
        if pair.region is None:
            check = replace(check, adjoint=dot_test(pair.forward, transposed, x, d_y))
        worst = worst.worse(check)
    return worst


def check_loss(
    name: str,
    function: Callable[[Array], tuple[Scalar, Array]],
    x: Array,
    rng: np.random.Generator,
    by_torch: Callable[[Any], Any],
    region: Region | None = None,
    step: float = 1.0,
) -> Check:
    """A function with its gradient, against finite differences and the same function in PyTorch."""
    gradient = function(x)[1]
    numeric, worst = worst_slope(lambda x: float(function(x)[0]), gradient, x, rng, region, step=step)
    check = Check(name, numeric=numeric, findings={"numeric": worst})
    return replace(check, **against_torch(gradient, torch_gradient(by_torch, x), check)) if torch_installed() else check


def against_torch(gradient: Array, theirs: Array, check: Check) -> dict[str, Any]:
    """The column of PyTorch, from both gradients."""
    finding = largest_difference(gradient, theirs)
    return {"pytorch": relative_error(gradient, theirs), "findings": {**check.findings, "pytorch": finding}}


def check_objective(
    preset: str,
    pooling: str,
    pictures: tuple[Array, Array],
    styles: Sequence[Style],
    rng: np.random.Generator,
    engine: Engine,
    name: str = "",
) -> Check:
    """The whole gradient at `pictures` = (image, content), through a narrow VGG-19 of random filters."""
    filters = random_filters(NARROW, seed=3)
    image, content = pictures
    formula = Formula(PRESETS[preset], gamma=TV_WEIGHT)
    before = BEFORE if preset in BEFORE_RELU else ""
    alphas, betas = ({before + layer: weight for layer, weight in weights.items()} for weights in LAYER_WEIGHTS)
    taps = {*alphas, *betas}
    steps = steps_to(taps, NARROW)

    def objective(engine: Engine) -> Objective:
        network = Network.build(engine, filters, MEAN, steps, pooling, taps)
        terms = content_terms(network, content, alphas, formula)
        terms += style_terms(network, styles, betas, formula, (image.shape[0], image.shape[1]))
        return Objective(network, [*terms, ImageTerm("tv", formula.variation(), formula.preset.tv)])

    reference = objective(open_engine("reference", "float64"))
    exact, fast, autograd = reference(image), objective(engine)(image), None
    region = affine_region(reference.network)
    numeric, worst = worst_slope(lambda x: float(reference(x)[0]), exact.gradient, image, rng, region, 2, 4)
    findings = {"numeric": worst, "engine": largest_difference(fast.gradient, exact.gradient)}
    if torch_installed():
        weights = (alphas, betas, TV_WEIGHT)
        theirs = torch_evaluation(filters, MEAN, steps, pooling, preset, pictures, styles, weights)
        autograd = evaluation_error(theirs, exact)
        findings["pytorch"] = largest_difference(exact.gradient, theirs.gradient)
    check = Check(
        f"objective, {name or f'{preset}, {pooling} pooling'}",
        numeric=numeric,
        pytorch=autograd,
        engine=evaluation_error(fast, exact),
        engine_limit=ENGINE_LIMITS[engine.precision],
        findings=findings,
    )
    wrong = set(check.failed()) & {"numeric", "pytorch"}
    return replace(check, fault=first_fault(reference.network, image, rng)) if wrong else check


def first_fault(network: Network, image: Array, rng: np.random.Generator) -> str:
    """The first step of the network whose own derivative is wrong, and how; if all are right, that they are."""
    for check in walk_checks(network, image, rng):
        if not check.passed:
            return f"the first step that is wrong by itself is {check.explanation()}"
    return "each step of the network is right by itself: look at the losses, and at how gradients join"


def walk_checks(network: Network, image: Array, rng: np.random.Generator, pixels: int = 2) -> Iterator[Check]:
    """Every step's own derivative, at the very features that it has in this walk; the network is the reference's."""
    x = network.engine.to_device(image) - network.mean
    for step, operation in zip(network.steps, network.operations, strict=True):
        y, _ = operation.up(x)
        yield check_step(step, operation, x, y, rng, pixels)
        x = y


def check_step(step: Step, operation: Operation, x: Array, y: Array, rng: np.random.Generator, pixels: int) -> Check:
    """One step, weighed: x → ⟨step(x) − y, d_y⟩, y being step(x) here: what is left of it is all change."""
    d_y = rng.standard_normal(y.shape)
    name = step.layer if isinstance(step, Conv) else step.name.replace("conv", "relu")
    if isinstance(step, Pool):  # zeros that a ReLU left are equal, which is a kink of maximum pooling
        x = x + 1e-3 * rng.random(x.shape)
        y = operation.up(x)[0]
    saved = operation.up(x)[1]
    numeric, worst = worst_slope(
        lambda x: float(np.vdot(operation.up(x)[0] - y, d_y)),
        operation.down(d_y, saved),
        x,
        rng,
        lambda x: pattern(step, operation.up(x)[1]),
        1,
        pixels,
    )
    check = Check(name, numeric=numeric, findings={"numeric": worst})
    if pattern(step, saved):
        return check
    return replace(check, adjoint=dot_test(lambda x: operation.up(x)[0], lambda d: operation.down(d, saved), x, d_y))


def pattern(step: Step, saved: Any) -> bytes:
    """Which ReLUs are open, or which pixels won their pooling; nothing where a step is linear everywhere."""
    if isinstance(step, Relu):
        return np.packbits(saved).tobytes()
    winner = saved[0] if isinstance(step, Pool) else None
    return winner.tobytes() if isinstance(winner, np.ndarray) else b""


def dot_test(forward: Callable[[Array], Array], backward: Callable[[Array], Array], x: Array, d_y: Array) -> float:
    """|⟨A x, d_y⟩ − ⟨x, Aᵀ d_y⟩| / (‖A x‖ ‖d_y‖), A being forward's linear part: 0 for a true adjoint, with no step."""
    y = forward(x) - forward(np.zeros_like(x))
    difference = float(np.vdot(y, d_y) - np.vdot(x, backward(d_y)))
    return abs(difference) / float(np.linalg.norm(y) * np.linalg.norm(d_y))


@dataclass(frozen=True)
class Slope:
    """A directional derivative by finite differences, its step, and whether any step stayed inside the region."""

    value: float
    step: float
    inside: bool


def numeric_slope(
    function: Callable[[Array], float], x: Array, direction: Array, region: Region | None = None, step: float = 1.0
) -> Slope:
    """d/dt function(x + t · direction) at 0, by five points with the longest step that stays within x's region.

    (f(−2h) − 8 f(−h) + 8 f(h) − f(2h)) / 12h is exact for polynomials of degree 4.
    """
    here = region(x) if region is not None else b""
    for _ in range(60):
        ends = (x - 2 * step * direction, x + 2 * step * direction)
        if region is None or all(region(end) == here for end in ends):
            low, high = function(x - step * direction), function(x + step * direction)
            value = (function(ends[0]) - 8 * low + 8 * high - function(ends[1])) / (12 * step)
            return Slope(float(value), step, True)
        step /= 4
    return Slope(math.nan, step, False)


def gradient_error(
    function: Callable[[Array], tuple[Any, Array]],
    x: Array,
    rng: np.random.Generator,
    region: Region | None = None,
    directions: int = 3,
    pixels: int = 6,
    step: float = 1.0,
) -> float:
    """The largest relative error of a function's gradient: see worst_slope."""
    gradient = function(x)[1]
    return worst_slope(lambda x: float(function(x)[0]), gradient, x, rng, region, directions, pixels, step)[0]


def worst_slope(
    value_of: Callable[[Array], float],
    gradient: Array,
    x: Array,
    rng: np.random.Generator,
    region: Region | None = None,
    directions: int = 3,
    pixels: int = 6,
    step: float = 1.0,
) -> tuple[float, Finding]:
    """The largest relative error of a gradient along random directions and in single coordinates, and where it is.

    A direction's error is relative to its slope or, if that is larger, to the gradient's norm, which is what a random
    direction's slope is like; a coordinate's to the largest entry of the gradient. The first and last coordinates, the
    corners of a picture, are always among them. No region left after 60 steps counts as infinite.
    `step` is the longest, for functions that are no polynomials.
    """

    def error(slope: Slope, analytic: float, scale: float) -> float:
        scale = max(abs(slope.value), scale)
        return abs(slope.value - analytic) / scale if slope.inside and scale else 0.0 if slope.inside else math.inf

    largest, typical = float(np.abs(gradient).max()), float(np.linalg.norm(gradient))
    found: list[tuple[float, Finding]] = []
    for number in range(directions):
        direction = rng.standard_normal(x.shape)
        analytic = float(np.vdot(gradient, direction))
        slope = numeric_slope(value_of, x, direction, region, step)
        where = f"random direction {number + 1}"
        found.append((error(slope, analytic, typical), Finding(where, slope.value, analytic, slope.step)))
    for index in {0, x.size - 1, *rng.choice(x.size, min(pixels, x.size), replace=False).tolist()}:
        direction = np.zeros_like(x)
        direction.flat[index] = 1
        slope, analytic = numeric_slope(value_of, x, direction, region, step), float(gradient.flat[index])
        finding = Finding(place(index, x.shape), slope.value, analytic, slope.step)
        found.append((error(slope, analytic, largest), finding))
    return max(found, key=lambda pair: math.inf if math.isnan(pair[0]) else pair[0])


def place(index: int, shape: tuple[int, ...]) -> str:
    """One number of a picture or of features, for people."""
    if len(shape) != 3:
        return f"place {index}"
    row, column, channel = np.unravel_index(index, shape)
    return f"row {row}, column {column}, channel {channel}"


def largest_difference(found: Array, expected: Array) -> Finding:
    """Where two gradients differ most."""
    index = int(np.abs(found - expected).argmax())
    return Finding(place(index, expected.shape), float(expected.flat[index]), float(found.flat[index]))


def affine_region(network: Network) -> Region:
    """Which ReLUs are open and which pixels won their pooling: images of equal bytes lie in one affine region."""

    def region(image: Array) -> bytes:
        walk = itertools.islice(walk_up(network, network.engine.to_device(image)), 1, None)  # behind the image
        return b"".join(pattern(step, saved) for step, (_, _, saved) in zip(network.steps, walk, strict=True))

    return region


def evaluation_error(found: Evaluation, expected: Evaluation) -> float:
    """The largest relative error of the loss, of any term, and of the gradient as a whole."""
    errors = [abs(found.loss - expected.loss) / abs(expected.loss)]
    errors += [abs(found.terms[name] - value) / abs(value) for name, value in expected.terms.items()]
    return max(*errors, relative_error(found.gradient, expected.gradient))


def relative_error(found: Array, expected: Array) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def random_filters(steps: Steps, seed: int) -> dict[str, tuple[Array, Array]]:
    """Random normal filters that keep the features' size from layer to layer; from a generator frozen for ever."""
    rng = np.random.RandomState(seed)
    filters = {}
    for step in steps:
        if isinstance(step, Conv):
            kernel = rng.standard_normal((3, 3, step.c_in, step.c_out)) * math.sqrt(2 / (9 * step.c_in))
            filters[step.layer] = kernel, rng.standard_normal(step.c_out) * 10
    return filters
