"""How a result looks, in numbers: how much of the style it has, what it has kept of the content, its grain, its border.

The judge is VGG-19 with its own weights and its own max pooling, at layers and by statistics that our own settings do
not optimise. What each number means, and how far to trust it: docs/looks.md.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Unpack

import numpy as np

from ..arrays import Array
from ..engines import open_engine
from ..errors import NSTError
from ..losses import Moments, transport_loss
from ..options import EvaluateOptions
from ..pictures.alpha import resize
from ..pictures.colours import LUMINANCE
from ..pictures.reading import load_picture
from ..problem import build_network, pretrained_weights
from ..settings import DEFAULTS, documented, split_options
from ..tiles.objective import InTiles
from ..tiles.walk import weights_of
from ..vgg import Network
from ..weights import GET_COMMAND

STYLE_LAYERS, CONTENT_LAYERS = (DEFAULTS["evaluate"][name].split(",") for name in ("style_layers", "content_layers"))
SIZES = {"full": 1, "half": 2, "quarter": 4}
SMALLEST = 64  # pixels on the shorter side, so that a quarter of it still passes every pooling
POSITIONS = 1024  # of a layer that are compared with each other
PICTURES = ("result", "content", "style")
BINOMIAL = np.array([1, 4, 6, 4, 1]) / 16
FRAME, BLOCK = 16, 8  # pixels
QUANTILES = np.linspace(0, 1, 101)
TILE, STRIP = 2048, 512  # pixels on a side, and rows, that are looked at at a time


@dataclasses.dataclass(frozen=True)
class Looks:
    """The four numbers, each smaller where a result is better, and the parts that they are means of."""

    style_distances: "Distances"
    content_distances: "Distances"
    detail: Mapping[str, float]  # of result, content and style: the mean size of the finest octave, in gray levels
    grain: float  # by how many gray levels the result's finest octave exceeds that of both pictures
    border: float  # the finest octave near the border against the inside; above 1, more so than in either picture

    @property
    def style(self) -> float:
        """0 for the style picture itself, 1 for the content picture."""
        return _mean(self.style_distances)

    @property
    def content(self) -> float:
        """0 for the content picture itself, 1 for its places in a random order."""
        return _mean(self.content_distances)

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        four = {name: getattr(self, name) for name in ("style", "content", "grain", "border")}
        return four | {
            "style_distances": self.style_distances,
            "content_distances": self.content_distances,
            "detail": self.detail,
        }


def _mean(distances: "Distances") -> float:
    return float(np.mean([distance for layers in distances.values() for distance in layers.values()]))


@documented("evaluate")
def evaluate(result: Any, content: Any, style: Any, **options: Unpack[EvaluateOptions]) -> Looks:
    """Measure a result against the pictures that it was made from, which may have any size: a content picture gets the
    result's, a style picture its longer side."""
    network = judge(**options)
    image = load_picture(result).rgb
    height, width, _ = image.shape
    wanted, painting = load_picture(content).rgb, load_picture(style, max(height, width)).rgb
    rows, columns, _ = wanted.shape
    if abs(columns * height - rows * width) > rows + columns:
        raise NSTError(
            f"RESULT is {width}×{height} and CONTENT {columns}×{rows} pixels: a result has its content picture's shape"
        )
    if (rows, columns) != (height, width):
        wanted = resize(wanted, height, width)
    return Measure(network, wanted, painting)(image)


def judge(**options: Unpack[EvaluateOptions]) -> Network:
    """VGG-19 with its own weights, as Measure needs it."""
    settings, run = split_options(options, "evaluate")
    weights = pretrained_weights(settings)
    if weights is None:
        raise NSTError(f"these numbers need VGG-19's own weights, and there are none: `{GET_COMMAND}`, or give a file")
    return build_network(settings, weights, open_engine(settings.engine, settings.precision, run.threads, run.device))


class Measure:
    """Measures results against one content and one style picture, which are looked at once. All are arrays, and the
    results have the content picture's size."""

    def __init__(self, network: Network, content: Array, style: Array) -> None:
        smallest = min(*content.shape[:2], *style.shape[:2])
        if smallest < SMALLEST:
            raise NSTError(f"the smallest side of these pictures is {smallest} pixels, but must be at least {SMALLEST}")
        self.network = network
        self.content, self.style = self._see(content), self._see(style)
        self.style_units = _style_distances(self.content, self.style)
        self.content_units = _content_distances(_shuffled(self.content), self.content)
        if not _least(self.style_units) > 0:
            raise NSTError("CONTENT and STYLE are the same to the judge: there is no distance to measure")
        if not _least(self.content_units) > 0:
            raise NSTError("CONTENT is the same everywhere to the judge: there is nothing to keep")
        self.detail = _detail(content), _detail(style)

    def __call__(self, result: Array) -> Looks:
        seen, detail = self._see(result), (_detail(result), *self.detail)
        return Looks(
            _in_units(_style_distances(seen, self.style), self.style_units),
            _in_units(_content_distances(seen, self.content), self.content_units),
            {name: float(found.sum(2).mean(dtype=np.float64)) for name, found in zip(PICTURES, detail, strict=True)},
            _grain(*detail),
            _border(*detail),
        )

    def _see(self, image: Array) -> "Sight":
        height, width, _ = image.shape
        smaller = {size: resize(image, height // d, width // d) if d > 1 else image for size, d in SIZES.items()}
        return {size: _see(self.network, shown) for size, shown in smaller.items()}


class Seen(NamedTuple):
    """What the judge sees in a picture of one size."""

    moments: dict[str, Moments]
    likeness: dict[str, Array]


Sight = Mapping[str, Seen]  # at each size
Distances = Mapping[str, Mapping[str, float]]  # {size: {layer: distance}}


def _see(network: Network, image: Array) -> Seen:
    """Moments of the style layers, tile by tile, and the likeness of positions on a grid over each content layer."""
    engine, moments, places = network.engine, dict[str, Moments](), dict[str, Array]()
    for cut, features in InTiles(TILE).walked(network, image, {*STYLE_LAYERS, *CONTENT_LAYERS}):
        layer = cut.name
        if layer in STYLE_LAYERS:
            weights, share = weights_of(network, None, cut)
            part = engine.moments(features, weights).times(share)
            moments[layer] = moments[layer].plus(part) if layer in moments else part
        if layer in CONTENT_LAYERS:
            grid = [_grid(cut.whole, axis) for axis in (0, 1)]
            inside = [(owned.start <= line) & (line < owned.stop) for line, owned in zip(grid, cut.place, strict=True)]
            if layer not in places:
                places[layer] = np.empty((*map(len, grid), features.shape[2]))
            own = features[cut.owned]
            rows, columns = (line[i] - owned.start for line, i, owned in zip(grid, inside, cut.place, strict=True))
            places[layer][np.ix_(*inside)] = engine.to_host(own[rows][:, columns])
        del features  # the largest of all may go before the next is made
    on_host = {layer: Moments(*map(engine.to_host, found)) for layer, found in moments.items()}
    return Seen(on_host, {layer: _likeness(found) for layer, found in places.items()})


def _grid(size: tuple[int, int], axis: int) -> Array:
    """Rows or columns of a grid over a layer of that size."""
    step = math.ceil(math.sqrt(math.prod(size) / POSITIONS))
    return np.arange(step // 2, size[axis], step)


def _style_distances(found: Sight, target: Sight) -> Distances:
    """How far features must travel to have the target's mean and covariance: the root of transport_loss."""

    def distance(size: str, layer: str) -> float:
        value, *_ = transport_loss(found[size].moments[layer], target[size].moments[layer])
        return math.sqrt(max(float(value), 0.0))

    return {size: {layer: distance(size, layer) for layer in STYLE_LAYERS} for size in SIZES}


def _content_distances(found: Sight, target: Sight) -> Distances:
    """How differently the two pictures say which places are alike."""

    def distance(size: str, layer: str) -> float:
        return float(np.abs(found[size].likeness[layer] - target[size].likeness[layer]).mean())

    return {size: {layer: distance(size, layer) for layer in CONTENT_LAYERS} for size in SIZES}


def _shuffled(sight: Sight) -> Sight:
    """The same picture's places in another order: what it would be like to keep nothing of it."""

    def shuffle(likeness: Array) -> Array:
        order = np.random.default_rng(0).permutation(len(likeness))
        return np.asarray(likeness[np.ix_(order, order)])

    return {
        size: Seen({}, {layer: shuffle(likeness) for layer, likeness in seen.likeness.items()})
        for size, seen in sight.items()
    }


def _in_units(distances: Distances, units: Distances) -> Distances:
    return {
        size: {layer: distance / units[size][layer] for layer, distance in layers.items()}
        for size, layers in distances.items()
    }


def _least(distances: Distances) -> float:
    return min(distance for layers in distances.values() for distance in layers.values())


def _likeness(places: Array) -> Array:
    """How unlike every two positions are, 1 − cos(F_p, F_q), each row scaled to sum 1.

    It is the self-similarity of Kolkin, Salavon and Shakhnarovich's STROTSS (2019).
    """
    rows = places.reshape(-1, places.shape[2])
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    unlike = 1 - rows @ rows.T
    return np.asarray(unlike / np.maximum(unlike.sum(1, keepdims=True), 1e-6))


def _detail(image: Array) -> Array:
    """A picture's finest octave, (height, width, 2), in gray levels: the size of its luminance, and of its colour.

    It is what a binomial filter of five pixels takes away. It is computed in strips, each with two more rows on each
    side: the whole picture in float64 several times over would be too much for large ones.
    """
    height, width, _ = image.shape
    detail = np.empty((height, width, 2), np.float32)
    for first in range(0, height, STRIP):
        above, last = max(first - 2, 0), min(first + STRIP, height)
        exact = image[above : last + 2].astype(np.float64)
        fine = exact - _smoothed(_smoothed(exact).swapaxes(0, 1)).swapaxes(0, 1)
        fine = fine[first - above :][: last - first]
        luminance = fine @ LUMINANCE
        detail[first:last, :, 0] = np.abs(luminance)
        detail[first:last, :, 1] = np.sqrt(((fine - luminance[:, :, None]) ** 2).mean(2))
    return detail


def _smoothed(image: Array) -> Array:
    """Along its columns, which are mirrored at their ends."""
    padded = np.pad(image, ((2, 2), (0, 0), (0, 0)), mode="reflect")
    return np.asarray(sum(weight * padded[k : k + len(image)] for k, weight in enumerate(BINOMIAL)))


def _grain(result: Array, content: Array, style: Array) -> float:
    """By how much the result's detail exceeds that of both pictures, in luminance and in colour.

    It is a mean over the quantiles of their blocks. Comparing the 20 % smoothest blocks with the 20 % smoothest of each
    picture, and so on, grain in a smooth sky is not outweighed by another part's sharp edges.
    """
    found, *known = (np.quantile(_blocks(detail), QUANTILES, axis=0) for detail in (result, content, style))
    return float(np.maximum(found - np.maximum(*known), 0).mean(0).sum())


def _blocks(detail: Array) -> Array:
    """The means of whole blocks, (blocks, 2)."""
    height, width = (side // BLOCK for side in detail.shape[:2])
    whole = detail[: height * BLOCK, : width * BLOCK].reshape(height, BLOCK, width, BLOCK, 2)
    return np.asarray(whole.mean((1, 3), dtype=np.float64).reshape(-1, 2))


def _border(result: Array, content: Array, style: Array) -> float:
    """How much more detail is at some distance from the border than inside; above 1, more than in either picture."""
    found, *known = map(_rings, (result, content, style))
    return float((found / np.maximum(np.maximum(*known), 1)).max())


def _rings(detail: Array) -> Array:
    """The mean detail at each distance from the border, 0 … 15 pixels, divided by that of the inside."""
    height, width = detail.shape[:2]
    y, x = np.arange(height, dtype=np.int32)[:, None], np.arange(width, dtype=np.int32)
    distance = np.minimum(np.minimum(y, height - 1 - y), np.minimum(x, width - 1 - x))
    whole = detail.sum(2)
    rings = [whole[distance == ring].mean(dtype=np.float64) for ring in range(FRAME)]
    return np.array(rings) / max(float(whole[distance >= FRAME].mean(dtype=np.float64)), 1e-3)
