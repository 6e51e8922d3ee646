"""VGG-19 as a table, one walk up and one walk down.

The walks are given an engine and never ask which. The image is RGB, 0 … 255; the network's own first step is to
subtract its mean colour. (Channel order and scale of a weights file are folded into conv1_1 when it is read.)
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from .arrays import Array
from .engines import Engine
from .errors import NSTError


class Conv(NamedTuple):
    """A 3×3 convolution with bias, followed by ReLU."""

    name: str
    c_in: int
    c_out: int


class Pool(NamedTuple):
    """2×2 pooling, stride 2."""

    name: str


class ConvPool(NamedTuple):
    """Both at once, where nobody looks at the features between them: the largest of all are then never stored."""

    name: str
    conv: str


def vgg_table(blocks: tuple[tuple[int, int], ...]) -> tuple[Conv | Pool, ...]:
    """Blocks of (number of convolutions, channels), each ended by a pooling."""
    steps: list[Conv | Pool] = []
    channels = 3
    for block, (convolutions, c_out) in enumerate(blocks, 1):
        for number in range(1, convolutions + 1):
            steps.append(Conv(f"conv{block}_{number}", channels, c_out))
            channels = c_out
        steps.append(Pool(f"pool{block}"))
    return tuple(steps)


VGG19 = vgg_table(((2, 64), (2, 128), (4, 256), (4, 512), (4, 512)))
LAYERS = tuple(step.name for step in VGG19 if isinstance(step, Conv))
POOLINGS = ("avg", "max")


def steps_to(deepest: str, table: tuple[Conv | Pool, ...] = VGG19) -> tuple[Conv | Pool, ...]:
    """The table as far as the deepest layer in use."""
    names = [step.name for step in table]
    return table[: names.index(deepest) + 1]


def smallest_side(steps: tuple[Conv | Pool, ...]) -> int:
    """The least height or width that leaves a pixel after every pooling."""
    side: int = 2 ** sum(isinstance(step, Pool) for step in steps)
    return side


@dataclass(frozen=True)
class Network:
    """The steps to walk, with every filter in its engine's own form."""

    engine: Engine
    steps: tuple[Conv | Pool, ...]
    filters: Mapping[str, Any]
    mean: Array
    pooling: str

    @classmethod
    def build(
        cls,
        engine: Engine,
        filters: Mapping[str, tuple[Array, Array]],
        mean: tuple[float, float, float],
        steps: tuple[Conv | Pool, ...] = VGG19,
        pooling: str = "avg",
    ) -> "Network":
        """From (kernel, bias) of each convolution; the filters are prepared and uploaded once."""
        prepared = {step.name: engine.prepare(*filters[step.name]) for step in steps if isinstance(step, Conv)}
        return cls(engine, steps, prepared, engine.to_device(mean), pooling)


Step = Conv | Pool | ConvPool


def joined(steps: tuple[Conv | Pool, ...], tapped: Collection[str]) -> list[Step]:
    """The steps with each convolution whose features nobody taps joined to the pooling behind it."""
    walk: list[Step] = []
    for step in steps:
        before = walk[-1] if walk else None
        if isinstance(step, Pool) and isinstance(before, Conv) and before.name not in tapped:
            walk[-1] = ConvPool(step.name, before.name)
        else:
            walk.append(step)
    return walk


def walk_up(network: Network, image: Array, tapped: Collection[str] | None = None) -> Iterator[tuple[Step, Array, Any]]:
    """Yields (step, features, saved) after each step; `saved` is what its derivative will need.

    Nothing else is kept: whoever walks decides what to hold, and features not held are freed by the next step. Who
    looks at the features of some layers only names them, and lets the engine join other steps.
    """
    engine = network.engine
    side = smallest_side(network.steps)
    if min(image.shape[:2]) < side:
        raise NSTError(
            f"the picture is {image.shape[1]}×{image.shape[0]} pixels, but {network.steps[-1].name} needs at least "
            f"{side} on each side: take a larger picture or a shallower layer"
        )
    x = image - network.mean
    for step in network.steps if tapped is None else joined(network.steps, tapped):
        if isinstance(step, Conv):
            x, saved = engine.conv_relu(x, network.filters[step.name])
        elif isinstance(step, Pool):
            x, saved = engine.pool(x, network.pooling)
        else:
            x, saved = engine.conv_relu_pool(x, network.filters[step.conv], network.pooling)
        yield step, x, saved


def walk_down(network: Network, tape: list[tuple[Step, Any, Any]]) -> Array:
    """d_image, from (step, saved, d_features) of each step of one walk up; d_features is None where no term taps.

    One walk for all terms: the gradient that arrives from above and the one that starts here add up, for the loss
    depends on these features in both ways. The tape is consumed, so that each step's memory is freed when passed.
    """
    engine = network.engine
    d: Any = None
    while tape:
        step, saved, d_features = tape.pop()
        d = engine.join(d, d_features)
        d_features = None
        if d is None:
            continue  # above every tapped layer there is no gradient yet
        if isinstance(step, Conv):
            d = engine.conv_relu_backward(d, saved, network.filters[step.name])
        elif isinstance(step, Pool):
            d = engine.pool_backward(d, saved)
        else:
            d = engine.conv_relu_pool_backward(d, saved, network.filters[step.conv])
    if d is None:
        raise ValueError("a walk down needs the gradient of at least one tapped layer")
    d_image: Array = d
    return d_image
