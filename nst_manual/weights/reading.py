"""From a file of any known format to `Weights`: which reader, which layers, whose numbers; the filters put in order.

Formats are recognised by their first bytes, never by a file's name. What image the network expects is decided by
`fingerprint` from conv1_1's numbers, and folded into conv1_1: the network that comes out takes RGB, 0 … 255.
"""

import hashlib
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from ..arrays import Array
from ..errors import NSTError
from .bounded_file import Contents, Tensor, WeightsFile
from .fingerprint import FAMILIES, LICENCES, Reading, family_reading, orient, read_fingerprint
from .formats.caffe import read_caffe
from .formats.hdf5 import read_hdf5
from .formats.hdf5_structure import start_of_hdf5
from .formats.matlab import read_matlab
from .formats.npz import read_npz
from .formats.pytorch import read_torch_legacy, read_torch_zip
from .formats.safetensors import read_safetensors
from .formats.zips import Archive
from .naming import SHAPES
from .registry import published
from .weights import Weights

CONV1 = "conv1_1"
_TELLING = 600  # bytes at the start of a file that tell its format


def open_contents(file: WeightsFile) -> Contents:
    """What the file holds, found by the reader that its first bytes call for; no numbers are read yet."""
    head = file.read(0, min(file.size, _TELLING))
    for recognised, reader in _READERS:
        if recognised(file, head):
            return reader(file)
    raise file.refused(f"not a weights file of any known format ({KNOWN}): give one of these")


def read_weights(path: Path, layers: Collection[str], family: str | None = None) -> Weights:
    """The filters of the given layers. `family` is what the person says of a network that its numbers do not settle."""
    with WeightsFile(path) as file:
        contents = open_contents(file)
        reading = identify(file, contents, family)
        filters = {layer: read_layer(file, contents, layer, reading) for layer in layers}
        return described(file, contents, reading, filters)


def identify(file: WeightsFile, contents: Contents, family: str | None = None) -> Reading:
    """Whose network it is and what image it expects."""
    if family is not None and family not in FAMILIES:
        raise NSTError(f"--family must be one of {', '.join(FAMILIES)}, not {family!r}")
    kernel, bias = read_pair(file, contents, CONV1)
    reading = read_fingerprint(kernel, bias)
    if contents.declared is not None:
        declared = contents.declared
        # A torchvision network in our format is rescaled channel by channel, and still recognised.
        turned = reading is not None and (reading.transposed or reading.flipped)
        if reading is not None and (turned or reading.channel_order != declared.channel_order):
            found = "turned" if turned else reading.channel_order
            raise file.refused(
                f"its attributes say {declared.channel_order}, but its numbers are {found}: convert the original again"
            )
        rescaled = reading is not None and reading.rescaled
        return Reading(declared.family, declared.channel_order, mean=declared.mean, rescaled=rescaled)
    if reading is None:
        family = family or _published_family(file)
        if family is None:
            raise file.refused(
                "its conv1_1 is of no network that is known by its numbers: say --family torchvision (it takes RGB of "
                "0 … 1, standardised) or --family oxford (0 … 255 minus the mean, as Caffe's and Keras' networks)"
            )
        return family_reading(family, contents.default_order)
    if family not in (None, reading.family):
        raise file.refused(f"its conv1_1 has {reading.family}'s numbers, not {family}'s: leave --family out")
    if reading.flipped:
        raise file.refused(
            "its kernels are turned by 180° (old Keras' Theano ordering): get the file with tf kernels instead"
        )
    return reading


def read_pair(file: WeightsFile, contents: Contents, layer: str) -> tuple[Array, Array]:
    """A layer's kernel, (3, 3, in, out) with the file's own channel order and orientation, and its bias; float32."""
    if layer not in contents.tensors:
        known = ", ".join(sorted(contents.tensors))
        raise file.refused(f"no layer {layer} in it (it has {known}): is it VGG-19's, and whole?")
    kernel, bias = contents.tensors[layer]
    shape = SHAPES[layer]
    turned = (shape[3], shape[2], shape[0], shape[1])
    if kernel.shape not in (shape, turned):
        expected = {"HWIO": f"{shape}", "OIHW": f"{turned}"}.get(contents.kernel_axes, f"{shape} or {turned}")
        raise file.refused(f"{kernel.name[:80]} has the shape {kernel.shape}, but VGG-19's {layer} has {expected}")
    if bias.count != shape[3] or max(bias.shape) != shape[3]:
        raise file.refused(f"{bias.name[:80]} has the shape {bias.shape}, but VGG-19's {layer} has ({shape[3]},)")
    k = read_numbers(file, kernel)
    return k if kernel.shape == shape else k.transpose(2, 3, 1, 0), read_numbers(file, bias).reshape(-1)


def read_numbers(file: WeightsFile, tensor: Tensor) -> Array:
    """A tensor as float32, every number finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = tensor.load().astype(np.float32)
    if not np.isfinite(numbers).all():
        raise file.refused(f"{tensor.name[:80]} holds numbers that are not finite: the file is damaged; get it again")
    return numbers


def read_layer(file: WeightsFile, contents: Contents, layer: str, reading: Reading) -> tuple[Array, Array]:
    """A layer's filters as the walk wants them: rows before columns, and conv1_1 for RGB of 0 … 255 minus the mean."""
    kernel, bias = read_pair(file, contents, layer)
    kernel = orient(kernel, reading.transposed, reading.flipped)
    if layer == CONV1:
        mix, _ = input_mix(file, contents, reading)
        if not np.array_equal(mix, np.eye(3)):
            with np.errstate(over="ignore"):
                kernel = np.einsum("ijbo,br->ijro", kernel, mix, dtype=np.float64).astype(np.float32)
            if not np.isfinite(kernel).all():
                raise file.refused("its first two convolutions together hold numbers that are not finite: damaged")
    return np.ascontiguousarray(kernel), np.ascontiguousarray(bias)


def input_mix(file: WeightsFile, contents: Contents, reading: Reading) -> tuple[Array, tuple[float, float, float]]:
    """(mix, mean): conv1_1's input is mix @ (RGB − mean), with RGB of 0 … 255.

    Usually a reordering and a scale. Where a 1×1 convolution A x + c stands before conv1_1 and takes RGB of 0 … 1, as
    in AdaIN's networks, A x + c = A/255 (255 x − mean) with mean = −255 A⁻¹ c.
    """
    if contents.first is None:
        mix = np.diag(1 / np.asarray(reading.unit))
        return (mix if reading.channel_order == "RGB" else mix[::-1]), reading.mean
    if contents.first[1].count != 3:
        raise file.refused(f"the bias of its 1×1 convolution has {contents.first[1].count} numbers, not 3: damaged")
    kernel, bias = (read_numbers(file, tensor).astype(np.float64) for tensor in contents.first)
    a = kernel.reshape(3, 3) if contents.first[0].shape[2:] == (1, 1) else kernel.reshape(3, 3).T
    with np.errstate(all="ignore"):
        condition = float(np.linalg.cond(a)) if np.abs(a).max() < 1e6 else np.inf
    if not condition < 1e3:
        raise file.refused("its 1×1 convolution before conv1_1 mixes the colours beyond telling apart: damaged")
    mean = -255 * np.linalg.solve(a, bias.reshape(3))
    return a / 255, (float(mean[0]), float(mean[1]), float(mean[2]))


def described(
    file: WeightsFile, contents: Contents, reading: Reading, filters: dict[str, tuple[Array, Array]]
) -> Weights:
    """The filters with where they come from and whose they are."""
    _, mean = input_mix(file, contents, reading)
    if not max(map(abs, mean)) < 1e4:
        raise file.refused(f"it expects a mean colour of {mean[0]:g}, {mean[1]:g}, {mean[2]:g}: the file is damaged")
    declared = contents.declared
    if declared is not None:
        return Weights(filters, mean, declared.family, declared.source, declared.licence)
    return Weights(filters, mean, reading.family, f"{contents.container}, {file.path.name}", LICENCES[reading.family])


def _published_family(file: WeightsFile) -> str | None:
    """The family of a file that is, byte for byte, one of those published."""
    candidates = [known for known in published() if known.sha256 and abs(known.size - file.size) <= known.size // 500]
    digest = file_sha256(file.path) if candidates else ""
    return next((known.family for known in candidates if known.sha256 == digest), None)


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# Formats: (what its first bytes look like, its reader), the first that fits.


def _read_zip(file: WeightsFile) -> Contents:
    """PyTorch's container or NumPy's, by the names of the entries."""
    archive = Archive(file)
    for name in archive.entries:
        if name == "data.pkl" or name.endswith("/data.pkl"):
            return read_torch_zip(file, archive, name)
    if any(name.endswith(".npy") for name in archive.entries):
        return read_npz(file, archive)
    if "model.weights.h5" in archive.entries:
        raise file.refused("a Keras archive: unpack it (it is a zip file) and give the model.weights.h5 in it")
    raise file.refused("a zip archive of neither PyTorch nor NumPy: give the weights file itself")


def _refuse(sentence: str) -> Callable[[WeightsFile], Contents]:
    def reader(file: WeightsFile) -> Contents:
        raise file.refused(sentence)

    return reader


def _starts(*beginnings: bytes) -> Callable[[WeightsFile, bytes], bool]:
    return lambda file, head: head.startswith(beginnings)


def _is_safetensors(file: WeightsFile, head: bytes) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= file.size - 8


def _is_onnx(file: WeightsFile, head: bytes) -> bool:
    """A ModelProto: its version, a small number, then the producer, the graph, … A Caffe net begins otherwise."""
    return len(head) > 2 and head[0] == 0x08 and head[1] < 32 and head[2] in b"\x12\x1a\x22\x28\x32\x3a\x42"


KNOWN = "HDF5 of ours or Keras', PyTorch, safetensors, .npz, MatConvNet .mat, .caffemodel"
_READERS: tuple[tuple[Callable[[WeightsFile, bytes], bool], Callable[[WeightsFile], Contents]], ...] = (
    (lambda file, head: not head, _refuse("the file is empty: get it again")),
    (_starts(b"MATLAB 5.0 MAT-file"), read_matlab),
    (
        _starts(b"MATLAB 7.3 MAT-file"),
        _refuse("a MATLAB 7.3 file, which is made of object references: save it again in MATLAB with -v7"),
    ),
    (lambda file, head: start_of_hdf5(file) is not None, read_hdf5),
    (_starts(b"PK\x03\x04", b"PK\x05\x06"), _read_zip),
    (_is_safetensors, read_safetensors),
    (_starts(b"\x80"), read_torch_legacy),
    (_starts(b"\x93NUMPY"), _refuse("a single NumPy array, or a pickle in one: give an .npz with named arrays")),
    (_starts(b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!"), _refuse("a packed file: unpack it first")),
    (lambda file, head: head[257:262] == b"ustar", _refuse("a tar archive: unpack it, or save the state_dict() anew")),
    (
        _starts(b"version https://git-lfs"),
        _refuse("only a Git LFS pointer, a note of where the file is: fetch the file itself with `git lfs pull`"),
    ),
    (
        lambda file, head: head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")),
        _refuse("a web page, not weights, as a link to one gives: download the file itself"),
    ),
    (
        _is_onnx,
        _refuse("an ONNX network, other numbers than VGG-19's published ones: get those with `weights get`"),
    ),
    (_starts(b"\x0a", b"\x12", b"\xa2\x06"), read_caffe),
)
