"""Recipes: how a picture was made, stored in the picture itself and read again to repeat it.

A picture that is read may come from anybody. Only the inputs' names and the settings are taken from it, each value
checked; the command is built here, from our own table of options.
"""

import contextlib
import dataclasses
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import scipy

from ..errors import NSTError, plain
from ..pictures.files import file_sha256
from ..pictures.metadata import RECIPE_LIMIT
from ..pictures.reading import STANDARD_INPUT, Picture, read_recipe
from ..settings import LACKED, Settings, settings_of
from ..weights import Weights, find_weights
from .inputs import Inputs
from .style_files import StyleTargets, network_checksums

PROGRAM = "python -m nst_manual"
RETIRED = {"averaging": 0.0}  # settings of older versions, with the value that changed nothing


@dataclass(frozen=True)
class Source:
    """An input picture: its file's path, or only its name if it was read from a picture, and its SHA-256; both None if
    it came from Python."""

    name: str | None
    sha256: str | None


@dataclass(frozen=True)
class Recipe:
    """Everything needed to make the picture again; `weights`, `versions` and `result` are only reported.

    A texture has no content picture, and a reconstruction has no styles.
    """

    content: Source | None
    styles: tuple[Source, ...]
    settings: Settings
    weights: Mapping[str, Any]
    versions: Mapping[str, Any]
    content_masks: tuple[Source, ...] = ()
    style_masks: tuple[Source, ...] = ()
    start: Source | None = None  # where --init names a file
    result: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def kind(self) -> str:
        """The name of the command that makes it."""
        return "texture" if self.content is None else "transfer" if self.styles else "reconstruct"

    def pictures(self) -> tuple[Source, ...]:
        """The content, if there is one, and the styles."""
        return self.styles if self.content is None else (self.content, *self.styles)

    def sources(self) -> tuple[Source, ...]:
        """All input pictures, including masks."""
        return *self.pictures(), *self.content_masks, *self.style_masks

    def with_sources(self, changed: Callable[[Source], Source], weights: str) -> "Recipe":
        """The same with every input, and with `weights` as the weights' file."""
        content, start = (None if source is None else changed(source) for source in (self.content, self.start))
        several: dict[str, Any] = {
            name: tuple(map(changed, getattr(self, name))) for name in ("styles", "content_masks", "style_masks")
        }
        init = str(start.name) if start else self.settings.init
        settings = dataclasses.replace(self.settings, init=init, weights=weights)
        return dataclasses.replace(self, content=content, start=start, settings=settings, **several)

    def to_json(self, output: str) -> str:
        """The text to store in the picture `output`, with the names of files but not of their folders: the picture may
        be shown to anybody. The command in it is for people: it is never read again."""
        named = self.with_sources(
            lambda source: Source(source.name and file_name(source.name), source.sha256),
            file_name(self.settings.weights),
        )
        record = dataclasses.asdict(named)
        with contextlib.suppress(NSTError):  # pictures from Python have no command
            record = {"command": shown(named.command(file_name(output))), **record}
        return json.dumps(record)

    def command(self, output: str) -> list[str]:
        """The words of the command that repeats it. Options are named where they differ from the preset."""
        if any(source.name is None for source in self.sources()):
            raise NSTError("it was made in Python from pictures that were not files, so no command can repeat it")
        words = [self.kind(), *map(_word, _names(self.pictures())), "-o", _word(output)]
        for flag, masks in (("--content-mask", self.content_masks), ("--style-mask", self.style_masks)):
            words += [flag, *map(_word, _names(masks))] if masks else []
        chosen = {name: getattr(self.settings, name) for name in ("preset", "style_loss", "quick")}
        own = settings_of(self.kind(), {"preset": chosen["preset"]})
        usual = vars(settings_of(self.kind(), chosen)) | {
            "preset": "default",
            "style_loss": own.style_loss,
            "quick": False,
        }
        for field in dataclasses.fields(Settings):
            value = getattr(self.settings, field.name)
            if value == usual[field.name]:
                continue
            flag = f"--{field.name.replace('_', '-')}"
            if field.type is bool:
                words.append(flag if value else flag.replace("--", "--no-", 1))
            else:
                text = str(field.metadata["word"] if value is None else value)
                words += [f"{flag}={text}"] if text.startswith("-") else [flag, text]
        return words

    def changes(self) -> Iterator[str]:
        """A sentence for each thing besides the inputs that has changed since."""
        if self.weights.get("file"):
            weights = None
            with contextlib.suppress(NSTError):
                weights = find_weights(self.settings.weights)
            if weights is None or file_sha256(weights) != self.weights.get("sha256"):
                yield "the weights that were used then are not installed here"
        elif self.weights and find_weights(self.settings.weights) is not None:
            yield "it was made with filters calibrated on its pictures, but now VGG-19's own are installed"
        if self.result.get("stopped") not in ("iterations", "converged"):
            yield "its run was ended early"
        then, now = self.versions, versions()
        if other := [f"{name} {then.get(name)}, now {now[name]}" for name in now if then.get(name) != now[name]]:
            yield f"it was made with other versions: {'; '.join(other)}"


def describe(settings: Settings, inputs: Inputs, weights: Weights) -> Recipe:
    """The recipe of a run, without its result."""
    path = find_weights(settings.weights)
    # The last layer's checksum is that of all numbers up to it.
    checksum = file_sha256(path) if path else network_checksums(weights, weights.filters).popitem()[1]
    about = {"sha256": checksum, "file": path is not None, "family": weights.family, "source": weights.source}
    picture, given = inputs.sources()
    content, styles = None if inputs.canvas else _source_of(picture), tuple(map(_source_of, given))
    content_masks, style_masks = (tuple(map(_source_of, masks)) for masks in (inputs.content_masks, inputs.style_masks))
    start = Source(settings.init, file_sha256(Path(settings.init))) if os.path.isfile(settings.init) else None
    return Recipe(content, styles, settings, about, versions(), content_masks, style_masks, start)


def versions() -> dict[str, str]:
    from .. import __version__

    return {
        "nst_manual": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "pillow": PIL.__version__,
        "platform": f"{sys.platform} {platform.machine()}",
    }


def load_recipe(path: Path) -> Recipe:
    """The recipe in a picture that this program made."""
    text = read_recipe(path)
    if text is None:
        raise NSTError(
            f"{path} doesn't say how it was made: it is another program's, or was made with --strip-metadata"
        )
    try:
        if len(text) > RECIPE_LIMIT:
            raise ValueError("it is too long")
        record = json.loads(text)
        content = None if record["content"] is None else _source(record["content"])
        styles = _sources(record["styles"])
        content_masks, style_masks = (_sources(record.get(f"{kind}_masks", [])) for kind in ("content", "style"))
        start = None if record.get("start") is None else _source(record["start"])
        settings = _settings(_checked(dict, record["settings"]))
        if not styles and (content is None or settings.style_layer_weights()):
            raise ValueError("it names no style picture")
        if content is None and (settings.content_layer_weights() or settings.laplacian_weight):
            raise ValueError("it names no content picture")
        weights, then, result = (_checked(dict, record[name]) for name in ("weights", "versions", "result"))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, NSTError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        if not reason.isprintable() or len(reason) > 200:
            reason = "it is damaged or forged"
        raise NSTError(f"{path}: its description of how it was made can't be used: {reason}") from error
    then = {name: plain(str(value)) for name, value in then.items()}
    return Recipe(content, styles, settings, weights, then, content_masks, style_masks, start, result)


def shown(words: list[str]) -> str:
    """A command as it is typed. Bytes that would control a terminal are escaped as bash, zsh and others read them."""
    if sys.platform == "win32":
        if wrong := [word for word in words if word != plain(word)]:
            raise NSTError(f"{plain(wrong[0])} can't be typed in a command: rename the file")
        return f"{PROGRAM} {subprocess.list2cmdline(words)}"
    return " ".join([PROGRAM, *map(_quoted, words)])


def _quoted(word: str) -> str:
    if word == plain(word):
        return shlex.quote(word)
    return "$'" + "".join(map(_escaped, word)) + "'"


def _escaped(letter: str) -> str:
    if letter == plain(letter) and letter not in "'\\":
        return letter
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(letter))


def _settings(record: Mapping[str, Any]) -> Settings:
    """The settings, which check their types and ranges. Of those that the recipe lacks, most get their defaults."""
    record = {name: value for name, value in record.items() if (name, value) not in RETIRED.items()}
    if unknown := record.keys() - Settings.__dataclass_fields__:
        raise ValueError(f"this version doesn't know the setting {plain(min(unknown))}")
    for value in record.values():
        if isinstance(value, str):
            _checked_name(value)
    return Settings(**{**LACKED, **record})


def _source_of(given: Picture | StyleTargets) -> Source:
    return Source(given.name, given.sha256)


def _sources(records: Any) -> tuple[Source, ...]:
    return tuple(map(_source, _checked(list, records)))


def _source(record: Any) -> Source:
    name, sha256 = _checked(dict, record)["name"], record["sha256"]
    if not all(value is None or isinstance(value, str) for value in (name, sha256)):
        raise TypeError("a picture's name or checksum is not text")
    return Source(None if name is None else _checked_name(name), sha256)


def file_name(name: str) -> str:
    """The last part of a path; that of standard input is itself."""
    return Path(name).name or name


def _checked_name(name: str) -> str:
    """Refuse names that would control the terminal that shows them, or open a file on another machine."""
    if name != plain(name) or len(name) > 4096:
        raise ValueError("a name in it contains control characters or is too long")
    if name.startswith(("//", "\\\\")):
        raise ValueError("a name in it is on another machine")
    return name


def _checked(kind: type[list[Any]] | type[dict[str, Any]], value: Any) -> Any:
    if not isinstance(value, kind) or len(value) > 1000:
        raise TypeError("its structure is wrong")
    return value


def _names(sources: tuple[Source, ...]) -> list[str]:
    return [str(source.name) for source in sources]


def _word(name: str) -> str:
    """A file's name that cannot be taken for an option."""
    return f"./{name}" if name.startswith("-") and name != STANDARD_INPUT else name
