"""A member of a team: an actor on a worker, with its part of one picture and of everything that the optimiser keeps.

All members run the same search, each on its own part. Where the search needs to know more than its part tells, of the
loss and of dot products, it gets the sum over all parts; so all take the same steps. An evaluation is

    the pixels around the part, from the neighbours     →  moments of its tiles
    the sum of all members' moments, compared           →  the gradient in the pixels that the tiles see
    what neighbours' tiles have found for its pixels    →  the gradient of the part

Sums go up a tree of members, and come down again. Each style term has a tree of its own, at whose root it is compared.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
from distributed import get_worker
from distributed.threadpoolexecutor import ThreadPoolExecutor

from ..arrays import Array, Place, Scalar
from ..engines import Engine, open_engine
from ..errors import NSTError
from ..guides import propagated, region_weights
from ..losses import STYLE_LOSSES, Moments, laplacian_loss
from ..objective import ContentTerm, Style, StyleTerm, content_terms, style_terms
from ..optimise import OPTIMIZERS, Ended, Vectors
from ..optimise.search import DeviceSearch
from ..problem import build_network, pretrained_weights
from ..settings import Run, Settings
from ..tiles.plan import Interval, Tile, tiles_between
from ..tiles.walk import Climbed, Coefficients, added, climb, compared, descend, tile_moments, walked, weights_of
from ..vgg import Network, feature_sizes, smallest_side
from ..weights import Weights
from .arrived import settled_in_memory, worker_device, worker_threads
from .board import Board, Name, Peer, Peers, packed, unpacked
from .grid import Grid, Rectangle, tiles_at
from .own_thread import in_own_thread, readable
from .pixels import Pixels, pixel_term, pixels_of


class Member:
    """The methods are called in this order; those with the same picture in another size begin at `join`."""

    def __init__(self, settings: Settings, run: Run, weights: Weights | None) -> None:
        run = replace(run, threads=worker_threads(run), device=worker_device(run))
        self.settings, self.side = settings, run.tile if isinstance(run.tile, int) else None
        self.board = Board()
        self.thread: Any = cast(Any, ThreadPoolExecutor)(1)
        self.engine, self.network = self.thread.submit(readable, partial(_opened, settings, run, weights)).result()

    def join(self, index: int, peers: Sequence[Peer]) -> None:
        self.index, self.evaluation = index, 0
        self.peers = Peers(get_worker(), self.board, index, list(peers))

    @in_own_thread
    def window_of(self, grid: Grid, layers: Sequence[str], margin: int = 0) -> Rectangle:
        """What this member must see of a picture for its part of these layers' features, and of a margin behind it."""
        own = grid.parts[self.index]
        seen = Rectangle(
            own.rows._replace(stop=min(own.rows.stop + margin, grid.size[0])),
            own.columns._replace(stop=min(own.columns.stop + margin, grid.size[1])),
        )
        for tile in self._tiles(grid, layers, None):
            seen = seen.around(Rectangle(tile.rows, tile.columns))
        return seen

    @in_own_thread
    def moments_of(
        self, grid: Grid, layers: Sequence[str], seen: Rectangle, image: Array, mask: Array | None
    ) -> dict[str, tuple[Array, Array]]:
        """This member's part of the moments of a style picture, of which it sees a window."""
        shares = {} if mask is None else propagated(mask, self.network.steps)
        weights = {layer: region_weights(shares[layer], layer) for layer in layers if shares}
        image = settled_in_memory(image)
        found: Mapping[str, Moments] = {}
        for tile in self._tiles(grid, layers, self.side):
            window = self.engine.to_device(image[Rectangle(tile.rows, tile.columns).within(seen)])
            part: dict[str, Moments] = {}
            for _, cut, features, _ in walked(self.network, tile, window):
                if cut.name in layers:
                    own, share = weights_of(self.network, weights.get(cut.name), cut)
                    part[cut.name] = self.engine.moments(features, own).times(share)
            found = added(found, part)
        host = self.engine.to_host
        return {layer: (host(mean), host(second)) for layer, (mean, second) in found.items()}

    @in_own_thread
    def see(self, grid: Grid, windows: Sequence[Rectangle], content: Array, styles: Sequence[Style]) -> None:
        """The targets of this member's part. It is shown its window of the content picture, and the styles' moments
        and regions; `windows` are all members'."""
        settings, size, formula = self.settings, grid.size, self.settings.formula()
        self.grid, self.own, self.window = grid, grid.parts[self.index], windows[self.index]
        self.lacking, self.asked = dict[int, Rectangle](), dict[int, Rectangle]()  # of other members, and by them
        for number, (part, window) in enumerate(zip(grid.parts, windows, strict=True)):
            if number != self.index and not (area := part.common(self.window)).empty:
                self.lacking[number] = area
            if number != self.index and not (area := window.common(self.own)).empty:
                self.asked[number] = area
        shown, styles = self.engine.to_device(settled_in_memory(content)), settled_in_memory(styles)
        terms = content_terms(self.network, shown, settings.content_layer_weights(), formula, self._features)
        if styles:
            loss = STYLE_LOSSES[settings.style_loss]
            terms += style_terms(self.network, styles, settings.style_layer_weights(), formula, size, loss)
        self.terms, self.styles = terms, [term for term in terms if isinstance(term, StyleTerm)]
        self.pixels: dict[str, tuple[Pixels, float]] = {}
        if settings.laplacian_weight:
            bent = partial(laplacian_loss, target=shown)
            self.pixels["laplacian"] = pixels_of(bent, shown, self.window), settings.laplacian_weight
        if settings.tv_weight:
            self.pixels["tv"] = pixels_of(formula.preset.tv), formula.variation()
        self.names = [term.name for term in terms if isinstance(term, ContentTerm)] + list(self.pixels)
        self.order = [term.name for term in terms] + list(self.pixels)

    @in_own_thread
    def begin(self, start: Array, state: Mapping[str, Any] | None) -> None:
        """The search: from a start, or from the state in which it was."""
        settings, optimizer = self.settings, OPTIMIZERS[self.settings.optimizer]
        make: Any = optimizer.search
        image, state = self.engine.to_device(settled_in_memory(start)), settled_in_memory(state)
        own: dict[str, Any] = {"vectors": partial(Shared, self)}
        self.search: DeviceSearch
        if state is None:
            own |= {name: getattr(settings, name) for name in ("bounds", *optimizer.options)}
            self.search = make(self._evaluated, image, **own)
        else:
            on_device = {**state, "image": image.reshape(-1), "shape": list(image.shape)}
            self.search = make.restored(self._evaluated, on_device, **own)
        self.search.count = self.grid.size[0] * self.grid.size[1] * 3

    @in_own_thread
    def iterate(self, limit: int, tolerance: float) -> dict[str, Any]:
        """Iterations until there have been so many, and at least the first evaluation: the numbers that all members
        know, why the search ended, if it did, and the bytes that this member has got from others since."""
        self.peers.bytes = {}
        found: dict[str, Any] = {"reason": None}
        try:
            found["reason"] = readable(partial(self.search._minimise, limit, tolerance, lambda: None))
        except Ended as ended:
            found["ended"] = ended.stopped, str(ended)
        except MemoryError as error:
            self.board.fail(error)  # so that all members end alike
            found["memory"] = str(error)
        except BaseException as error:
            self.board.fail(RuntimeError(str(error) or type(error).__name__))
            raise
        names = ("iteration", "evaluations", "loss", "best_loss", "terms", "norm", "moved")
        return found | {name: getattr(self.search, name) for name in names} | {"bytes": self.peers.bytes}

    @in_own_thread
    def numbers(self) -> dict[str, Any]:
        """Of the search's state, what all members have alike."""
        state = self.search.state()
        return {name: state[name] for name in ("rule", *self.search.settings, *self.search.numbers)}

    @in_own_thread
    def kinds(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and type of this member's part of each array."""
        arrays = {name: getattr(self.search, name) for name in self.search.arrays}
        return {name: (tuple(array.shape), array.dtype.str) for name, array in arrays.items()}

    @in_own_thread
    def part(self, name: str, row: int | None = None) -> Array:
        """This member's part of one of the search's arrays, or of one of its rows."""
        array = getattr(self.search, name)
        found: Array = self.engine.to_host(array if row is None else array[row])
        return found

    async def read(self, name: Name, area: Rectangle | None = None) -> list[Array]:
        """For other members: what is on the board; of the pixels and of the gradient, that area."""

        def part(thing: Any) -> list[Array]:
            if area is None:
                return list(thing)
            whole, array = thing
            return [array[area.within(whole)].copy()]

        return cast(list[Array], await self.board.read(name, part))

    async def abort(self, why: str) -> None:
        self.board.fail(RuntimeError(why))

    def summed_products(self, own: Array) -> Array:
        return self.peers.summed("numbers", self.engine.to_host(own))

    def _tiles(self, grid: Grid, layers: Sequence[str], side: int | None) -> list[Tile]:
        own, unit = grid.parts[self.index], smallest_side(self.network.steps)
        rows, columns = (tiles_at(part, side, unit) for part in (own.rows, own.columns))
        return tiles_between(self.network, layers, grid.size, rows, columns)

    def _features(self, network: Network, shown: Array, layers: Collection[str]) -> Iterator[tuple[str, Any]]:
        """The content's features at this member's positions."""
        sizes = feature_sizes(network.steps, *self.grid.size)
        found: dict[str, Own] = {}
        for tile in self._tiles(self.grid, list(layers), self.side) if layers else ():
            place = Rectangle(tile.rows, tile.columns).within(self.window)
            for _, cut, features, _ in walked(network, tile, shown[place]):
                if cut.name in layers:
                    own = found.setdefault(cut.name, Own({}, (*sizes[cut.name], features.shape[2])))
                    own.parts[cut.rows.owned, cut.columns.owned] = features[cut.owned].copy()
        yield from found.items()

    def _evaluated(self, image: Array) -> tuple[Scalar, Array, Mapping[str, Scalar]]:
        """Loss and terms of the whole picture, and the gradient of this member's part."""
        self.evaluation += 1
        window = self._with_surroundings(image)
        d_window = np.zeros_like(window)
        seen, own, size = self.window, self.own, self.grid.size
        values = {
            name: pixel_term(term, weight, window, d_window, seen, own, size)
            for name, (term, weight) in self.pixels.items()
        }
        tiles = self._tiles(self.grid, [*self.settings.taps()], self.side)
        moments, last = self._climbed(tiles, window)
        coefficients = self._compared(moments)
        for tile in tiles[::-1]:
            place = Rectangle(tile.rows, tile.columns).within(seen)
            climbed = last
            if tile is not tiles[-1]:
                climbed = climb(self.network, self.terms, tile, window[place], measure=False, keep=True)
            for name, value in climbed.values.items():
                values[name] = values.get(name, 0.0) + value
            d_window[place] += descend(self.network, climbed, coefficients)
        d_image = self._with_others(d_window)
        sums = self.peers.summed("numbers", [float(values[name]) for name in self.names])
        known = dict(zip(self.names, sums.tolist(), strict=True))
        known |= {name: float(value) for name, (value, _, _) in coefficients.items()}
        terms = {name: known[name] for name in self.order}
        return sum(terms.values()), d_image, terms

    def _with_surroundings(self, image: Array) -> Array:
        """The window: this member's pixels, and around them those of others."""
        name, window = ("pixels", self.evaluation), np.zeros_like(image, shape=self.window.shape)
        self.board.put(name, (self.own, self.engine.to_host(image)), len(self.asked))
        window[self.own.within(self.window)] = image
        for number, area in self.lacking.items():
            [found] = self.peers.ask(number, "pixels", name, area)
            window[area.within(self.window)] = self.engine.to_device(found)
        return window

    def _with_others(self, d_window: Array) -> Array:
        """The gradient in this member's pixels: what its tiles have found, and what others' have."""
        name = ("gradient", self.evaluation)
        self.board.put(name, (self.window, self.engine.to_host(d_window)), len(self.lacking))
        d_image: Array = d_window[self.own.within(self.window)].copy()
        for number, area in self.asked.items():
            [found] = self.peers.ask(number, "gradient", name, area)
            d_image[area.within(self.own)] += self.engine.to_device(found)
        return d_image

    def _climbed(self, tiles: Sequence[Tile], window: Array) -> tuple[Mapping[str, Moments], Climbed]:
        """The moments of all tiles, and the last one's walk up, which serves its walk down, too."""
        moments: Mapping[str, Moments] = {}
        *others, last = ((tile, window[Rectangle(tile.rows, tile.columns).within(self.window)]) for tile in tiles)
        for tile, seen in others if self.styles else ():
            moments = added(moments, tile_moments(self.network, self.styles, tile, seen))
        climbed = climb(self.network, self.terms, *last, measure=True, keep=True)
        return added(moments, climbed.moments), climbed

    def _compared(self, moments: Mapping[str, Moments]) -> Coefficients:
        """Every style term's value and derivatives in the whole picture's moments. Each is compared by one member."""
        host, found = self.engine.to_host, dict[str, Moments]()
        for number, term in enumerate(self.styles):
            own = moments[term.name]
            total = self.peers.up(
                "moments", (term.name, self.evaluation), packed(host(own.mean), host(own.second)), number
            )
            if total is not None:
                found[term.name] = self.engine.known_moments(*unpacked(total))
        mine = [term for term in self.styles if term.name in found]
        results = compared(self.engine, mine, found) if mine else {}
        coefficients = {}
        for number, term in enumerate(self.styles):
            things: list[Array] | None = None
            if term.name in results:
                value, d_mean, d_second = results[term.name]
                mean = np.zeros(0) if d_mean is None else host(d_mean)
                things = [np.array([float(value)]), packed(mean, host(d_second))]
            value, both = self.peers.down("coefficients", (term.name, self.evaluation), things, number)
            mean, second = unpacked(both, len(moments[term.name].mean))
            on_device = self.engine.to_device
            coefficients[term.name] = (
                value[0],
                on_device(mean, "float64") if len(mean) else None,
                on_device(second, "float64"),
            )
        return coefficients


def _opened(settings: Settings, run: Run, weights: Weights | None) -> tuple[Engine, Network]:
    engine = open_engine(settings.engine, settings.precision, run.threads, run.device)
    weights = settled_in_memory(weights) or pretrained_weights(settings)
    if weights is None:
        raise NSTError("a worker has no weights any more: start the run again")
    return engine, build_network(settings, weights, engine)


@dataclass(frozen=True)
class Own:
    """One member's part of the content's features at a layer, as if it were all of them."""

    parts: dict[tuple[Interval, Interval], Array]
    shape: tuple[int, int, int]

    def __getitem__(self, place: Place) -> Array:
        rows, columns = (Interval(part.start, part.stop) for part in place)
        return self.parts[rows, columns]


class Shared:
    """The sums of a search over all members' parts; everything else is each member's own."""

    def __init__(self, member: Member, image: Array, history: int) -> None:
        self.member, self.own = member, (member.engine.vectors or Vectors)(image, history)
        self.combine = self.own.combine

    def products(self, *given: Any) -> Array:
        return self.member.summed_products(self.own.products(*given))

    def squares(self, *given: Any) -> Array:
        return self.member.summed_products(self.own.squares(*given))
