"""What an option is: a dataclass field that knows its help, its check, its commands and how to read what a person
types.

The options themselves are in settings.py. At the end stand their types as Python's keyword arguments, for type
checkers; a test compares these with the tables.
"""

import contextlib
import dataclasses
import difflib
import math
import os
import string
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypedDict, get_args

import numpy as np

from .errors import NSTError
from .vgg import BEFORE, layer_name

Field = dataclasses.Field[Any]
SMALLEST_TILE = 16  # pixels; the deepest layer has one position for each such square
SCHEDULERS = ("tcp", "tls", "ucx", "ucxx", "ws", "wss")  # how a Dask scheduler's address may begin
MOST_WORKERS = 10_000  # on this machine
MOST = 1e18  # of any number: what is computed from it still fits floating point
KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", Path: "a path"}


class OptionError(NSTError):
    """A mistake in one option: str() names it as Python does, `as_flag` as the command line does."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(name, problem)
        self.name, self.problem = name, problem

    def __str__(self) -> str:
        return f"{self.name} {self.problem}"

    def as_flag(self) -> str:
        return f"--{self.name.replace('_', '-')} {self.problem}"


def option(
    default: Any,
    commands: Collection[str],
    group: str,
    *,
    help: str,
    choices: tuple[str, ...] | None = None,
    check: Callable[[Any, str], object] | None = None,
    parse: Callable[[str, str], Any] | None = None,
    word: str | None = None,
    unset: str = "",
    metavar: str = "",
    also: Mapping[str, tuple[str, ...]] | None = None,
) -> Any:
    """A field of the tables in settings.py.

    `commands` are those it applies to, and `group` is its heading in --help. `choices` are the texts allowed; `check`
    takes (value, name) and may raise OptionError; `parse` reads a text with a unit, from (text, name). `word` is what
    a person writes for None, `unset` says what None means, `metavar` stands for the value in --help, and `also` has
    more flags, by command.
    """
    about = {key: value for key, value in locals().items() if key != "default"}
    return dataclasses.field(default=default, metadata=about | {"also": also or {}})


def checked(field: Field, value: Any) -> Any:
    """The value as its table keeps it; OptionError if it can't be one of this option."""
    about, name = field.metadata, field.name
    if isinstance(value, np.generic):  # NumPy's numbers are as good as Python's
        value = value.item()
    if value is not None and value == about["word"]:
        value = None
    kind, optional = kind_of(field)
    if value is None and optional:
        return None
    if about["parse"] is not None:
        return about["parse"](str(value), name)
    if kind is Path and isinstance(value, str | os.PathLike):
        value = Path(value)
        if "\0" in str(value):
            raise OptionError(name, "must be a path, and none has a zero byte")
    right = isinstance(value, int | float if kind is float else kind)
    if not right or (isinstance(value, bool) and kind is not bool):
        expected = KINDS[kind] + (f" or {about['word']!r}" if about["word"] else "")
        raise OptionError(name, f"must be {expected}, not {value!r}")
    if about["choices"] is not None:
        one_of(name, value, about["choices"])
    if about["check"] is not None:
        about["check"](value, name)
    return value


def read(field: Field, text: str) -> Any:
    """The value that a person means by this text."""
    kind, _ = kind_of(field)
    if kind in (int, float) and field.metadata["parse"] is None:
        with contextlib.suppress(ValueError):
            return checked(field, kind(text))
    return checked(field, text)  # where a number was expected, this says so


def kind_of(field: Field) -> tuple[Any, bool]:
    """An option's type, and whether it may be None: (int, True) for int | None."""
    kinds = get_args(field.type) or (field.type,)
    return kinds[0], type(None) in kinds


def did_you_mean(word: str, words: Collection[str]) -> str:
    """The end of a sentence about a word that is none of these: the one most like it, if any is."""
    close = difflib.get_close_matches(str(word), list(words), 1)
    return f": did you mean {close[0]}?" if close else ""


def one_of(name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise OptionError(name, f"must be one of {', '.join(choices)}, not {value!r}{did_you_mean(value, choices)}")


# Checks and readers: each takes what was given and the option's name, and raises OptionError.


def at_least(least: float) -> Callable[[Any, str], None]:
    def check(value: float, name: str) -> None:
        if not least <= value <= MOST:
            most = f" and at most {MOST:g}" if value > MOST else ""
            raise OptionError(name, f"must be a number of at least {least:g}{most}, not {value}")

    return check


def between(least: float, most: float) -> Callable[[Any, str], None]:
    def check(value: float, name: str) -> None:
        if not least <= value <= most:
            raise OptionError(name, f"must be a number from {least:g} to {most:g}, not {value}")

    return check


def above_zero(value: float, name: str) -> None:
    if not 0 < value <= MOST:
        most = f" and at most {MOST:g}" if value > MOST else ""
        raise OptionError(name, f"must be a number above 0{most}, not {value}")


def parse_duration(text: str, name: str) -> float:
    """Seconds, from "90", "90s", "5min" or "1.5h"."""
    number, unit = _split(text)
    seconds = {"": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}.get(unit.lower(), math.nan) * number
    return _known(seconds, text, name, "a time such as 90s, 5min or 1.5h")


def shown_duration(seconds: float) -> str:
    """330 → "0:05:30" """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def parse_bytes(text: str, name: str) -> float:
    """Bytes, from "800M", "4G", "4GB" or "4GiB": K, M, G and T are powers of 1024."""
    number, unit = _split(text)
    power = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}.get(unit.upper().removesuffix("B").removesuffix("I"), math.nan)
    return _known(number * 1024**power, text, name, "an amount of memory such as 800M or 4G")


def parse_numbers(text: str, name: str) -> list[float]:
    """ "2,1" → [2.0, 1.0]"""
    try:
        return [_known(float(part), text, name, "") for part in text.split(",")]
    except (ValueError, OptionError):
        raise OptionError(name, f"must be numbers separated by commas, such as 2,1, not {text!r}") from None


def parse_scales(text: str, name: str) -> float | str:
    """ "0.5" → 0.5; "1,0.5" stays a text."""
    numbers = parse_numbers(text, name)
    for number in numbers:
        above_zero(number, name)
    return text if len(numbers) > 1 else numbers[0]


def parse_tile(text: str, name: str) -> int | str:
    """ "1024" → 1024; "auto" and "off" stay."""
    if text in ("auto", "off"):
        return text
    try:
        side = int(text)
    except ValueError:
        side = 0
    if not SMALLEST_TILE <= side <= MOST:
        raise OptionError(name, f"must be auto, off, or a number of pixels of at least {SMALLEST_TILE}, not {text!r}")
    return side


def parse_cluster(text: str, name: str) -> str:
    """ "local", "local:4", a scheduler's address such as tcp://host:8786, or its file."""
    first, colon, number = text.partition(":")
    scheme, _, host = text.partition("://")
    if "://" in text:
        right = scheme in SCHEDULERS and bool(host)
    elif first == "local":
        right = not colon or (number.isdecimal() and 1 <= int(number) <= MOST_WORKERS)
    else:
        right = os.path.isfile(text)
    if not right:
        raise OptionError(
            name, f"must be local, local:N, a scheduler's address such as tcp://host:8786, or its file, not {text!r}"
        )
    return text


def parse_layers(text: str, name: str) -> dict[str, float | None]:
    """ "conv1_1,pre:relu4_2:0.5" → {"conv1_1": None, "pre:conv4_2": 0.5}; an empty text is no layer."""
    layers: dict[str, float | None] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        before = BEFORE if part.startswith(BEFORE) else ""
        given, colon, number = part.removeprefix(before).partition(":")
        try:
            layer = layer_name(before + given)
        except NSTError as error:
            raise OptionError(name, f"can't be used: {error}") from error
        try:
            weight = float(number) if colon else None
        except ValueError:
            weight = math.nan
        if weight is not None and not (math.isfinite(weight) and weight >= 0):
            raise OptionError(name, f"must give {layer} a weight of at least 0, not {number!r}")
        if layer in layers:
            raise OptionError(name, f"names {layer} twice: name each layer once")
        layers[layer] = weight
    return layers


def _split(text: str) -> tuple[float, str]:
    """ "1.5h" → (1.5, "h"); NaN if there is no number."""
    number = text.strip().rstrip(string.ascii_letters).rstrip()
    try:
        return float(number), text.strip()[len(number) :].strip()
    except ValueError:
        return math.nan, ""


def _known(value: float, text: str, name: str, expected: str) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise OptionError(name, f"must be {expected}, not {text!r}")
    return value


# The options as keyword arguments, grouped by the commands they apply to.

FilePath = str | os.PathLike[str]


class EvaluateOptions(TypedDict, total=False):
    weights: str
    family: str | None
    engine: str
    precision: str
    threads: int | None
    device: int | None


class _Network(EvaluateOptions, total=False):
    size: int | str | None
    enlarge: bool
    pooling: str
    padding: str
    preset: str


class _Content(TypedDict, total=False):
    content_layers: str
    content_weight: float
    laplacian_weight: float


class _StylePicture(TypedDict, total=False):
    style_size: int | str | None
    style_scale: float | str
    style_layers: str


class _Style(_StylePicture, total=False):
    style_loss: str
    style_weight: float


class _Objective(_Network, total=False):
    tile: int | str
    seed: int
    tv_weight: float


class _Search(_Objective, total=False):
    quick: bool
    margin: int
    scales: str
    bits: int
    iterations: int
    later_iterations: int | None
    optimizer: str
    history: int
    history_bits: int
    history_on: str
    learning_rate: float
    tolerance: float
    bounds: bool
    init: str
    overwrite: bool
    max_memory: float | str | None


class _Watched(_Search, total=False):
    strip_metadata: bool
    time_limit: float | str | None
    checkpoint_every: float | str
    save_every: int | None
    preview_every: float | str | None
    cluster: str | None


class _OneRun(_Watched, total=False):
    output: FilePath | None
    checkpoint: FilePath | None
    resume: FilePath | None
    trace: FilePath | None
    plot: FilePath | None
    animation: FilePath | None


class _Look(_Objective, _Content, _Style, total=False):
    strength: float
    colors: str
    color_match: str


class BatchOptions(_Watched, _Look, total=False): ...


class GradientOptions(_Look, total=False):
    style_blend: str | None


class TransferOptions(_OneRun, GradientOptions, total=False): ...


class ReconstructOptions(_OneRun, _Content, total=False): ...


class TextureOptions(_OneRun, _Style, total=False):
    style_blend: str | None
    width: int | None
    height: int | None


class FigureOptions(_Search, _Content, _Style, total=False):  # each figure takes some of them
    strength: float
    style_blend: str | None
    width: int | None
    height: int | None


class StyleTargetsOptions(_Network, _StylePicture, total=False):
    scales: str
