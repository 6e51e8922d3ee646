"""Every option once: name, default, type, help and check. The command line and Python both read this table."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .engines import ENGINES, PRECISIONS
from .errors import NSTError
from .losses import PRESETS, Preset
from .optimise import OPTIMIZERS
from .vgg import BEFORE, POOLINGS, Steps, layer_name, steps_for
from .weights.fingerprint import FAMILIES

STYLE_LAYERS = "conv1_1,conv2_1,conv3_1,conv4_1,conv5_1"


def option(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] | None = None,
    check: Any = None,
    unset: str = "",
    word: str | None = None,
) -> Any:
    """A field of Settings: `choices` are the words allowed, `check` takes (name, value) and may raise NSTError,
    `unset` says what None means, and `word` is what a person writes for None."""
    metadata = {"help": help, "choices": choices, "check": check, "unset": unset, "word": word}
    return dataclasses.field(default=default, metadata=metadata)


def _at_least(least: float) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if value is not None and not (math.isfinite(value) and value >= least):
            raise NSTError(f"--{name} must be a number of at least {least:g}, not {value}")

    return check


def _above_zero(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise NSTError(f"--{name} must be a number above 0, not {value}")


def _fraction(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise NSTError(f"--{name} must be a number of at least 0 and below 1, not {value}")


def _bits(name: str, value: int) -> None:
    if value not in (8, 16):
        raise NSTError(f"--{name} must be 8 or 16, not {value}")


def _layers(name: str, value: str) -> None:
    parse_layers(value, name)


@dataclass(frozen=True)
class Settings:
    """The settings of one transfer. Weights of None are the preset's own."""

    size: int | None = option(
        512,
        "longer side of the result in pixels, or original; smaller pictures stay so",
        check=_at_least(1),
        unset="original",
        word="original",
    )
    style_size: int | None = option(
        None, "longer side of the style picture in pixels", check=_at_least(1), unset="that of --size"
    )
    style_scale: float = option(
        1.0, "the style picture's size is multiplied by it: below 1 its strokes get finer", check=_above_zero
    )
    enlarge: bool = option(False, "enlarge pictures that are smaller than the sizes asked for")
    bits: int = option(8, "of each colour in the written picture: 8, or 16 for .png and .tif", check=_bits)
    iterations: int = option(300, "iterations of the optimiser", check=_at_least(0))
    weights: str = option("auto", "auto, vgg19, calibrated, or a weights file")
    family: str | None = option(None, "input that the weights expect", choices=FAMILIES, unset="told by their numbers")
    engine: str = option("auto", "what computes: a working GPU, else the CPU", choices=("auto", *ENGINES))
    precision: str = option("float32", "of the network's arithmetic", choices=PRECISIONS)
    optimizer: str = option(
        "l-bfgs-b",
        "what changes the pixels: SciPy's L-BFGS-B, or where the engine computes L-BFGS or Adam",
        choices=tuple(OPTIMIZERS),
    )
    history: int = option(10, "steps that L-BFGS remembers", check=_at_least(1))
    learning_rate: float = option(
        10.0, "of Adam: how far a pixel moves in an iteration, at most about, in units of 0 … 255", check=_above_zero
    )
    averaging: float = option(
        0.0, "of Adam: how much of the average picture stays when the next joins it, as 0.99; 0: none", check=_fraction
    )
    tolerance: float = option(
        0.0, "end when an iteration lowers the loss by less than this fraction", check=_at_least(0)
    )
    bounds: bool = option(True, "hold every pixel within 0 … 255 during the search, not only at its end")
    init: str = option("content", "picture to start from: content, noise, style, or a file")
    seed: int = option(0, "of everything random", check=_at_least(0))
    pooling: str = option("avg", "the paper's average pooling, or VGG's own maximum", choices=POOLINGS)
    preset: str = option("gatys", "whose weights and scaling of the terms", choices=tuple(PRESETS))
    content_layers: str = option(
        "conv4_2", "layers of the content term, as conv4_2[:weight],…; pre:conv4_2 is before its ReLU", check=_layers
    )
    style_layers: str = option(STYLE_LAYERS, "layers of the style term, as conv1_1[:weight],…", check=_layers)
    content_weight: float | None = option(
        None, "weight of the content term (α)", check=_at_least(0), unset="the preset's"
    )
    style_weight: float | None = option(None, "weight of the style term (β)", check=_at_least(0), unset="the preset's")
    tv_weight: float | None = option(None, "weight of the total variation", check=_at_least(0), unset="the preset's")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, choices, check = getattr(self, field.name), field.metadata["choices"], field.metadata["check"]
            name = field.name.replace("_", "-")
            if field.metadata["word"] is not None and value == field.metadata["word"]:
                value = None
                object.__setattr__(self, field.name, None)
            if choices is not None and value not in (*choices, field.default):
                raise NSTError(f"--{name} must be one of {', '.join(choices)}, not {value!r}")
            if check is not None:
                check(name, value)
        if not self.content_layer_weights() and not self.style_layer_weights():
            raise NSTError("every layer's weight is 0: give at least one content or style layer a weight")

    def preset_values(self) -> Preset:
        return PRESETS[self.preset]

    def steps(self) -> Steps:
        """VGG-19 as far as the deepest layer in use."""
        return steps_for((*self.content_layer_weights(), *self.style_layer_weights()))

    def content_layer_weights(self) -> dict[str, float]:
        """α of each content layer, before the preset's unit; layers of weight 0 are left out."""
        weight = self.preset_values().content_weight if self.content_weight is None else self.content_weight
        return _weighted(parse_layers(self.content_layers, "content-layers"), weight, 1.0)

    def style_layer_weights(self) -> dict[str, float]:
        """β w_l of each style layer, before the preset's unit; layers of weight 0 are left out."""
        weight = self.preset_values().style_weight if self.style_weight is None else self.style_weight
        layers = parse_layers(self.style_layers, "style-layers")
        return _weighted(layers, weight, self.preset_values().layer_weight(max(len(layers), 1)))

    def tv_factor(self) -> float:
        """γ, the preset's unit included."""
        weight = self.preset_values().tv_weight if self.tv_weight is None else self.tv_weight
        return weight * self.preset_values().tv_unit


def parse_layers(text: str, name: str) -> dict[str, float | None]:
    """ "conv1_1,pre:relu4_2:0.5" → {"conv1_1": None, "pre:conv4_2": 0.5}; an empty text is no layer."""
    layers: dict[str, float | None] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        before = BEFORE if part.startswith(BEFORE) else ""
        given, colon, number = part.removeprefix(before).partition(":")
        try:
            layer = layer_name(before + given)
        except NSTError as error:
            raise NSTError(f"--{name}: {error}") from error
        try:
            weight = float(number) if colon else None
        except ValueError:
            weight = math.nan
        if weight is not None and not (math.isfinite(weight) and weight >= 0):
            raise NSTError(f"--{name}: the weight of {layer} must be a number of at least 0, not {number!r}")
        if layer in layers:
            raise NSTError(f"--{name}: {layer} is given twice")
        layers[layer] = weight
    return layers


def _weighted(layers: Mapping[str, float | None], weight: float, default: float) -> dict[str, float]:
    weights = {layer: weight * (default if own is None else own) for layer, own in layers.items()}
    return {layer: value for layer, value in weights.items() if value > 0}
