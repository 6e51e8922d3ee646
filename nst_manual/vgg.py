"""VGG-19 as a table, one walk up and one walk down.

The image is RGB, 0 … 255; the walk up begins by subtracting the network's mean colour. (Channel order and scale of a
weights file are folded into conv1_1 when the file is read.)
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from .arrays import Array
from .errors import NSTError

if TYPE_CHECKING:
    from .engines import Engine

IMAGE = "image"  # the tap below every layer: the pixels themselves
BEFORE = "pre:"  # in front of a layer's name: its features before the ReLU
POOLINGS = ("avg", "max", "avg-scaled", "l2")
PADDINGS = ("zero", "replicate")  # of the image: zeros, or its edge pixels repeated


class Conv(NamedTuple):
    """A 3×3 convolution with bias."""

    layer: str
    c_in: int
    c_out: int
    padding: str = "zero"

    @property
    def name(self) -> str:
        """What its features are called: "pre:conv4_2", for they are the layer's before its ReLU."""
        return BEFORE + self.layer


class Relu(NamedTuple):
    """The ReLU behind a convolution. Its features are the layer's: "conv4_2"."""

    name: str


class Pool(NamedTuple):
    """2×2 pooling, stride 2."""

    name: str


Step = Conv | Relu | Pool
Steps = tuple[Step, ...]


def vgg_table(blocks: tuple[tuple[int, int], ...]) -> Steps:
    """Blocks of (number of convolutions, channels), each followed by a pooling."""
    steps: list[Step] = []
    channels = 3
    for block, (count, c_out) in enumerate(blocks, 1):
        for number in range(1, count + 1):
            layer = f"conv{block}_{number}"
            steps += [Conv(layer, channels, c_out), Relu(layer)]
            channels = c_out
        steps.append(Pool(f"pool{block}"))
    return tuple(steps)


VGG19 = vgg_table(((2, 64), (2, 128), (4, 256), (4, 512), (4, 512)))
CHANNELS = {step.layer: step.c_out for step in VGG19 if isinstance(step, Conv)}
LAYERS = tuple(CHANNELS)


def _names() -> dict[str, str]:
    names = {}
    for number, layer in enumerate(LAYERS, 1):
        block, place = layer.removeprefix("conv").split("_")
        for name in (layer, f"relu{block}_{place}", f"block{block}_conv{place}", f"r{block}{place}", f"conv_{number}"):
            names[name] = layer
        names[str(number)] = layer
    return names


NAMES = _names()  # every layer under the names that other programs give it


def layer_name(text: str) -> str:
    """Our name, "conv4_2" or "pre:conv4_2", of a layer given by our name, another program's, or its number."""
    before, plain = (BEFORE, text.removeprefix(BEFORE)) if text.startswith(BEFORE) else ("", text)
    if plain not in NAMES:
        raise NSTError(
            f"there is no layer {text!r}: VGG-19 has {', '.join(LAYERS)}; relu4_2, block4_conv2, r42, conv_10 and 10, "
            f"its number, are understood as conv4_2, after its ReLU, and {BEFORE}conv4_2 is before it"
        )
    return before + NAMES[plain]


def steps_to(taps: str | Collection[str], table: Steps = VGG19) -> Steps:
    """The table as far as the deepest of the given layers."""
    wanted = {taps} if isinstance(taps, str) else set(taps)
    last = max(number for number, step in enumerate(table, 1) if step.name in wanted)
    return table[:last]


def padded(steps: Steps, padding: str) -> Steps:
    """The steps with that padding of the image. Features are always padded with zeros, as VGG was trained."""
    first, *others = steps
    return (first._replace(padding=padding) if isinstance(first, Conv) else first, *others)


def convolutions(steps: Steps) -> list[str]:
    """The layers whose filters the steps need."""
    return [step.layer for step in steps if isinstance(step, Conv)]


def smallest_side(steps: Steps) -> int:
    """The smallest height or width that leaves a pixel after every pooling."""
    side: int = 2 ** sum(isinstance(step, Pool) for step in steps)
    return side


def feature_sizes(steps: Steps, height: int, width: int) -> dict[str, tuple[int, int]]:
    """{name: (height, width)} of the features after each step, for an image of that size."""
    sizes = {IMAGE: (height, width)}
    for step in steps:
        if isinstance(step, Pool):
            height, width = height // 2, width // 2
        sizes[step.name] = height, width
    return sizes


class Operation(NamedTuple):
    """One step of the walks, or several that an engine has fused; `name` is what its features are called.

    up(x) → (features, saved), and down(d_features, saved) → d_x.
    """

    name: str
    up: Callable[[Array], tuple[Array, Any]]
    down: Callable[[Any, Any], Any]


PIXELS = Operation(IMAGE, lambda x: (x, None), lambda d_x, _: d_x)  # where the walk up starts and the walk down ends


@dataclass(frozen=True)
class Network:
    """An engine's operations for the steps, with every filter in that engine's own form."""

    engine: "Engine"
    steps: Steps
    operations: Sequence[Operation]
    mean: Array
    pooling: str = "avg"

    @classmethod
    def build(
        cls,
        engine: "Engine",
        filters: Mapping[str, tuple[Array, Array]],
        mean: tuple[float, float, float],
        steps: Steps = VGG19,
        pooling: str = "avg",
        taps: Collection[str] | None = None,
    ) -> "Network":
        """From (kernel, bias) of each convolution. Only features named in `taps` will be given; None means all."""
        given = {step.name for step in steps} if taps is None else set(taps)
        operations = engine.operations(steps, filters, given, pooling)
        return cls(engine, steps, operations, engine.to_device(mean), pooling)

    def check_size(self, image: Array) -> None:
        """Every pooling leaves at least a pixel."""
        side = smallest_side(self.steps)
        if min(image.shape[:2]) < side:
            raise NSTError(
                f"the picture is {image.shape[1]}×{image.shape[0]} pixels, but {self.steps[-1].name} needs at least "
                f"{side} on each side: take a larger picture or a shallower layer"
            )


def walk_up(network: Network, image: Array) -> Iterator[tuple[Operation, Array, Any]]:
    """Yields (operation, features, saved), first for the image and then after each operation.

    `saved` is what the operation's derivative will need. Nothing else is kept: the caller decides what to hold, and
    features that it does not hold are freed by the next operation.
    """
    network.check_size(image)
    yield PIXELS, image, None
    x = image - network.mean
    for operation in network.operations:
        x, saved = operation.up(x)
        yield operation, x, saved


# Of one walk up: (operation, saved, d_features). This is None where no term taps, or a function that adds it to a d.
Tape = list[tuple[Operation, Any, Any]]


def walk_down(network: Network, tape: Tape, watch: Callable[[str, Any], object] | None = None) -> Array:
    """d_image, from the tape of one walk up.

    One walk serves all terms: the gradient that arrives from above and the one that starts here add up, for the loss
    depends on these features in both ways. The tape is consumed, so that each operation's memory is freed as soon as
    it is passed. `watch` is shown every d(loss)/d(features), in the engine's own form.
    """
    d: Any = None
    while tape:
        operation, saved, d_features = tape.pop()
        d = d_features(d) if callable(d_features) else network.engine.join(d, d_features)
        d_features = None
        if d is None:
            continue  # above the deepest term there is no gradient yet
        if watch is not None:
            watch(operation.name, d)
        d = operation.down(d, saved)
    if d is None:
        raise ValueError("a walk down needs the gradient of at least one term")
    d_image: Array = d
    return d_image


def tapped(network: Network, image: Array, layers: Collection[str]) -> Iterator[tuple[str, Array]]:
    """(layer, features) of a host image at the given layers, walking up no further than the deepest of them."""
    missing = set(layers)
    walk = walk_up(network, network.engine.to_device(image)) if missing else iter(())
    for operation, features, _ in walk:
        if operation.name in missing:
            missing.remove(operation.name)
            yield operation.name, features
        del features  # the largest of all may go before the next is made
        if not missing:
            return
