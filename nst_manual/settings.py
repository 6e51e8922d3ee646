"""Every option once: name, type, default, help, check, and the commands it applies to. The command line and Python both
read these tables; how they are read is in options.py."""

import dataclasses
import inspect
import os
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .engines import ENGINES, PRECISIONS
from .errors import NSTError
from .losses import STYLE_LOSSES
from .optimise import OPTIMIZERS
from .options import (
    Field,
    OptionError,
    above_zero,
    at_least,
    between,
    checked,
    did_you_mean,
    one_of,
    option,
    parse_bytes,
    parse_cluster,
    parse_duration,
    parse_layers,
    parse_numbers,
    parse_scales,
    parse_tile,
)
from .pictures.colours import METHODS
from .presets import PRESETS, Formula, preset_settings
from .vgg import PADDINGS, POOLINGS, Steps, padded, steps_to
from .weights.fingerprint import FAMILIES

# Commands that options apply to. "batch" is `transfer --out-dir`; "figure" are the figures, whose runs are transfers,
# reconstructions or textures.
SEARCHES = frozenset({"transfer", "batch", "demo", "reconstruct", "texture", "figure"})
RUNS = SEARCHES - {"figure"}
SINGLE_RUNS = RUNS - {"batch"}
OBJECTIVES = SEARCHES | {"gradient"}
NETWORKS = OBJECTIVES | {"style-targets"}
FILTERS = NETWORKS | {"evaluate"}
CONTENTS = OBJECTIVES - {"texture"}
STYLES = NETWORKS - {"reconstruct"}
TEXTURES = frozenset({"texture", "figure"})
WEIGHTS_FILES = frozenset({"convert", "inspect", "normalise"})

DEFAULTS: Mapping[str, Mapping[str, Any]] = {  # what a command sets itself, whatever the preset
    "reconstruct": {"style_loss": "gram", "style_layers": "", "init": "noise"},
    "texture": {"content_layers": "", "init": "noise"},
    "demo": {"size": 384},
    "figure": {"style_loss": "gram"},  # the papers'
    "gradient": {"size": None},
    "evaluate": {  # what judges a picture: VGG-19 as it was trained, at layers that are not our own style layers
        "style_layers": "conv1_2,conv2_2,conv3_3,conv4_3",
        "content_layers": "conv3_3,conv4_4",
        "pooling": "max",
        "padding": "zero",
    },
    "normalise": {"pooling": "avg"},
}
STARTS = ("content", "noise", "pink", "style")
LACKED = {"style_loss": "gram", "margin": 0}  # settings that older versions lacked, with the value of what they did


class _Unset:
    """The default of an option that the preset sets."""

    def __repr__(self) -> str:
        return "the preset's"


OF_PRESET = _Unset()


def _bits(value: int, name: str) -> None:
    if value not in (8, 16):
        raise OptionError(name, f"must be 8 or 16, not {value}")


def _history_bits(value: int, name: str) -> None:
    if value not in (16, 32):
        raise OptionError(name, f"must be 16 or 32, not {value}")


def _scales(value: str, name: str) -> None:
    try:
        right = value in ("auto", "ladder", "off") or min(parse_numbers(value, name)) >= 1
    except OptionError:
        right = False
    if not right:
        raise OptionError(name, f"must be ladder, auto, off, or longer sides in pixels such as 256,512, not {value!r}")


def _start(value: str, name: str) -> None:
    if value.isalpha() and value not in STARTS and not os.path.exists(value):
        near = did_you_mean(value, STARTS)
        raise OptionError(name, f"must be one of {', '.join(STARTS)}, or a picture file, not {value!r}{near}")


# fmt: off
@dataclass(frozen=True)
class Settings:
    """What makes the picture. Options that the preset sets and that are not given get the preset's values at once."""

    size: int | None = option(OF_PRESET, NETWORKS, "sizes", check=at_least(1), word="original",
        help="longer side of the result in pixels, or original; a smaller picture keeps its size")
    width: int | None = option(None, TEXTURES, "sizes", check=at_least(1), unset="the style picture's",
        help="width of the texture in pixels")
    height: int | None = option(None, TEXTURES, "sizes", check=at_least(1), unset="the style picture's",
        help="height of the texture in pixels")
    style_size: int | None = option(OF_PRESET, STYLES, "sizes", check=at_least(1), word="same",
        help="longer side of the style picture in pixels, or same: the size of the result")
    style_scale: float | str = option(1.0, STYLES, "sizes", parse=parse_scales, metavar="X|LIST",
        also=dict.fromkeys(STYLES, ("stroke",)),
        help="size of the strokes: multiplies the size of the style picture; below 1, they get finer; a list such as "
             "1,0.5 has one number for each style picture or, for the figure of looks, for each row")
    scales: str = option(OF_PRESET, SEARCHES | {"style-targets"}, "sizes", check=_scales, metavar="LIST",
        help="work from coarse to fine, each result starting the next: ladder (from 128 pixels in steps of √2), auto "
             "(halves sizes above 512 pixels), longer sides such as 256,512, or off")
    enlarge: bool = option(False, NETWORKS, "sizes",
        help="enlarge pictures that are smaller than the size asked for")
    preset: str = option("default", NETWORKS, "look", choices=tuple(PRESETS),
        help="whose settings, formulas and weights to use: our own, or another program's")
    quick: bool = option(False, SEARCHES - {"demo"}, "look",
        help="a draft: 256 pixels and fewer iterations, unless you set them")
    init: str = option(OF_PRESET, SEARCHES, "look", check=_start, metavar="START",
        help="where to start: content, noise (white), pink (noise with long waves), style, or a picture file")
    content_layers: str = option(OF_PRESET, CONTENTS, "look", check=parse_layers, metavar="LIST",
        also={"reconstruct": ("layer", "layers")},
        help="layers of the content term, such as conv4_2 or conv3_1:0.5,conv4_2:2 with weights; pre:conv4_2 is "
             "conv4_2 before its ReLU")
    style_layers: str = option(OF_PRESET, STYLES, "look", check=parse_layers, metavar="LIST",
        also={"texture": ("layers",)},
        help="layers of the style term, such as conv1_1,conv2_1 or conv1_1:2,conv2_1:1 with weights")
    style_loss: str = option(OF_PRESET, STYLES - {"style-targets"}, "look", choices=tuple(STYLE_LOSSES),
        help="what the style term compares: Gram matrices, as in the paper; each filter's mean and standard deviation "
             "(spread); or the filters' means and covariances (transport)")
    strength: float = option(50.0, CONTENTS - {"reconstruct"}, "look", check=between(0, 100), metavar="0…100",
        help="how strong the style is against the content: 0 keeps the photograph, 100 leaves little of it")
    content_weight: float = option(OF_PRESET, CONTENTS, "look", check=at_least(0),
        help="weight of the content term (α)")
    style_weight: float = option(OF_PRESET, STYLES - {"style-targets"}, "look", check=at_least(0),
        help="weight of the style term (β)")
    tv_weight: float = option(OF_PRESET, OBJECTIVES, "look", check=at_least(0),
        help="weight of the total variation, which smooths the picture")
    laplacian_weight: float = option(0.0, CONTENTS, "look", check=at_least(0),
        help="weight of the Laplacian term, which keeps the content's edges and outlines; try 0.001 with the Gram loss")
    style_blend: str | None = option(None, SEARCHES - {"batch", "reconstruct"} | {"gradient"}, "look",
        check=parse_numbers,
        metavar="LIST", unset="equal shares", help="share of each of several styles, such as 2,1")
    colors: str = option("style", CONTENTS - {"reconstruct", "figure"}, "look", choices=("style", "content", "match"),
        help="colours of the result: the style's, the content's (only luminance is transferred), or match: the style "
             "gets the content's colours first")
    color_match: str = option("cholesky", CONTENTS - {"reconstruct", "figure"}, "look", choices=tuple(METHODS),
        help="how match maps the style's colours to the content's")
    pooling: str = option(OF_PRESET, NETWORKS | {"normalise"}, "look", choices=POOLINGS,
        help="avg, the paper's; max, VGG's own; or avg-scaled or l2, which keep the features as large as max does")
    padding: str = option(OF_PRESET, NETWORKS, "look", choices=PADDINGS,
        help="what conv1_1 sees beyond the picture's edge: zeros as in VGG, or replicate, the edge pixels repeated")
    margin: int = option(OF_PRESET, SEARCHES, "look", check=at_least(0),
        help="pixels around the picture that are painted, too, and cut off at the end, so that no frame is left")
    seed: int = option(0, OBJECTIVES, "look", check=at_least(0),
        help="seed of everything random")
    weights: str = option("auto", FILTERS, "network", metavar="WEIGHTS",
        help="auto, vgg19, calibrated, or a weights file; auto takes vgg19 if it is installed")
    family: str | None = option(None, FILTERS | WEIGHTS_FILES, "network", choices=FAMILIES,
        unset="recognised by its numbers", help="input convention of the weights file")
    engine: str = option("auto", FILTERS | {"check", "normalise"}, "network", choices=("auto", *ENGINES),
        help="what computes; auto takes a GPU if one works, otherwise the CPU")
    precision: str = option("float32", FILTERS | {"check"}, "network", choices=PRECISIONS,
        help="precision of the network's arithmetic")
    iterations: int = option(OF_PRESET, SEARCHES, "search", check=at_least(0),
        help="iterations of the optimiser; at the first scale, if there are several")
    later_iterations: int | None = option(OF_PRESET, SEARCHES, "search", check=at_least(0),
        unset="on a ladder 80 % of those at the scale before, otherwise 40 % of the first scale's",
        help="iterations at each later scale")
    optimizer: str = option(OF_PRESET, SEARCHES, "search", choices=("auto", *OPTIMIZERS),
        help="optimiser: SciPy's L-BFGS-B on the CPU, or L-BFGS or Adam on the engine's device; "
        "auto takes L-BFGS on a GPU, otherwise SciPy's")
    history: int = option(OF_PRESET, SEARCHES, "search", check=at_least(1),
        help="steps that L-BFGS remembers")
    history_bits: int = option(32, SEARCHES, "search", check=_history_bits,
        help="bits of each number that lbfgs remembers: 32, or 16, which take half the memory; others ignore it")
    learning_rate: float = option(OF_PRESET, SEARCHES, "search", check=above_zero,
        help="Adam's step size: roughly the most a pixel (0–255) can change per iteration")
    tolerance: float = option(0.0, SEARCHES, "search", check=at_least(0),
        help="stop when an iteration lowers the loss by less than this fraction")
    bounds: bool = option(OF_PRESET, SEARCHES, "search",
        help="keep every pixel within 0–255 during the whole search, not only at its end")
    bits: int = option(8, SEARCHES, "output", check=_bits,
        help="bits per channel of the result: 8, or 16 for .png and .tif")
    # fmt: on

    def __post_init__(self) -> None:
        one_of("preset", self.preset, tuple(PRESETS))
        for name, value in preset_settings(self.preset, _given(self.style_loss), self.quick).items():
            nullable = self.__dataclass_fields__[name].metadata["word"]
            if getattr(self, name) is OF_PRESET or (getattr(self, name) is None and not nullable):
                object.__setattr__(self, name, value)
        _check(self)
        if not self.content_layer_weights() and not self.style_layer_weights():
            raise NSTError("every layer's weight is 0: give at least one content or style layer a weight")

    def style_shares(self, count: int) -> list[float]:
        """The share of each of `count` styles; together 1."""
        if self.style_blend is None:
            return [1 / count] * count
        numbers = parse_numbers(self.style_blend, "style_blend")
        if len(numbers) != count or sum(numbers) <= 0:
            raise OptionError(
                "style_blend",
                f"must be one number for each of {count} style pictures, not all of them 0, not {self.style_blend!r}",
            )
        return [number / sum(numbers) for number in numbers]

    def style_scales(self, count: int) -> list[float]:
        """The scale of each of `count` styles."""
        numbers = parse_numbers(str(self.style_scale), "style_scale")
        if len(numbers) == 1:
            return numbers * count
        if len(numbers) != count:
            each = f", or one for each of {count} style pictures" if count > 1 else ""
            raise OptionError("style_scale", f"must be one number{each}, not {self.style_scale!r}")
        return numbers

    def formula(self) -> Formula:
        """The preset's units with these weights α, β and γ. Its style units convert the Gram loss, and no other."""
        preset = PRESETS[self.preset]
        if self.style_loss != "gram":
            preset = dataclasses.replace(preset, style_unit=lambda n: 1.0, share_unit=lambda share: 1.0)
        return Formula(preset, self.content_weight * self.faithfulness(), self.style_weight, self.tv_weight)

    def faithfulness(self) -> float:
        """What `strength` does to the content's weight: a hundred times as much at 0, a hundredth at 100."""
        return float(10 ** ((50 - self.strength) / 25))

    def taps(self) -> set[str]:
        """Every layer in use."""
        return {*self.content_layer_weights(), *self.style_layer_weights()}

    def steps(self) -> Steps:
        """VGG-19 as far as the deepest layer in use."""
        return padded(steps_to(self.taps()), self.padding)

    def content_layer_weights(self) -> dict[str, float]:
        """{layer: w_l} of the content layers in use: neither w_l nor α is 0."""
        return _in_use(parse_layers(self.content_layers, "content_layers"), self.content_weight, 1.0)

    def style_layer_weights(self) -> dict[str, float]:
        """{layer: w_l} of the style layers in use: neither w_l nor β is 0."""
        layers = parse_layers(self.style_layers, "style_layers")
        return _in_use(layers, self.style_weight, PRESETS[self.preset].layer_weight(max(len(layers), 1)))


# fmt: off
@dataclass(frozen=True)
class Run:
    """How a run is stopped, saved and watched. None of it changes the picture, except by ending the run early."""

    output: Path | None = option(None, SINGLE_RUNS - {"demo"}, "output",
        help="the picture to write")
    overwrite: bool = option(False, SEARCHES - {"demo"} | {"explain", "convert", "normalise", "repeat"}, "output",
        help="replace files that already exist")
    strip_metadata: bool = option(False, RUNS, "output",
        help="write the result without EXIF and without how it was made, so that it can't be repeated")
    threads: int | None = option(None, FILTERS | {"check", "normalise", "repeat"}, "network", check=at_least(1),
        unset="all available cores", help="CPU threads; the result does not depend on it")
    device: int | None = option(None, FILTERS | {"check", "normalise"}, "network", check=at_least(0),
        unset="the one with the most free memory", help="number of the GPU to use, from 0")
    tile: int | str = option("auto", OBJECTIVES, "run", parse=parse_tile, metavar="N|auto|off",
        help="compute in tiles of at most N pixels on a side, which needs less memory and more time and gives the same "
             "picture; auto does so where memory demands it")
    cluster: str | None = option(None, RUNS - {"demo"}, "run", parse=parse_cluster, metavar="local[:N]|tcp://…|FILE",
        unset="none", help="work on a Dask cluster: one of N processes on this machine, or that of the scheduler with "
             "this address or file")
    history_on: str = option("memory", SEARCHES, "run", choices=("memory", "disk"),
        help="where lbfgs remembers its steps: in memory, or in a temporary file beside the result, where the "
             "content's features are put, too, if the picture is computed in tiles")
    time_limit: float | None = option(None, RUNS, "run", parse=parse_duration, metavar="DURATION",
        help="stop after this time with the best picture so far, such as 90s, 10m or 1.5h")
    checkpoint: Path | None = option(None, SINGLE_RUNS, "run", unset="the file given to resume, if any",
        help="save the state of the run in this file, so that it can be resumed")
    checkpoint_every: float = option(60.0, RUNS, "run", parse=parse_duration, metavar="DURATION",
        help="time between two checkpoints, such as 30s or 5m")
    resume: Path | None = option(None, SINGLE_RUNS - {"demo"}, "run",
        help="continue from this checkpoint, with the same pictures and settings")
    max_memory: float | None = option(None, SEARCHES, "run", parse=parse_bytes, unset="no limit", metavar="BYTES",
        help="keep to this much memory, such as 4G or 800M: where needed, tiles, optimiser and history are chosen, and "
             "the run says which")
    save_every: int | None = option(None, RUNS, "output", check=at_least(1), unset="never",
        help="save a numbered picture beside the result every N iterations")
    preview_every: float | None = option(None, RUNS, "output", parse=parse_duration, unset="never",
        metavar="DURATION", help="rewrite a preview beside the result after each such time, such as 5s")
    trace: Path | None = option(None, SINGLE_RUNS, "output",
        help="write one line per iteration to this .csv or .jsonl file")
    plot: Path | None = option(None, SINGLE_RUNS, "output",
        help="draw the curves of the loss terms in this .png or .svg file")
    animation: Path | None = option(None, SINGLE_RUNS, "output",
        help="show how the picture came about in this .gif or .webp file")
    # fmt: on

    def __post_init__(self) -> None:
        _check(self)


def options_of(*commands: str) -> dict[str, Field]:
    """The options that apply to all of these commands, by name, in the order of the tables."""
    every = (field for table in (Settings, Run) for field in dataclasses.fields(table))
    return {field.name: field for field in every if field.metadata["commands"].issuperset(commands)}


def split_options(options: Mapping[str, Any], command: str = "transfer") -> tuple[Settings, Run]:
    """Keyword arguments of a command's function, as the two tables."""
    known = options_of(command)
    if unknown := sorted(options.keys() - known):
        near = did_you_mean(unknown[0], known) or f": there are {', '.join(sorted(known))}"
        raise TypeError(f"there is no option {unknown[0]!r}{near}")
    run = {name: value for name, value in options.items() if name in Run.__dataclass_fields__}
    return settings_of(command, {name: options[name] for name in options.keys() - run}), Run(**run)


def settings_of(command: str, options: Mapping[str, Any]) -> Settings:
    """A command's settings: the command's own defaults apply where the options say nothing."""
    return Settings(**{**DEFAULTS.get(command, {}), **options})


def help_text(field: Field, own: Mapping[str, Any]) -> str:
    """An option's help and its default, for a command with defaults of its own."""
    default = own.get(field.name, field.default)
    preset = ", or the preset's" if default is OF_PRESET else ""
    if default is OF_PRESET:
        default = preset_settings("default", _given(own.get("style_loss")), own.get("quick", False))[field.name]
    if default is None:
        default = field.metadata["word"] or field.metadata["unset"]
    elif isinstance(default, bool):
        default = "yes" if default else "no"
    shown = f"{default:g}" if isinstance(default, float) else str(default)
    return f"{field.metadata['help']} (default: {shown}{preset})" if shown else field.metadata["help"]


F = TypeVar("F", bound=Callable[..., Any])


def documented(command: str) -> Callable[[F], F]:
    """A decorator that adds the command's options, their meanings and defaults, to a function's docstring."""

    def complete(function: F) -> F:
        lines = [inspect.cleandoc(function.__doc__ or ""), "", "Options:"]
        for name, field in options_of(command).items():
            text = f"{name}: {help_text(field, DEFAULTS.get(command, {}))}"
            lines.append(textwrap.fill(text, 110, initial_indent="    ", subsequent_indent="        "))
        function.__doc__ = "\n".join(lines)
        return function

    return complete


def _check(table: Settings | Run) -> None:
    """Every value checked, and kept as its field wants it."""
    for field in dataclasses.fields(table):
        object.__setattr__(table, field.name, checked(field, getattr(table, field.name)))


def _given(style_loss: Any) -> str | None:
    return None if style_loss is OF_PRESET else style_loss


def _in_use(layers: Mapping[str, float | None], factor: float, default: float) -> dict[str, float]:
    weights = {layer: default if own is None else own for layer, own in layers.items()}
    return {layer: weight for layer, weight in weights.items() if factor * weight > 0}
