"""What the self-test tries on a GPU's engine: each layer, the losses' parts, an optimiser's sums, the whole gradient.

Most inputs are small whole numbers, whose sums are exact in every precision: results are compared bit for bit with the
reference's, and no tolerance can hide a mistake in layout. Where an engine rounds all the same, limits are stated.
The trials follow from the tables here and in vgg.py, so that a new pooling is tried, too.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ...arrays import Array
from ...layers import AVERAGE_SCALES
from ...losses import STYLE_LOSSES, StyleLoss, gram_loss, transport_loss
from ...vgg import PADDINGS, POOLINGS, Conv, Network, Operation, Pool, Relu, Steps, Tape, steps_to, walk_down, walk_up
from ..reference import Filters, ReferenceEngine
from .layers import encoded, shared_bytes

SIZES = ((19, 37, 64, 128), (18, 33, 128, 64), (9, 131, 3, 64))  # of a layer: height, width, channels in and out
MAPS = ((40, 25, 64), (32, 32, 192), (16, 64, 512), (64, 128, 64))  # whose moments are taken
CLOUDS = ((40, 25, 64), (32, 64, 192), (64, 64, 512))  # whose transport is compared
FIRST_SIZE = (8, 256)  # of the first layer's map with a style, a power of 2
TILED = (19, 37, 128, 128), (16, 64, 128)  # a layer and a map for each size of blocks
OTHERS = range(8, 23)  # powers of 2: how many numbers others keep in memory while an evaluation is repeated
RECORDED = ("gram", "transport")  # style losses whose evaluations are repeated
HISTORIES = (10, 60)  # pairs that an optimiser remembers
EXACT_POOLINGS = (*AVERAGE_SCALES, "max")  # of whole numbers
ROUNDING = {"float64": 1e-12, "float32": 1e-5, "tf32": 2e-3, "float16": 1e-2}  # of one step
MAPPED = 2e-5  # of a transport's map, by products in float32
WHOLE = {
    "float64": 1e-8,
    "float32": 1e-2,
    "tf32": 5e-2,
    "float16": 1e-1,
}  # of a gradient, whose ReLUs may fall either way
STYLES, CONTENT = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"), "conv4_2"
DEEP, SIZE = steps_to((*STYLES, CONTENT)), (93, 130)  # VGG-19 in full width, and a small picture


class Pair(NamedTuple):
    """Something computed, what it should be, and by how much they may differ, relative to the largest number."""

    what: str
    found: Any
    expected: Any
    limit: float = 0.0


class Trial(NamedTuple):
    name: str
    pairs: Callable[[], Iterator[Pair]]


def trials(engine: Any, fresh: Callable[[], Any], steps: Steps = DEEP, size: tuple[int, int] = SIZE) -> Iterator[Trial]:
    """All of them. `fresh` makes an engine like this one, but with ordinary memory, for the whole gradient."""
    for shape in SIZES:
        name = f"{shape[2]} → {shape[3]} channels at {shape[0]} × {shape[1]}"
        for kind, chain, taps in chains(*shape[2:]):
            for pooling in POOLINGS if isinstance(chain[-1], Pool) else ("avg",):
                what = f"{name}, {kind}" + (f" ({pooling})" if isinstance(chain[-1], Pool) else "")
                yield Trial(what, partial(layer, engine, shape, chain, taps, pooling))
    yield Trial("a layer in strips", partial(in_strips, engine))
    yield Trial("the first layer and a style", partial(first_layer, engine))
    for tile in engine.tiles:
        if shared_bytes(*tile) <= engine.device.most_shared:
            yield Trial(f"blocks of {tile[0]} × 16 pixels and {tile[1]} channels", partial(one_tile, engine, tile))
    for height, width, n in MAPS:
        yield Trial(f"moments of {n} channels at {height} × {width}", partial(style, engine, (height, width, n)))
    for height, width, n in CLOUDS:
        yield Trial(f"transport of {n} channels", partial(transport, engine, (height, width, n)))
    yield Trial("content and sums of gradients", partial(content, engine))
    for history in HISTORIES:
        for bounds in (False, True):
            name = f"an optimiser's sums over {history} pairs, {'with' if bounds else 'without'} bounds"
            yield Trial(name, partial(vectors, engine, history, bounds))
    yield Trial("the whole gradient", partial(whole_gradient, fresh, steps, size))
    for name in RECORDED:
        yield Trial(f"repeated evaluations, {name}", partial(repeated_evaluations, fresh, steps, size, name))


# ---- Layers


def chains(c_in: int, c_out: int) -> Iterator[tuple[str, Steps, set[str]]]:
    """What an engine may compute at once or in pieces: (name, steps, taps)."""
    for padding in PADDINGS if c_in == 3 else PADDINGS[:1]:
        conv = Conv("conv1_1" if c_in == 3 else "conv2_1", c_in, c_out, padding)
        relu, pool, kind = Relu(conv.layer), Pool("pool"), f"a convolution, padding {padding}"
        yield kind, (conv,), {conv.name}
        yield f"{kind}, ReLU", (conv, relu), {relu.name}
        yield f"{kind}, ReLU and pooling", (conv, relu, pool), {pool.name}
        yield f"{kind}, ReLU, then pooling", (conv, relu, pool), {relu.name, pool.name}


def layer(engine: Any, shape: Sequence[int], steps: Steps, taps: set[str], pooling: str) -> Iterator[Pair]:
    height, width, c_in, c_out = shape
    rng, rounds = np.random.default_rng(1), engine.rounds and c_in != 3
    x, kernel = rng.integers(0, 4, (height, width, c_in)), rng.integers(-1, 2, (3, 3, c_in, c_out))
    if rounds:  # then no result may be near to 0 or to its neighbour, or rounding would decide ReLUs and maxima
        kernel[:, :, 0], kernel[1, 1, 0] = 0, 1
        rows, columns = np.indices((height, width)) % 2
        x = x.astype(np.float64)
        x[:, :, 0] = (2 * rows + columns) / 4 + 1 / 8
    limit = ROUNDING[engine.precision] if rounds or pooling not in EXACT_POOLINGS else 0.0
    yield from both_ways(engine, (x, kernel, rng.integers(-2, 3, c_out)), (steps, taps, pooling), limit)


def both_ways(engine: Any, given: Sequence[Array], what: tuple[Steps, set[str], str], limit: float) -> Iterator[Pair]:
    """(x, kernel, bias) through the steps and back."""
    x, kernel, bias = (np.asarray(array, np.float64) for array in given)
    steps, taps, pooling = what
    layer = next(step.layer for step in steps if isinstance(step, Conv))
    exact = ReferenceEngine("float64")
    ours, theirs = (e.operations(steps, {layer: (kernel, bias)}, taps, pooling) for e in (engine, exact))
    y, saved = upwards(ours, engine.to_device(x))
    true_y, true_saved = upwards(theirs, x)
    yield Pair("up", engine.to_host(y), stored(engine, true_y, "up"), limit)
    d = np.random.default_rng(2).integers(-1, 2, true_y.shape).astype(np.float64)
    d_x, true_d_x = downwards(ours, engine.to_device(d), saved), downwards(theirs, d, true_saved)
    yield Pair("down", engine.to_host(d_x), stored(engine, true_d_x, "down"), limit)


def upwards(operations: Sequence[Operation], x: Array) -> tuple[Array, list[Any]]:
    saved = []
    for operation in operations:
        x, own = operation.up(x)
        saved.append(own)
    return x, saved


def downwards(operations: Sequence[Operation], d: Any, saved: Sequence[Any]) -> Any:
    for operation, own in zip(reversed(operations), reversed(saved), strict=True):
        d = operation.down(d, own)
    return d


def stored(engine: Any, values: Array, way: str) -> Array:
    """Exact values as the engine stores them: features on the way up, gradients on the way down."""
    form = getattr(engine, "form", None)
    if form is None or (way == "down" and values.shape[2] == 3):  # the image's own gradient
        return values.astype(engine.dtype)
    kind = getattr(form, way)
    bits = encoded(values, kind)
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32) if kind == "Bfloat" else bits


def in_strips(engine: Any) -> Iterator[Pair]:
    """Each as small as can be."""
    before, engine.device.workspace = engine.device.workspace, 1
    try:
        yield from layer(engine, SIZES[0], *list(chains(*SIZES[0][2:]))[2][1:], "avg")
        yield from first_layer(engine)
    finally:
        engine.device.workspace = before


def first_layer(engine: Any) -> Iterator[Pair]:
    """A style and another gradient at the first layer, whose features may be computed again on the way down."""
    rng, (height, width) = np.random.default_rng(3), FIRST_SIZE
    x = rng.integers(0, 2, (height, width, 3)).astype(np.float64)
    filters = {"conv1_1": (rng.integers(-1, 2, (3, 3, 3, 64)).astype(np.float64), np.zeros(64))}
    shift, matrix = rng.integers(-2, 3, 64).astype(np.float64), sparse(rng, 64)
    d = rng.integers(-2, 3, (height, width, 64)) / (height * width)
    for padding in PADDINGS:
        steps, results = (Conv("conv1_1", 3, 64, padding), Relu("conv1_1")), []
        for which in (engine, ReferenceEngine("float64")):
            operations = which.operations(steps, filters, {"conv1_1"}, "avg")
            y, saved = upwards(operations, which.to_device(x))
            a, b = (which.to_device(array, "float64") for array in (shift, matrix))
            total = which.pull_back(which.to_device(d), y, saved[-1], None, a, b)
            results.append(which.to_host(downwards(operations, total, saved)))
        yield Pair(f"down, padding {padding}", results[0], results[1].astype(engine.dtype))


def one_tile(engine: Any, tile: tuple[int, int]) -> Iterator[Pair]:
    """Convolutions in blocks of this size alone; of any numbers they give the bits that the smallest blocks give."""
    device, before, smallest = engine.device, engine.device.tiles, engine.tiles[-1]
    rng, (shape, map_shape) = np.random.default_rng(4), TILED
    height, width, c, _ = shape
    x = np.maximum(rng.standard_normal((height, width, c)), 0)
    filters = {"conv2_1": (rng.standard_normal((3, 3, c, c)) / np.sqrt(4.5 * c), rng.standard_normal(c))}
    try:
        results = []
        for device.tiles in ((smallest,), (tile,)):
            (operation,) = engine.operations((Conv("conv2_1", c, c),), filters, {"pre:conv2_1"}, "avg")
            y, saved = operation.up(engine.to_device(x))
            results.append((engine.to_host(y), engine.to_host(operation.down(y, saved))))
        for way, expected, found in zip(("up", "down"), *results, strict=True):
            yield Pair(f"{way}, of any numbers", found, expected)
        yield from layer(engine, shape, *list(chains(c, c))[2][1:], "max")
        yield from style(engine, map_shape)
    finally:
        device.tiles = before


# ---- Losses


def style(engine: Any, shape: tuple[int, int, int]) -> Iterator[Pair]:
    """Moments, and what is pulled back, of a whole map and of a region. Exact where the pixels are a power of 4."""
    height, width, n = shape
    rng, pixels, exact = np.random.default_rng(5), height * width, ReferenceEngine("float64")
    is_exact = pixels & (pixels - 1) == 0 and pixels.bit_length() % 2 == 1
    features, mean, matrix = rng.integers(0, 4, shape), rng.integers(-2, 3, n), sparse(rng, n)
    features, mean = features.astype(np.float64), mean.astype(np.float64)
    for name, weights in (("", None), (" of a region", rng.choice([0.0, 1.0, 4.0], (height, width)) / pixels)):
        there = engine.to_device(features)
        t = None if weights is None else engine.to_device(weights)
        found, expected = engine.moments(there, t), exact.moments(features, weights)
        for what, one, two in zip(("mean", "second moment"), found, expected, strict=True):
            yield Pair(what + name, engine.to_host(one), two, 0.0 if is_exact else ROUNDING["float32"])
        a, b = (engine.to_device(array, "float64") for array in (mean, matrix))
        d = engine.pull_back(None, there, None, t, a, b)
        true_d = exact.pull_back(None, features, None, weights, mean, matrix)
        limit = 0.0 if is_exact else ROUNDING[engine.precision]
        yield Pair("derivative" + name, engine.to_host(d), stored(engine, true_d, "down"), limit)


def sparse(rng: np.random.Generator, n: int) -> Array:
    """A matrix of −1, 0 and 1, with few numbers in each row: products with it stay small."""
    matrix: Array = (rng.integers(-1, 2, (n, n)) * (rng.random((n, n)) < 4 / n)).astype(np.float64)
    return matrix


def transport(engine: Any, shape: tuple[int, int, int]) -> Iterator[Pair]:
    """Of the moments of whole numbers, which are exact."""
    rng, exact = np.random.default_rng(11), ReferenceEngine("float64")
    clouds = [rng.integers(0, 4, shape).astype(np.float64) for _ in range(2)]
    found, target = (engine.moments(engine.to_device(cloud), None) for cloud in clouds)
    results = transport_loss(found, target), transport_loss(*(exact.moments(cloud, None) for cloud in clouds))
    (value, d_mean, d_second), (true_value, true_d_mean, true_d_second) = results
    yield Pair("loss", float(value), true_value, ROUNDING["float32"])
    d_mean, d_second = engine.to_host(d_mean), engine.to_host(d_second)
    yield Pair("its slope in S", d_second, true_d_second, MAPPED)
    mean = engine.to_host(found.mean)  # rounding of the slope in S is in that in m, too, and cancels in a gradient
    yield Pair("its slope in m", d_mean + 2 * mean @ d_second, true_d_mean + 2 * mean @ true_d_second, MAPPED)


def content(engine: Any) -> Iterator[Pair]:
    rng, exact = np.random.default_rng(6), ReferenceEngine("float64")
    gradients = []
    for weight in (0.5, 2.0):
        features, target = (rng.integers(0, 4, (21, 45, 64)).astype(np.float64) for _ in range(2))
        value, d = engine.difference(engine.to_device(features), engine.to_device(target), weight)
        true_value, true_d = exact.difference(features, target, weight)
        yield Pair("loss", float(value), true_value)
        yield Pair("derivative", engine.to_host(d), stored(engine, true_d, "down"))
        gradients.append((d, true_d))
    (one, true_one), (other, true_other) = gradients
    yield Pair("sum", engine.to_host(engine.join(one, other)), stored(engine, true_one + true_other, "down"))


# ---- An optimiser's sums


def vectors(engine: Any, history: int, bounds: bool) -> Iterator[Pair]:
    m, size, rng, dtype = history, 2999, np.random.default_rng(7), engine.dtype
    rows, g, g_new = (rng.integers(-3, 4, (*shape, size)).astype(dtype) for shape in ((2 * m,), (), ()))
    x, x_new = (np.clip(rng.integers(-20, 276, size), 0, 255).astype(dtype) for _ in range(2))
    there = [engine.to_device(array) for array in (rows, x, x_new, g, g_new)]
    free = engine.device.empty((size,), np.bool_) if bounds else None
    sums = engine.vectors(there[1], m)
    table = engine.to_host(sums.products(there[0], (there[1], there[2]), (there[3], there[4]), free))
    is_free = ((x_new > 0) | (g_new < 0)) & ((x_new < 255) | (g_new > 0)) if bounds else np.ones(size, bool)
    left = np.concatenate([rows, [g_new - g, g_new, x_new - x]]).astype(np.float64)
    expected = left @ left[2 * m :].T
    if free is not None:
        yield Pair("free pixels", engine.to_host(free), is_free)
        yield Pair("products with free pixels", table[:, : m + 2], left @ (left[m : 2 * m + 2] * is_free).T)
        table, expected = table[2 * m :, m + 2 :], expected[2 * m :]
    yield Pair("products", table, expected)
    weights = rng.integers(-2, 3, 2 * m + 1).astype(np.float64)
    for kind, image in (("direction", None), ("direction within the range", x)) if bounds else (("direction", None),):
        out = engine.device.empty((size,), dtype)
        sums.combine(weights, there[0], there[3], free, None if image is None else there[1], out)
        expected = (weights[:-1] @ rows + weights[-1] * g) * is_free
        yield Pair(kind, engine.to_host(out), expected if image is None else np.clip(image + expected, 0, 255) - image)
    squares = (g.astype(np.float64) ** 2).sum(), ((x_new - x).astype(np.float64) ** 2).sum()
    yield Pair("squares", engine.to_host(sums.squares(there[3], there[1], there[2])), squares)


# ---- The whole


def whole_gradient(fresh: Callable[[], Any], steps: Steps, size: tuple[int, int]) -> Iterator[Pair]:
    engine = fresh()
    exact = ReferenceEngine("float64" if engine.precision == "float64" else "float32")
    image, filters = np.random.default_rng(8).uniform(0, 255, (*size, 3)), random_filters(steps)
    (loss, d, _), (true_loss, true_d, _) = (
        objective(which, steps, filters)(which.to_device(image)) for which in (engine, exact)
    )
    limit = WHOLE[engine.precision]
    yield Pair("loss", float(loss), float(true_loss), limit)
    error = np.linalg.norm(engine.to_host(d) - true_d) / np.linalg.norm(true_d)
    yield Pair("relative error", error, 0.0, limit)


def repeated_evaluations(
    fresh: Callable[[], Any], steps: Steps, size: tuple[int, int], style_loss: str
) -> Iterator[Pair]:
    """As a graph, bit for bit like step by step, while others use the memory that is free."""
    engine = fresh()
    function = objective(engine, steps, random_filters(steps), STYLE_LOSSES[style_loss])
    repeated = engine.repeated(function)
    others: list[Any] = []
    for number, seed in enumerate((10, 11, 12), 1):
        image = engine.to_device(np.random.default_rng(seed).uniform(0, 255, (*size, 3)))
        loss, d, _ = repeated(image)
        loss, d = float(loss), engine.to_host(d).copy()
        wrong = sum(int(float((~np.isnan(array)).sum())) for array in others)
        yield Pair(f"numbers in others' memory, image {number}", wrong, 0)
        true_loss, true_d, _ = function(image)
        yield Pair(f"loss of image {number}", loss, float(true_loss))
        yield Pair(f"gradient of image {number}", d, engine.to_host(true_d))
        del true_d, image
        gc.collect()
        if not others:
            engine.cupy.get_default_memory_pool().free_all_blocks()
            others = [engine.cupy.full((1 << power,), np.nan, np.float32) for power in OTHERS for _ in range(4)]


def objective(engine: Any, steps: Steps, filters: Filters, style_loss: StyleLoss = gram_loss) -> Callable[[Array], Any]:
    """Style losses whose targets have the mean 0 and the second moment 10⁴ I, and a content loss whose target is 0."""
    names = {step.name for step in steps}
    network = Network.build(engine, filters, (120.0, 115.0, 105.0), steps, "avg", {*STYLES, CONTENT} & names)
    targets = {
        step.layer: engine.known_moments(np.zeros(step.c_out), 1e4 * np.eye(step.c_out))
        for step in steps
        if isinstance(step, Conv) and step.layer in STYLES
    }

    def function(image: Array) -> Any:
        tape: Tape = []
        loss: Any = 0.0
        for operation, features, saved in walk_up(network, image):
            d: Any = None
            if operation.name in STYLES:
                value, *coefficients = style_loss(engine.moments(features, None), targets[operation.name])
                loss = loss + value
                d = engine.pull_back(None, features, saved, None, *coefficients)
            elif operation.name == CONTENT:
                value, d = engine.difference(features, features * 0, 0.01)
                loss = loss + value
            tape.append((operation, saved, d))
        return loss, walk_down(network, tape), {}

    return function


def random_filters(steps: Steps) -> dict[str, tuple[Array, Array]]:
    rng = np.random.default_rng(9)
    filters = {}
    for step in steps:
        if isinstance(step, Conv):
            kernel = rng.standard_normal((3, 3, step.c_in, step.c_out), np.float32) * np.sqrt(2 / (9 * step.c_in))
            filters[step.layer] = kernel.astype(np.float32), rng.standard_normal(step.c_out, np.float32)
    return filters
