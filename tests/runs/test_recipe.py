"""What a picture says of how it was made, and `repeat`."""

import json
import logging
import shlex
import sys

import numpy as np
import pytest
from picture_files import drawn
from PIL import Image, PngImagePlugin

from nst_manual import NSTError, Settings, transfer
from nst_manual.cli.main import build_parser, main
from nst_manual.cli.options import given
from nst_manual.pictures.demo import painting, scene
from nst_manual.pictures.metadata import xmp
from nst_manual.runs.recipe import load_recipe, shown
from nst_manual.settings import split_options

QUICK = {"style_layers": "conv1_1", "content_layers": "conv1_2", "iterations": 2, "size": 24, "engine": "reference"}
WORDS = ["--style-layers", "conv1_1", "--content-layers", "conv1_2", "--iterations", "2", "--engine", "reference"]


@pytest.fixture(autouse=True)
def fresh_log(monkeypatch):
    """The command line's handler writes to the standard error that it found: an earlier test's."""
    monkeypatch.setattr(logging.getLogger("nst_manual"), "handlers", [])


@pytest.fixture
def pictures(tmp_path):
    drawn(scene, 32, 24).save(tmp_path / "my content.png")
    drawn(painting, 32, 32).save(tmp_path / "style.png")
    return str(tmp_path / "my content.png"), str(tmp_path / "style.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("bits", [8, 16])
def test_repeat_prints_the_command_that_made_a_picture(tmp_path, pictures, capsys, suffix, bits):
    if bits == 16 and suffix in (".jpg", ".webp"):
        pytest.skip("no such files")
    out = str(tmp_path / f"out{suffix}")
    transfer(*pictures, **QUICK, bits=bits, seed=7, bounds=False).save(out)
    assert main(["repeat", out]) == 0
    printed = capsys.readouterr().out
    words = shlex.split(printed) if sys.platform != "win32" else None
    assert printed.startswith("python -m nst_manual transfer ")
    if words:
        assert words[4:8] == [*pictures, "-o", out]
        assert {"--no-bounds", "--seed", "--style-layers"} <= set(words)
    used = Settings(**QUICK, bits=bits, seed=7, bounds=False, optimizer="l-bfgs-b")
    assert load_recipe(tmp_path / f"out{suffix}").settings == used


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_repeat_run_makes_the_same_picture_beside_it(tmp_path, pictures, capsys, suffix):
    out = tmp_path / f"out{suffix}"
    words = [
        "transfer",
        *pictures,
        "-o",
        str(out),
        *WORDS,
        "--size",
        "original",
        "--style-scale",
        "0.75",
        "--bits",
        "16",
    ]
    assert main(words) == 0
    before = out.read_bytes()
    assert main(["repeat", str(out), "--run"]) == 0
    again = tmp_path / f"out.repeated{suffix}"
    assert out.read_bytes() == before
    with Image.open(out) as first, Image.open(again) as second:
        np.testing.assert_array_equal(np.asarray(first), np.asarray(second))
    assert shown(["transfer"]) in capsys.readouterr().out
    assert main(["repeat", str(out), "--run"]) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert main(["repeat", str(out), "--run", "--overwrite"]) == 0
    assert main(["repeat", str(out), "--run", "-o", str(tmp_path / "other.jpg"), "--quiet", "--bogus"]) == 2
    assert main(["repeat", str(out), "--run", "-o", str(tmp_path / f"other{suffix}"), "--quiet"]) == 0
    assert (tmp_path / f"other{suffix}").exists()


def test_a_scale_for_each_style_is_repeated(tmp_path, pictures, capsys):
    out = tmp_path / "out.png"
    content, style = pictures
    assert main(["transfer", content, style, style, "-o", str(out), *WORDS, "--stroke", "1,0.5"]) == 0
    assert load_recipe(out).settings.style_scale == "1,0.5"
    assert main(["repeat", str(out)]) == 0
    assert " --style-scale 1,0.5" in capsys.readouterr().out


def test_the_recipe_names_versions_checksums_seed_and_the_whole_command(tmp_path, pictures, capsys):
    out = tmp_path / "out.png"
    transfer(*pictures, **QUICK, seed=7).save(out)
    assert main(["repeat", str(out), "--json"]) == 0
    recipe = json.loads(capsys.readouterr().out)
    with Image.open(out) as opened:
        assert json.loads(opened.info["nst_manual"]) == recipe
    assert recipe["settings"]["seed"] == 7
    assert {"nst_manual", "numpy", "pillow", "python", "scipy"} <= set(recipe["versions"])
    assert (
        len(recipe["weights"]["sha256"]) == len(recipe["content"]["sha256"]) == len(recipe["styles"][0]["sha256"]) == 64
    )
    assert recipe["command"].startswith("python -m nst_manual transfer ")
    assert " out.png" in recipe["command"]
    assert recipe["result"]["stopped"] == "iterations"


def test_the_command_names_the_preset_and_what_differs_from_it(tmp_path, pictures, capsys):
    out = str(tmp_path / "out.png")
    result = transfer(*pictures, **QUICK, preset="eecs498", style_size=None, optimizer="l-bfgs-b")
    result.save(out)
    words = load_recipe(tmp_path / "out.png").command(out)
    assert words[words.index("--preset") + 1] == "eecs498"
    assert words[words.index("--style-size") + 1] == "same"
    assert not {"--pooling", "--tv-weight", "--history", "--bounds"} & set(words)
    assert build_parser().parse_args(words).style_size is None
    settings, _ = split_options(given(build_parser().parse_args(words), "transfer"))
    assert settings == result.settings == load_recipe(tmp_path / "out.png").settings


def test_a_recipe_of_a_version_with_fewer_presets_is_understood(tmp_path):
    record = {"settings": {"preset": "gatys", "content_weight": None, "iterations": 3, "pooling": "avg"}}
    settings = load_recipe(made_up(tmp_path, record)).settings
    assert (settings.content_weight, settings.iterations, settings.pooling) == (1, 3, "avg")


def test_a_recipe_with_a_retired_option_is_understood_where_that_changed_nothing(tmp_path):
    found = load_recipe(made_up(tmp_path, {"settings": {"averaging": 0.0, "seed": 3}})).settings
    assert found == Settings(seed=3, style_loss="gram")  # the only loss that there was
    with pytest.raises(NSTError, match="doesn't know the setting averaging"):
        load_recipe(made_up(tmp_path, {"settings": {"averaging": 0.9}}))


def test_a_recipe_from_before_there_was_a_margin_has_none(tmp_path):
    found = load_recipe(made_up(tmp_path, {"settings": {"style_loss": "transport"}})).settings
    assert found == Settings(style_loss="transport", margin=0)


def test_repeat_says_what_has_changed(tmp_path, pictures, capsys, monkeypatch):
    transfer(*pictures, **QUICK).save(tmp_path / "out.png")
    drawn(painting, 32, 40).save(pictures[1])
    monkeypatch.setattr("nst_manual.runs.recipe.platform.python_version", lambda: "2.7")
    assert main(["repeat", str(tmp_path / "out.png")]) == 0
    told = capsys.readouterr().err
    assert "style.png is not the file that was used then" in told
    assert "now 2.7" in told
    assert "my content.png is not" not in told


def test_an_interrupted_run_is_told(tmp_path, pictures, capsys):
    def stop(record):
        raise StopIteration

    transfer(*pictures, **QUICK, callback=stop).save(tmp_path / "out.png")
    main(["repeat", str(tmp_path / "out.png")])
    assert "ended early" in capsys.readouterr().err


def test_pictures_from_python_have_no_command_but_their_result_is_saved(tmp_path):
    transfer(drawn(scene, 32, 24), drawn(painting, 32, 32), **QUICK).save(tmp_path / "out.png")
    with pytest.raises(NSTError, match="made in Python from pictures that were not files"):
        load_recipe(tmp_path / "out.png").command("x.png")


def test_odd_names_stay_names(tmp_path):
    recipe = load_recipe(made_up(tmp_path, {"content": {"name": "-o", "sha256": None}}))
    assert recipe.command("x y.png")[1] == "./-o"
    recipe = load_recipe(made_up(tmp_path, {"settings": {"init": "--weights"}}))
    assert "--init=--weights" in recipe.command("x.png")


def made_up(folder, changes, text=None):
    """A PNG file with a recipe of our liking."""
    source = {"name": "a.png", "sha256": None}
    record = {"content": source, "styles": [source], "settings": {}, "weights": {}, "versions": {}, "result": {}}
    info = PngImagePlugin.PngInfo()
    info.add_itxt("nst_manual", json.dumps(record | changes) if text is None else text)
    Image.new("RGB", (2, 2)).save(folder / "made_up.png", pnginfo=info)
    return folder / "made_up.png"


HOSTILE = {
    "no JSON": (None, "{"),
    "too deep": (None, "[" * 90_000),
    "too long": (None, json.dumps("x" * 200_000)),
    "a huge number": (None, '{"content": ' + "9" * 5000 + "}"),
    "no object": (None, "[1, 2]"),
    "nothing in it": (None, "{}"),
    "an unknown setting": ({"settings": {"command": "rm -rf /"}}, None),
    "a setting of another type": ({"settings": {"size": "512; rm -rf /"}}, None),
    "a flag that is a number": ({"settings": {"bounds": 1}}, None),
    "a number that is a flag": ({"settings": {"iterations": True}}, None),
    "an endless number": ({"settings": {"style_scale": 10**400}}, None),
    "a setting that is no number": ({"settings": {"tolerance": float("nan")}}, None),
    "a setting out of bounds": ({"settings": {"iterations": -1}}, None),
    "a layer that there isn't": ({"settings": {"style_layers": "conv9_9"}}, None),
    "a setting that clears the screen": ({"settings": {"init": "\x1b[2J"}}, None),
    "a name that clears the screen": ({"content": {"name": "\x1b[2J.png", "sha256": None}}, None),
    "a name of two lines": ({"content": {"name": "a\nb", "sha256": None}}, None),
    "a name on another machine": ({"content": {"name": "\\\\evil\\a.png", "sha256": None}}, None),
    "a name that is no text": ({"content": {"name": 5, "sha256": None}}, None),
    "a picture that is none": ({"content": "a.png"}, None),
    "no styles": ({"styles": []}, None),
    "no content": ({"content": None}, None),
    "edges of no content": (
        {"content": None, "settings": {"content_layers": "", "laplacian_weight": 1.0, "init": "noise"}},
        None,
    ),
    "no pictures": ({"content": None, "styles": []}, None),
    "styles without end": ({"styles": [{"name": "a", "sha256": None}] * 1001}, None),
    "versions that are a list": ({"versions": []}, None),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("run", [[], ["--run"]])
def test_hostile_metadata_gets_one_sentence(tmp_path, capsys, name, run):
    path = made_up(tmp_path, *HOSTILE[name])
    assert main(["repeat", str(path), *run]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert captured.err.strip().isprintable()
    assert "can't be used" in captured.err


def test_versions_that_steer_the_terminal_are_spelt_out(tmp_path, capsys):
    assert main(["repeat", str(made_up(tmp_path, {"versions": {"numpy": "\x1b[2J"}}))]) == 0
    captured = capsys.readouterr()
    assert "\x1b" not in captured.err + captured.out


def test_hostile_xmp_ends_soon(tmp_path):
    for recipe in ("&" * 50_000, '"' * 1000, "<!ENTITY" * 1000):
        Image.new("RGB", (2, 2)).save(tmp_path / "a.jpg", xmp=xmp(recipe).replace(b"&quot;", b'"')[:60_000])
        with pytest.raises(NSTError, match=r"a\.jpg"):
            load_recipe(tmp_path / "a.jpg")


def test_a_picture_of_somebody_else_says_nothing(tmp_path, capsys):
    drawn(scene, 16, 16).save(tmp_path / "a.png")
    assert main(["repeat", str(tmp_path / "a.png")]) == 2
    assert "doesn't say how it was made" in capsys.readouterr().err
    assert main(["repeat", str(tmp_path / "missing.png")]) == 2
    assert "does not exist" in capsys.readouterr().err
    (tmp_path / "junk.png").write_bytes(b"junk")
    assert main(["repeat", str(tmp_path / "junk.png")]) == 2


def test_weights_that_changed_are_told(tmp_path, pictures, capsys):
    from nst_manual.proof.checks import random_filters
    from nst_manual.vgg import steps_to
    from nst_manual.weights import Weights
    from nst_manual.weights.formats.hdf5 import write_hdf5

    path = tmp_path / "w.h5"
    for seed in (1, 2):
        filters = random_filters(steps_to("conv1_2"), seed)
        write_hdf5(path, Weights(filters, (120.0, 115.0, 100.0), "oxford", "made here", "none"))
        if seed == 1:
            transfer(*pictures, **QUICK, weights=str(path)).save(tmp_path / "out.png")
            main(["repeat", str(tmp_path / "out.png")])
            assert "were used then" not in capsys.readouterr().err
    main(["repeat", str(tmp_path / "out.png")])
    assert "the weights that were used then are not installed here" in capsys.readouterr().err
