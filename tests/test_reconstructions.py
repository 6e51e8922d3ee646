"""What content layers alone, and style layers alone, know of a picture: `reconstruct` and `texture`."""

import json
import os
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nst_manual import NSTError, reconstruct, texture
from nst_manual.cli.main import main
from nst_manual.engines import open_engine
from nst_manual.pictures.demo import painting, scene
from nst_manual.pictures.reading import load_image
from nst_manual.runs.inputs import load_inputs, pink_noise, starting_image, white_noise
from nst_manual.runs.recipe import load_recipe
from nst_manual.settings import settings_of
from nst_manual.study.figures.numbers import distances

QUICK = {"engine": "reference", "iterations": 4, "size": 32}
LAYERS = "conv1_1,conv2_1"
WORDS = ["--engine", "reference", "--iterations", "4", "--size", "32"]


@pytest.fixture(scope="module")
def content():
    return scene(48, 36)


@pytest.fixture(scope="module")
def style():
    return painting(48, 36)


def error_of(result, picture):
    """Mean square of the difference, in levels of 0 … 255."""
    return float(np.mean((result.pixels - load_image(picture, result.settings.size)) ** 2))


def test_a_reconstruction_knows_less_the_deeper_its_layer(content):
    errors = [
        error_of(reconstruct(content, content_layers=layer, engine="cpu", size=32, iterations=60, history=20), content)
        for layer in ("conv1_1", "conv2_1", "conv3_1", "conv4_1")
    ]
    assert errors == sorted(errors)
    assert errors[0] < 1
    assert errors[3] > 100 * errors[0]


def test_a_reconstruction_has_content_terms_alone(content):
    result = reconstruct(content, content_layers="conv1_2:2,conv2_1", **QUICK)
    assert set(result.trace[-1].terms) == {"content:conv1_2", "content:conv2_1"}
    assert result.loss < result.trace[0].loss
    assert (result.settings.init, result.image.size) == ("noise", (32, 24))


def test_a_texture_comes_a_hundred_times_nearer_to_its_style(style):
    result = texture(style, style_loss="gram", style_layers=LAYERS, engine="cpu", size=32, iterations=100)
    first, last = result.trace[0].terms, result.trace[-1].terms
    assert set(last) == {"style:conv1_1", "style:conv2_1"}
    assert all(last[name] < first[name] / 100 for name in last)
    assert error_of(result, style) > 500  # and yet it is another picture


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, (32, 24)),
        ({"width": 50, "height": 20}, (50, 20)),
        ({"width": 64}, (64, 48)),
        ({"height": 48}, (64, 48)),
        ({"style_scale": 0.5, "height": 40, "width": 20}, (20, 40)),
        ({"scales": "20,30", "width": 40}, (40, 30)),
    ],
)
def test_a_texture_has_any_size_and_shape(style, options, size):
    result = texture(style, style_layers=LAYERS, **{**QUICK, "iterations": 2}, **options)
    assert result.image.size == size
    assert result.loss < result.trace[0].loss


def test_textures_are_blended(content, style):
    one, other, both = (
        texture(pictures, style_layers="conv1_1", style_blend=blend, weights="calibrated", **QUICK)
        for pictures, blend in (([content, style], "1,0"), ([content, style], "0,1"), ([content, style], "1,3"))
    )
    assert len({round(result.trace[0].loss, 3) for result in (one, other, both)}) == 3
    assert one.settings.style_shares(2) == [1, 0]


def test_a_preset_sets_all_but_what_the_command_does(content, style):
    settings = settings_of("reconstruct", {"preset": "eecs498"})
    assert (settings.content_layers, settings.style_layers, settings.init) == ("conv3_1", "", "noise")
    assert (settings.optimizer, settings.pooling, settings.size) == ("adam", "max", 192)
    settings = settings_of("texture", {"preset": "eecs498", "init": "pink"})
    assert (settings.content_layers, settings.init) == ("", "pink")
    assert set(settings.style_layer_weights()) == {"conv2_1", "conv3_2", "conv4_1", "conv4_2"}


def test_options_that_mean_nothing_are_refused(content, style):
    with pytest.raises(TypeError, match="no option 'style_weight'"):
        reconstruct(content, style_weight=3)
    with pytest.raises(TypeError, match="no option 'content_layers'"):
        texture(style, content_layers="conv1_1")
    with pytest.raises(NSTError, match="there is no style picture to start from"):
        reconstruct(content, init="style", **QUICK)
    with pytest.raises(NSTError, match="there is no picture: give one"):
        reconstruct(None)
    with pytest.raises(NSTError, match="there is no content picture to start from"):
        texture(style, init="content", **QUICK)
    with pytest.raises(NSTError, match="more than a picture should have"):
        texture(style, width=10**6, height=10**6, **QUICK)
    with pytest.raises(NSTError, match="the result is 40×8 pixels"):
        texture(style, width=40, height=8, **QUICK)


def test_a_texture_begins_with_any_noise_or_a_file(tmp_path, style):
    style.resize((32, 24)).save(tmp_path / "start.png")
    starts = ("noise", "pink", str(tmp_path / "start.png"))
    losses = [texture(style, style_layers=LAYERS, init=init, **QUICK).trace[0].loss for init in starts]
    assert len(set(losses)) == 3
    there_already = texture(style, style_layers=LAYERS, init="style", margin=0, **QUICK)
    assert there_already.stopped == "converged"
    assert there_already.loss == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("noise", [white_noise, pink_noise])
def test_noise_is_seeded_and_within_the_pixels_range(noise):
    one, again, other = (noise(13, 20, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1
    assert one.shape == (13, 20, 3)
    assert 0 <= one.min() < 20
    assert 235 < one.max() <= 255
    correlations = np.corrcoef(noise(64, 64, 3).reshape(-1, 3).T)
    assert np.abs(correlations - np.eye(3)).max() < 0.5  # each channel by itself
    assert np.isfinite(noise(1, 1, 0)).all()


@pytest.mark.parametrize(("noise", "slope"), [(white_noise, 0), (pink_noise, -1)])
def test_pink_noise_has_amplitudes_of_one_over_frequency_and_white_noise_equal_ones(noise, slope):
    frequency = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128)[None])
    amplitude = np.mean([np.abs(np.fft.fft2(noise(128, 128, seed)[:, :, 1])) for seed in range(8)], axis=0)
    bands = [(low, 2 * low) for low in 0.5 ** np.arange(2, 7)]
    means = [amplitude[(frequency >= low) & (frequency < high)].mean() for low, high in bands]
    assert np.polyfit(np.log([low for low, _ in bands]), np.log(means), 1)[0] == pytest.approx(slope, abs=0.1)


@pytest.fixture(scope="module")
def files(tmp_path_factory, content, style):
    folder = tmp_path_factory.mktemp("pictures")
    content.save(folder / "content.png")
    style.save(folder / "style.png")
    return str(folder / "content.png"), str(folder / "style.png")


COMMANDS = {
    "reconstruct": (slice(0, 1), ["--layer", "conv1_2,conv2_1"]),
    "texture": (slice(0, 2), ["--layers", LAYERS, "--style-blend", "2,1", "--width", "40", "--init", "pink"]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_writes_a_picture_that_can_be_repeated(tmp_path, files, capsys, name):
    which, words = COMMANDS[name]
    out = tmp_path / "out.png"
    assert main([name, *files[which], "-o", str(out), *words, *WORDS, "--quiet"]) == 0
    assert main(["repeat", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"python -m nst_manual {name} ")
    if sys.platform != "win32":
        assert not {"--init=noise", "--style-weight", ""} & set(shlex.split(printed))
    inputs = str(Path(files[0]).parent)
    assert main(["repeat", str(out), "--run", "--quiet", "--inputs", inputs]) == 0
    with Image.open(out) as first, Image.open(tmp_path / "out.repeated.png") as second:
        np.testing.assert_array_equal(np.asarray(first), np.asarray(second))
    assert load_recipe(out).kind() == name


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_a_runs_options(tmp_path, files, capsys, name):
    which, words = COMMANDS[name]
    out, kept, trace = (str(tmp_path / file) for file in ("out.png", "kept.npz", "trace.csv"))
    whole = [name, *files[which], "-o", out, *words, *WORDS, "--optimizer", "lbfgs"]
    assert main([*whole, "--quiet"]) == 0
    with Image.open(out) as picture:
        straight = np.asarray(picture)
    assert main([*whole, "--quiet"]) == 2
    assert "exists already" in capsys.readouterr().err
    half = [*whole, "--iterations", "2", "--checkpoint", kept, "--overwrite", "--trace", trace]
    assert main([*half, "--json"]) == 0
    assert [json.loads(line).get("iteration") for line in capsys.readouterr().out.splitlines()] == [1, 2, None]
    assert main([*whole, "--resume", kept, "--quiet"]) == 0
    with Image.open(out) as picture:
        np.testing.assert_array_equal(np.asarray(picture), straight)
    assert {"out.png", "kept.npz"} <= set(os.listdir(tmp_path))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_tells_of_no_option_that_means_nothing(capsys, name):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    told = capsys.readouterr().out
    assert ("--content-layers" in told, "--style-layers" in told) == (name == "reconstruct", name == "texture")
    assert ("--width" in told) == (name == "texture")
    assert "--checkpoint" in told


def test_the_canvas_is_no_picture_of_the_texture(style):
    inputs = load_inputs(settings_of("texture", {"style_layers": LAYERS, "width": 60, **QUICK}), None, [style])
    assert inputs.canvas
    assert inputs.content.shape == (45, 60, 3)
    assert len(inputs.styles) == 1


# VGG-19's own weights, real pictures


def test_vgg19_reconstructs_a_picture_from_conv1_1_and_knows_less_with_depth(real_data, vgg19):
    picture, psnr = real_data / "images" / "content_astronaut.png", []
    for layer, iterations in (("conv1_1", 200), ("conv2_1", 60), ("conv3_1", 60), ("conv4_1", 60), ("conv5_1", 60)):
        options = {"weights": str(vgg19), "size": 64, "iterations": iterations, "engine": "cpu"}
        error = error_of(reconstruct(picture, content_layers=layer, **options), picture)
        psnr.append(20 * np.log10(255) - 10 * np.log10(error))
    assert psnr[0] > 30
    assert psnr == sorted(psnr, reverse=True)


def test_a_texture_by_vgg19_comes_a_hundred_times_nearer(real_data, vgg19):
    picture = real_data / "images" / "style_starry_night.jpg"
    layers = "conv1_1,conv2_1,conv3_1,conv4_1"  # beside them conv5_1 is too quiet to matter
    options = {"weights": str(vgg19), "size": 48, "iterations": 150, "engine": "cpu", "style_layers": layers}
    options["margin"] = 0  # what is measured is all that was made
    settings = settings_of("texture", options)
    inputs = load_inputs(settings, None, [picture])
    distance = distances(inputs, settings, [settings], open_engine("cpu"))
    start = distance(starting_image(settings, inputs.content, inputs.styles))
    reached = distance(texture(picture, **options).pixels)
    assert len(start) == 4
    assert all(reached[name] < start[name] / 100 for name in start)
