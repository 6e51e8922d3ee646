"""The rows of `check`: every layer, every loss, and the whole objective, each proved by several independent means."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array, Scalar
from ..engines import Engine, open_engine
from ..guides import region_weights
from ..losses import (
    STYLE_LOSSES,
    content_loss,
    laplacian,
    laplacian_loss,
    moments,
    style_loss,
    transport_loss,
    tv_loss,
    tv_nine_point_loss,
    tv_normalised_loss,
    tv_power_loss,
)
from ..objective import Evaluation, ImageTerm, Objective, Style, content_terms, style_terms
from ..presets import PRESETS
from ..settings import Settings
from ..vgg import BEFORE, Conv, Network, Operation, Pool, Relu, Step, Steps, padded, steps_to, vgg_table
from ..weights.fingerprint import OXFORD_MEAN_RGB as MEAN
from .by_torch import (
    STYLE_FORMULAS,
    crowsonkb_tv,
    eecs498_tv,
    keras_tv,
    lapstyle,
    paper_content,
    torch_evaluation,
    torch_gradient,
    torch_installed,
    torch_layer,
    whole_tv,
)
from .differences import (
    SHORT,
    affine_region,
    dot_test,
    evaluations_differ,
    is_curved,
    largest_difference,
    longest_step,
    pattern,
    relative_error,
    worst_slope,
)
from .report import ENGINE_LIMITS, ROOTS_LIMIT, Check, Finding

# Narrow, but with every convolution and pooling of VGG-19 up to the deepest style layer.
NARROW = steps_to("conv5_1", vgg_table(((2, 6), (2, 8), (4, 8), (4, 10), (4, 10))))
LAYER_WEIGHTS = ({"conv4_2": 2.0}, {"conv1_1": 1.0, "conv2_1": 2.0, "conv3_1": 1.0, "conv4_1": 3.0, "conv5_1": 1.0})
TV_WEIGHT = 0.01
PROGRAMS = tuple(PRESETS)
POLYNOMIAL = ("gram",)  # style losses that are polynomials of degree 4 in the features
ACTIVATIONS = {"crowsonkb": 1 / 600}  # its ε = 1e-4 is meant for small features: less would drown in rounding
BEFORE_RELU = ("pytorch-tutorial",)  # presets whose layers are tapped before their ReLU
LAYER_SIZES = ((2, 2), (3, 2), (2, 5), (7, 10))
ROUGH = ("tf32", "float16")  # precisions that are compared at images around the given one
RADIUS = 4.0  # the most by which a pixel of those differs, 0 … 255


def checks(
    engine: str = "auto", precision: str = "float32", threads: int | None = None, device: int | None = None
) -> Iterator[Check]:
    """A row for each layer, for each loss, and for the whole objective with each preset, each pooling, and regions."""
    rng = np.random.default_rng(0)
    for pair in layer_pairs(rng):
        yield check_layer(pair, rng)
    f, p, s = rng.random((5, 4, 3)), rng.random((5, 4, 3)), rng.random((7, 3, 3))
    yield check_loss("content loss", lambda f: content_loss(f, p), f, rng, lambda f: paper_content(f, f.new_tensor(p)))
    yield from style_checks(f, s, rng)
    yield check_loss("total variation", tv_loss, f, rng, whole_tv)
    yield check_loss("total variation, keras", tv_power_loss, f, rng, keras_tv, step=1e-4)
    yield check_loss("total variation, eecs498", tv_normalised_loss, f, rng, eecs498_tv)
    yield check_loss("total variation, nine points", tv_nine_point_loss, f, rng, crowsonkb_tv)
    x, c = rng.random((21, 18, 3)), rng.random((21, 18, 3))
    edges = partial(laplacian_loss, target=laplacian(c))
    yield check_loss("Laplacian", edges, x, rng, lambda x: lapstyle(x, x.new_tensor(c)))
    chosen = open_engine(engine, precision, threads, device)
    pictures = rng.uniform(0, 255, (33, 38, 3)), rng.uniform(0, 255, (33, 38, 3))
    styles = [Style(rng.uniform(0, 255, (41, 32, 3)))]
    for preset in PROGRAMS:
        for pooling in ("avg", "max"):
            yield check_objective(preset, pooling, pictures, styles, rng, chosen)
    for pooling in ("avg-scaled", "l2"):
        yield check_objective("gatys", pooling, pictures, styles, rng, chosen)
    yield check_objective("gatys", "avg", pictures, styles, rng, chosen, "replicate padding", "replicate")
    yield check_objective("gatys", "avg", pictures, two_regions(pictures[0].shape, rng), rng, chosen, "two regions")


# Layers


class Pair(NamedTuple):
    """A layer and its derivative, and the same layer in PyTorch."""

    name: str
    step: Step
    operation: Operation
    by_torch: Callable[[Any], Any]
    curved: bool = False


def layer_pairs(rng: np.random.Generator) -> list[Pair]:
    """Every layer of VGG, for features of 3 channels, as the reference engine computes it."""
    filters = {"conv": (rng.standard_normal((3, 3, 3, 4)), rng.standard_normal(4))}
    engine = open_engine("reference", "float64")
    pairs = []
    for name, step, pooling in (
        ("convolution", Conv("conv", 3, 4), "avg"),
        ("convolution, replicate padding", Conv("conv", 3, 4, "replicate"), "avg"),
        ("ReLU", Relu("relu"), "avg"),
        ("average pooling", Pool("pool"), "avg"),
        ("average pooling, scaled", Pool("pool"), "avg-scaled"),
        ("max pooling", Pool("pool"), "max"),
        ("L2 pooling", Pool("pool"), "l2"),
    ):
        (operation,) = engine.operations((step,), filters, (), pooling)
        theirs = partial(torch_layer, filters, step, pooling)
        pairs.append(Pair(name, step, operation, theirs, is_curved(step, pooling)))
    return pairs


def check_layer(pair: Pair, rng: np.random.Generator, sizes: Sequence[tuple[int, int]] = LAYER_SIZES) -> Check:
    """The worst of several sizes, odd and unequal ones among them."""
    worst = Check(pair.name)
    for size in sizes:
        x = rng.standard_normal((*size, 3))
        check = check_step(pair.name, pair.step, pair.operation, x, rng, by_torch=pair.by_torch, curved=pair.curved)
        worst = worst.worse(check)
    return worst


# Losses


def check_loss(
    name: str,
    function: Callable[[Array], tuple[Scalar, Array]],
    x: Array,
    rng: np.random.Generator,
    by_torch: Callable[[Any], Any],
    step: float = 1.0,
) -> Check:
    """A function's gradient against finite differences and against the same function in PyTorch."""
    gradient = function(x)[1]
    slope = worst_slope(lambda x: float(function(x)[0]), gradient, x, rng, step=step)
    return against_autograd(Check(name).compared("numeric", *slope), gradient, by_torch, x)


def against_autograd(check: Check, gradient: Array, function: Callable[..., Any], *arguments: Array) -> Check:
    """With PyTorch's gradient of the function in its first argument, if PyTorch is installed."""
    if not torch_installed():
        return check
    theirs = torch_gradient(function, *arguments)
    return check.compared("pytorch", relative_error(gradient, theirs), largest_difference(gradient, theirs))


def style_checks(f: Array, s: Array, rng: np.random.Generator) -> Iterator[Check]:
    """Two rows for each style loss: for a whole feature map, and for a region of it."""
    share = rng.random(f.shape[:2])
    parts = (("style loss", None, None), ("guided style loss", share, region_weights(share, "a layer")))
    for name, loss in STYLE_LOSSES.items():
        for kind, shares, weights in parts:
            row = kind if name == "gram" else f"{kind}, {name}"
            ours = partial(style_loss, target=moments(s), weights=weights, loss=loss)
            theirs = partial(STYLE_FORMULAS[name], s=s, share=shares)
            yield check_loss(row, ours, f, rng, theirs, step=1.0 if name in POLYNOMIAL else 1e-4)


# The whole objective


def check_objective(
    preset: str,
    pooling: str,
    pictures: tuple[Array, Array],
    styles: Sequence[Style],
    rng: np.random.Generator,
    engine: Engine,
    name: str = "",
    padding: str = "zero",
) -> Check:
    """The whole gradient at `pictures` = (image, content), through a narrow VGG-19 with random filters."""
    filters = in_units_of(random_filters(NARROW, seed=3), ACTIVATIONS.get(preset, 1.0))
    image, content = pictures
    settings = Settings(preset=preset)
    formula, loss = settings.formula()._replace(alpha=1.0, beta=1.0, gamma=TV_WEIGHT), STYLE_LOSSES[settings.style_loss]
    before = BEFORE if preset in BEFORE_RELU else ""
    alphas, betas = ({before + layer: weight for layer, weight in weights.items()} for weights in LAYER_WEIGHTS)
    taps = {*alphas, *betas}
    steps = padded(steps_to(taps, NARROW), padding)

    def objective(engine: Engine) -> Objective:
        network = Network.build(engine, filters, MEAN, steps, pooling, taps)
        terms = content_terms(network, content, alphas, formula)
        terms += style_terms(network, styles, betas, formula, (image.shape[0], image.shape[1]), loss)
        return Objective(network, [*terms, ImageTerm("tv", formula.variation(), formula.preset.tv)])

    reference = objective(open_engine("reference", "float64"))
    exact, region, longest = reference(image), affine_region(reference.network), longest_step(reference.network)
    slope = worst_slope(lambda x: sum(reference.values(x).values()), exact.gradient, image, rng, region, 2, 4, longest)
    limit = max(ENGINE_LIMITS[engine.precision], ROOTS_LIMIT if loss is transport_loss else 0)
    check = Check(f"objective, {name or f'{preset}, {pooling} pooling'}", engine_limit=limit)
    check = check.compared("numeric", *slope)
    if torch_installed():
        weights = (alphas, betas, TV_WEIGHT)
        theirs = torch_evaluation(filters, MEAN, steps, pooling, preset, pictures, styles, weights)
        check = check.compared("pytorch", *evaluations_differ(exact, theirs))
    wrong = check.failed()
    check = check.compared("engine", *against_reference(objective(engine), reference, image))
    return replace(check, fault=first_fault(reference.network, image, rng)) if wrong else check


def against_reference(fast: Objective, reference: Objective, image: Array, images: int = 64) -> tuple[float, Finding]:
    """The error of an engine's evaluation at `image`, and where its gradient differs most from the reference's.

    The gradient jumps where a ReLU opens or another pixel wins its pooling. Where features are known to 1e-3, about one
    activation in a thousand is on the wrong side, and in a narrow network a single one can change the gradient by
    several percent, at some images and not at others, though nothing is wrong. So in the precisions called ROUGH we
    compare *means* over images around this one, which differ by far more than the engine rounds. Jumps at one image are
    independent of those at another and shrink as 1/√images, while a wrong factor or sign is the same everywhere.
    """
    rng, around = np.random.default_rng(9), [image]
    if fast.network.engine.precision in ROUGH:
        around = [image + rng.uniform(-RADIUS, RADIUS, image.shape) for _ in range(images)]
    found, expected = (mean_evaluation([objective(x) for x in around]) for objective in (fast, reference))
    return evaluations_differ(found, expected)


def mean_evaluation(evaluations: Sequence[Evaluation]) -> Evaluation:
    terms = {name: float(np.mean([e.terms[name] for e in evaluations])) for name in evaluations[0].terms}
    gradient: Any = np.mean([e.gradient for e in evaluations], 0, np.float64)
    return Evaluation(sum(terms.values()), gradient, terms)


def two_regions(shape: tuple[int, ...], rng: np.random.Generator) -> list[Style]:
    """Two styles with unequal shares: part of one picture for the left side, all of another for the right side."""
    left = np.clip(0.5 + (0.4 * shape[1] - np.arange(shape[1])) / 6, 0, 1) * np.ones((shape[0], 1))
    first, second = rng.uniform(0, 255, (41, 32, 3)), rng.uniform(0, 255, (35, 40, 3))
    return [Style(first, 0.4, mask=rng.random((41, 32)), region=left), Style(second, 0.6, region=1 - left)]


def random_filters(steps: Steps, seed: int) -> dict[str, tuple[Array, Array]]:
    """Random normal filters that keep the size of the features, from a generator whose numbers never change."""
    rng = np.random.RandomState(seed)
    filters = {}
    for step in steps:
        if isinstance(step, Conv):
            kernel = rng.standard_normal((3, 3, step.c_in, step.c_out)) * np.sqrt(2 / (9 * step.c_in))
            filters[step.layer] = kernel, rng.standard_normal(step.c_out) * 10
    return filters


def in_units_of(filters: Mapping[str, tuple[Array, Array]], factor: float) -> dict[str, tuple[Array, Array]]:
    """Filters with which all features are `factor` times as large."""
    first = next(iter(filters))
    return {
        layer: (kernel * factor if layer == first else kernel, bias * factor)
        for layer, (kernel, bias) in filters.items()
    }


# Each step of a network


def first_fault(network: Network, image: Array, rng: np.random.Generator) -> str:
    """Which step of the network is the first whose own derivative is wrong, and how; or that every step is right."""
    for check in walk_checks(network, image, rng):
        if not check.passed:
            return f"the first step that is wrong by itself is {check.explanation()}"
    return "each step of the network is right by itself: look at the losses, and at how gradients join"


def walk_checks(network: Network, image: Array, rng: np.random.Generator) -> Iterator[Check]:
    """Every step's own derivative, at the features that reach it in this walk. On the reference engine."""
    x = network.engine.to_device(image) - network.mean
    for step, operation in zip(network.steps, network.operations, strict=True):
        name = step.layer if isinstance(step, Conv) else step.name.replace("conv", "relu")
        # Behind a ReLU many zeros are equal, which is a kink of max pooling.
        apart = x + 1e-3 * rng.random(x.shape) if isinstance(step, Pool) and network.pooling == "max" else x
        curved = is_curved(step, network.pooling)
        yield check_step(name, step, operation, apart, rng, directions=1, pixels=2, curved=curved)
        x, _ = operation.up(x)


def check_step(
    name: str,
    step: Step,
    operation: Operation,
    x: Array,
    rng: np.random.Generator,
    directions: int = 3,
    pixels: int = 6,
    by_torch: Callable[[Any], Any] | None = None,
    curved: bool = False,
) -> Check:
    """One step's derivative, for the function x' → ⟨step(x') − step(x), d_y⟩: subtracting step(x) saves digits.

    The dot test applies to steps that are affine everywhere.
    """
    y, saved = operation.up(x)
    d_y = rng.standard_normal(y.shape)
    d_x = operation.down(d_y, saved)

    def value(x: Array) -> float:
        return float(np.vdot(operation.up(x)[0] - y, d_y))

    def region(x: Array) -> bytes:
        return pattern(step, operation.up(x)[1])

    longest = SHORT if curved else 1.0
    check = Check(name).compared("numeric", *worst_slope(value, d_x, x, rng, region, directions, pixels, longest))
    if not pattern(step, saved) and not curved:
        error = dot_test(lambda x: operation.up(x)[0], lambda d: operation.down(d, saved), x, d_y)
        check = check.compared("adjoint", error)
    if by_torch is None:
        return check
    return against_autograd(check, d_x, lambda x, d_y: (by_torch(x) * d_y).sum(), x, d_y)
