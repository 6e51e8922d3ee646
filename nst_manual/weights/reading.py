"""From a file of any known format to `Weights`: which reader, which layers, whose numbers; the filters put in order.

Formats are recognised by their first bytes, never by a file's name. `fingerprint` recognises from conv1_1's numbers
which image the network expects; this is folded into conv1_1, so that every network takes RGB of 0 … 255 minus a mean.
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..arrays import Array
from ..errors import NSTError, plain
from ..pictures.files import file_sha256
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
from .naming import SHAPES, contiguous, layers_by_name
from .registry import published
from .weights import Weights

CONV1 = "conv1_1"
_HEAD = 600  # bytes at the start of a file that show its format


def read_weights(path: Path, layers: Collection[str] | None = None, family: str | None = None) -> Weights:
    """The filters of the given layers, or of all from conv1_1 on; `family` is for a network that is not recognised."""
    with WeightsFile(path) as file:
        network = StoredNetwork(file)
        reading, contents = network.identify(family), network.contents
        chosen = contiguous(network.pairs) if layers is None else layers
        filters = {layer: network.filters(layer, reading) for layer in chosen}
        _, mean = network.input_mix(reading)
        if contents.declared:
            return Weights(filters, mean, reading.family, contents.source, contents.licence)
        return Weights(
            filters, mean, reading.family, f"{contents.container}, {plain(path.name)}", LICENCES[reading.family]
        )


class StoredNetwork:
    """The VGG-19 in an open file. Numbers are read one layer at a time, when they are asked for."""

    def __init__(self, file: WeightsFile) -> None:
        self.file, self.contents = file, open_contents(file)
        self.pairs, self.first, unused = layers_by_name(file, self.contents.tensors)
        self.unused = unused + self.contents.others

    def identify(self, family: str | None = None) -> Reading:
        """Whose network it is and which image it expects."""
        if family is not None and family not in FAMILIES:
            raise NSTError(f"--family must be one of {', '.join(FAMILIES)}, not {family!r}")
        reading = read_fingerprint(*self.pair(CONV1))
        if declared := self.contents.declared:
            if reading is None:
                return declared
            # A torchvision network in our format is rescaled channel by channel, and still recognised.
            turned = reading.transposed or reading.flipped
            if turned or reading.channel_order != declared.channel_order:
                found = "turned" if turned else reading.channel_order
                raise self.file.refused(
                    f"its attributes say {declared.channel_order}, but its numbers are {found}: convert the original "
                    f"again"
                )
            return replace(declared, rescaled=reading.rescaled)
        if reading is None:
            if family := family or _published_family(self.file):
                return family_reading(family, self.contents.default_order)
            raise self.file.refused(
                "the numbers of its conv1_1 belong to no known network: add --family torchvision (for RGB of 0 … 1, "
                "standardised) or --family oxford (for 0 … 255 minus the mean, such as Caffe's and Keras' networks)"
            )
        if family not in (None, reading.family):
            raise self.file.refused(f"its conv1_1 has {reading.family}'s numbers, not {family}'s: leave --family out")
        if reading.flipped:
            raise self.file.refused(
                "its kernels are turned by 180° (old Keras' Theano ordering): get the file with tf kernels instead"
            )
        return reading

    def pair(self, layer: str) -> tuple[Array, Array]:
        """Kernel (3, 3, in, out), in the file's own channel order and orientation, and bias; both float32."""
        if layer not in self.pairs:
            known = ", ".join(sorted(self.pairs))
            raise self.file.refused(f"no layer {layer} in it (it has {known}): give a complete VGG-19")
        kernel, bias = self.pairs[layer]
        shape = SHAPES[layer]
        turned = (shape[3], shape[2], shape[0], shape[1])
        if kernel.shape not in (shape, turned):
            expected = {"HWIO": f"{shape}", "OIHW": f"{turned}"}.get(self.contents.kernel_axes, f"{shape} or {turned}")
            raise self._misshapen(kernel, layer, expected)
        if bias.count != shape[3] or max(bias.shape) != shape[3]:
            raise self._misshapen(bias, layer, f"({shape[3]},)")
        k = self._numbers(kernel)
        return k if kernel.shape == shape else k.transpose(2, 3, 1, 0), self._numbers(bias).reshape(-1)

    def filters(self, layer: str, reading: Reading) -> tuple[Array, Array]:
        """A layer as the walk needs it: rows before columns, and conv1_1 for RGB of 0 … 255 minus the mean."""
        kernel, bias = self.pair(layer)
        kernel = orient(kernel, reading.transposed, reading.flipped)
        if layer == CONV1:
            mix, _ = self.input_mix(reading)
            if not np.array_equal(mix, np.eye(3)):
                with np.errstate(over="ignore"):
                    kernel = np.einsum("ijbo,br->ijro", kernel, mix, dtype=np.float64).astype(np.float32)
                if not np.isfinite(kernel).all():
                    raise self.file.damaged("its first two convolutions together give numbers that are not finite")
        return np.ascontiguousarray(kernel), np.ascontiguousarray(bias)

    def input_mix(self, reading: Reading) -> tuple[Array, tuple[float, float, float]]:
        """(mix, mean): conv1_1's input is mix @ (RGB − mean), with RGB of 0 … 255.

        Usually mix is a reordering and a scale. AdaIN's networks have a 1×1 convolution A x + c before conv1_1, which
        takes RGB of 0 … 1: A x + c = A/255 (255 x − mean) with mean = −255 A⁻¹ c.
        """
        if self.first is None:
            mix = np.diag(1 / np.asarray(reading.unit))
            if reading.channel_order == "BGR":
                mix = mix[::-1]
            mean = np.asarray(reading.mean)
        else:
            kernel, bias = self.first
            if bias.count != 3:
                raise self.file.damaged(f"the bias of its 1×1 convolution has {bias.count} numbers, not 3")
            a = self._numbers(kernel).astype(np.float64).reshape(3, 3)
            if kernel.shape[2:] != (1, 1):
                a = a.T
            with np.errstate(all="ignore"):
                condition = float(np.linalg.cond(a)) if np.abs(a).max() < 1e6 else np.inf
            if not condition < 1e3:
                raise self.file.damaged("its 1×1 convolution before conv1_1 mixes the colours irreversibly")
            mix = a / 255
            mean = -255 * np.linalg.solve(a, self._numbers(bias).astype(np.float64).reshape(3))
        red, green, blue = map(float, mean)
        if not max(abs(red), abs(green), abs(blue)) < 1e4:
            raise self.file.damaged(f"it expects a mean colour of {red:g}, {green:g}, {blue:g}")
        return mix, (red, green, blue)

    def _numbers(self, tensor: Tensor) -> Array:
        """As float32, every number finite."""
        with np.errstate(over="ignore", invalid="ignore"):
            numbers = tensor.load().astype(np.float32)
        if not np.isfinite(numbers).all():
            raise self.file.damaged(f"{tensor.name[:80]} holds numbers that are not finite")
        return numbers

    def _misshapen(self, tensor: Tensor, layer: str, expected: str) -> NSTError:
        return self.file.refused(
            f"{tensor.name[:80]} has the shape {tensor.shape}, but VGG-19's {layer} has {expected}: give VGG-19's"
        )


def open_contents(file: WeightsFile) -> Contents:
    """The arrays in the file, from the reader that its first bytes call for; no numbers are read yet."""
    head = file.read(0, min(file.size, _HEAD))
    for recognised, reader in _FORMATS:
        if head.startswith(recognised) if isinstance(recognised, bytes | tuple) else recognised(file, head):
            if isinstance(reader, str):
                raise file.refused(reader)
            return reader(file)
    raise file.refused(
        "not a weights file of any known format: give our HDF5 or Keras', PyTorch, safetensors, .npz, MatConvNet's "
        ".mat or .caffemodel"
    )


def _published_family(file: WeightsFile) -> str | None:
    """The family of a file that is, byte for byte, a published one."""
    candidates = [known for known in published() if known.sha256 and abs(known.size - file.size) <= known.size // 500]
    digest = file_sha256(file.path) if candidates else ""
    return next((known.family for known in candidates if known.sha256 == digest), None)


def _read_zip(file: WeightsFile) -> Contents:
    """PyTorch's container or NumPy's, by the names of its entries."""
    archive = Archive(file)
    for name in archive.entries:
        if name == "data.pkl" or name.endswith("/data.pkl"):
            return read_torch_zip(file, archive, name)
    if any(name.endswith(".npy") for name in archive.entries):
        return read_npz(file, archive)
    if "model.weights.h5" in archive.entries:
        raise file.refused("it is a Keras archive: unpack it with unzip and give the model.weights.h5 in it")
    raise file.refused("it is a zip archive of neither PyTorch nor NumPy: give the weights file itself")


def _is_safetensors(file: WeightsFile, head: bytes) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= file.size - 8


def _is_onnx(file: WeightsFile, head: bytes) -> bool:
    """A ModelProto: its version, a small number, then the producer, the graph, … A Caffe net begins differently."""
    return len(head) > 2 and head[0] == 0x08 and head[1] < 32 and head[2] in b"\x12\x1a\x22\x28\x32\x3a\x42"


# (the file's first bytes or a test of them, its reader or why it is refused); the first that fits counts.
_FORMATS: tuple[
    tuple[
        bytes | tuple[bytes, ...] | Callable[[WeightsFile, bytes], bool], Callable[[WeightsFile], Contents] | str
    ], ...
] = (
    (lambda file, head: not head, "the file is empty: get it again"),
    (b"MATLAB 5.0 MAT-file", read_matlab),
    (b"MATLAB 7.3 MAT-file", "it is a MATLAB 7.3 file, made of object references: save it again in MATLAB with -v7"),
    (lambda file, head: start_of_hdf5(file) is not None, read_hdf5),
    ((b"PK\x03\x04", b"PK\x05\x06"), _read_zip),
    (_is_safetensors, read_safetensors),
    (b"\x80", read_torch_legacy),
    (b"\x93NUMPY", "it is a single NumPy array, or a pickle in one: give an .npz with named arrays"),
    ((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!"), "it is a packed file: unpack it first"),
    (lambda file, head: head[257:262] == b"ustar", "it is a tar archive: unpack it, or save the state_dict() again"),
    (b"version https://git-lfs", "it is only a Git LFS pointer: fetch the file itself with `git lfs pull`"),
    (
        lambda file, head: head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")),
        "it is a web page, not weights: download the file that the page links to",
    ),
    (_is_onnx, "it is an ONNX network, whose numbers are not VGG-19's published ones: run `weights get` instead"),
    ((b"\x0a", b"\x12", b"\xa2\x06"), read_caffe),
)  # fmt: skip
