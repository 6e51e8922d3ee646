"""A recipe names files but no folders: `repeat` finds the inputs, and asks before it does a lot of work."""

import dataclasses
import json
import os
import shutil
import sys

import numpy as np
import pytest
from picture_files import drawn, grains
from PIL import Image

from nst_manual import NSTError, Settings, compute_targets, transfer
from nst_manual.cli.main import main
from nst_manual.pictures.demo import painting, scene
from nst_manual.pictures.profiles import SRGB_PROFILE
from nst_manual.pictures.reading import load_image
from nst_manual.proof.checks import random_filters
from nst_manual.runs.recipe import Recipe, Source, load_recipe
from nst_manual.runs.repeating import Work
from nst_manual.vgg import steps_to
from nst_manual.weights import Weights
from nst_manual.weights.formats.hdf5 import write_hdf5

QUICK = {"style_layers": "conv1_1", "content_layers": "conv1_2", "iterations": 1, "size": 24, "engine": "reference"}


@pytest.fixture
def private(tmp_path):
    """A folder of inputs, all of whose files have names that occur elsewhere, too."""
    folder = tmp_path / "private"
    (folder / "styles").mkdir(parents=True)
    drawn(scene, 32, 24).save(folder / "a.png")
    drawn(painting, 32, 32).save(folder / "styles" / "a.png")
    grains(32, 24).save(folder / "mask.png")
    grains(32, 24).save(folder / "start.png")
    filters = random_filters(steps_to("conv1_2"), 1)
    write_hdf5(folder / "w.h5", Weights(filters, (120.0, 115.0, 100.0), "oxford", "made here", "none"))
    return folder


def made(private, out, **options):
    mask = str(private / "mask.png")
    files = {"content_mask": [mask], "init": str(private / "start.png"), "weights": str(private / "w.h5")}
    return transfer(str(private / "a.png"), str(private / "styles" / "a.png"), output=out, **QUICK, **files, **options)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_a_result_names_no_folder(tmp_path, private, suffix):
    result = made(private, tmp_path / f"out{suffix}", save_every=1)
    for path in (result.path, tmp_path / f"out_000001{suffix}"):
        assert b"private" not in path.read_bytes()
        recipe = load_recipe(path)
        names = [source.name for source in (*recipe.sources(), recipe.start)]
        assert names == ["a.png", "a.png", "mask.png", "start.png"]
        assert (recipe.settings.init, recipe.settings.weights) == ("start.png", "w.h5")


def test_a_kept_style_names_no_folder(tmp_path, private):
    targets = compute_targets(str(private / "a.png"), size=24, style_layers="conv1_1", weights=str(private / "w.h5"))
    targets.save(tmp_path / "kept.npz")
    assert b"private" not in (tmp_path / "kept.npz").read_bytes()


def test_repeat_finds_inputs_of_the_same_name_by_their_checksums(tmp_path, private, capsys):
    first = made(private, tmp_path / "out.png")
    folders = ["--inputs", str(private / "styles"), str(private)]
    assert main(["repeat", str(tmp_path / "out.png"), "--run", "--quiet", *folders]) == 0
    np.testing.assert_array_equal(load_image(tmp_path / "out.repeated.png"), load_image(first.path))
    assert "not the file" not in capsys.readouterr().err
    assert load_recipe(tmp_path / "out.repeated.png").styles == load_recipe(first.path).styles


def test_repeat_looks_beside_the_picture_and_in_the_current_folder(tmp_path, private, monkeypatch, capsys):
    made(private, tmp_path / "out.png")
    monkeypatch.chdir(private)
    shutil.copy(private / "styles" / "a.png", tmp_path)
    assert main(["repeat", str(tmp_path / "out.png"), "--json"]) == 0
    captured = capsys.readouterr()
    assert "not found" not in captured.err
    assert "not the file" not in captured.err


def test_inputs_that_are_not_found_are_named(tmp_path, private, monkeypatch, capsys):
    made(private, tmp_path / "out.png")
    monkeypatch.chdir(tmp_path)
    assert main(["repeat", "out.png"]) == 0
    captured = capsys.readouterr()
    assert "a.png, start.png, mask.png: not found beside out.png or in the current folder" in captured.err
    assert "transfer a.png a.png" in captured.out
    assert main(["repeat", "out.png", "--run"]) == 2
    assert "name the folder with --inputs" in capsys.readouterr().err
    assert main(["repeat", "out.png", "--run", "--inputs", "private"]) == 0  # the style's name, but another file
    assert "a.png is not the file that was used then" in capsys.readouterr().err


@pytest.mark.parametrize(("suffix", "bits"), [(".png", 8), (".png", 16), (".jpg", 8), (".webp", 8), (".tif", 16)])
def test_a_stripped_result_has_its_profile_and_nothing_else(tmp_path, private, capsys, suffix, bits):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    drawn(scene, 32, 24).save(private / "a.png", exif=exif)
    for stripped in (False, True):
        made(private, tmp_path / f"{stripped}{suffix}", strip_metadata=stripped, bits=bits, save_every=1)
    for name in (f"True{suffix}", f"True_000001{suffix}"):
        data = (tmp_path / name).read_bytes()
        assert not any(word in data for word in (b"nst_manual", b"Maker", b"xmpmeta", b"a.png", b"conv1_1"))
        with Image.open(tmp_path / name) as opened:
            assert opened.info["icc_profile"] == SRGB_PROFILE
    np.testing.assert_array_equal(*(load_image(tmp_path / f"{stripped}{suffix}") for stripped in (False, True)))
    assert main(["repeat", str(tmp_path / f"True{suffix}")]) == 2
    assert "doesn't say how it was made: it is another program's, or was made with --strip-metadata" in (
        capsys.readouterr().err
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_what_a_recipe_names_is_hashed_only_if_it_is_a_file_of_a_pictures_size(tmp_path, private, capsys):
    made(private, tmp_path / "out.png")
    words = ["repeat", str(tmp_path / "out.png"), "--run", "--inputs", str(private)]
    os.mkfifo(tmp_path / "mask.png")
    (private / "mask.png").unlink()
    assert main(words) == 2
    assert "mask.png: not found" in capsys.readouterr().err
    with open(private / "mask.png", "wb") as file:
        file.truncate(200 << 30)  # sparse: it takes no room
    assert main(words) == 2
    assert "mask.png is larger than 2 GiB" in capsys.readouterr().err


def asking(tmp_path, styles=1, picture=(32, 24), **settings):
    grains(*picture).save(tmp_path / "a.png")
    source = Source(str(tmp_path / "a.png"), None)
    return Recipe(source, (source,) * styles, Settings(**settings), {}, {})


def test_how_much_work_a_recipe_asks_for_is_known_before(tmp_path, monkeypatch):
    monkeypatch.setattr("nst_manual.runs.repeating.resident", lambda: (100_000_000, 100_000_000))
    usual = Work.of(asking(tmp_path, picture=(512, 384), style_loss="gram"))
    assert (usual.width, usual.height, usual.pictures, usual.iterations) == (512, 384, 2, 300)
    assert 60 < usual.seconds < 300
    assert 3e8 < usual.bytes < 1e9
    usual.check()


@pytest.mark.parametrize(
    "settings",
    [
        {"size": 9400, "enlarge": True},
        {"iterations": 10_000_000},
        {"styles": 999, "size": 1000, "enlarge": True},
        {"history": 100_000, "size": 512, "enlarge": True, "optimizer": "lbfgs"},
        {"style_scale": 300.0, "enlarge": True},
    ],
)
def test_more_work_than_anybody_wants_unasked_is_refused(tmp_path, settings):
    with pytest.raises(NSTError, match=r"more than 1 h or 4\.0 GB: add --yes"):
        Work.of(asking(tmp_path, **settings)).check()


def test_repeat_says_the_work_first_and_wants_yes_for_much_of_it(tmp_path, private, capsys):
    made(private, tmp_path / "out.png")
    words = ["repeat", str(tmp_path / "out.png"), "--run", "--inputs", str(private / "styles"), str(private)]
    assert main(words) == 0
    assert "24×18 pixels from 3 files, 1 iteration: about" in capsys.readouterr().err
    with Image.open(tmp_path / "out.png") as opened:
        record = json.loads(opened.info["nst_manual"])
    record["settings"]["history"] = 10**9
    record["settings"]["optimizer"] = "lbfgs"
    from runs.test_recipe import made_up

    path = made_up(tmp_path, record)
    words[1] = str(path)
    assert main(words) == 2
    assert "add --yes" in capsys.readouterr().err


def test_the_recipe_in_python_keeps_the_paths(private, tmp_path):
    result = made(private, None)
    assert result.recipe.content.name == str(private / "a.png")
    assert dataclasses.replace(result.recipe).to_json("x/out.png").count("private") == 0
