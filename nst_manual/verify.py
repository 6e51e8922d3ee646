"""The proof: dot tests and finite differences, as a library and as the table of `check`.

Kinks are handled by method. Within one pattern of open ReLUs and pooling winners the network is affine in the image,
so a loss of the paper is a polynomial of degree at most 4 along any line; such patterns fill convex regions, so a
segment whose ends share a pattern lies in one region. There the five-point central difference has no truncation
error at all: what is left is rounding. Steps that leave the region are shortened, not tolerated.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from . import layers
from .arrays import Array, Scalar
from .engines import Engine, open_engine
from .guides import guide
from .losses import (
    PRESETS,
    GuidedTarget,
    content_loss,
    gram,
    guided_style_loss,
    style_loss,
    tv_loss,
    tv_normalised_loss,
    tv_power_loss,
)
from .objective import Evaluation, Objective, Style, content_terms, shared, style_terms
from .pytorch import (
    eecs498_tv,
    keras_tv,
    paper_content,
    paper_style_of_maps,
    torch_evaluation,
    torch_gradient,
    torch_installed,
    torch_layers,
    whole_tv,
)
from .vgg import BEFORE, POOLINGS, Conv, Network, Pool, Relu, steps_for, steps_to, vgg_table, walk_up

Region = Callable[[Array], bytes]

# Narrow, but with every convolution and pooling of VGG-19 up to the deepest style layer.
NARROW = steps_to("conv5_1", vgg_table(((2, 6), (2, 8), (4, 8), (4, 10), (4, 10))))
MEAN = (123.68, 116.779, 103.939)
LAYER_WEIGHTS = ({"conv4_2": 2.0}, {"conv1_1": 1.0, "conv2_1": 2.0, "conv3_1": 1.0, "conv4_1": 3.0, "conv5_1": 1.0})
TV_WEIGHT = 0.01
BEFORE_RELU = ("pytorch-tutorial",)  # presets whose layers are tapped before their ReLU

# The largest relative error that passes, for each column of the table.
LIMITS = {"adjoint": 1e-13, "numeric": 1e-7, "pytorch": 1e-10}
ENGINE_LIMITS = {"float64": 1e-10, "float32": 1e-4, "tf32": 1e-2, "float16": 5e-2}


@dataclass(frozen=True)
class Check:
    """One row of the table: the relative errors of one derivative, each None where a comparison does not apply."""

    name: str
    adjoint: float | None = None  # dot test
    numeric: float | None = None  # finite differences
    pytorch: float | None = None  # autograd, in float64
    engine: float | None = None  # the engine in use against the float64 reference
    engine_limit: float = ENGINE_LIMITS["float32"]

    @property
    def passed(self) -> bool:
        limits = {**LIMITS, "engine": self.engine_limit}
        return all(error is None or error <= limits[column] for column, error in self.errors().items())

    def worse(self, other: "Check") -> "Check":
        """The larger error of two checks of the same derivative, column by column."""
        worst: dict[str, Any] = {}
        for column, error in self.errors().items():
            both = (error, getattr(other, column))
            worst[column] = max((e for e in both if e is not None), default=None)
        return replace(self, **worst)

    def errors(self) -> dict[str, float | None]:
        return {column: error for column, error in asdict(self).items() if column in (*LIMITS, "engine")}


def checks(engine: str = "auto", precision: str = "float32") -> Iterator[Check]:
    """A row for each layer and each loss, and for the whole objective with every preset, both poolings, and regions."""
    rng = np.random.default_rng(0)
    for pair in layer_pairs(rng):
        yield check_layer(pair, rng)
    f, p, s = rng.random((5, 4, 3)), rng.random((5, 4, 3)), rng.random((7, 3, 3))
    t = rng.random((5, 4))
    guided = GuidedTarget(gram(s), guide(t, "a layer"))
    yield check_loss("content loss", lambda f: content_loss(f, p), f, rng, lambda f: paper_content(f, f.new_tensor(p)))
    yield check_loss("style loss", lambda f: style_loss(f, gram(s)), f, rng, lambda f: paper_style_of_maps(f, s))
    yield check_loss(
        "guided style loss", lambda f: guided_style_loss(f, guided), f, rng, lambda f: paper_style_of_maps(f, s, t)
    )
    yield check_loss("total variation", tv_loss, f, rng, whole_tv)
    yield check_loss("total variation, keras", tv_power_loss, f, rng, keras_tv, step=1e-4)
    yield check_loss("total variation, eecs498", tv_normalised_loss, f, rng, eecs498_tv)
    chosen = open_engine(engine, precision)
    pictures = rng.uniform(0, 255, (33, 38, 3)), rng.uniform(0, 255, (33, 38, 3))
    styles = [Style(rng.uniform(0, 255, (41, 32, 3)))]
    for preset in PRESETS:
        for pooling in POOLINGS:
            yield check_objective(preset, pooling, pictures, styles, rng, chosen)
    yield check_objective("gatys", "avg", pictures, two_regions(pictures[0].shape, rng), rng, chosen, "two regions")


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
    autograd = relative_error(function(x)[1], torch_gradient(by_torch, x)) if torch_installed() else None
    return Check(name, numeric=gradient_error(function, x, rng, region, step=step), pytorch=autograd)


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
    scale = PRESETS[preset]
    before = BEFORE if preset in BEFORE_RELU else ""
    alphas, betas = ({before + layer: weight for layer, weight in weights.items()} for weights in LAYER_WEIGHTS)
    steps = steps_for((*alphas, *betas), NARROW)

    def objective(engine: Engine) -> Objective:
        network = Network.build(engine, filters, MEAN, steps, pooling)
        terms = content_terms(network, content, alphas, scale)
        terms += style_terms(network, styles, shared(betas, scale, steps, image.shape[:2]), scale)
        return Objective(network, terms, TV_WEIGHT * scale.tv_unit, scale.tv)

    reference = objective(open_engine("reference", "float64"))
    exact = reference(image)
    autograd = None
    if torch_installed():
        weights = (alphas, betas, TV_WEIGHT)
        theirs = torch_evaluation(filters, MEAN, steps, pooling, preset, pictures, styles, weights)
        autograd = evaluation_error(theirs, exact)
    return Check(
        f"objective, {name or f'{preset}, {pooling} pooling'}",
        numeric=gradient_error(lambda x: reference(x)[:2], image, rng, affine_region(reference.network), 2, 4),
        pytorch=autograd,
        engine=evaluation_error(objective(engine)(image), exact),
        engine_limit=ENGINE_LIMITS[engine.precision],
    )


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
    """The largest relative error of a gradient along random directions and in single coordinates.

    A direction's error is relative to its slope; a coordinate's to the largest entry of the gradient. The first and
    last coordinates, the corners of a picture, are always among them. No region left after 60 steps counts as infinite.
    `step` is the longest, for functions that are no polynomials.
    """

    def value_of(x: Array) -> float:
        return float(function(x)[0])

    def error(slope: Slope, analytic: float, scale: float) -> float:
        scale = max(abs(slope.value), scale)
        return abs(slope.value - analytic) / scale if slope.inside and scale else 0.0 if slope.inside else math.inf

    gradient = function(x)[1]
    largest = float(np.abs(gradient).max())
    errors = []
    for _ in range(directions):
        direction = rng.standard_normal(x.shape)
        analytic = float(np.vdot(gradient, direction))
        errors.append(error(numeric_slope(value_of, x, direction, region, step), analytic, abs(analytic)))
    for index in {0, x.size - 1, *rng.choice(x.size, min(pixels, x.size), replace=False).tolist()}:
        direction = np.zeros_like(x)
        direction.flat[index] = 1
        errors.append(error(numeric_slope(value_of, x, direction, region, step), float(gradient.flat[index]), largest))
    return max(errors)


def affine_region(network: Network) -> Region:
    """Which ReLUs are open and which pixels won their pooling: images of equal bytes lie in one affine region."""

    def region(image: Array) -> bytes:
        parts, before = [], image
        for step, features, _ in walk_up(network, network.engine.to_device(image)):
            if isinstance(step, Conv | Relu):
                parts.append(np.packbits(features > 0))
            elif isinstance(step, Pool) and network.pooling == "max":
                parts.append(layers.max_pool(before)[1])
            before = features
        return b"".join(part.tobytes() for part in parts)

    return region


def evaluation_error(found: Evaluation, expected: Evaluation) -> float:
    """The largest relative error of the loss, of any term, and of the gradient as a whole."""
    errors = [abs(found.loss - expected.loss) / abs(expected.loss)]
    errors += [abs(found.terms[name] - value) / abs(value) for name, value in expected.terms.items()]
    return max(*errors, relative_error(found.gradient, expected.gradient))


def relative_error(found: Array, expected: Array) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def random_filters(steps: Sequence[Conv | Pool], seed: int) -> dict[str, tuple[Array, Array]]:
    """Random normal filters that keep the features' size from layer to layer; from a generator frozen for ever."""
    rng = np.random.RandomState(seed)
    filters = {}
    for step in steps:
        if isinstance(step, Conv):
            kernel = rng.standard_normal((3, 3, step.c_in, step.c_out)) * math.sqrt(2 / (9 * step.c_in))
            filters[step.name] = kernel, rng.standard_normal(step.c_out) * 10
    return filters
