"""All tiles of one picture, one after the other: its objective, and the targets of large content and style pictures.

Besides the image and its gradient, an evaluation has one tile in memory at a time.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Array, Scalar
from ..guides import propagated, region_weights
from ..losses import Moments
from ..objective import Evaluation, ImageTerm, Objective, Style, StyleTerm, features_of, targets_of
from ..vgg import Network
from .on_disk import spacious
from .pixels import add_image_term
from .plan import Cut, Tile, tiles_of
from .walk import Coefficients, added, climb, compared, descend, tile_moments, walked, weights_of

log = logging.getLogger(__name__)

LEAST = 128  # pixels: smaller tiles would need hardly less memory, for their halos stay as they are


@dataclass(frozen=True)
class TiledObjective(Objective):
    """The same function of the image, in tiles of at most `side` pixels on a side.

    The image may be on the host; then so is its gradient, and only tiles go to the engine's device.
    """

    side: int
    on_host: bool = False  # whether images are better left there

    def __call__(self, image: Array) -> Evaluation:
        """Host image in, host gradient out; where memory runs out, in smaller tiles."""
        return self.fetched(Shrinking(self, lambda function: function))(image)

    def fetched(self, on_device: Callable[[Array], Any]) -> Callable[[Array], Evaluation]:
        if not self.on_host:
            return super().fetched(on_device)
        engine = self.network.engine

        def evaluation(image: Array) -> Evaluation:
            kind = engine.to_host(self.network.mean).dtype
            _, d_image, values = on_device(np.asarray(image, kind))
            numbers = {name: float(value) for name, value in values.items()}
            return Evaluation(sum(numbers.values()), d_image, numbers)

        return evaluation

    def repeated(self) -> Callable[[Array], tuple[Scalar, Array, dict[str, Scalar]]]:
        """`on_device`, made ready by the engine; where memory runs out, with smaller tiles from then on."""
        return Shrinking(self, self.network.engine.repeated)

    def on_device(self, image: Array) -> tuple[Scalar, Array, dict[str, Scalar]]:
        """Two walks up and one down for each tile. The last tile's first walk up serves its walk down, too."""
        tiles, engine = self.tiles(image), self.network.engine
        if len(tiles) == 1 and not self.on_host:
            return super().on_device(image)
        if len(tiles) == 1:
            loss, d_image, values = super().on_device(engine.to_device(image))
            return loss, self.home(d_image), values
        network, terms, styles = self.network, self.terms, self._styles()
        d_image = np.zeros_like(image)
        values = self._of_pixels(image, d_image)
        moments: Mapping[str, Moments] = {}
        for tile in tiles[:-1] if styles else ():
            moments = added(moments, tile_moments(network, styles, tile, engine.to_device(image[tile.window])))
        coefficients: Coefficients | None = None
        for tile in tiles[::-1]:
            window, first = engine.to_device(image[tile.window]), coefficients is None
            climbed = climb(network, terms, tile, window, measure=first, keep=True)
            if coefficients is None:
                coefficients = compared(network.engine, styles, added(moments, climbed.moments))
                values |= {name: value for name, (value, _, _) in coefficients.items()}
            for name, value in climbed.values.items():
                values[name] = values.get(name, 0.0) + value
            d_image[tile.window] += self.home(descend(network, climbed, coefficients))
        values = {term.name: values[term.name] for term in terms}
        return sum(values.values()), d_image, values

    @property
    def home(self) -> Callable[[Array], Array]:
        """Brings arrays to where images are."""
        engine = self.network.engine
        return engine.to_host if self.on_host else engine.to_device

    def values(self, image: Array) -> dict[str, float]:
        image, engine = self.home(image), self.network.engine
        tiles = self.tiles(image)
        if len(tiles) == 1:
            return super().values(engine.to_device(image))
        moments: Mapping[str, Moments] = {}
        values: dict[str, Scalar] = self._of_pixels(image, None)
        for tile in tiles:
            window = engine.to_device(image[tile.window])
            climbed = climb(self.network, self.terms, tile, window, measure=True, keep=False)
            moments = added(moments, climbed.moments)
            for name, value in climbed.values.items():
                values[name] = values.get(name, 0.0) + value
        coefficients = compared(engine, self._styles(), moments)
        values |= {name: value for name, (value, _, _) in coefficients.items()}
        return {term.name: float(values[term.name]) for term in self.terms}

    def tiles(self, image: Array) -> list[Tile]:
        self.network.check_size(image)
        taps = {term.layer for term in self.terms}
        return tiles_of(self.network, taps, (image.shape[0], image.shape[1]), self.side)

    def _styles(self) -> list[StyleTerm]:
        return [term for term in self.terms if isinstance(term, StyleTerm)]

    def _of_pixels(self, image: Array, d_image: Array | None) -> dict[str, Scalar]:
        terms = [term for term in self.terms if isinstance(term, ImageTerm)]
        return {term.name: add_image_term(term, image, d_image, self.home) for term in terms}


class Shrinking:
    """An objective, made ready, whose tiles shrink where there is too little memory for them."""

    def __init__(self, objective: TiledObjective, made_ready: Callable[[Callable[..., Any]], Any]) -> None:
        self.objective, self.made_ready = objective, made_ready
        self.function = made_ready(objective.on_device)

    def __call__(self, image: Array) -> Any:
        while True:
            try:
                return self.function(image)
            except MemoryError as error:
                side = halved(self.objective.side, image, error)
            self.objective = replace(self.objective, side=side)
            self.function = self.made_ready(self.objective.on_device)


def halved(side: int, image: Array, error: MemoryError) -> int:
    """The side of smaller tiles; the error where none would do."""
    side = min(side, max(image.shape[:2])) // 2
    if side < LEAST:
        raise error
    log.warning("memory: too little for these tiles (%s); going on with tiles of %d pixels", error, side)
    return side


@dataclass(frozen=True)
class InTiles:
    """What `make_objective` needs of content and style pictures, in tiles of at most `side` pixels on a side."""

    side: int
    folder: Path | None = None  # for what would take much memory

    def features(self, network: Network, image: Array, layers: Collection[str]) -> Iterator[tuple[str, Array]]:
        """objective.features_of, in tiles; those of several tiles are left on the host."""
        if len(self._tiles(network, image, layers)) == 1:
            yield from features_of(network, image, layers)
            return
        found: dict[str, Any] = {}
        for cut, features in self.walked(network, image, layers):
            own = network.engine.to_host(features[cut.owned])
            if cut.name not in found:
                found[cut.name] = spacious((*cut.whole, own.shape[2]), own.dtype, self.folder)
            found[cut.name][cut.place] = own
        yield from found.items()

    def targets(self, network: Network, style: Style, layers: Collection[str]) -> Mapping[str, Moments]:
        """objective.targets_of, in tiles; where memory runs out, in smaller ones."""
        in_tiles = self
        while True:
            try:
                return in_tiles._targets(network, style, layers)
            except MemoryError as error:
                if style.image is None:
                    raise
                in_tiles = replace(in_tiles, side=halved(in_tiles.side, style.image, error))

    def _targets(self, network: Network, style: Style, layers: Collection[str]) -> Mapping[str, Moments]:
        image = style.image
        if style.targets is not None or image is None or len(self._tiles(network, image, layers)) == 1:
            return targets_of(network, style, layers)
        shares = {} if style.mask is None else propagated(style.mask, network.steps)
        weights = {layer: region_weights(shares[layer], layer) for layer in layers if shares}
        moments: dict[str, Moments] = {}
        for cut, features in self.walked(network, image, layers):
            own, share = weights_of(network, weights.get(cut.name), cut)
            part = {cut.name: network.engine.moments(features, own).times(share)}
            moments |= added({name: moments[name] for name in part if name in moments}, part)
        return moments

    def walked(self, network: Network, image: Array, layers: Collection[str]) -> Iterator[tuple[Cut, Array]]:
        """The tapped features of every tile of a host image."""
        for tile in self._tiles(network, image, layers):
            for _, cut, features, _ in walked(network, tile, network.engine.to_device(image[tile.window])):
                if cut.name in layers:
                    yield cut, features
                del features

    def _tiles(self, network: Network, image: Array, layers: Collection[str]) -> list[Tile]:
        network.check_size(image)
        return tiles_of(network, layers, (image.shape[0], image.shape[1]), self.side)
