"""Checkpoints from anybody: whatever their archive claims, they are read or refused at once and in little memory."""

import dataclasses
import io
import json
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from picture_files import grains
from tracing import memory_of

from nst_manual import NSTError
from nst_manual.cli.main import main
from nst_manual.runs.checkpoint import Checkpoint, load_checkpoint
from nst_manual.runs.style_files import StyleTargets
from nst_manual.settings import Settings

ABOUT = {"settings": {}, "pictures": [], "outputs": [], "scale": 0, "search": {}, "trace": []}


def npy(data):
    file = io.BytesIO()
    np.save(file, data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8))
    return file.getvalue()


def archive(path, entries, **kinds):
    with zipfile.ZipFile(path, "w", **kinds) as file:
        for name, data in {"about.npy": npy(json.dumps(ABOUT).encode()), **entries}.items():
            file.writestr(name, data)


def directory_changed(path, change):
    """The archive with another directory, which `change` makes from its entries' bytes."""
    data = path.read_bytes()
    end = data.rfind(b"PK\5\6")
    size, start = struct.unpack("<II", data[end + 12 : end + 20])
    count, directory = change(data[start : start + size])
    tail = struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), start, 0)
    path.write_bytes(data[:start] + directory + b"PK\5\6" + tail)


def overlapping(path):
    archive(path, {"rows.npy": npy(np.zeros(100_000))})

    def change(entries):
        last = entries[entries.rfind(b"PK\1\2") :]
        return 902, entries + b"".join(last.replace(b"rows", b"r%d" % k) for k in range(100, 1000))

    directory_changed(path, change)


def lying(path):
    archive(path, {"rows.npy": npy(np.zeros(9))})

    def change(entries):
        last = bytearray(entries[entries.rfind(b"PK\1\2") :])
        last[20:28], last[30:32] = b"\xff" * 8, struct.pack("<H", 20)
        return 2, entries[: -len(last)] + bytes(last) + struct.pack("<HHQQ", 1, 16, 2**39, 2**39)

    directory_changed(path, change)


def header(text):
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text


HOSTILE = {
    "entries that overlap": overlapping,
    "very many entries": lambda path: archive(path, {f"{k}.npy": b"" for k in range(30_000)}),
    "sizes that lie": lying,
    "compressed": lambda path: archive(path, {"rows.npy": npy(np.zeros(10**6))}, compression=zipfile.ZIP_DEFLATED),
    "a header that claims 745 GB": lambda path: archive(
        path, {"rows.npy": header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (93000000000,), }\n")}
    ),
    "a header that is nested": lambda path: archive(path, {"rows.npy": header(900 * b"(" + b"\n")}),
    "a header that is long": lambda path: archive(path, {"rows.npy": header(60_000 * b" " + b"\n")}),
    "objects": lambda path: archive(
        path, {"rows.npy": header(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n") + bytes(8)}
    ),
    "JSON of a million lists": lambda path: archive(path, {"about.npy": npy(b"[" + 10**6 * b"[]," + b"1]")}),
    "JSON too deep": lambda path: archive(path, {"about.npy": npy(9000 * b"[")}),
    "JSON of a huge number": lambda path: archive(path, {"about.npy": npy(9000 * b"9")}),
    "nothing about itself": lambda path: archive(path, {"about.npy": npy(b"")}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_at_once_and_in_little_memory(tmp_path, name):
    path = tmp_path / "run.ckpt"
    HOSTILE[name](path)
    began = time.process_time()

    def refused():
        for load in (load_checkpoint, StyleTargets.load):
            with pytest.raises(NSTError, match=r"run\.ckpt: "):
                load(path)

    assert memory_of(refused) < 3 * path.stat().st_size + 20_000_000
    assert time.process_time() - began < 3


def test_a_checkpoint_that_is_none_says_so(tmp_path, capsys):
    grains(24, 24).save(tmp_path / "a.png")
    picture = str(tmp_path / "a.png")
    words = ["transfer", picture, picture, "-o", str(tmp_path / "out.png"), "--resume"]
    for name, told in (("a.png", "can't be read as a checkpoint"), ("no", "does not exist: give a checkpoint")):
        assert main([*words, str(tmp_path / name)]) == 2
        assert told in capsys.readouterr().err


def test_a_checkpoint_from_before_there_was_a_margin_is_of_a_run_without_one():
    settings = dataclasses.asdict(Settings(margin=0))
    del settings["margin"]
    old = Checkpoint(settings, [], {}, 0, {}, [])
    old.check(Settings(margin=0), [], Path("run.ckpt"))
    with pytest.raises(NSTError, match="of a run with --margin 0, not 4"):
        old.check(Settings(margin=4), [], Path("run.ckpt"))
