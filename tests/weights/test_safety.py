"""Hostile weights files: nothing in them runs, none takes much time or memory, and one sentence says what is wrong."""

import os
import pickle
import struct
import time
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import weight_files as make
from tracing import memory_of
from weight_files import oxford_net

from nst_manual.errors import NSTError
from nst_manual.pictures.files import file_sha256
from nst_manual.vgg import LAYERS
from nst_manual.weights import bounded_file as files
from nst_manual.weights import commands, find_weights, load_weights
from nst_manual.weights.bounded_file import Tensor
from nst_manual.weights.formats import hdf5_structure
from nst_manual.weights.naming import layers_by_name

ONE = ["conv1_1"]
LITTLE = 8 << 20
NOTHING = "no VGG-19 convolutions|which no tensor uses"  # for an empty state dictionary


@pytest.fixture(scope="module")
def net():
    return oxford_net(ONE)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights"


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(files, "MOST_STEPS", 5000)


def refused(path, reason, layers=ONE):
    """Asserts that the file is refused for this reason, quickly and in little memory."""

    def load():
        with pytest.raises(NSTError, match=reason) as caught:
            load_weights(path, layers)
        assert str(caught.value).startswith(f"{path}: ")
        assert str(caught.value).isprintable()

    began = time.process_time()  # other work on the machine doesn't count
    assert memory_of(load) < LITTLE
    assert time.process_time() - began < 5


# Pickles


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("container", [make.torch_zip_state, make.legacy_state])
@pytest.mark.parametrize(
    ("call", "found"), [((os.system, "false"), "posix.system|nt.system"), ((eval, "1"), "builtin")]
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_names_a_function_is_refused_with_the_name_and_never_run(
    container, call, found, protocol, path, net
):
    container(path, make.features(net), pickle.dumps({"features.0.weight": Bomb(*call)}, protocol))
    refused(path, found)


@pytest.mark.parametrize(
    "name",
    ["torch._utils\nsys.modules", "torch\nload", "collections\ndefaultdict", "torch.nn\nModule", "builtins\ngetattr"],
)
def test_only_the_names_that_state_dictionaries_need_are_accepted(name, path, net):
    make.torch_zip_state(path, make.features(net), b"\x80\x02c" + name.encode() + b"\n)R.")
    refused(path, name.replace("\n", r"\."))


@pytest.mark.parametrize(
    ("pickled", "reason"),
    [
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.", "cannot be read"),  # bytes of 2⁶² bytes
        (b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"x.", "cannot be read"),  # a text
        (b"\x80\x02\x8b" + struct.pack("<i", 1 << 30) + b"\1.", "cannot be read"),  # a number of 2³⁰ bytes
        (b"\x80\x02}r" + struct.pack("<I", (1 << 32) - 1) + b".", NOTHING),  # a memo of 2³² places
        (b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"}.", f"{NOTHING}|cannot be read"),  # a frame
        (b"\x80\x02" + b"(" * 200_000 + b".", "more than 100000 steps"),
        (b"\x80\x02}" + b"\x85" * 90_000 + b".", NOTHING),  # tuples within tuples
        (b"\x80\x02]q\0h\0a.", NOTHING),  # a list that holds itself
        (b"\x80\x02}q\0X\1\0\0\0ah\0s.", NOTHING),  # a dictionary that holds itself
        (b"\x80\x02i__builtin__\neval\n.", "uses INST"),
        (b"\x80\x02\x82\1.", "uses EXT1"),
        (b"\x80\x02.", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
@pytest.mark.parametrize("container", [make.torch_zip_state, make.legacy_state])
def test_pickles_cannot_take_memory_or_time(container, pickled, reason, path, net):
    container(path, make.features(net), pickled)
    refused(path, reason)


def text(letters):
    return b"X" + struct.pack("<I", len(letters)) + letters


def nested_references():
    """Dictionaries with 1,000 names each for one dictionary, three deep: 10⁹ items if each were looked at."""
    state = b"}"
    for level in range(3):
        again = b"".join(text(b"%d" % number) + b"h" + bytes([level]) for number in range(1, 1000))
        state = b"}(" + text(b"0") + state + b"q" + bytes([level]) + again + b"u"
    return b"\x80\x02" + state + b"."


def long_names():
    """A name of 1 MB for a dictionary of 10,000 tensors: 10 GB of names."""
    storage = b"(" + text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"0") + text(b"cpu") + make._int(1) + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + make._int(0) + b"))tRq\0"
    again = b"".join(text(b"%d" % number) + b"h\0" for number in range(10_000))
    return b"\x80\x02}" + text(b"a" * (1 << 20)) + b"}(" + text(b"x") + tensor + again + b"us."


def long_prefix():
    """2,000 tensors whose names all begin with the same 2,000 letters of four bytes each."""
    letters = chr(0x1F600).encode() * 999
    storage = b"(" + text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"0") + text(b"cpu") + make._int(1) + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + make._int(0) + b"))tRq\0"
    again = b"".join(text(b"%d" % number) + b"h\0" for number in range(2000))
    return b"\x80\x02}" + text(letters) + b"}" + text(letters) + b"}(" + text(b"x") + tensor + again + b"uss."


def long_text():
    """A module's name of tuples of tuples, whose text has 2⁴⁰ parts."""
    tuples = b")q\0" + b"".join(b"h%bh%b\x86q%b" % (bytes([n]), bytes([n]), bytes([n + 1])) for n in range(40))
    return b"\x80\x04" + tuples + text(b"name") + b"\x93."


def many_calls():
    """20,000 dictionaries, each made from the same list of 2,000 pairs."""
    pairs = b"](" + b"".join(make._int(number) + b"N\x86" for number in range(2000)) + b"eq\0"
    calls = b"](ccollections\nOrderedDict\nq\1" + b"h\1h\0\x85R" * 20_000 + b"e"
    return b"\x80\x02}" + text(b"pairs") + pairs + b"s" + text(b"calls") + calls + b"s."


@pytest.mark.parametrize(
    ("pickled", "reason"),
    [
        (nested_references(), NOTHING),
        (long_names(), "a name of more than 1000 letters"),
        (long_prefix(), "more than 100000 steps|its storage 0 has"),
        (long_text(), "cannot be read"),
        (many_calls(), "more than 100000 steps"),
    ],
)
@pytest.mark.parametrize("container", [make.torch_zip_state, make.legacy_state])
def test_pickles_cannot_multiply_their_contents(container, pickled, reason, path, net):
    container(path, make.features(net), pickled)
    refused(path, reason)


def edited_pickle(state, old, new):
    pickled = make.state_pickle(state)
    assert old in pickled
    return pickled.replace(old, new, 1)


@pytest.mark.parametrize("container", [make.torch_zip_state, make.legacy_state])
@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (make._sizes((64, 3, 3, 3)), make._sizes((64, 3, 3, -3)), "negative or impossible size"),
        (make._sizes((27, 9, 3, 1)), make._sizes((27, 9, 3, -1)), "negative or impossible size"),
        (make._sizes((27, 9, 3, 1)), make._sizes((27, 9, 3, 2)), "reaches beyond its storage"),
        (make._sizes((27, 9, 3, 1)), make._sizes((2**31 - 1, 9, 3, 1)), "reaches beyond its storage"),
        (make._sizes((64, 3, 3, 3)), make._sizes((64, 3, 3, 5)), r"has the shape \(64, 3, 3, 5\)"),
        (b"tQ" + make._int(0), b"tQ" + make._int(7), "reaches beyond its storage"),
        (b"tQ" + make._int(0), b"tQ" + make._int(-7), "negative or impossible size"),
        (
            make._int(1728) + b"tQ",
            make._int(1 << 30) + b"tQ",
            "not have 1073741824 numbers|numbers, not 1073741824",
        ),
        (make._int(1728) + b"tQ", make._int(-4) + b"tQ", "cannot be read"),
        (b"FloatStorage", b"LongStorage", "no VGG-19 convolutions|storage 0 would end"),
        (b"FloatStorage", b"NoneStorage", "torch.NoneStorage"),
    ],
)
def test_counts_offsets_and_strides_are_checked_against_the_file(container, old, new, reason, path, net):
    state = make.state_dict(net, ["features.0"])
    container(path, state, edited_pickle(state, old, new))
    refused(path, reason)


def test_a_whole_network_is_refused_with_advice(path, net):
    make.torch_zip_state(path, make.features(net), b"\x80\x02ctorchvision.models.vgg\nVGG\n)\x81.")
    refused(path, r"torchvision\.models\.vgg\.VGG.* save the network's state_dict\(\)")


def test_a_plain_pickle_is_refused(path):
    path.write_bytes(pickle.dumps({"conv1_1": [1.0]}))
    refused(path, "a plain pickle")


def test_a_torchscript_archive_is_refused(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("vgg/data.pkl", b"\x80\x02}.")
        archive.writestr("vgg/constants.pkl", b"\x80\x02).")
    refused(path, "TorchScript")


# Zip and NumPy


def npy(array_bytes=b"", shape="(3, 3, 3, 64)", descr="'<f4'"):
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + array_bytes


def zipped(path, entries, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def test_a_zip_bomb_is_never_unpacked(path):
    bomb = npy(b"\0" * 6912) + b"\0" * (200 << 20)
    zipped(path, {"conv1_1/kernel.npy": bomb, "conv1_1/bias.npy": npy(b"\0" * 256, "(64,)")})
    assert path.stat().st_size < 1 << 20
    del bomb
    refused(path, r"conv1_1/kernel of shape \(3, 3, 3, 64\) has 209722")


def test_a_bomb_beside_the_weights_is_not_touched(path, net):
    make.npz(path, net)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("fc6/kernel.npy", npy(b"\0" * (100 << 20), f"({25 << 20},)"))
    assert memory_of(lambda: load_weights(path, ONE)) < LITTLE


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (npy(shape="(999999999, 999999999, 3, 64)"), "has the shape"),
        (npy(shape="(-3, 3, 3, 64)"), "the header of its array"),
        (npy(descr="'|O'"), "no VGG-19 convolutions"),
        (npy(descr="'<i8'"), "no VGG-19 convolutions"),
        (npy(shape="(" * 5000), "the header of its array"),
        (npy(shape="__import__('os').system('false')"), "the header of its array"),
        (npy(b"\0" * 12), r"has 89 bytes"),
        (b"\x93NUMPY\2\0\xff\xff\xff\xff", "a header of 4294967295 bytes"),
        (b"no array", "is not a NumPy array"),
    ],
)
def test_arrays_in_an_npz_are_checked(array, reason, path):
    zipped(path, {"conv1_1/kernel.npy": array, "conv1_1/bias.npy": npy(b"\0" * 256, "(64,)")})
    refused(path, reason)


def test_packing_methods_that_cannot_be_bounded_are_refused(path, net):
    arrays = {"conv1_1/kernel.npy": npy(b"\0" * 6912), "conv1_1/bias.npy": npy(b"\0" * 256, "(64,)")}
    zipped(path, arrays, zipfile.ZIP_LZMA)
    refused(path, "not compressed in zip's usual way")


def test_a_directory_of_a_million_entries_is_refused_unread(path):
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    count = 60_000
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(entry) * count, 4, 0)
    path.write_bytes(b"PK\3\4" + entry * count + end)
    refused(path, "far more entries")


def test_a_zip64_record_cannot_hide_a_large_directory(path):
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    directory = entry * 60_000
    record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 60_000, 60_000, len(directory), 4)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, 0, 1)  # the record's place is a lie, too: Python looks before it
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(entry), 4, 0)
    path.write_bytes(b"PK\3\4" + directory + record + locator + end)
    refused(path, "far more entries")


def test_very_many_arrays_are_refused(path, few_steps):
    zipped(path, {f"{number}.npy": npy(shape="(0,)") for number in range(100)}, zipfile.ZIP_STORED)
    refused(path, "more than 5000 steps")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_sizes_of_a_petabyte_are_refused(method, path):
    info = zipfile.ZipInfo("conv1_1/kernel.npy")
    info.compress_type = method
    info.extra = struct.pack("<HH2Q", 0x9999, 16, 10**15, 10**15)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, npy(bytes(6912)))
    before, signature, directory = path.read_bytes().partition(b"PK\1\2")
    directory = directory.replace(b"\x99\x99", b"\1\0")  # the sizes are now those of a zip64 entry
    path.write_bytes(before + signature + directory[:16] + b"\xff" * 8 + directory[24:])
    refused(path, "gives a wrong size")


def test_other_zip_archives_are_refused(path):
    zipped(path, {"readme.txt": "hello"})
    refused(path, "neither PyTorch nor NumPy")
    zipped(path, {"config.json": "{}", "model.weights.h5": "x"})
    refused(path, r"a Keras archive.*model\.weights\.h5")


# safetensors


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"{" * 5000, "is not JSON"),
        (b'{"a":' + b"[" * 50_000, "is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b"[1, 2]", "not a weights file"),
        (b'{"conv1_1.weight": 3}', "lacks the type, shape or place"),
        (b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', "impossible size"),
        (b'{"a": {"dtype": "F32", "shape": [1e3], "data_offsets": [0, 4]}}', "impossible size"),
        (b'{"a": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}', "impossible size"),
        (b'{"a": {"dtype": "F32", "shape": [4611686018427387904], "data_offsets": [0, 4]}}', "impossible size"),
        (
            b'{"a": {"dtype": "F32", "shape": [65536, 65536, 65536, 65536], "data_offsets": [0, 0]}}',
            "do not fit its shape",
        ),
        (b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}', "would lie at"),
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}', "would lie at"),
    ],
)
def test_safetensors_headers_are_checked(header, reason, path):
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"1234")
    refused(path, reason)


def test_a_safetensors_header_of_impossible_length_is_refused(path):
    path.write_bytes(struct.pack("<Q", (1 << 63) + 1) + b"{}")
    refused(path, "not a weights file")
    path.write_bytes(struct.pack("<Q", 2 << 20) + b"{" + b" " * (2 << 20))
    refused(path, "far more than weights need")


# HDF5


def keras(path, **arrays):
    with h5py.File(path, "w") as file:
        file["block1_conv1/kernel"] = np.zeros((3, 3, 3, 64), np.float32)
        file["block1_conv1/bias"] = np.zeros(64, np.float32)
        for name, array in arrays.items():
            del file[f"block1_conv1/{name}"]
            file[f"block1_conv1/{name}"] = array


def test_links_out_of_the_file_are_refused(path, tmp_path):
    keras(tmp_path / "other.h5")
    with h5py.File(path, "w") as file:
        file["block1_conv1"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/block1_conv1")
    refused(path, "block1_conv1 is a link into another file")


def test_soft_links_are_refused(path):
    keras(path)
    with h5py.File(path, "r+") as file:
        file["block1_conv2"] = h5py.SoftLink("/block1_conv1")
    refused(path, "block1_conv2 is a soft link")


def test_numbers_in_other_files_are_refused(path, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(6912))
    with h5py.File(path, "w") as file:
        file["block1_conv1/bias"] = np.zeros(64, np.float32)
        external = [(str(tmp_path / "secret"), 0, 6912)]
        file["block1_conv1"].create_dataset("kernel", (3, 3, 3, 64), np.float32, external=external)
    refused(path, "has its numbers in another file")


def test_virtual_arrays_are_refused(path, tmp_path):
    with h5py.File(path, "w", libver="latest") as file:
        layout = h5py.VirtualLayout((3, 3, 3, 64), np.float32)
        layout[...] = h5py.VirtualSource(str(tmp_path / "other.h5"), "kernel", (3, 3, 3, 64))
        file.create_virtual_dataset("block1_conv1/kernel", layout)
        file["block1_conv1/bias"] = np.zeros(64, np.float32)
    refused(path, "a virtual array")


def test_object_references_are_not_numbers(path):
    with h5py.File(path, "w") as file:
        file["block1_conv1/bias"] = np.zeros(64, np.float32)
        file.create_dataset("block1_conv1/kernel", (3, 3, 3, 64), h5py.ref_dtype)
    refused(path, "does not hold floating-point numbers")


def test_groups_that_contain_one_another_are_refused(path):
    keras(path)
    with h5py.File(path, "r+") as file:
        file["block1_conv1/again"] = file["/"]
    refused(path, "contains itself")


def test_unusual_filters_are_refused(path):
    keras(path)
    with h5py.File(path, "r+") as file:
        del file["block1_conv1/kernel"]
        file.create_dataset("block1_conv1/kernel", data=np.zeros((3, 3, 3, 64), np.float32), compression="lzf")
    refused(path, "filters other than gzip, shuffle, fletcher32")


def test_a_large_dataset_in_place_of_a_kernel_is_refused_by_its_shape(path):
    keras(path)
    with h5py.File(path, "r+") as file:
        del file["block1_conv1/kernel"]
        file.create_dataset("block1_conv1/kernel", (1 << 20, 1 << 20, 3, 64), np.float32, chunks=(1, 1, 3, 64))
    refused(path, r"has the shape \(1048576, 1048576, 3, 64\)")


@pytest.mark.parametrize(
    ("size", "reason"), [(200 << 20, "has 20.... bytes"), (10 << 20, "does not unpack to 6912 bytes")]
)
def test_a_packed_chunk_that_swells_is_refused(size, reason, path):
    with h5py.File(path, "w") as file:
        file["block1_conv1/bias"] = np.zeros(64, np.float32)
        made = file.create_dataset(
            "block1_conv1/kernel", (3, 3, 3, 64), np.float32, chunks=(3, 3, 3, 64), compression="gzip"
        )
        made.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(size)))
    refused(path, f"a chunk of block1_conv1/kernel {reason}")


@pytest.mark.parametrize("chunks", [(1, 1, 1, 8000), (15, 3, 3, 64)])
def test_chunks_much_larger_than_their_array_are_refused(chunks, path):
    keras(path)
    with h5py.File(path, "r+") as file:
        del file["block1_conv1/kernel"]
        shape = {"shape": (3, 3, 3, 64), "maxshape": (None,) * 4, "chunks": chunks}
        file.create_dataset("block1_conv1/kernel", dtype=np.float32, compression="gzip", **shape)[...] = 0
    refused(path, "chunks of the impossible shape")


def test_very_many_chunks_are_refused(path, monkeypatch):
    monkeypatch.setattr(hdf5_structure, "_MOST_STEPS", 1000)
    keras(path)
    with h5py.File(path, "r+") as file:
        del file["block1_conv1/kernel"]
        file.create_dataset("block1_conv1/kernel", data=np.zeros((3, 3, 3, 64)), chunks=(1, 1, 1, 1))
    refused(path, "structure is far larger than weights need")


def test_very_many_names_are_refused(path):
    keras(path)
    with h5py.File(path, "r+") as file:
        for number in range(300):
            file.create_group(f"{number:0999}")
    refused(path, "bytes of names, far more than weights need")


def test_very_long_names_are_refused(path):
    keras(path)
    with h5py.File(path, "r+") as file:
        file.create_group("block1_conv1/" + "a" * 2000)
    refused(path, "a name in it is far longer")


def test_overlapping_structures_are_refused(path):
    long = struct.pack("<HHB3x", 0, 65528, 0) + bytes(65528)  # one message of 64 KiB, 60 times
    places = range(96 + 16 + 60 * 24, 96 + 16 + 60 * 24 + 60 * 65536, 65536)  # each header block goes on to the end
    continued = [struct.pack("<HHB3xQQ", 0x10, 16, 0, at, places.stop - at) for at in places]
    superblock = b"\x89HDF\r\n\x1a\n" + bytes(5) + b"\x08\x08" + bytes(9 + 40) + struct.pack("<Q", 96)
    header = struct.pack("<B7xI4x", 1, 60 * 24) + b"".join(continued)
    path.write_bytes(superblock.ljust(96, b"\0") + header + long * 60)

    def load():
        with pytest.raises(NSTError, match="structure is far larger than weights need"):
            load_weights(path, ONE)

    assert memory_of(load) < 24 << 20


def test_very_many_prefixes_take_little_time():
    def nothing():
        raise AssertionError

    names = [f"{number}.conv1_1.{role}" for number in range(25_000) for role in ("weight", "bias")]
    tensors = {name: Tensor(name, (1,) * (4 if name.endswith("t") else 1), nothing) for name in names}
    began = time.process_time()
    assert list(layers_by_name(None, tensors).pairs) == ["conv1_1"]
    assert time.process_time() - began < 5


def test_missing_chunks_are_not_taken_for_zeros(path):
    keras(path)
    with h5py.File(path, "r+") as file:
        del file["block1_conv1/kernel"]
        made = file.create_dataset("block1_conv1/kernel", (3, 3, 3, 64), np.float32, chunks=(1, 3, 3, 64))
        made[0] = 1.0
    refused(path, "has 1 of its 3 chunks")


@pytest.mark.parametrize("array", [np.full((3, 3, 3, 64), np.nan, np.float32), np.full((3, 3, 3, 64), 1e300)])
def test_numbers_that_are_not_finite_are_refused(array, path):
    keras(path, kernel=array)
    refused(path, "not finite")


@pytest.mark.parametrize("turned", [(64, 3, 3, 3), (3, 3, 64, 3), (3, 3, 3, 63)])
def test_shapes_must_be_vgg_19s(turned, path):
    keras(path, kernel=np.zeros(turned, np.float32))
    refused(path, "VGG-19's conv1_1 has|belong to no known network")


def test_matlabs_newest_format_is_refused_with_advice(path):
    path.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n")
    refused(path, "save it again in MATLAB with -v7")


def test_an_impossible_mean_is_refused(path, net):
    make.ours(path, net)
    with h5py.File(path, "r+") as file:
        file.attrs["mean"] = (1e300, 0.0, 0.0)
    refused(path, "a mean colour of")
    state = make.adain(net)
    state["0.bias"] *= 1e30
    make.legacy_state(path, state)
    refused(path, "a mean colour of")


def test_text_in_a_file_cannot_command_a_terminal(path, net):
    make.ours(path, net)
    with h5py.File(path, "r+") as file:
        file.attrs["source"] = "\x1b[2Jnothing"
    assert load_weights(path, ONE).source == r"\x1b[2Jnothing"


def test_an_attribute_without_a_type_is_refused(path, net):
    make.ours(path, net)
    data = bytearray(path.read_bytes())
    at = data.index(b"format\0")
    size = int.from_bytes(data[at - 4 : at - 2], "little")
    data[at - 6 : at - 2] = struct.pack("<HH", 8 + -(-size // 8) * 8, 0)  # the name takes the place of the type
    path.write_bytes(data)
    refused(path, "ends too soon")


# MATLAB and Caffe


def mat_element(kind, content):
    return struct.pack("<II", kind, len(content)) + content + b"\0" * (-len(content) % 8)


def mat_array(kind, shape, name, body):
    head = mat_element(6, struct.pack("<II", kind, 0)) + mat_element(5, struct.pack(f"<{len(shape)}i", *shape))
    return mat_element(14, head + mat_element(1, name) + body)


MAT_HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"


def test_a_compressed_variable_that_swells_is_left_packed(path):
    packer = zlib.compressobj(9)
    inner = struct.pack("<II", 14, (1 << 32) - 8) + mat_array(1, (1, 2), b"layers", b"")[8:]
    inner += struct.pack("<II", 14, 2_000_000_000)
    packed = packer.compress(inner) + b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()
    path.write_bytes(MAT_HEADER + struct.pack("<II", 15, len(packed)) + packed)
    refused(path, "cannot be read|ends too soon|unpacks to more")


def test_cells_within_cells_without_end_are_refused(path):
    cell = mat_array(1, (1, 1), b"", b"")
    for _ in range(50):
        cell = mat_array(1, (1, 1), b"", cell)
    path.write_bytes(MAT_HEADER + mat_array(1, (1, 1), b"layers", cell))
    refused(path, "nested too deep")


def test_very_many_variables_are_refused(path, few_steps):
    path.write_bytes(MAT_HEADER + bytes(8) * 6000)
    refused(path, "more than 5000 steps")


def test_very_many_names_of_fields_are_refused(path, few_steps):
    names = mat_element(5, struct.pack("<i", 1)) + mat_element(1, b"a" * 4096)
    packed = zlib.compress(mat_array(1, (1, 2), b"layers", mat_array(2, (1, 1), b"", names) * 2))
    path.write_bytes(MAT_HEADER + struct.pack("<II", 15, len(packed)) + packed)
    refused(path, "more than 5000 steps")


def test_many_variables_that_swell_take_little_time(path, monkeypatch):
    monkeypatch.setattr(files, "MOST_UNPACKED", 16 << 20)
    inner = mat_array(2, (1, 1), b"x", mat_element(5, struct.pack("<i", 32)) + mat_element(1, bytes(4 << 20)))
    packed = zlib.compress(inner + bytes(8))
    path.write_bytes(MAT_HEADER + (struct.pack("<II", 15, len(packed)) + packed) * 50)
    refused(path, "cannot be read|unpacks to more")


def test_a_packed_network_is_unpacked_only_a_few_times(path, monkeypatch):
    unpacked = []
    monkeypatch.setattr(files.WeightsFile, "unpack", lambda _, count: unpacked.append(count))
    make.matconvnet(path, oxford_net(LAYERS[:4]))
    load_weights(path, LAYERS[:4])
    numbers = sum(array.nbytes for pair in oxford_net(LAYERS[:4]).values() for array in pair)
    assert sum(unpacked) < 4 * numbers


def test_negative_sizes_in_a_mat_file_are_refused(path):
    path.write_bytes(MAT_HEADER + mat_array(1, (1, -1), b"layers", b""))
    refused(path, "negative size")


def test_a_mat_file_without_a_network_is_refused(path):
    path.write_bytes(MAT_HEADER + mat_array(6, (1, 1), b"x", mat_element(9, bytes(8))))
    refused(path, "no VGG-19 convolutions")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "reaches beyond its message"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "does not end"),
        (b"\x0a", "does not end"),
        (b"\x0a\x00" + b"\x0b" * 40, "unknown type 3"),
        (b"\x0a\x00" * 40_000, "no VGG-19 convolutions"),
        (b"\x0a\x00" * 110_000, "more than 100000 steps"),
    ],
)
def test_protocol_buffers_are_walked_within_their_bounds(content, reason, path):
    path.write_bytes(content)
    with pytest.raises(NSTError, match=reason):
        load_weights(path, ONE)


def test_a_blob_in_very_many_pieces_is_refused(path):
    loose = b"\x2d\0\0\0\0\x35\0\0\0\0" * 100_000  # data and diff, one number each
    blob_field, name = make._field(6, 2, loose), make._field(4, 2, b"conv1_1")
    path.write_bytes(make._field(1, 2, b"net") + make._field(2, 2, name + blob_field + blob_field))
    refused(path, "too many pieces")


def test_keys_longer_than_needed_do_not_shift_the_numbers(path, net):
    kernel, bias = net["conv1_1"]
    loose = b"".join(b"\xad\0" + number.tobytes() for number in bias)  # each number behind a key of two bytes
    shape = make._field(7, 2, make._field(1, 2, bytes([64])))
    blobs = make._field(7, 2, make.blob(make.oihw(kernel), False)) + make._field(7, 2, loose + shape)
    path.write_bytes(make._field(1, 2, b"net") + make._field(100, 2, make._field(1, 2, b"conv1_1") + blobs))
    np.testing.assert_array_equal(load_weights(path, ONE).filters["conv1_1"][1], bias)


def test_a_blob_of_a_million_dimensions_is_refused(path):
    shape = make._field(7, 2, make._field(1, 2, b"\1" * 1_000_000))
    blob_field, name = make._field(7, 2, shape), make._field(1, 2, b"conv1_1")
    path.write_bytes(make._field(1, 2, b"net") + make._field(100, 2, name + blob_field + blob_field))
    refused(path, "more than 8 dimensions")


def test_a_blob_whose_shape_does_not_fit_its_numbers_is_refused(path, net):
    make.caffe_old(path, net)
    data = path.read_bytes()
    at = data.index(b"\x2a\x80\x36")  # 6912 bytes of kernel
    path.write_bytes(data[: at + 3] + data[at + 3 + 4 :])
    refused(path, "reaches beyond its message|numbers, but its shape|unknown type")


# Everything else


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"hello, world", "not a weights file of any known format"),
        (b"<!DOCTYPE html><title>404</title>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"\x1f\x8b\x08\0", "a packed file"),
        (b"\x93NUMPY\1\0", "a single NumPy array"),
        (b"\x08\x03\x12\x05mxnet", "an ONNX network"),
        (b"a".ljust(257, b"\0") + b"ustar\0", "a tar archive"),
        (b"\x89PNG\r\n\x1a\n", "not a weights file"),
    ],
)
def test_other_files_are_recognised_and_refused_with_advice(content, reason, path):
    path.write_bytes(content)
    refused(path, reason)


def test_only_regular_files_are_opened(tmp_path):
    with pytest.raises(NSTError, match="it is a folder"):
        load_weights(tmp_path, ONE)
    with pytest.raises(NSTError, match="cannot be opened"):
        load_weights(tmp_path / ("a" * 300), ONE)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        for special in (tmp_path / "pipe", Path("/dev/zero")):
            with pytest.raises(NSTError, match="it is not a regular file"):
                load_weights(special, ONE)
            with pytest.raises(NSTError, match="is not a regular file"):
                file_sha256(special)
            with pytest.raises(NSTError, match="is not a regular file"):
                find_weights(str(special))


@pytest.fixture
def locked(tmp_path, monkeypatch):
    """A folder in which nothing can be looked up, even by root."""
    folder, stat = tmp_path / "locked", os.stat

    def refusing(path, **options):
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(f"{folder}{os.sep}"):
            raise PermissionError(13, "Permission denied", path)
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", refusing)
    return folder


@pytest.mark.parametrize("name", ["locked", "long"])
def test_paths_that_cannot_be_looked_up_get_one_sentence(name, locked, tmp_path, net, monkeypatch):
    folder = locked if name == "locked" else tmp_path / ("a" * 300)
    reason = "Permission denied|too long|not exist|not in|must end in|incorrect"  # Windows looks files up by other ways
    make.npz(tmp_path / "in", net)
    monkeypatch.setenv("NST_MANUAL_CACHE", str(folder))
    for action in (
        lambda: load_weights(folder / "in.h5", ONE),
        lambda: find_weights(str(folder / "in.h5")),
        lambda: find_weights("vgg19"),
        lambda: commands.inspect(folder / "in.h5"),
        lambda: commands.convert(tmp_path / "in", folder / "out.h5"),
        lambda: commands.convert(tmp_path / "in", folder / "out"),
        lambda: commands.get("vgg19", offline=True),
        lambda: file_sha256(folder / "in.h5"),
    ):
        with pytest.raises(NSTError, match=reason):
            action()
    assert find_weights("auto") is None
    assert all(entry["installed"] is None for entry in commands.listed())


@pytest.mark.parametrize("name", make.FORMATS)
def test_a_file_cut_short_anywhere_is_refused_or_still_whole_where_it_counts(name, net, tmp_path):
    make.FORMATS[name](tmp_path / "whole", net)
    data = (tmp_path / "whole").read_bytes()
    outcomes = []
    for part in range(1, 40):
        (tmp_path / "part").write_bytes(data[: len(data) * part // 40])
        try:
            load_weights(tmp_path / "part", ONE)
            outcomes.append("loaded")
        except NSTError:
            outcomes.append("refused")
    assert outcomes[0] == "refused"
    assert outcomes.count("refused") > 20
