"""HDF5 files: our own, and Keras' without the classifier ("notop").

Ours: /<layer>/kernel (3, 3, in, out) and /<layer>/bias; attributes of the root tell format, family, layout,
channel_order ("RGB" or "BGR"), mean (in that order), source and licence. The image is 0 … 255.
"""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..arrays import Array
from ..errors import NSTError
from ..vgg import VGG19, Conv
from . import Weights

OURS = "nst_manual"
OXFORD_MEAN_RGB = (123.68, 116.779, 103.939)
OXFORD_LICENCE = "CC BY 4.0, Karen Simonyan and Andrew Zisserman, Visual Geometry Group, University of Oxford"
SHAPES = {step.name: (3, 3, step.c_in, step.c_out) for step in VGG19 if isinstance(step, Conv)}


def read_hdf5(path: Path, layers: Collection[str]) -> Weights:
    """The filters of the given layers."""
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") == OURS:
                return _read_ours(path, file, layers)
            return _read_keras(path, file, layers)
    except OSError as error:
        raise NSTError(f"{path}: not a readable HDF5 file: give VGG-19 weights in our own or Keras' format") from error


def write_hdf5(path: Path, weights: Weights) -> None:
    """Our own format, written under a temporary name and then renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(temporary, "w") as file:
            file.attrs.update(
                format=OURS,
                version=1,
                family=weights.family,
                layout="HWIO",
                channel_order="RGB",
                mean=weights.mean,
                source=weights.source,
                licence=weights.licence,
            )
            for layer, (kernel, bias) in weights.filters.items():
                file[f"{layer}/kernel"], file[f"{layer}/bias"] = kernel, bias
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_ours(path: Path, file: h5py.File, layers: Collection[str]) -> Weights:
    attributes = file.attrs
    if attributes.get("layout") != "HWIO" or attributes.get("channel_order") not in ("RGB", "BGR"):
        raise NSTError(f"{path}: expected layout HWIO and channel_order RGB or BGR in its attributes: convert it again")
    mean = np.asarray(attributes.get("mean"), dtype=np.float64)
    if mean.shape != (3,) or not np.isfinite(mean).all():
        raise NSTError(f"{path}: expected three numbers in its attribute mean: convert it again")
    filters = {layer: _pair(path, layer, file, f"{layer}/kernel", f"{layer}/bias") for layer in layers}
    if attributes["channel_order"] == "BGR":
        filters, mean = _bgr_to_rgb(filters), mean[::-1]
    text = {name: str(attributes.get(name, "")) for name in ("family", "source", "licence")}
    return Weights(filters, (float(mean[0]), float(mean[1]), float(mean[2])), **text)


def _read_keras(path: Path, file: h5py.File, layers: Collection[str]) -> Weights:
    filters = {}
    for layer in layers:
        group_name = layer.replace("conv", "block", 1).replace("_", "_conv")
        group = file.get(group_name)
        if not isinstance(group, h5py.Group):
            raise NSTError(f"{path}: no layer {layer} ({group_name} in Keras' naming): is it VGG-19's weights?")
        names: dict[int, str] = {}  # by number of dimensions: the kernel has 4, the bias 1
        group.visititems(lambda name, item, names=names: names.setdefault(getattr(item, "ndim", 0), name) and None)
        filters[layer] = _pair(path, layer, group, names.get(4, "kernel"), names.get(1, "bias"))
    return Weights(_bgr_to_rgb(filters), OXFORD_MEAN_RGB, "oxford", f"Keras, {path.name}", OXFORD_LICENCE)


def _pair(path: Path, layer: str, group: Any, kernel_name: str, bias_name: str) -> tuple[Array, Array]:
    arrays = []
    for name, shape in ((kernel_name, SHAPES[layer]), (bias_name, SHAPES[layer][3:])):
        dataset = group.get(name)
        if not isinstance(dataset, h5py.Dataset):
            raise NSTError(f"{path}: layer {layer} has no {name.rpartition('/')[2]}: is the file whole?")
        if dataset.shape != shape:
            raise NSTError(f"{path}: {dataset.name} has the shape {dataset.shape}, but VGG-19's {layer} has {shape}")
        array = np.asarray(dataset[()], dtype=np.float32)
        if not np.isfinite(array).all():
            raise NSTError(f"{path}: {dataset.name} holds numbers that are not finite: the file is damaged")
        arrays.append(array)
    return arrays[0], arrays[1]


def _bgr_to_rgb(filters: dict[str, tuple[Array, Array]]) -> dict[str, tuple[Array, Array]]:
    """The first layer is the only one that sees colours."""
    if "conv1_1" in filters:
        kernel, bias = filters["conv1_1"]
        filters["conv1_1"] = np.ascontiguousarray(kernel[:, :, ::-1]), bias
    return filters
