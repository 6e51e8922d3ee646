"""One tile, up and down: its part of every layer's moments, and its part of the gradient.

    moments = the sum of tile_moments(…) over all tiles
    coefficients = compared(engine, terms, moments)
    d_image[tile.window] += tile_gradient(…, coefficients), for every tile

A window of the image goes in; moments, values and the window's gradient come out: all on the engine's device.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array, Scalar, framed
from ..engines import Engine
from ..losses import Moments
from ..objective import Compared, ContentTerm, StyleTerm, Term
from ..vgg import IMAGE, Network, Operation
from .plan import Cut, Tile

Coefficients = Mapping[str, Compared]  # by the style term's name


class Climbed(NamedTuple):
    """What a walk up leaves: the tile's part of the moments and of the content terms, and what its walk down needs."""

    moments: Mapping[str, Moments]
    values: Mapping[str, Scalar]
    passed: list[tuple[Operation, Cut, Any, "Waiting"]]  # operation, cut, saved, and:


Waiting = Callable[[Coefficients, Any], Any]  # adds the gradients of the terms that tap an operation's features to a d


def tile_moments(network: Network, terms: Sequence[StyleTerm], tile: Tile, window: Array) -> Mapping[str, Moments]:
    """The tile's part of the moments of every style term: those of all tiles add up to the picture's."""
    return climb(network, terms, tile, window, measure=True, keep=False).moments


def tile_gradient(
    network: Network, terms: Sequence[Term], tile: Tile, window: Array, coefficients: Coefficients
) -> tuple[Array, Mapping[str, Scalar]]:
    """The tile's part of the gradient, in the pixels that it sees, and its part of every content term's value."""
    climbed = climb(network, terms, tile, window, measure=False, keep=True)
    return descend(network, climbed, coefficients), climbed.values


def compared(engine: Engine, terms: Sequence[StyleTerm], moments: Mapping[str, Moments]) -> Coefficients:
    """Every style term's value and derivatives in the whole picture's moments; the largest matrices first."""
    found = engine.each(lambda term: term.compare(moments[term.name]), terms[::-1])
    return {term.name: result for term, result in zip(terms[::-1], found, strict=True)}


def added(one: Mapping[str, Moments], other: Mapping[str, Moments]) -> Mapping[str, Moments]:
    """Two tiles' moments together; an empty mapping is that of no tile."""
    if not one:
        return other
    return {name: moments.plus(other[name]) for name, moments in one.items()}


def climb(network: Network, terms: Sequence[Term], tile: Tile, window: Array, *, measure: bool, keep: bool) -> Climbed:
    """A tile's walk up: to `measure` the style terms' moments, to `keep` what a walk down needs, or for both."""
    engine = network.engine
    moments, values = dict[str, Moments](), dict[str, Scalar]()
    climbed, missing = Climbed(moments, values, []), {term.layer for term in terms} - {IMAGE}
    for operation, cut, features, saved in walked(network, tile, window):
        waiting: Waiting = _nothing
        for term in terms:
            if term.layer != operation.name:
                continue
            if isinstance(term, ContentTerm):
                target = engine.to_device(term.target[cut.place])
                place = None if cut.owns_all else cut.owned
                values[term.name], gradient = engine.difference(features, target, term.weight, place)
                if keep:
                    waiting = partial(_joined_beside, engine, waiting, gradient)
                del target, gradient
            elif isinstance(term, StyleTerm):
                weights, share = weights_of(network, term.region, cut)
                if measure:
                    moments[term.name] = engine.moments(features, weights).times(share)
                if keep:
                    kept = engine.kept(features, saved, weights)
                    waiting = partial(_pulled_beside, engine, waiting, kept, saved, weights, share, term.name)
                    del kept
                del weights
        if keep:
            climbed.passed.append((operation, cut, saved, waiting))
        missing.discard(operation.name)
        del features, saved, waiting  # while the next operation is computed, only `passed` holds what it must
        if not missing:
            break
    return climbed


def descend(network: Network, climbed: Climbed, coefficients: Coefficients) -> Array:
    """The walk down: the tile's part of d_image. It consumes what the walk up has kept."""
    d: Any = None
    while climbed.passed:
        operation, cut, saved, waiting = climbed.passed.pop()
        d = waiting(coefficients, d)
        del waiting
        d = operation.down(d, saved)
        del saved
        if not cut.takes_all:
            d = framed(d, (*cut.below_shape, d.shape[2]), cut.taken)
    d_window: Array = d
    return d_window


def walked(network: Network, tile: Tile, window: Array) -> Iterator[tuple[Operation, Cut, Array, Any]]:
    """(operation, cut, features, saved) of every operation of the tile. Features are those that it makes: its own, and
    around them others, which may be wrong at the window's edges within the picture."""
    x = window - network.mean
    for operation, cut in zip(network.operations, tile.cuts, strict=False):
        x, saved = operation.up(x if cut.takes_all else x[cut.taken])
        yield operation, cut, x, saved


def weights_of(network: Network, region: Array | None, cut: Cut) -> tuple[Array | None, float]:
    """The weights of the positions that the tile computes, 0 around its own; and a factor. Where all count alike, as
    in a tile with nothing around its own, the factor is enough."""
    rows, columns = cut.whole
    if region is None and cut.owns_all:
        return None, cut.positions / (rows * columns)
    shape = cut.rows.made.size, cut.columns.made.size
    weights: Array = np.zeros_like(network.mean, shape=shape)
    own = 1 / (rows * columns) if region is None else network.engine.to_device(region[cut.place])
    weights[cut.owned] = own
    return weights, 1.0


def _nothing(coefficients: Coefficients, d: Any) -> Any:
    return d


def _joined_beside(engine: Engine, other: Waiting, gradient: Any, coefficients: Coefficients, d: Any) -> Any:
    """d, what waits besides, and a content term's gradient."""
    return engine.join(other(coefficients, d), gradient)


def _pulled_beside(
    engine: Engine,
    other: Waiting,
    kept: Any,
    saved: Any,
    weights: Array | None,
    share: float,
    name: str,
    coefficients: Coefficients,
    d: Any,
) -> Any:
    """d, what waits besides, and a style term's gradient."""
    _, d_mean, d_second = coefficients[name]
    if share != 1:
        d_mean, d_second = None if d_mean is None else share * d_mean, share * d_second
    return engine.pull_back(other(coefficients, d), kept, saved, weights, d_mean, d_second)
