"""HDF5 files: our own, and Keras' with or without the classifier, in the naming of Keras 1, 2 and 3.

Ours: /<layer>/kernel (3, 3, in, out) and /<layer>/bias; attributes of the root give format, family, layout,
channel_order ("RGB" or "BGR"), mean (in that order), source and licence. The image is 0 … 255.
They are written with h5py and read by `hdf5_structure`.
"""

from pathlib import Path

import h5py
import numpy as np

from ...errors import NSTError, plain
from ...pictures.files import replaced
from ..bounded_file import Contents, WeightsFile
from ..fingerprint import Reading
from ..weights import Weights
from .hdf5_structure import HDF5, read_structure

OURS = "nst_manual"
VERSION = 1


def read_hdf5(file: WeightsFile) -> Contents:
    """Our own file if the attribute `format` says so, else Keras'."""
    structure = read_structure(file)
    if structure.attributes.get("format") == OURS:
        source, licence = (plain(str(structure.attributes.get(name, ""))[:1000]) for name in ("source", "licence"))
        declared = _declared(file, structure)
        return Contents("nst_manual HDF5", structure.datasets, "HWIO", 0, declared, source, licence)
    # A whole Keras model also holds its optimiser's arrays, which have the same names.
    optimiser = ("optimizer_weights/", "optimizer/", "top_level_model_weights/")
    datasets = {path: tensor for path, tensor in structure.datasets.items() if not path.startswith(optimiser)}
    return Contents("Keras HDF5", datasets)


def write_hdf5(path: Path, weights: Weights, half: bool = False, new: bool = False, **notes: str) -> None:
    """Writes our own format, whole or not at all, and with `new` over no other file. `half` stores float16; `notes` are
    further attributes."""
    if half:
        largest = max(float(np.abs(array).max()) for pair in weights.filters.values() for array in pair)
        if largest > float(np.finfo(np.float16).max):
            raise NSTError(f"{path}: a filter holds {largest:g}, too large for float16: leave --half out")
    with replaced(path, new) as temporary, h5py.File(temporary, "w", libver="earliest") as file:
        file.attrs.update(
            format=OURS,
            version=VERSION,
            family=weights.family,
            layout="HWIO",
            channel_order="RGB",
            mean=weights.mean,
            source=weights.source,
            licence=weights.licence,
            **notes,
        )
        for layer, pair in weights.filters.items():
            for part, array in zip(("kernel", "bias"), pair, strict=True):
                file[f"{layer}/{part}"] = np.asarray(array, np.float16 if half else np.float32)


def _declared(file: WeightsFile, structure: HDF5) -> Reading:
    attributes = structure.attributes
    order, mean = attributes.get("channel_order"), attributes.get("mean")
    if attributes.get("layout") != "HWIO" or not isinstance(order, str) or order not in ("RGB", "BGR"):
        raise file.refused("expected layout HWIO and channel_order RGB or BGR in its attributes: convert it again")
    if not isinstance(mean, tuple) or len(mean) != 3 or not np.isfinite(mean).all():
        raise file.refused("expected three numbers in its attribute mean: convert it again")
    red, green, blue = mean if order == "RGB" else mean[::-1]
    return Reading(plain(str(attributes.get("family", ""))[:1000]), order, mean=(red, green, blue))
