"""What the commands `weights list`, `get`, `convert`, `inspect` and `normalise` do, as functions that return data."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Array
from ..engines import Engine
from ..errors import NSTError
from ..pictures.files import check_folder
from ..vgg import LAYERS
from . import folders, load_weights
from .bounded_file import Contents, WeightsFile
from .download import Progress, downloaded
from .fingerprint import ORIGINALS, Reading
from .formats.hdf5 import write_hdf5
from .normalise import normalised
from .reading import identify, input_mix, open_contents, read_layer, read_pair
from .registry import Known, known_file, published
from .weights import Weights


def listed() -> list[dict[str, Any]]:
    """Every published file, and where it is installed, if it is."""
    return [
        {
            "name": known.name,
            "what": known.what,
            "family": known.family,
            "bytes": known.size or None,
            "checksum": known.checksum or None,
            "licence": known.licence,
            "file": known.file,
            "urls": list(known.urls),
            "get": known.downloadable,
            "installed": str(place) if (place := installed(known)) else None,
        }
        for known in published()
    ]


def installed(known: Known) -> Path | None:
    """Where `get` has put it. Several published files hold the same numbers and install as one."""
    places = (folder / known.installs for folder in folders() if known.installs)
    return next((place for place in places if place.is_file()), None)


def get(
    name: str,
    to: Path | None = None,
    *,
    half: bool = False,
    keep: bool = False,
    offline: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Downloads, verifies and converts; nothing is done where the result is there already, unless `force`."""
    known = known_file(name)
    folder = folders()[-1] if to is None else to
    target = folder / known.installs
    if known.installs and target.is_file() and not force:
        return _result(target, known, fetched=False)
    if offline:
        where = " or ".join(known.urls) or "where its authors offer it"
        raise NSTError(
            f"--offline: {known.name} is not in {folder}: fetch {known.file} from {where} on another machine and run "
            f"`weights convert {known.file} {folder / (known.installs or 'vgg19.h5')}` here"
        )
    with downloaded(known, folder, progress) as original:
        weights = load_weights(original, LAYERS, known.family)
        write_hdf5(target, weights, half, source_urls=" ".join(known.urls), source_checksum=known.checksum)
        if keep:
            original.replace(folder / known.file)
    return _result(target, known, fetched=True)


def _result(target: Path, known: Known, fetched: bool) -> dict[str, Any]:
    return {"file": str(target), "name": known.name, "what": known.what, "fetched": fetched, "licence": known.licence}


def convert(source: Path, target: Path, family: str | None = None, half: bool = False) -> dict[str, Any]:
    """Any known format to ours, with every convolution that the file has, from conv1_1 on."""
    weights = load_all(source, family)
    check_folder(target)
    write_hdf5(target, weights, half)
    return _written(target, weights)


def normalise(
    source: Path,
    target: Path,
    images: Iterable[Array],
    engine: Engine,
    *,
    pooling: str = "avg",
    family: str | None = None,
    half: bool = False,
) -> dict[str, Any]:
    """The network with every mean activation over the images 1, in our format."""
    weights = load_all(source, family)
    check_folder(target)
    result = normalised(weights, images, engine, pooling)
    write_hdf5(target, result, half, normalised="every filter's mean activation is 1", pooling=pooling)
    return _written(target, result)


def load_all(path: Path, family: str | None = None) -> Weights:
    """Every convolution in the file, from conv1_1 to the first that is missing."""
    with WeightsFile(path) as file:
        layers = contiguous(open_contents(file).tensors)
        if not layers:
            raise file.refused("no layer conv1_1 in it: is it VGG-19's, and whole?")
    return load_weights(path, layers, family)


def contiguous(layers: Iterable[str]) -> list[str]:
    """VGG-19's layers from the first to the last that can be reached."""
    there = set(layers)
    return [layer for number, layer in enumerate(LAYERS) if set(LAYERS[: number + 1]) <= there]


def inspect(path: Path, family: str | None = None) -> dict[str, Any]:
    """What the file is, and what would be used of it; and its problem, if it is a weights file that cannot be used."""
    with WeightsFile(path) as file:
        contents = open_contents(file)
        sha256, md5 = _digests(path)
        report: dict[str, Any] = {
            "file": str(path),
            "bytes": file.size,
            "sha256": sha256,
            "md5": md5,
            "published": next((k.name for k in published() if _is(k, sha256, md5)), None),
            "container": contents.container,
        }
        reading: Reading | None = None
        try:
            reading = identify(file, contents, family)
            report |= _convention(reading, input_mix(file, contents, reading)[1])
        except NSTError as error:
            report |= {"family": None, "problem": str(error)}
        layers = []
        for layer in (layer for layer in LAYERS if layer in contents.tensors):
            kernel, _ = contents.tensors[layer]
            entry: dict[str, Any] = {"layer": layer, "name": kernel.name, "shape": kernel.shape, "dtype": kernel.dtype}
            try:
                k, b = read_pair(file, contents, layer)
                entry |= {
                    "kernel": [float(k.min()), float(k.max()), float(np.abs(k).mean(dtype=np.float64))],
                    "bias": [float(b.min()), float(b.max()), float(np.abs(b).mean(dtype=np.float64))],
                    "original": reading is not None and _original(file, contents, layer, reading),
                }
            except NSTError as error:
                entry["problem"] = str(error)
                report.setdefault("problem", str(error))
            layers.append(entry)
        usable = contiguous(entry["layer"] for entry in layers if "problem" not in entry) if reading else []
        return report | {
            "layers": layers,
            "missing": [layer for layer in LAYERS if layer not in contents.tensors],
            "unused_arrays": contents.unused,
            "used": f"{usable[0]} … {usable[-1]}" if usable else None,
            "complete": len(usable) == len(LAYERS),
        }


def _convention(reading: Reading, mean: Sequence[float]) -> dict[str, Any]:
    scale = {1.0: "0 … 255", 255.0: "0 … 1"}.get(reading.unit[0], "0 … 1, divided by the deviation")
    return {
        "family": reading.family,
        "channel_order": reading.channel_order,
        "scale": scale,
        "mean_rgb_255": [round(value, 4) for value in mean],
        "transposed": reading.transposed,
        "rescaled": reading.rescaled,
    }


def _original(file: WeightsFile, contents: Contents, layer: str, reading: Reading) -> bool:
    """Whether the numbers are Oxford's, bit for bit; known of the layers in ORIGINALS."""
    if layer not in ORIGINALS or reading.family != "oxford":
        return False
    kernel, bias = read_layer(file, contents, layer, reading)
    if layer == "conv1_1":
        kernel = kernel[:, :, ::-1]  # Oxford's channels are B G R
    ordered = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1), dtype="<f4")
    found = (hashlib.sha256(array.tobytes()).hexdigest()[:16] for array in (ordered, bias.astype("<f4")))
    return tuple(found) == ORIGINALS[layer]


def _digests(path: Path) -> tuple[str, str]:
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            sha256.update(piece)
            md5.update(piece)
    return sha256.hexdigest(), md5.hexdigest()


def _is(known: Known, sha256: str, md5: str) -> bool:
    return known.sha256 == sha256 if known.sha256 else known.md5 == md5


def _written(target: Path, weights: Weights) -> dict[str, Any]:
    layers = list(weights.filters)
    numbers = sum(array.size for pair in weights.filters.values() for array in pair)
    return {
        "file": str(target),
        "bytes": target.stat().st_size,
        "family": weights.family,
        "layers": f"{layers[0]} … {layers[-1]}",
        "numbers": numbers,
        "source": weights.source,
        "licence": weights.licence,
    }
