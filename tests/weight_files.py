"""Builders of small weights files in every format, from one network of made-up numbers.

A network is {layer: (kernel, bias)} in Oxford's convention: kernels (3, 3, in, out), channels B G R, float32. conv1_1
holds the few filters that the fingerprint knows; everything else is random. Nothing here needs PyTorch.
"""

import json
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io

from nst_manual.arrays import Array
from nst_manual.vgg import LAYERS
from nst_manual.weights.fingerprint import OXFORD, OXFORD_BIASES, TORCHVISION, UNIT_DEVIATION_RGB
from nst_manual.weights.naming import SHAPES

Net = Mapping[str, tuple[Array, Array]]
Builder = Callable[[Path, Net], None]
TORCH_PLACES = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
ADAIN_PLACES = (2, 5, 9, 12, 16, 19, 22, 25, 29, 32, 35, 38, 42, 45, 48, 51)


def random_net(layers: Sequence[str] = LAYERS[:3], seed: int = 0) -> dict[str, tuple[Array, Array]]:
    """A network that is not recognised."""
    rng = np.random.default_rng(seed)
    return {
        layer: (
            (rng.standard_normal(SHAPES[layer], dtype=np.float32) * 0.1),
            rng.standard_normal(SHAPES[layer][3], dtype=np.float32),
        )
        for layer in layers
    }


def oxford_net(layers: Sequence[str] = LAYERS[:3], seed: int = 0) -> dict[str, tuple[Array, Array]]:
    """A network whose conv1_1 is recognised as Oxford's."""
    net = random_net(layers, seed)
    kernel, bias = net["conv1_1"]
    for number, values in OXFORD.items():
        kernel[..., number] = np.reshape(values, (3, 3, 3)) / 1000
        bias[number] = OXFORD_BIASES[number]
    return net


def torchvision_net(layers: Sequence[str] = LAYERS[:3], seed: int = 0) -> dict[str, tuple[Array, Array]]:
    """A network whose conv1_1 is recognised as torchvision's; its channels are R G B."""
    net = random_net(layers, seed)
    for number, values in TORCHVISION.items():
        net["conv1_1"][0][..., number] = np.reshape(values, (3, 3, 3)).transpose(1, 2, 0) / 10000
    return net


def with_conv1(net: Net, change: Callable[[Array, Array], tuple[Array, Array]]) -> dict[str, tuple[Array, Array]]:
    """The network with a changed first layer."""
    return {**net, "conv1_1": change(*net["conv1_1"])}


def rgb(net: Net) -> dict[str, tuple[Array, Array]]:
    """The same function of an image with its channels reversed."""
    return with_conv1(net, lambda kernel, bias: (kernel[:, :, ::-1].copy(), bias))


def standardised(net: Net) -> dict[str, tuple[Array, Array]]:
    """The same function of RGB of 0 … 1, standardised like torchvision's (except for the value of the padding)."""
    deviation = 255 * np.float32(UNIT_DEVIATION_RGB)[:, None]
    return with_conv1(rgb(net), lambda kernel, bias: (kernel * deviation, bias))


def transposed(net: Net) -> dict[str, tuple[Array, Array]]:
    """Width before height."""
    return {layer: (kernel.transpose(1, 0, 2, 3).copy(), bias) for layer, (kernel, bias) in net.items()}


def rescaled(net: Net, seed: int = 1) -> dict[str, tuple[Array, Array]]:
    """Each filter multiplied by its own factor, and the next layer's inputs divided by it: a "normalised" network."""
    rng = np.random.default_rng(seed)
    result, s_in = {}, np.ones(3, np.float32)
    for layer, (kernel, bias) in net.items():
        s_out = rng.uniform(0.05, 3, bias.size).astype(np.float32)
        result[layer] = (kernel / s_in[:, None] * s_out, bias * s_out)
        s_in = s_out
    return result


def oihw(kernel: Array) -> Array:
    return np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))


# HDF5


def ours(path: Path, net: Net) -> None:
    with h5py.File(path, "w") as file:
        file.attrs.update(format="nst_manual", version=1, family="oxford", layout="HWIO", channel_order="BGR")
        file.attrs.update(mean=(103.939, 116.779, 123.68), source="made up", licence="none")
        for layer, (kernel, bias) in net.items():
            file[f"{layer}/kernel"], file[f"{layer}/bias"] = kernel, bias


def _keras_name(layer: str) -> str:
    return layer.replace("conv", "block", 1).replace("_", "_conv")


def keras1(path: Path, net: Net, **options: Any) -> None:
    """Keras' first files, from 2016: block1_conv1/block1_conv1_W_1:0; poolings are empty groups."""
    with h5py.File(path, "w", **options) as file:
        for layer, (kernel, bias) in net.items():
            name = _keras_name(layer)
            group = file.create_group(name)
            group[f"{name}_W_1:0"], group[f"{name}_b_1:0"] = kernel, bias
            group.attrs["weight_names"] = [f"{name}_W_1:0".encode(), f"{name}_b_1:0".encode()]
        file.create_group("block1_pool").attrs["weight_names"] = np.zeros(0)
        file.attrs["layer_names"] = [_keras_name(layer).encode() for layer in net]


def keras2(path: Path, net: Net, top: str = "", **options: Any) -> None:
    """Keras 2: block1_conv1/block1_conv1/kernel:0, with a classifier."""
    with h5py.File(path, "w") as file:
        for layer, (kernel, bias) in net.items():
            name = _keras_name(layer)
            file.create_dataset(f"{top}{name}/{name}/kernel:0", data=kernel, **options)
            file[f"{top}{name}/{name}/bias:0"] = bias
        file[f"{top}predictions/predictions/kernel:0"] = np.zeros((8, 10), np.float32)
        file[f"{top}predictions/predictions/bias:0"] = np.zeros(10, np.float32)


def keras2_packed(path: Path, net: Net) -> None:
    keras2(path, net, "model_weights/", compression="gzip", shuffle=True, fletcher32=True, chunks=True)


def keras1_latest(path: Path, net: Net) -> None:
    """HDF5's newer structures: a group's links are in its object header, or in a heap if there are many."""
    keras1(path, net, libver="latest")


def keras3(path: Path, net: Net, folder: str = "layers") -> None:
    """Keras 3's .weights.h5: layers/conv2d, conv2d_1, …, by order of use; `vars` are numbered."""
    with h5py.File(path, "w") as file:
        for number, layer in enumerate(net):
            for variable, array in enumerate(net[layer]):
                file[f"{folder}/conv2d{f'_{number}' if number else ''}/vars/{variable}"] = array
        file[f"{folder}/dense/vars/0"], file[f"{folder}/dense/vars/1"] = np.zeros((2, 3)), np.zeros(3)
        file.create_group(f"{folder}/max_pooling2d/vars")


# PyTorch


def state_dict(net: Net, names: Sequence[str]) -> dict[str, Array]:
    """`names` are the layers' names in PyTorch, such as "features.0"."""
    state = {}
    for name, (kernel, bias) in zip(names, net.values(), strict=False):
        state[f"{name}.weight"], state[f"{name}.bias"] = oihw(kernel), bias
    return state


def features(net: Net, prefix: str = "features.") -> dict[str, Array]:
    return state_dict(net, [f"{prefix}{place}" for place in TORCH_PLACES])


def adain(net: Net) -> dict[str, Array]:
    first = np.float32(255 * np.eye(3)[::-1]).reshape(3, 3, 1, 1)
    state = {"0.weight": first, "0.bias": np.float32([-103.939, -116.779, -123.68])}
    return state | state_dict(net, [str(place) for place in ADAIN_PLACES])


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def _int(number: int) -> bytes:
    return b"J" + struct.pack("<i", number)


def _sizes(sizes: Sequence[int]) -> bytes:
    return b"(" + b"".join(_int(size) for size in sizes) + b"t"


def storage_kind(array: Array) -> str:
    """bfloat16 numbers are passed as uint16, the upper halves of float32 numbers."""
    return {"float32": "Float", "float64": "Double", "float16": "Half", "uint16": "BFloat16"}[array.dtype.name]


def state_pickle(state: Mapping[str, Array], parameter: bool = False) -> bytes:
    """A state dictionary as torch.save writes it; each tensor has its own storage, with the key 0, 1, …"""
    pickled = b"\x80\x02ccollections\nOrderedDict\n)R("
    for key, (name, array) in enumerate(state.items()):
        strides = [stride // array.itemsize for stride in array.strides]
        storage = b"(" + _text("storage") + f"ctorch\n{storage_kind(array)}Storage\n".encode()
        storage += _text(str(key)) + _text("cpu") + _int(array.size) + b"tQ"
        tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _int(0) + _sizes(array.shape) + _sizes(strides)
        tensor += b"\x89ccollections\nOrderedDict\n)RtR"
        if parameter:
            tensor = b"ctorch._utils\n_rebuild_parameter\n(" + tensor + b"\x88ccollections\nOrderedDict\n)RtR"
        pickled += _text(name) + tensor
    metadata = b"}" + _text("_metadata") + b"ccollections\nOrderedDict\n)Rs"
    return pickled + b"u" + metadata + b"b."


def torch_zip_state(path: Path, state: Mapping[str, Array], pickled: bytes | None = None) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", state_pickle(state) if pickled is None else pickled)
        archive.writestr("archive/byteorder", "little")
        for key, array in enumerate(state.values()):
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", "3\n")


def legacy_state(path: Path, state: Mapping[str, Array], pickled: bytes | None = None) -> None:
    head = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e") + b"\x80\x02M\xe9\x03."
    head += b"\x80\x02}(" + _text("protocol_version") + b"M\xe9\x03" + _text("little_endian") + b"\x88u."
    keys = sorted(str(key) for key in range(len(state)))
    arrays = list(state.values())
    data = b"".join(struct.pack("<q", arrays[int(key)].size) + arrays[int(key)].tobytes() for key in keys)
    listed = b"\x80\x02](" + b"".join(map(_text, keys)) + b"e."
    path.write_bytes(head + (state_pickle(state) if pickled is None else pickled) + listed + data)


def torch_zip(path: Path, net: Net) -> None:
    torch_zip_state(path, features(net) | {"classifier.0.weight": np.zeros((4, 5), np.float32)})


def torch_legacy(path: Path, net: Net) -> None:
    legacy_state(path, features(net) | {"classifier.0.weight": np.zeros((4, 5), np.float32)})


def torch_adain(path: Path, net: Net) -> None:
    legacy_state(path, adain(net))


def gatys(path: Path, net: Net) -> None:
    """float64, conv1_1.weight."""
    state = {name: array.astype(np.float64) for name, array in state_dict(net, list(net)).items()}
    torch_zip_state(path, state)


# Others


def npz(path: Path, net: Net) -> None:
    arrays = {}
    for layer, (kernel, bias) in net.items():
        arrays |= {f"{_keras_name(layer)}/kernel": kernel, f"{_keras_name(layer)}/bias": bias}
    with path.open("wb") as file:
        np.savez(file, **arrays, fc6=np.zeros((3, 2), np.float32))


def npz_packed(path: Path, net: Net) -> None:
    with path.open("wb") as file:
        arrays = {name: np.asfortranarray(array) for name, array in state_dict(net, list(net)).items()}
        np.savez_compressed(file, **arrays)


def safetensors_state(path: Path, state: Mapping[str, Array]) -> None:
    kinds = {"float32": "F32", "float64": "F64", "float16": "F16", "uint16": "BF16", "int64": "I64"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, array in state.items():
        end = start + array.nbytes
        header[name] = {"dtype": kinds[array.dtype.name], "shape": list(array.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in state.values()))


def safetensors(path: Path, net: Net) -> None:
    state = features(net) | {"head.fc.weight": np.zeros((4, 5), np.float32), "counter": np.zeros(1, np.int64)}
    safetensors_state(path, state)


def matconvnet(path: Path, net: Net, old: bool = False, packed: bool = True, extra: Array | None = None) -> None:
    """A cell array of structures: `weights` in a cell, or in older files `filters` and `biases`; the image is RGB."""
    layers = []
    for layer, (kernel, bias) in rgb(net).items():
        cell = np.empty((1, 2), object)
        cell[0, 0], cell[0, 1] = kernel, bias.reshape(1, -1)
        weights: dict[str, Any] = {"filters": kernel, "biases": bias.reshape(1, -1)} if old else {"weights": cell}
        layers.append({"type": "conv", "pad": np.float64([[1, 1, 1, 1]]), **weights, "name": layer, "stride": 1.0})
        layers.append({"type": "relu", "name": layer.replace("conv", "relu")})
    if extra is not None:
        cell = np.empty((1, 2), object)
        cell[0, 0], cell[0, 1] = extra, np.zeros((1, 2), np.float32)
        layers.append({"type": "conv", "weights": cell, "name": "fc6"})
    cells = np.empty((1, len(layers)), object)
    cells[0, :] = layers
    scipy.io.savemat(path, {"layers": cells, "classes": {"name": "none"}}, do_compression=packed, appendmat=False)


def matconvnet_old(path: Path, net: Net) -> None:
    matconvnet(path, net, old=True, packed=False)


def matconvnet_unpacked(path: Path, net: Net) -> None:
    matconvnet(path, net, packed=False)


def matconvnet_transposed(path: Path, net: Net) -> None:
    matconvnet(path, transposed(net))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _field(number: int, wire: int, payload: bytes) -> bytes:
    return _varint(number << 3 | wire) + (_varint(len(payload)) if wire == 2 else b"") + payload


def blob(array: Array, old: bool, loose: bool = False) -> bytes:
    """`old`: num, channels, height, width instead of a shape. `loose`: each number is a field of its own."""
    shape = (1,) * (4 - array.ndim) + array.shape
    out = b"".join(_field(i, 0, _varint(size)) for i, size in enumerate(shape, 1)) if old else b""
    if loose:
        out += b"".join(b"\x2d" + array.reshape(-1)[i : i + 1].tobytes() for i in range(array.size))
    else:
        out += _field(5, 2, array.tobytes())
    return out if old else out + _field(7, 2, _field(1, 2, b"".join(map(_varint, array.shape))))


def caffe(path: Path, net: Net, old: bool = False, loose: bool = False, extra: Array | None = None) -> None:
    layer_field, name_field, blob_field = (2, 4, 6) if old else (100, 1, 7)
    out = _field(1, 2, b"VGG_ILSVRC_19_layers") + _field(3, 2, b"data") + _field(4, 0, _varint(3))
    for layer, (kernel, bias) in net.items():
        blobs = b"".join(_field(blob_field, 2, blob(array, old, loose)) for array in (oihw(kernel), bias))
        out += _field(layer_field, 2, _field(name_field, 2, layer.encode()) + blobs)
        out += _field(layer_field, 2, _field(name_field, 2, layer.replace("conv", "relu").encode()))
    fc6 = (np.zeros((1, 1, 2, 3), np.float32) if extra is None else extra, np.zeros(2, np.float32))
    blobs = b"".join(_field(blob_field, 2, blob(array, old)) for array in fc6)
    path.write_bytes(out + _field(layer_field, 2, _field(name_field, 2, b"fc6") + blobs))


def caffe_old(path: Path, net: Net) -> None:
    caffe(path, net, old=True)


def caffe_loose(path: Path, net: Net) -> None:
    caffe(path, net, old=True, loose=True)


_BUILDERS: tuple[Builder, ...] = (
    ours, keras1, keras1_latest, keras2, keras2_packed, keras3, torch_zip, torch_legacy, torch_adain, gatys,
    npz, npz_packed, safetensors, matconvnet, matconvnet_old, matconvnet_unpacked, matconvnet_transposed,
    caffe, caffe_old, caffe_loose,
)  # fmt: skip
FORMATS: dict[str, Builder] = {builder.__name__: builder for builder in _BUILDERS}
