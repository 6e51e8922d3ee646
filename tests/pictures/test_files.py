"""Files appear whole or not at all."""

import os
import shutil
import subprocess
import sys
from unittest.mock import Mock

import h5py
import numpy as np
import pytest

from nst_manual.errors import NSTError
from nst_manual.pictures.files import check_folder, check_new, held, make_folder, replaced, written

SENTENCE = "a.bin can't be written: "


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    with written(tmp_path / "a.bin") as file:
        file.write(b"whole")
        assert not (tmp_path / "a.bin").exists()
    assert (tmp_path / "a.bin").read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_text_is_the_same_bytes_everywhere(tmp_path):
    with written(tmp_path / "a.txt", "w") as file:
        file.write("größer\n")
    assert (tmp_path / "a.txt").read_bytes() == "größer\n".encode()


HDF5_FULL = OSError("Can't write (file = '.a.tmp', error message = 'No space left on device', buf = 0x55)")


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), HDF5_FULL, ValueError("ours"), KeyboardInterrupt()]
)
def test_what_was_there_stays_when_writing_fails(tmp_path, error):
    (tmp_path / "a.bin").write_bytes(b"before")
    with pytest.raises((NSTError, type(error))) as raised, written(tmp_path / "a.bin") as file:  # noqa: PT012
        file.write(b"half")
        raise error
    assert (tmp_path / "a.bin").read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["a.bin"]
    if isinstance(error, OSError):
        assert isinstance(raised.value, NSTError)
        assert str(raised.value).endswith(SENTENCE + "No space left on device")
    else:
        assert raised.value is error  # not about the file


def test_a_folder_that_vanishes_gets_one_sentence(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(NSTError, match=SENTENCE), replaced(folder / "a.bin"):
        shutil.rmtree(folder)
    with pytest.raises(NSTError, match=SENTENCE), written(folder / "a.bin"):
        pass
    assert os.listdir(tmp_path) == []


def test_libraries_that_open_files_by_name_can_write(tmp_path):
    with replaced(tmp_path / "a.h5") as name, h5py.File(name, "w") as file:
        file["x"] = np.arange(3)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["x"][:].tolist() == [0, 1, 2]
    assert os.listdir(tmp_path) == ["a.h5"]


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    with written(tmp_path / "a.bin") as first, written(tmp_path / "a.bin") as second:
        first.write(b"first")
        second.write(b"second")
    assert (tmp_path / "a.bin").read_bytes() == b"first"  # it ended last
    assert os.listdir(tmp_path) == ["a.bin"]


def test_any_name_that_a_folder_takes_can_be_written(tmp_path):
    for name in ("é" * 100 + ".bin", "a" * 251 + ".bin"):
        with written(tmp_path / name) as file:
            file.write(b"x")
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
def test_a_new_file_has_the_permissions_that_new_files_have(tmp_path):
    (tmp_path / "plain").touch()
    with written(tmp_path / "a.bin"):
        pass
    assert (tmp_path / "a.bin").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_place_that_takes_no_file_is_refused_before_the_work(tmp_path):
    with pytest.raises(NSTError, match="is a folder"):
        check_folder(tmp_path)
    with pytest.raises(NSTError, match="does not exist"):
        check_folder(tmp_path / "no" / "a.bin")
    check_folder(tmp_path / "a.bin")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_takes_no_file_is_named(tmp_path, monkeypatch):
    with pytest.raises(NSTError, match=r"the folder .*a{300} can't be created"):
        make_folder(tmp_path / ("a" * 300), "--maps")
    monkeypatch.setattr("tempfile.TemporaryFile", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(NSTError, match=r"there can't be written to \(Permission denied\): give another with --maps"):
        make_folder(tmp_path / "there", "--maps")


def test_a_file_is_overwritten_only_if_asked(tmp_path):
    path = tmp_path / "a.bin"
    check_new(path, overwrite=False)
    path.touch()
    check_new(path, overwrite=True)
    with pytest.raises(NSTError, match=r"a.bin exists already: name another file, or add --overwrite"):
        check_new(path, overwrite=False)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_and_devices_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NSTError, match="pipe is not a regular file"):
        check_folder(tmp_path / "pipe")


def test_a_link_that_leads_nowhere_is_not_replaced_unasked(tmp_path):
    (tmp_path / "a.bin").symlink_to(tmp_path / "nowhere")
    with pytest.raises(NSTError, match="exists already"):
        check_new(tmp_path / "a.bin", overwrite=False)


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_never_replaces_one_that_came_meanwhile(tmp_path, monkeypatch, links):
    if not links:  # as on a FAT disk
        monkeypatch.setattr(os, "link", Mock(side_effect=PermissionError(1, "Operation not permitted")))
    with written(tmp_path / "a.bin", new=True) as file:
        file.write(b"ours")
    assert (tmp_path / "a.bin").read_bytes() == b"ours"
    theirs = written(tmp_path / "b.bin", new=True)
    theirs.__enter__().write(b"ours")
    (tmp_path / "b.bin").write_bytes(b"theirs")
    with pytest.raises(NSTError, match="can't be written"):
        theirs.__exit__(None, None, None)
    assert (tmp_path / "b.bin").read_bytes() == b"theirs"
    assert sorted(os.listdir(tmp_path)) == ["a.bin", "b.bin"]


def test_a_file_is_held_by_one_at_a_time(tmp_path):
    for name in ("a.bin", "é" * 127, "a" * 255):
        with held(tmp_path / name):
            with pytest.raises(NSTError, match="another run is writing"), held(tmp_path / name):
                pass
            with held(tmp_path / "other.bin"):
                pass
        with held(tmp_path / name):
            pass
    assert os.listdir(tmp_path) == []


def test_a_run_that_was_killed_holds_nothing(tmp_path):
    hold = "import sys, pathlib, nst_manual.pictures.files as files\n"
    hold += "with files.held(pathlib.Path(sys.argv[1])):\n    print(flush=True)\n    input()"
    command = [sys.executable, "-c", hold, str(tmp_path / "a.bin")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with pytest.raises(NSTError, match="another run is writing"), held(tmp_path / "a.bin"):
            pass
        process.kill()
    assert len(os.listdir(tmp_path)) == 1
    with held(tmp_path / "a.bin"):
        pass
    assert os.listdir(tmp_path) == []


def test_where_nothing_can_be_held_the_work_goes_on(tmp_path):
    with held(tmp_path / "no" / "a.bin"):
        pass
