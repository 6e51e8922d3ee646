"""Every option once: name, default, type, help and check. The command line and Python both read this table."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .engines import ENGINES, PRECISIONS
from .errors import NSTError
from .losses import STYLE_LOSSES
from .optimise import OPTIMIZERS
from .pictures.colours import METHODS
from .presets import PRESETS, Formula, preset_settings
from .vgg import BEFORE, POOLINGS, Steps, layer_name, steps_to
from .weights.fingerprint import FAMILIES

COLORS = ("style", "content", "match")


class Command(NamedTuple):
    """A kind of run: what it sets itself, whatever the preset, and the options that mean nothing to it."""

    defaults: Mapping[str, Any]
    without: tuple[str, ...]


COMMANDS: Mapping[str, Command] = {
    "transfer": Command({}, ("width", "height")),
    "reconstruct": Command(
        {"style_layers": "", "init": "noise"},
        (
            *("width", "height", "style_size", "style_scale", "style_blend", "colors", "color_match"),
            *("style_layers", "style_weight"),
        ),
    ),
    "texture": Command(
        {"content_layers": "", "init": "noise"}, ("colors", "color_match", "content_layers", "content_weight")
    ),
}


class _Unset:
    """The default of an option that the preset sets."""

    def __repr__(self) -> str:
        return "the preset's"


OF_PRESET = _Unset()


def option(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] | None = None,
    check: Any = None,
    unset: str = "",
    word: str | None = None,
    parse: Callable[[str, str], Any] | None = None,
) -> Any:
    """A field of the tables below: `choices` are the words allowed, `check` takes (name, value) and may raise NSTError,
    `unset` says what None means, `word` is what a person writes for None, and `parse` reads what a person writes for a
    number that has a unit."""
    metadata = {"help": help, "choices": choices, "check": check, "unset": unset, "word": word, "parse": parse}
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


def _one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise NSTError(f"--{name} must be one of {', '.join(choices)}, not {value!r}")


def _bits(name: str, value: int) -> None:
    if value not in (8, 16):
        raise NSTError(f"--{name} must be 8 or 16, not {value}")


def _layers(name: str, value: str) -> None:
    parse_layers(value, name)


def _blend(name: str, value: str | None) -> None:
    if value is not None:
        parse_numbers(value, name)


def _scales(name: str, value: str) -> None:
    if value not in ("auto", "off") and min(parse_numbers(value, name)) < 1:
        raise NSTError(f"--{name} must be auto, off, or longer sides in pixels, as 256,512; not {value!r}")


_UNITS_OF_TIME = {"s": 1, "m": 60, "h": 3600}
_UNITS_OF_MEMORY = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_duration(text: str, name: str) -> float:
    """Seconds, from "90", "90s", "10m" or "1.5h"."""
    return _with_unit(text, name, _UNITS_OF_TIME, "a time, as 90s, 10m or 1.5h")


def parse_bytes(text: str, name: str) -> float:
    """Bytes, from "800M", "4G", "4GB" or "4GiB": K, M and G are steps of 1024 for memory."""
    plain = text.strip().upper().removesuffix("B").removesuffix("I")
    return _with_unit(plain, name, _UNITS_OF_MEMORY, "a size of memory, as 800M or 4G")


def _with_unit(text: str, name: str, units: Mapping[str, int], example: str) -> float:
    text = text.strip()
    factor = units.get(text[-1:], 1)
    try:
        value = float(text[:-1] if text[-1:] in units else text) * factor
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise NSTError(f"--{name} must be {example}, not {text!r}")
    return value


def parse_numbers(text: str, name: str) -> list[float]:
    """ "2,1" → [2.0, 1.0]"""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = [math.nan]
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise NSTError(f"--{name} must be numbers with commas between them, as 2,1; not {text!r}")
    return numbers


@dataclass(frozen=True)
class Settings:
    """The settings of one transfer. Options of the preset that are not given have its values as soon as this exists."""

    size: int | None = option(
        OF_PRESET,
        "longer side of the result in pixels, or original; smaller pictures stay so",
        check=_at_least(1),
        unset="original",
        word="original",
    )
    width: int | None = option(None, "of a texture in pixels", check=_at_least(1), unset="the style picture's")
    height: int | None = option(None, "of a texture in pixels", check=_at_least(1), unset="the style picture's")
    style_size: int | None = option(
        OF_PRESET,
        "longer side of the style picture in pixels, or same: that of --size",
        check=_at_least(1),
        unset="same",
        word="same",
    )
    style_scale: float = option(
        1.0, "the style picture's size is multiplied by it: below 1 its strokes get finer", check=_above_zero
    )
    style_blend: str | None = option(
        None, "how much of each of several styles, as 2,1", check=_blend, unset="the same of each"
    )
    scales: str = option(
        OF_PRESET,
        "coarse to fine, each result starting the next: off, longer sides as 256,512, or auto: halves above 512 pixels",
        check=_scales,
    )
    colors: str = option(
        "style",
        "the style's, the content's (only luminance is transferred), or the style's matched to the content's before",
        choices=COLORS,
    )
    color_match: str = option(
        "cholesky", "how --colors match maps the style's colours to the content's", choices=tuple(METHODS)
    )
    enlarge: bool = option(False, "enlarge pictures that are smaller than the sizes asked for")
    bits: int = option(8, "of each colour in the written picture: 8, or 16 for .png and .tif", check=_bits)
    iterations: int = option(
        OF_PRESET,
        "iterations of the optimiser; of several scales the first has all, others 4 of 10",
        check=_at_least(0),
    )
    weights: str = option("auto", "auto, vgg19, calibrated, or a weights file")
    family: str | None = option(None, "input that the weights expect", choices=FAMILIES, unset="told by their numbers")
    engine: str = option("auto", "what computes: a working GPU, else the CPU", choices=("auto", *ENGINES))
    precision: str = option("float32", "of the network's arithmetic", choices=PRECISIONS)
    optimizer: str = option(
        OF_PRESET,
        "what changes the pixels: SciPy's L-BFGS-B, or where the engine computes L-BFGS or Adam",
        choices=tuple(OPTIMIZERS),
    )
    history: int = option(OF_PRESET, "steps that L-BFGS remembers", check=_at_least(1))
    learning_rate: float = option(
        OF_PRESET,
        "of Adam: how far a pixel moves in an iteration, at most about, in units of 0 … 255",
        check=_above_zero,
    )
    averaging: float = option(
        0.0, "of Adam: how much of the average picture stays when the next joins it, as 0.99; 0: none", check=_fraction
    )
    tolerance: float = option(
        0.0, "end when an iteration lowers the loss by less than this fraction", check=_at_least(0)
    )
    bounds: bool = option(OF_PRESET, "hold every pixel within 0 … 255 during the search, not only at its end")
    init: str = option(
        OF_PRESET, "picture to start from: content, noise (white), pink (noise of long waves), style, or a file"
    )
    seed: int = option(0, "of everything random", check=_at_least(0))
    pooling: str = option(OF_PRESET, "the paper's average pooling, or VGG's own maximum", choices=POOLINGS)
    preset: str = option(
        "default", "whose settings, formulas and weights: our own, or another program's", choices=tuple(PRESETS)
    )
    content_layers: str = option(
        OF_PRESET, "layers of the content term, as conv4_2[:weight],…; pre:conv4_2 is before its ReLU", check=_layers
    )
    style_layers: str = option(OF_PRESET, "layers of the style term, as conv1_1[:weight],…", check=_layers)
    style_loss: str = option("gram", "what the style term compares of each layer", choices=tuple(STYLE_LOSSES))
    content_weight: float = option(OF_PRESET, "weight of the content term (α)", check=_at_least(0))
    style_weight: float = option(OF_PRESET, "weight of the style term (β)", check=_at_least(0))
    tv_weight: float = option(OF_PRESET, "weight of the total variation", check=_at_least(0))

    def __post_init__(self) -> None:
        _one_of("preset", self.preset, tuple(PRESETS))
        for name, value in preset_settings(self.preset).items():
            if getattr(self, name) is OF_PRESET or (getattr(self, name) is None and not nullable(name)):
                object.__setattr__(self, name, value)
        _check_fields(self)
        if not self.content_layer_weights() and not self.style_layer_weights():
            raise NSTError("every layer's weight is 0: give at least one content or style layer a weight")

    def style_shares(self, count: int) -> list[float]:
        """What part each of so many styles has; together 1."""
        if self.style_blend is None:
            return [1 / count] * count
        numbers = parse_numbers(self.style_blend, "style-blend")
        if len(numbers) != count or sum(numbers) <= 0:
            raise NSTError(
                f"--style-blend {self.style_blend} has {len(numbers)} numbers for {count} style pictures: give one for "
                "each, not all of them 0"
            )
        return [number / sum(numbers) for number in numbers]

    def formula(self) -> Formula:
        """The preset's units with these weights α, β and γ. Its style units convert the Gram loss, and no other."""
        preset = PRESETS[self.preset]
        if self.style_loss != "gram":
            preset = dataclasses.replace(preset, style_unit=lambda n: 1.0, share_unit=lambda share: 1.0)
        return Formula(preset, self.content_weight, self.style_weight, self.tv_weight)

    def taps(self) -> set[str]:
        """Every layer in use."""
        return {*self.content_layer_weights(), *self.style_layer_weights()}

    def steps(self) -> Steps:
        """VGG-19 as far as the deepest layer in use."""
        return steps_to(self.taps())

    def content_layer_weights(self) -> dict[str, float]:
        """{layer: w_l} of the content layers in use: neither w_l nor α is 0."""
        return _in_use(parse_layers(self.content_layers, "content-layers"), self.content_weight, 1.0)

    def style_layer_weights(self) -> dict[str, float]:
        """{layer: w_l} of the style layers in use: neither w_l nor β is 0."""
        layers = parse_layers(self.style_layers, "style-layers")
        return _in_use(layers, self.style_weight, PRESETS[self.preset].layer_weight(max(len(layers), 1)))


def nullable(name: str) -> bool:
    """Whether None is a value of this option rather than the preset's."""
    return bool(next(field for field in dataclasses.fields(Settings) if field.name == name).metadata["word"])


def default_text(field: dataclasses.Field[Any], default: Any) -> str:
    """What an option's help says of its default."""
    if default is OF_PRESET:
        return f"{default_text(field, preset_settings('default')[field.name])}, or the preset's"
    return str(field.metadata["unset"] if default is None else default)


@dataclass(frozen=True)
class Run:
    """How a run is ended, kept and watched: nothing of it changes the picture, unless it ends a run before its time."""

    output: Path | None = option(None, "the picture to write", unset="none")
    overwrite: bool = option(False, "replace files that exist already")
    threads: int | None = option(
        None,
        "threads of the CPU's engine, whose results they don't change",
        check=_at_least(1),
        unset="as many as the process may use cores",
    )
    time_limit: float | None = option(
        None, "end after so long, with the best so far, as 90s, 10m or 1.5h", parse=parse_duration, unset="none"
    )
    checkpoint: Path | None = option(
        None, "a file from which the run can be resumed", unset="that of --resume, or none"
    )
    checkpoint_every: float = option(60.0, "the time between two checkpoints, as 30s or 5m", parse=parse_duration)
    resume: Path | None = option(None, "go on from this checkpoint, with the same pictures and settings", unset="none")
    max_memory: float | None = option(
        None, "don't begin a run that would need more memory, as 4G or 800M", parse=parse_bytes, unset="no limit"
    )
    save_every: int | None = option(
        None, "a numbered picture beside the result every so many iterations", check=_at_least(1), unset="none"
    )
    preview_every: float | None = option(
        None, "a preview beside the result, rewritten after so long, as 5s", parse=parse_duration, unset="none"
    )
    trace: Path | None = option(None, "a .csv or .jsonl file with a line for each iteration", unset="none")
    plot: Path | None = option(None, "a .png or .svg file with the loss terms' curves", unset="none")

    def __post_init__(self) -> None:
        for name in ("output", "checkpoint", "resume", "trace", "plot"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))
        _check_fields(self)


def split_options(options: Mapping[str, Any], command: str = "transfer") -> tuple[Settings, Run]:
    """Keyword arguments of a command's function, as the two tables."""
    ours, runs = ({field.name for field in dataclasses.fields(table)} for table in (Settings, Run))
    ours -= set(COMMANDS[command].without)
    if unknown := sorted(options.keys() - ours - runs):
        raise TypeError(f"there is no option {unknown[0]!r}: there are {', '.join(sorted(ours | runs))}")
    return (
        settings_of(command, {name: value for name, value in options.items() if name in ours}),
        Run(**{name: value for name, value in options.items() if name in runs}),
    )


def settings_of(command: str, options: Mapping[str, Any]) -> Settings:
    """A command's settings: what it sets itself stands where the options say nothing."""
    return Settings(**{**COMMANDS[command].defaults, **options})


def _check_fields(table: Any) -> None:
    """Each value read if it is a text with a unit, and checked."""
    for field in dataclasses.fields(table):
        value, about = getattr(table, field.name), field.metadata
        name = field.name.replace("_", "-")
        if about["word"] is not None and value == about["word"]:
            value = None
            object.__setattr__(table, field.name, None)
        if about["parse"] is not None and value is not None:
            value = about["parse"](str(value), name)
            object.__setattr__(table, field.name, value)
        if about["choices"] is not None and value != field.default:
            _one_of(name, value, about["choices"])
        if about["check"] is not None:
            about["check"](name, value)


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


def _in_use(layers: Mapping[str, float | None], factor: float, default: float) -> dict[str, float]:
    weights = {layer: default if own is None else own for layer, own in layers.items()}
    return {layer: weight for layer, weight in weights.items() if factor * weight > 0}
