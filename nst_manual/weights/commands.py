"""The commands `weights list`, `get`, `convert`, `inspect` and `normalise`, as functions that return data."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Array
from ..engines import Engine
from ..errors import NSTError
from ..pictures.files import check_hdf5, check_not_inputs, file_sha256, held
from ..vgg import LAYERS
from . import folders, installed
from .bounded_file import WeightsFile
from .download import Progress, downloaded
from .fingerprint import ORIGINALS, Reading
from .formats.hdf5 import write_hdf5
from .naming import contiguous
from .normalise import normalised
from .reading import StoredNetwork, read_weights
from .registry import downloadable_file, published
from .weights import Weights

_LARGEST_HASHED = 600_000_000  # bytes; the largest published file has 575 million


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
            "installed": str(place) if (place := installed(known.installs)) else None,
        }
        for known in published()
    ]


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
    """Downloads, verifies and converts a published file, unless the result is there already and `force` is not set."""
    known = downloadable_file(name)
    folder = folders()[-1] if to is None else to
    target = folder / known.installs
    result = {"file": str(target), "name": name, "what": known.what, "fetched": False, "licence": known.licence}
    if os.path.isfile(target) and not force:
        return result
    for path in (target, folder / known.file) if keep else (target,):
        if os.path.isdir(path):
            raise NSTError(f"{path} is a folder: move it away, or give another folder with --to")
    if offline:
        raise NSTError(
            f"--offline: {name} is not in {folder}: fetch {known.file} from {' or '.join(known.urls)} on another "
            f"machine and run `weights convert {known.file} {target}` here"
        )
    with held(target), downloaded(known, folder, progress) as original:
        weights = read_weights(original, LAYERS, known.family)
        write_hdf5(target, weights, half, source_urls=" ".join(known.urls), source_checksum=known.checksum)
        if keep:
            original.replace(folder / known.file)
    return result | {"fetched": True}


def convert(
    source: Path, target: Path, family: str | None = None, half: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """Any known format to ours, with every convolution that the file has, from conv1_1 on."""
    check_hdf5(target, "weights", overwrite)
    check_not_inputs([target], [source])
    with held(target):
        return _written(target, read_weights(source, family=family), half, new=not overwrite)


def normalise(
    source: Path,
    target: Path,
    images: Iterable[Array],
    engine: Engine,
    *,
    pooling: str = "avg",
    family: str | None = None,
    half: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """The network with every mean activation over the images 1, in our format."""
    check_hdf5(target, "weights", overwrite)
    check_not_inputs([target], [source])
    with held(target):
        result = normalised(read_weights(source, family=family), images, engine, pooling)
        notes = {"normalised": "every filter's mean activation is 1", "pooling": pooling}
        return _written(target, result, half, new=not overwrite, **notes)


def inspect(path: Path, family: str | None = None) -> dict[str, Any]:
    """What a weights file is, what would be used of it, and under "problem" why it cannot be used as it is."""
    with WeightsFile(path) as file:
        network = StoredNetwork(file)
        sha256 = md5 = None
        if file.size <= _LARGEST_HASHED:
            sha256 = file_sha256(path)
            file.stream.seek(0)
            md5 = hashlib.file_digest(file.stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        known = (k.name for k in published() if sha256 and (k.sha256 == sha256 if k.sha256 else k.md5 == md5))
        report: dict[str, Any] = {
            "file": str(path),
            "bytes": file.size,
            "sha256": sha256,
            "md5": md5,
            "published": next(known, None),
            "container": network.contents.container,
        }
        reading: Reading | None = None
        try:
            reading = network.identify(family)
            report |= _convention(network, reading)
        except NSTError as error:
            report |= {"family": None, "problem": str(error)}
        layers = []
        for layer in (layer for layer in LAYERS if layer in network.pairs):
            kernel, _ = network.pairs[layer]
            entry: dict[str, Any] = {"layer": layer, "name": kernel.name, "shape": kernel.shape, "dtype": kernel.dtype}
            try:
                for part, x in zip(("kernel", "bias"), network.pair(layer), strict=True):
                    entry[part] = [float(x.min()), float(x.max()), float(np.abs(x).mean(dtype=np.float64))]
                entry["original"] = reading is not None and _original(network, layer, reading)
            except NSTError as error:
                entry["problem"] = str(error)
                report.setdefault("problem", str(error))
            layers.append(entry)
        usable = contiguous(entry["layer"] for entry in layers if "problem" not in entry) if reading else []
        return report | {
            "layers": layers,
            "missing": [layer for layer in LAYERS if layer not in network.pairs],
            "unused_arrays": network.unused,
            "used": f"{usable[0]} … {usable[-1]}" if usable else None,
            "complete": len(usable) == len(LAYERS),
        }


def _convention(network: StoredNetwork, reading: Reading) -> dict[str, Any]:
    scale = {1.0: "0 … 255", 255.0: "0 … 1"}.get(reading.unit[0], "0 … 1, divided by the deviation")
    return {
        "family": reading.family,
        "channel_order": reading.channel_order,
        "scale": scale,
        "mean_rgb_255": [round(value, 4) for value in network.input_mix(reading)[1]],
        "transposed": reading.transposed,
        "rescaled": reading.rescaled,
    }


def _original(network: StoredNetwork, layer: str, reading: Reading) -> bool:
    """Whether the numbers are Oxford's bit for bit; False for layers that are not in ORIGINALS."""
    if layer not in ORIGINALS or reading.family != "oxford":
        return False
    kernel, bias = network.filters(layer, reading)
    if layer == "conv1_1":
        kernel = kernel[:, :, ::-1]  # Oxford's channels are B G R
    ordered = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1), dtype="<f4")
    found = (hashlib.sha256(array.tobytes()).hexdigest()[:16] for array in (ordered, bias.astype("<f4")))
    return tuple(found) == ORIGINALS[layer]


def _written(target: Path, weights: Weights, half: bool, new: bool, **notes: str) -> dict[str, Any]:
    """Writes the file and says what is in it."""
    write_hdf5(target, weights, half, new, **notes)
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
