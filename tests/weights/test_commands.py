"""The commands `weights list`, `convert`, `inspect` and `normalise`."""

import argparse
import hashlib
import json
import os
import sys

import h5py
import numpy as np
import pytest
import weight_files as make
from PIL import Image
from weight_files import FORMATS, oxford_net, random_net

from nst_manual.cli.weights import add_parser
from nst_manual.engines import open_engine
from nst_manual.errors import NSTError
from nst_manual.objective import Objective, Style, content_terms, style_terms
from nst_manual.options import OptionError
from nst_manual.pictures.files import held
from nst_manual.presets import PRESETS, Formula
from nst_manual.vgg import LAYERS, POOLINGS, Network, steps_to, walk_up
from nst_manual.weights import INSTALLED_NAME, Weights, commands, load_weights
from nst_manual.weights.normalise import mean_activations, normalised

FEW = LAYERS[:4]


def run(*words):
    """The exit code of one command line."""
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["weights", *map(str, words)])
    return arguments.run(arguments)


def test_list_shows_the_published_files_and_what_is_installed(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("NST_MANUAL_CACHE", str(tmp_path))
    assert run("list", "--json") == 0
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert entries[0]["name"] == "vgg19"
    assert all(entry["installed"] is None for entry in entries)
    assert all(entry["checksum"] for entry in entries if entry["get"])
    (tmp_path / INSTALLED_NAME).touch()
    assert run("list") == 0
    shown = capsys.readouterr().out
    assert f"installed: {tmp_path / INSTALLED_NAME}" in shown
    assert "CC BY 4.0" in shown


@pytest.mark.parametrize("name", FORMATS)
def test_convert_and_inspect_work_on_every_format(name, tmp_path, capsys):
    FORMATS[name](tmp_path / "in", oxford_net(LAYERS[:2]))
    assert run("convert", tmp_path / "in", tmp_path / "out.h5") == 0
    assert "conv1_1 … conv1_2" in capsys.readouterr().out
    one, other = load_weights(tmp_path / "in", LAYERS[:2]), load_weights(tmp_path / "out.h5", LAYERS[:2])
    for layer in LAYERS[:2]:
        np.testing.assert_array_equal(one.filters[layer][0], other.filters[layer][0])
    assert one.mean == other.mean
    assert run("inspect", tmp_path / "in", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["family"] == "oxford"
    assert report["used"] == "conv1_1 … conv1_2"
    assert report["missing"] == list(LAYERS[2:])
    assert not report["complete"]
    assert report["sha256"] == hashlib.sha256((tmp_path / "in").read_bytes()).hexdigest()
    assert [entry["layer"] for entry in report["layers"]] == list(LAYERS[:2])
    assert run("inspect", tmp_path / "in") == 0
    assert "family oxford" in capsys.readouterr().out


def test_inspect_reports_an_unknown_network_as_a_problem(tmp_path, capsys):
    make.npz(tmp_path / "in", random_net(FEW))
    assert run("inspect", tmp_path / "in") == 1
    assert "problem: " in (shown := capsys.readouterr().out)
    assert "--family torchvision" in shown
    assert run("inspect", tmp_path / "in", "--family", "torchvision", "--json") == 0
    assert json.loads(capsys.readouterr().out)["scale"].startswith("0 … 1")


def test_inspect_reports_damaged_layers(tmp_path):
    net = oxford_net(LAYERS[:2])
    net["conv1_2"][0][0, 0, 0, 0] = np.nan
    make.npz(tmp_path / "in", net)
    report = commands.inspect(tmp_path / "in")
    assert "not finite" in report["problem"]
    assert report["used"] == "conv1_1 … conv1_1"


def test_inspect_survives_numbers_whose_sum_is_not_finite(tmp_path):
    net = oxford_net(LAYERS[:2])
    net["conv1_2"][0][...] = 3e38
    make.npz(tmp_path / "in", net)
    assert commands.inspect(tmp_path / "in")["layers"][1]["kernel"][2] == pytest.approx(3e38, rel=1e-6)


def test_control_characters_in_names_are_not_printed(tmp_path, capsys):
    net = oxford_net(["conv1_1"])
    make.safetensors_state(tmp_path / "in", make.state_dict(net, ["\x1b[2J\x9b.conv1_1"]))
    assert run("inspect", tmp_path / "in") == 0
    assert run("inspect", tmp_path / "in", "--json") == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\x9b" not in shown


def test_a_converted_file_is_whole_or_not_there(tmp_path):
    make.npz(tmp_path / "in", oxford_net(LAYERS[:1]))
    with pytest.raises(NSTError, match="does not exist"):
        commands.convert(tmp_path / "in", tmp_path / "none" / "out.h5")
    with pytest.raises(NSTError, match="is a folder"):
        commands.convert(tmp_path / "in", tmp_path)
    (tmp_path / "out.h5").write_bytes(b"old")
    assert run("convert", tmp_path / "in", tmp_path / "out.h5", "--overwrite") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.h5"]
    assert commands.inspect(tmp_path / "out.h5")["container"] == "nst_manual HDF5"


@pytest.mark.parametrize("command", [["convert"], ["normalise", "--images", "photo.png"]])
def test_a_weights_file_is_never_written_over_itself(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make.keras1(tmp_path / "in.h5", oxford_net(LAYERS[:1]))
    Image.new("RGB", (20, 20), "teal").save("photo.png")
    before = (tmp_path / "in.h5").read_bytes()
    name, *options = command
    with pytest.raises(NSTError, match="is one of the inputs"):
        run(name, "in.h5", "in.h5", *options, "--overwrite")
    assert (tmp_path / "in.h5").read_bytes() == before
    with held(tmp_path / "out.h5"), pytest.raises(NSTError, match="another run is writing"):
        run(name, "in.h5", "out.h5", *options)


def test_normalise_never_writes_over_a_picture_that_it_reads(tmp_path):
    make.keras1(tmp_path / "in.h5", oxford_net(LAYERS[:1]))
    picture = tmp_path / "picture.h5"
    Image.new("RGB", (20, 20), "teal").save(picture, "PNG")
    before = picture.read_bytes()
    with pytest.raises(NSTError, match="is one of the inputs"):
        run("normalise", tmp_path / "in.h5", picture, "--images", picture, "--overwrite")
    assert picture.read_bytes() == before


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_file_whose_name_is_not_unicode_is_converted(tmp_path):
    source = tmp_path / os.fsdecode(b"\xff\x1b[31m")
    make.npz(source, oxford_net(LAYERS[:1]))
    assert run("convert", source, tmp_path / "out.h5") == 0
    assert commands.inspect(source)["used"]
    assert load_weights(tmp_path / "out.h5", LAYERS[:1]).source == r"NumPy .npz, \udcff\x1b[31m"


def test_only_files_of_a_published_size_are_hashed(tmp_path, capsys, monkeypatch):
    make.npz(tmp_path / "in", oxford_net(LAYERS[:1]))
    monkeypatch.setattr(commands, "_LARGEST_HASHED", 1000)
    assert run("inspect", tmp_path / "in") == 0
    assert "not hashed" in capsys.readouterr().out
    assert commands.inspect(tmp_path / "in")["md5"] is None


@pytest.mark.parametrize("command", [["convert"], ["normalise", "--images", "photo.png"]])
def test_nothing_is_overwritten_unasked_and_an_output_ends_in_h5(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make.npz(tmp_path / "in.npz", oxford_net(LAYERS[:1]))
    for picture in ("photo.png", "other.png"):
        Image.new("RGB", (20, 20), "teal").save(picture)
    (tmp_path / "there.h5").write_bytes(b"precious")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    name, *options = command
    for out, options_too, reason in (
        ("there.h5", [], "exists already: .* --overwrite"),
        ("other.png", [], "must end in .h5"),
        ("other.png", ["--overwrite"], "must end in .h5"),
        ("in.npz", ["--overwrite"], "must end in .h5"),
    ):
        with pytest.raises(NSTError, match=reason):
            run(name, "in.npz", out, *options, *options_too)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert run(name, "in.npz", "there.h5", *options, "--overwrite") == 0
    assert commands.inspect(tmp_path / "there.h5")["container"] == "nst_manual HDF5"


# Normalising


def test_the_size_of_the_pictures_is_at_least_1(tmp_path):
    words = ["in.h5", tmp_path / "out.h5", "--images", "photo.png", "--size", "0"]
    with pytest.raises(OptionError, match="at least 1"):
        run("normalise", *words)


def test_a_file_made_meanwhile_is_not_replaced_unasked(tmp_path, rng):
    make.npz(tmp_path / "in", oxford_net(LAYERS[:1]))

    def pictures():
        (tmp_path / "out.h5").write_bytes(b"precious")
        yield rng.uniform(0, 255, (8, 8, 3))

    with pytest.raises(NSTError, match=r"out\.h5 can't be written: .*exist"):
        commands.normalise(tmp_path / "in", tmp_path / "out.h5", pictures(), open_engine("reference"))
    assert (tmp_path / "out.h5").read_bytes() == b"precious"


@pytest.fixture
def weights():
    net = oxford_net(FEW)
    return Weights(net, (120.0, 115.0, 100.0), "oxford", "made up")


def features(weights, image, pooling="avg"):
    network = Network.build(open_engine("reference"), weights.filters, weights.mean, steps_to(FEW[-1]), pooling)
    return {operation.name: found for operation, found, _ in walk_up(network, image) if operation.name in FEW}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_normalised_features_are_the_originals_times_a_constant_of_each_filter(weights, pooling, rng):
    pictures = [rng.uniform(0, 255, (12, 16, 3)), rng.uniform(0, 255, (9, 10, 3))]
    engine = open_engine("reference", "float64")
    means = mean_activations(weights, pictures, engine, pooling)
    result = normalised(weights, pictures, engine, pooling)
    another = rng.uniform(0, 255, (10, 14, 3))
    before, after = features(weights, another, pooling), features(result, another, pooling)
    for layer in FEW:
        factor = 1 / np.where(means[layer] > 0, means[layer], 1)
        np.testing.assert_allclose(after[layer], before[layer] * factor, rtol=1e-3, atol=1e-4)
    for layer, mean in mean_activations(result, pictures, engine, pooling).items():
        np.testing.assert_allclose(mean[means[layer] > 0], 1, rtol=1e-4)


def test_a_filter_that_never_opens_stays_as_it_is(weights, rng):
    weights.filters["conv1_1"][1][5] = -1e6
    result = normalised(weights, [rng.uniform(0, 255, (8, 8, 3))], open_engine("reference"))
    np.testing.assert_array_equal(result.filters["conv1_1"][0][..., 5], weights.filters["conv1_1"][0][..., 5])
    assert all(np.isfinite(array).all() for pair in result.filters.values() for array in pair)


def test_normalised_weights_make_the_terms_independent_of_the_networks_scale(weights, rng):
    """With every mean activation 1, α and β weigh terms of similar size, and rescaling a network changes nothing."""
    picture, style, image = rng.uniform(0, 255, (3, 16, 16, 3))
    engine = open_engine("reference", "float64")
    scaled = Weights(make.rescaled(weights.filters), weights.mean, "oxford", "rescaled")

    def terms(network_weights):
        network = Network.build(engine, network_weights.filters, network_weights.mean, steps_to("conv2_2"))
        formula = Formula(PRESETS["paper"])
        chosen = content_terms(network, picture, {"conv2_2": 1.0}, formula)
        chosen += style_terms(network, [Style(style)], {"conv1_1": 0.5, "conv2_1": 0.5}, formula, (16, 16))
        return Objective(network, chosen)(image).terms

    one, other = (terms(normalised(w, [picture, style, image], engine)) for w in (weights, scaled))
    raw, raw_scaled = terms(weights), terms(scaled)
    for name, value in one.items():
        assert other[name] == pytest.approx(value, rel=1e-3)
        assert raw_scaled[name] != pytest.approx(raw[name], rel=0.1)
    # With mean activations of 1, E_l is of the order of 1 in every layer; otherwise it grows with their fourth power.
    assert all(1e-4 < value < 1e2 for name, value in one.items() if name.startswith("style"))


def test_the_normalise_command_writes_a_file_that_loads(tmp_path, rng, capsys):
    make.npz(tmp_path / "in", oxford_net(LAYERS[:3]))
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8)).save(tmp_path / name)
    words = ["normalise", tmp_path / "in", tmp_path / "out.h5", "--images", tmp_path / "a.png", tmp_path / "b.png"]
    assert run(*words, "--engine", "reference", "--size", "20") == 0
    assert "mean activations normalised to 1" in capsys.readouterr().out
    report = commands.inspect(tmp_path / "out.h5")
    assert (report["family"], report["rescaled"]) == ("oxford", True)
    with h5py.File(tmp_path / "out.h5") as file:
        assert file.attrs["pooling"] == "avg"
