"""VGG-19 as a table, one walk up and one walk down.

The walks are given an engine and never ask which. The image is RGB, 0 … 255; the network's own first step is to
subtract its mean colour. (Channel order and scale of a weights file are folded into conv1_1 when it is read.)
"""

from collections.abc import Callable, Collection, Iterator, Mapping
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


class Linear(NamedTuple):
    """A convolution whose ReLU is a step of its own, where somebody looks at the features between them."""

    name: str  # "pre:conv4_2"
    conv: str


class Relu(NamedTuple):
    """The ReLU of such a convolution; its features have the convolution's name."""

    name: str


Step = Conv | Pool | ConvPool | Linear | Relu
Steps = tuple[Conv | Pool | Linear | Relu, ...]  # before any are joined


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
BEFORE = "pre:"  # in front of a layer: its features before their ReLU


def _names() -> dict[str, str]:
    names = {}
    for number, layer in enumerate(LAYERS, 1):
        block, place = layer.removeprefix("conv").split("_")
        for name in (layer, f"relu{block}_{place}", f"block{block}_conv{place}", f"r{block}{place}", f"conv_{number}"):
            names[name] = layer
        names[str(number)] = layer
    return names


NAMES = _names()  # as other programs, too, call the layers


def layer_name(text: str) -> str:
    """Our name, "conv4_2" or "pre:conv4_2", of a layer that is given by ours, another program's or its number."""
    before, plain = (BEFORE, text.removeprefix(BEFORE)) if text.startswith(BEFORE) else ("", text)
    if plain not in NAMES:
        raise NSTError(
            f"there is no layer {text!r}: VGG-19 has {', '.join(LAYERS)}; relu4_2, block4_conv2, r42, conv_10 and 10, "
            f"its number, are understood as conv4_2, after its ReLU, and {BEFORE}conv4_2 is before it"
        )
    return before + NAMES[plain]


def steps_to(deepest: str, table: tuple[Conv | Pool, ...] = VGG19) -> tuple[Conv | Pool, ...]:
    """The table as far as the deepest layer in use."""
    names = [step.name for step in table]
    return table[: names.index(deepest) + 1]


def steps_for(layers: Collection[str], table: tuple[Conv | Pool, ...] = VGG19) -> Steps:
    """The table as far as the deepest of these layers; convolutions that are looked at before their ReLU in two."""
    steps: list[Conv | Pool | Linear | Relu] = []
    missing = set(layers)
    for step in table:
        before = BEFORE + step.name
        if before in missing:
            steps.append(Linear(before, step.name))
        if before not in missing:
            steps.append(step)
        elif missing - {before}:
            steps.append(Relu(step.name))
        missing -= {before, step.name}
        if not missing:
            break
    return tuple(steps)


def convolutions(steps: Collection[Step]) -> list[str]:
    """The layers whose filters the steps need."""
    return [step.conv if isinstance(step, Linear) else step.name for step in steps if isinstance(step, Conv | Linear)]


def smallest_side(steps: Collection[Step]) -> int:
    """The least height or width that leaves a pixel after every pooling."""
    side: int = 2 ** sum(isinstance(step, Pool | ConvPool) for step in steps)
    return side


@dataclass(frozen=True)
class Network:
    """The steps to walk, with every filter in its engine's own form."""

    engine: Engine
    steps: Steps
    filters: Mapping[str, Any]
    mean: Array
    pooling: str

    @classmethod
    def build(
        cls,
        engine: Engine,
        filters: Mapping[str, tuple[Array, Array]],
        mean: tuple[float, float, float],
        steps: Steps = VGG19,
        pooling: str = "avg",
    ) -> "Network":
        """From (kernel, bias) of each convolution; the filters are prepared and uploaded once."""
        prepared = {}
        for step in steps:
            if isinstance(step, Conv):
                prepared[step.name] = engine.prepare(*filters[step.name])
            elif isinstance(step, Linear):
                prepared[step.name] = engine.prepare_linear(*filters[step.conv])
        return cls(engine, steps, prepared, engine.to_device(mean), pooling)


def joined(steps: Steps, tapped: Collection[str]) -> list[Step]:
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
    side = smallest_side(network.steps)
    if min(image.shape[:2]) < side:
        raise NSTError(
            f"the picture is {image.shape[1]}×{image.shape[0]} pixels, but {network.steps[-1].name} needs at least "
            f"{side} on each side: take a larger picture or a shallower layer"
        )
    x = image - network.mean
    for step in network.steps if tapped is None else joined(network.steps, tapped):
        x, saved = step_up(network, step, x)
        yield step, x, saved


def step_up(network: Network, step: Step, x: Array) -> tuple[Array, Any]:
    """One step: its features, and what its derivative will need."""
    engine = network.engine
    if isinstance(step, Conv):
        return engine.conv_relu(x, network.filters[step.name])
    if isinstance(step, Pool):
        return engine.pool(x, network.pooling)
    if isinstance(step, Linear):
        return engine.conv(x, network.filters[step.name])
    if isinstance(step, Relu):
        return engine.relu(x)
    return engine.conv_relu_pool(x, network.filters[step.conv], network.pooling)


def walk_down(
    network: Network, tape: list[tuple[Step, Any, Any]], watch: Callable[[Step, Any], object] | None = None
) -> Array:
    """d_image, from (step, saved, d_features) of each step of one walk up; d_features is None where no term taps.

    One walk for all terms: the gradient that arrives from above and the one that starts here add up, for the loss
    depends on these features in both ways. The tape is consumed, so that each step's memory is freed when passed.
    `watch` is shown d(loss)/d(features) at each step that has one, in the engine's own form.
    """
    engine = network.engine
    d: Any = None
    while tape:
        step, saved, d_features = tape.pop()
        d = engine.join(d, d_features)
        d_features = None
        if d is None:
            continue  # above every tapped layer there is no gradient yet
        if watch is not None:
            watch(step, d)
        if isinstance(step, Conv):
            d = engine.conv_relu_backward(d, saved, network.filters[step.name])
        elif isinstance(step, Pool):
            d = engine.pool_backward(d, saved)
        elif isinstance(step, Linear):
            d = engine.conv_backward(d, saved, network.filters[step.name])
        elif isinstance(step, Relu):
            d = engine.relu_backward(d, saved)
        else:
            d = engine.conv_relu_pool_backward(d, saved, network.filters[step.conv])
    if d is None:
        raise ValueError("a walk down needs the gradient of at least one tapped layer")
    d_image: Array = d
    return d_image
