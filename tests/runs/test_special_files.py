"""Pipes, endless files, giants, folders without permission and impossible names, in every role: one sentence each."""

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from picture_files import grains

from nst_manual.cli.main import main

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files and permissions")

QUICK = ["--size", "16", "--iterations", "0", "--content-layers", "conv1_1", "--style-layers", "conv1_1", "--engine"]
QUICK += ["reference", "--quiet"]
PICTURE, NEW = "{folder}/a.png", "{folder}/new"
READ = {  # {it} is the file that can't be read
    "content": ["transfer", "{it}", PICTURE, "-o", f"{NEW}.png"],
    "style": ["transfer", PICTURE, "{it}", "-o", f"{NEW}.png"],
    "content mask": ["transfer", PICTURE, PICTURE, "-o", f"{NEW}.png", "--content-mask", "{it}"],
    "style mask": ["transfer", PICTURE, PICTURE, "-o", f"{NEW}.png", "--style-mask", "{it}"],
    "start": ["transfer", PICTURE, PICTURE, "-o", f"{NEW}.png", "--init", "{it}"],
    "weights": ["transfer", PICTURE, PICTURE, "-o", f"{NEW}.png", "--weights", "{it}"],
    "checkpoint to resume": ["transfer", PICTURE, PICTURE, "-o", f"{NEW}.png", "--resume", "{it}"],
    "image": ["gradient", "{it}", PICTURE, PICTURE],
    "trace": ["explain", "{it}.csv"],
    "kept style": ["style-targets", "load", "{it}"],
    "result": ["repeat", "{it}"],
    "weights to inspect": ["weights", "inspect", "{it}"],
}
WRITTEN = {  # {it} is the place that can't be written to
    "output": ["transfer", PICTURE, PICTURE, "-o", "{it}.png"],
    "checkpoint": ["transfer", PICTURE, PICTURE, "-o", f"{NEW}.png", "--checkpoint", "{it}"],
    "new trace": ["transfer", PICTURE, PICTURE, "-o", f"{NEW}.png", "--trace", "{it}.csv"],
    "out-dir": ["transfer", PICTURE, PICTURE, "--out-dir", "{it}"],
    "gradient": ["gradient", PICTURE, PICTURE, PICTURE, "-o", "{it}.h5"],
    "maps": ["gradient", PICTURE, PICTURE, PICTURE, "--maps", "{it}"],
    "demo": ["demo", "-o", "{it}"],
}


@pytest.fixture
def folder():
    """A folder that everybody may look into, as not all of pytest's are."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    grains(24, 24).save(folder / "a.png")
    (folder / "a.png").chmod(0o644)
    yield folder
    with contextlib.suppress(OSError):
        (folder / "closed").chmod(0o700)
    shutil.rmtree(folder)


@contextlib.contextmanager
def ordinary_user():
    """Permissions are no obstacle to root: becomes nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def refused(words, folder, it, capsys):
    words = [word.format(it=it, folder=folder) for word in words]
    words += QUICK if words[0] == "transfer" else []
    before = sorted(os.listdir(folder))
    assert main(words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("weights:", "engine:"))]
    assert len(lines) == 1, lines
    assert lines[0].startswith("nst_manual: ")
    assert "Error" not in lines[0]
    assert sorted(os.listdir(folder)) == before
    return lines[0]


@pytest.mark.parametrize("role", READ)
@pytest.mark.parametrize("kind", ["a pipe", "an endless file", "a giant"])
def test_special_files_are_not_read(folder, capsys, role, kind):
    words = READ[role]
    it = folder / ("it.csv" if "{it}.csv" in words else "it")
    if kind == "a pipe":
        os.mkfifo(it)
    elif kind == "an endless file":
        if not os.path.exists("/proc/self/pagemap"):
            pytest.skip("there is no /proc")
        it.symlink_to("/proc/self/pagemap")
    else:
        with open(it, "wb") as file:
            file.write(b"PK\3\4")
            file.truncate(200 << 30)  # sparse: it takes no room
    refused(words, folder, folder / "it", capsys)


@pytest.mark.parametrize("role", {**READ, **WRITTEN})
def test_a_folder_without_permission_is_told(folder, capsys, role):
    closed = folder / "closed"
    closed.mkdir()
    for name in ("it", "it.csv", "it.png", "it.h5"):
        shutil.copy(folder / "a.png", closed / name)
    closed.chmod(0)
    with ordinary_user():
        said = refused({**READ, **WRITTEN}[role], folder, closed / "it", capsys)
    assert "closed" in said


@pytest.mark.parametrize("role", {**READ, **WRITTEN})
@pytest.mark.parametrize("name", ["n" * 300, "n" * 5000, "a\0b"])
def test_an_impossible_name_is_told(folder, capsys, role, name):
    if (role, name) == ("out-dir", "a\0b"):
        pytest.skip("no command line can have it")
    refused({**READ, **WRITTEN}[role], folder, folder / name, capsys)


@pytest.mark.parametrize("role", WRITTEN)
def test_a_pipe_is_never_replaced_by_a_file(folder, capsys, role):
    words = [*WRITTEN[role], *(["--overwrite"] if WRITTEN[role][0] != "demo" else [])]
    for ending in ("", ".png", ".csv", ".h5"):
        os.mkfifo(folder / f"it{ending}")
    refused(words, folder, folder / "it", capsys)
    assert all((folder / f"it{ending}").is_fifo() for ending in ("", ".png", ".csv", ".h5"))
