"""Where the tiles of a picture are, what of each layer's features they own, and what they need to compute it.

Everything is worked out along one axis at a time, for rows and columns are independent. Intervals are in positions of
their own layer, in the whole picture.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from typing import NamedTuple

from ..arrays import Place
from ..vgg import Conv, Network, Pool, Step, Steps, feature_sizes, smallest_side

# Positions at which an engine may begin anew: multiples of this. Most of a tile's features are then the very numbers
# that they are without tiles, by Winograd's algorithm, too, which computes 4×4 positions at once.
ALIGNED = 4
SPARED = 1 / 40  # of what lies below an operation: less is not cut off, for that takes a copy, up and down
LARGE = 8  # times the smallest tile: from there on, tiles begin at aligned positions of every layer


class Interval(NamedTuple):
    """start … stop, without stop."""

    start: int
    stop: int

    def within(self, other: "Interval") -> slice:
        """The same, counted from the start of another one that contains it."""
        return slice(self.start - other.start, self.stop - other.start)

    @property
    def size(self) -> int:
        return self.stop - self.start


class Stretch(NamedTuple):
    """One operation along one axis of one tile: what it takes of the features below it, what it makes of that, and
    what of it belongs to the tile. At its ends, what it makes may be wrong, for lack of neighbours; it is not used."""

    taken: Interval
    made: Interval
    owned: Interval


@dataclass(frozen=True)
class Cut:
    """One operation of one tile, along both axes."""

    name: str
    rows: Stretch
    columns: Stretch
    below: tuple[Interval, Interval]  # rows and columns of the features that the operation below it has made
    whole: tuple[int, int]  # height and width of the layer in the whole picture

    @cached_property
    def taken(self) -> Place:
        """What the operation takes, within what the one below it has made."""
        return self.rows.taken.within(self.below[0]), self.columns.taken.within(self.below[1])

    @cached_property
    def owned(self) -> Place:
        """The tile's own features, within those that the operation makes."""
        return self.rows.owned.within(self.rows.made), self.columns.owned.within(self.columns.made)

    @cached_property
    def place(self) -> Place:
        """The same, within the whole layer."""
        return slice(*self.rows.owned), slice(*self.columns.owned)

    @property
    def below_shape(self) -> tuple[int, int]:
        return self.below[0].size, self.below[1].size

    @property
    def takes_all(self) -> bool:
        """Whether it takes all that the operation below it has made."""
        return (self.rows.taken, self.columns.taken) == self.below

    @property
    def owns_all(self) -> bool:
        return self.rows.made == self.rows.owned and self.columns.made == self.columns.owned

    @property
    def positions(self) -> int:
        """How many of the layer's positions belong to the tile."""
        return self.rows.owned.size * self.columns.owned.size


@dataclass(frozen=True)
class Tile:
    """A tile: the pixels that it sees, and every operation of the network."""

    rows: Interval
    columns: Interval
    cuts: Sequence[Cut]

    @property
    def window(self) -> Place:
        return slice(*self.rows), slice(*self.columns)

    @property
    def pixels(self) -> int:
        return self.rows.size * self.columns.size


def tiles_of(network: Network, taps: Collection[str], size: tuple[int, int], side: int) -> list[Tile]:
    """The tiles of a picture of that (height, width): as large as possible, and at most `side` on each side, except
    where no smaller tile has a position of the deepest layer. `taps` are the layers whose features count; without any,
    there are no tiles."""
    unit = smallest_side(network.steps)
    rows, columns = (edges(length, side, unit) for length in size)
    return tiles_between(network, taps, size, rows, columns)


def tiles_between(
    network: Network, taps: Collection[str], size: tuple[int, int], rows_at: Sequence[int], columns_at: Sequence[int]
) -> list[Tile]:
    """The tiles that lie between these rows and these columns of a picture, row by row."""
    groups = grouped(network)
    deepest = max((number for number, (name, _) in enumerate(groups, 1) if name in taps), default=0)
    if not deepest:
        return []
    groups = groups[:deepest]
    rows, columns = (
        [_stretches(groups, taps, length, Interval(*ends)) for ends in pairwise(ends_at)]
        for length, ends_at in zip(size, (rows_at, columns_at), strict=True)
    )
    layers, tiles = feature_sizes(network.steps, *size), list[Tile]()
    for down, across in product(rows, columns):
        below = seen = (down[0].taken, across[0].taken)
        cuts = []
        for (name, _), rows_of, columns_of in zip(groups, down, across, strict=True):
            cuts.append(Cut(name, rows_of, columns_of, below, layers[name]))
            below = rows_of.made, columns_of.made
        tiles.append(Tile(*seen, cuts))
    return tiles


def grouped(network: Network) -> list[tuple[str, Steps]]:
    """(name, steps) of every operation: the steps that the engine has fused in it."""
    groups: list[tuple[str, Steps]] = []
    steps = iter(network.steps)
    for operation in network.operations:
        group: list[Step] = []
        while not group or group[-1].name != operation.name:
            group.append(next(steps))
        groups.append((operation.name, tuple(group)))
    return groups


def edges(length: int, side: int, unit: int) -> list[int]:
    """Where tiles begin and end along an axis of that many pixels. They begin at multiples of `unit`, the side of the
    square of pixels that all poolings together make one position of; large ones where aligned positions do."""
    unit *= ALIGNED if side >= LARGE * unit else 1
    return shared_out(length, -(-max(1, length // unit) // max(1, side // unit)), unit)


def shared_out(length: int, count: int, unit: int) -> list[int]:
    """The edges of `count` stretches of an axis, as even as multiples of `unit` allow; of fewer if there are not so
    many units."""
    units = max(1, length // unit)
    count = min(count, units)
    return [units * number // count * unit for number in range(count)] + [length]


class _Need(NamedTuple):
    """Of one operation: the tile's own features, what of its input must be right, and where that must begin at last,
    so that this operation and all above it begin at aligned positions."""

    owned: Interval
    taken: Interval
    begins: int
    halving: int  # 2 if it ends in a pooling, else 1


def _stretches(
    groups: Sequence[tuple[str, Steps]], taps: Collection[str], length: int, tile: Interval
) -> list[Stretch]:
    """What each operation takes: no less than it needs, and no less of what the one below it has made than pays."""
    needs = _needs(groups, taps, length, tile)
    made = Interval(needs[0].begins, needs[0].taken.stop)
    found = []
    for owned, needed, begins, halving in needs:
        taken = made
        if begins - made.start + made.stop - needed.stop > SPARED * made.size or made.start % (ALIGNED * halving):
            taken = Interval(begins, needed.stop)
        made = Interval(taken.start // halving, taken.start // halving + taken.size // halving)
        found.append(Stretch(taken, made, owned))
    return found


def _needs(groups: Sequence[tuple[str, Steps]], taps: Collection[str], length: int, tile: Interval) -> list[_Need]:
    """From the deepest layer down: an operation must make the tile's own features, where they are tapped, and what the
    operation above it needs."""
    lengths, strides = [length], [1]
    for _, group in groups:
        halved = any(isinstance(step, Pool) for step in group)
        lengths.append(lengths[-1] // (1 + halved))
        strides.append(strides[-1] * (1 + halved))
    needs: list[_Need] = []
    start = stop = begins = 0
    for number in reversed(range(len(groups))):
        (name, group), stride, halving = groups[number], strides[number + 1], strides[number + 1] // strides[number]
        owned = Interval(tile.start // stride, lengths[number + 1] if tile.stop == length else tile.stop // stride)
        if not needs:
            start, stop = owned
            begins = start
        elif name in taps:
            start, stop = min(start, owned.start), max(stop, owned.stop)
        for step in reversed(group):
            if isinstance(step, Pool):
                start, stop = 2 * start, 2 * stop
            elif isinstance(step, Conv):
                start, stop = start - 1, stop + 1
        start, stop = max(start, 0), min(stop, lengths[number])
        begins = min(start, begins * halving) // (ALIGNED * halving) * (ALIGNED * halving)
        needs.append(_Need(owned, Interval(start, stop), begins, halving))
    return needs[::-1]
