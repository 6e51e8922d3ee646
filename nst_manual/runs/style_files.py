"""A style kept in a small file: its moments at several sizes, and what they depend on besides its picture.

The file is an .npz archive without pickles: <height>x<width>/<layer>.npy holds the matrix S, <layer>.mean.npy the
vector m, and about.json the rest. A file may come from anybody: every count in it is compared with the file's size
before memory is taken.
"""

import hashlib
import json
import logging
import os
import re
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Array
from ..errors import NSTError, plain
from ..losses import Moments
from ..pictures.files import file_sha256, written
from ..settings import Settings
from ..vgg import BEFORE, CHANNELS, LAYERS, PADDINGS, POOLINGS
from ..weights import Weights
from ..weights.bounded_file import WeightsFile
from ..weights.formats.npz import read_tensor
from ..weights.formats.zips import Archive

log = logging.getLogger(__name__)

Size = tuple[int, int]  # (height, width) of the style picture

FORMAT, VERSION, WITHOUT_MEANS = "nst_manual style", 2, 1  # files of the first version have no vectors m
NEAR = 1.5  # how much larger or smaller a style may be taken than asked for: between halves, one is within √2
EXACT = 1.02  # what rounding of small sizes makes
_ABOUT, _ABOUT_LIMIT = "about.json", 100_000
_BEGINNING = b"PK\x03\x04"  # of a zip archive, which no picture is
_NAME = re.compile(r"([1-9]\d{0,5})x([1-9]\d{0,5})/((?:pre:)?conv\d_\d)(\.mean)?\.npy")


@dataclass(frozen=True, eq=False)
class StyleTargets:
    """Made by `compute_targets`, or loaded; `transfer` takes it as a style.

    `name` and `sha256` are the file's that it was loaded from.
    """

    moments: Mapping[Size, Mapping[str, Moments]]  # by the style picture's size and by layer
    own_size: bool  # whether the largest is the picture's own: then it is not asked to be larger
    pooling: str
    weights: Mapping[str, str]  # of each layer, the checksum of all numbers of the network up to it
    source: str  # of the weights, in words
    picture: str | None
    picture_sha256: str | None
    name: str | None = None
    sha256: str | None = None
    means: bool = True  # whether the vectors m are known
    padding: str = "zero"

    @classmethod
    def load(cls, path: str | Path) -> "StyleTargets":
        """From a file that `save` wrote."""
        path = Path(path)
        with WeightsFile(path, "a kept style") as file:
            if file.read(0, min(file.size, 4)) != _BEGINNING:
                raise file.refused("this is no file of `style-targets save`")
            fields = _read(file)
        return cls(**fields, name=os.fspath(path), sha256=file_sha256(path))

    def save(self, path: str | Path) -> None:
        """Whole or not at all; the same style makes the same file."""
        about = {
            "format": FORMAT,
            "version": VERSION,
            "own_size": self.own_size,
            "pooling": self.pooling,
            "padding": self.padding,
            "weights": dict(self.weights),
            "source": self.source,
            "picture": self.picture and Path(self.picture).name,  # the file may be shared
            "picture_sha256": self.picture_sha256,
        }
        with written(Path(path)) as file, zipfile.ZipFile(file, "w") as archive:
            archive.writestr(zipfile.ZipInfo(_ABOUT), json.dumps(about))
            for (height, width), found in self.moments.items():
                for layer, (mean, second) in found.items():
                    for ending, array in (("", second), (".mean", mean)):
                        with archive.open(zipfile.ZipInfo(f"{height}x{width}/{layer}{ending}.npy"), "w") as entry:
                            np.lib.format.write_array(entry, np.ascontiguousarray(array), allow_pickle=False)

    @cached_property
    def layers(self) -> list[str]:
        """Those whose moments it has."""
        return list(next(iter(self.moments.values())))

    @cached_property
    def sides(self) -> dict[int, Size]:
        """The sizes by their longer sides, from small to large."""
        return dict(sorted((max(size), size) for size in self.moments))

    def __str__(self) -> str:
        return self.name or f"the kept style {self.picture or ''}".rstrip()

    def side(self, settings: Settings) -> float:
        """The longer side that the style picture would have with these settings."""
        largest, asked = max(self.sides), settings.style_size or settings.size
        if asked is None and not self.own_size:
            raise NSTError(f"{self} doesn't know its picture's own size: choose a --style-size")
        (scale,) = settings.style_scales(1)
        wanted = scale * (asked or largest)
        return min(wanted, largest) if self.own_size and not settings.enlarge else wanted

    def at(self, side: float) -> Mapping[str, Moments]:
        """The moments at the size nearest to it, which has to be near."""
        nearest = min(self.sides, key=lambda own: max(own / side, side / own))
        ratio = max(nearest / side, side / nearest)
        if ratio > NEAR:
            raise NSTError(
                f"{self} holds the style at {', '.join(map(str, self.sides))} pixels, and {side:.0f} are asked for: "
                "keep it again with this run's --size and --scales, or choose other ones"
            )
        if ratio > EXACT:
            log.info("%s: the style is taken at %d pixels, not %.0f", self, nearest, side)
        return self.moments[self.sides[nearest]]

    def check(self, settings: Settings, weights: Weights) -> None:
        """That these settings and weights are those that it was made with, as far as it depends on them."""
        wanted = settings.style_layer_weights()
        if missing := [layer for layer in wanted if layer not in self.layers]:
            raise NSTError(
                f"{self} has no moments of {', '.join(missing)}, only of {', '.join(self.layers)}: keep it again "
                "with these --style-layers, or choose among those"
            )
        if settings.style_loss != "gram" and not self.means:
            raise NSTError(f"{self} is from before --style-loss {settings.style_loss}, and lacks means: keep it again")
        for name in ("pooling", "padding"):
            made, asked = getattr(self, name), getattr(settings, name)
            if asked != made:
                raise NSTError(f"{self} was made with --{name} {made}, not {asked}: choose the same")
        now = network_checksums(weights, wanted)
        if any(self.weights[layer] != now[layer] for layer in wanted):
            raise NSTError(
                f"{self} was made with other weights ({self.source}; now {weights.source}): give them with --weights, "
                "or keep it again with these"
            )

    def about(self) -> dict[str, Any]:
        """What is in it, in words and numbers."""
        return {
            "file": self.name,
            "picture": self.picture and Path(self.picture).name,  # the file may be shared
            "sizes": [[width, height] for height, width in self.sides.values()],
            "own_size": self.own_size,
            "layers": self.layers,
            "pooling": self.pooling,
            "padding": self.padding,
            "weights": self.source,
            "checksums": dict(self.weights),
        }


def is_style_file(source: Any) -> bool:
    """Whether a style is given as a file like ours, rather than as a picture."""
    if not isinstance(source, str | os.PathLike) or not os.path.isfile(source):
        return False
    try:
        with open(source, "rb") as file:
            return file.read(4) == _BEGINNING
    except OSError:  # whoever opens it as a picture says it
        return False


def network_checksums(weights: Weights, layers: Collection[str]) -> dict[str, str]:
    """Of each layer, the checksum of the mean and all filters up to it."""
    digest = hashlib.sha256(np.array(weights.mean, "<f8").tobytes())
    found: dict[str, str] = {}
    for layer in LAYERS:
        if layer not in weights.filters:
            break
        for array in weights.filters[layer]:
            digest.update(np.ascontiguousarray(array, "<f4").data)
        found |= {name: digest.hexdigest() for name in (layer, BEFORE + layer) if name in layers}
    return found


def _read(file: WeightsFile) -> dict[str, Any]:
    """The fields of the StyleTargets in a file."""
    archive = Archive(file)
    entries = archive.entries
    archive.check_plain()
    if _ABOUT not in entries or archive.size(_ABOUT) > _ABOUT_LIMIT:
        raise file.refused("this is no file of `style-targets save`")
    try:
        fields = _about(json.loads(archive.read(_ABOUT, 0, archive.size(_ABOUT))))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise file.damaged("what it says of itself makes no sense") from error
    found: dict[Size, dict[str, dict[str, Array]]] = {}
    for name in entries:
        if name == _ABOUT:
            continue
        if (match := _NAME.fullmatch(name)) is None or (layer := match[3]) not in fields["weights"]:
            raise file.damaged(f"its entry {name[:80]} is none of a style's")
        size, kind = (int(match[1]), int(match[2])), "mean" if match[4] else "second"
        found.setdefault(size, {}).setdefault(layer, {})[kind] = _array(file, archive, name, layer, kind)
    kinds = {"mean", "second"} if fields["means"] else {"second"}
    if not found or any(at.keys() != fields["weights"].keys() for at in found.values()):
        raise file.damaged("not every size has a matrix of every layer")
    if any(arrays.keys() != kinds for at in found.values() for arrays in at.values()):
        raise file.damaged("a layer's moments are not complete")
    moments = {
        size: {
            layer: Moments(arrays.get("mean", np.full(len(arrays["second"]), np.nan)), arrays["second"])
            for layer, arrays in at.items()
        }
        for size, at in found.items()
    }
    return {**fields, "moments": moments}


def _array(file: WeightsFile, archive: Archive, name: str, layer: str, kind: str) -> Array:
    channels = CHANNELS[layer.removeprefix(BEFORE)]
    shape = (channels,) if kind == "mean" else (channels, channels)
    tensor = read_tensor(file, archive, name)
    if tensor is None or tensor.shape != shape or tensor.dtype not in ("float32", "float64"):
        raise file.damaged(f"its entry {name} is not {' × '.join(map(str, shape))} numbers")
    array = tensor.load()
    if not np.isfinite(array).all():
        raise file.damaged(f"its entry {name} holds values that are not finite")
    return array


def _about(about: Any) -> dict[str, Any]:
    """What the file says of itself, each value of its type."""
    if about["format"] != FORMAT or about["version"] not in (VERSION, WITHOUT_MEANS):
        raise ValueError("of another version")
    weights = about["weights"]
    for layer, checksum in weights.items():
        if layer.removeprefix(BEFORE) not in LAYERS or not re.fullmatch("[0-9a-f]{64}", checksum):
            raise ValueError("no layer's checksum")
    padding = about.get("padding", "zero")  # files from before it say nothing
    if not weights or about["pooling"] not in POOLINGS or padding not in PADDINGS:
        raise ValueError("of no network")
    if not isinstance(about["own_size"], bool):
        raise TypeError("no answer to whether the largest is the picture's own size")
    fields = {name: about[name] for name in ("own_size", "pooling", "weights")}
    for name in ("source", "picture", "picture_sha256"):
        text = about[name]
        if not isinstance(text, str) and (name == "source" or text is not None):
            raise TypeError("no text")
        fields[name] = None if text is None else plain(text[:1000])
    return {**fields, "padding": padding, "means": about["version"] != WITHOUT_MEANS}
