"""The story as a whole, on a network calibrated on the pictures themselves or a weights file made here."""

import io
import logging
import threading

import numpy as np
import pytest
from PIL import Image

from nst_manual import Interrupted, NSTError, Settings, texture, transfer
from nst_manual.engines.reference import ReferenceEngine
from nst_manual.losses import laplacian, laplacian_loss
from nst_manual.objective import Objective, Style
from nst_manual.pictures.demo import painting, scene
from nst_manual.pictures.reading import load_picture
from nst_manual.proof.checks import random_filters
from nst_manual.runs.inputs import load_inputs, starting_image
from nst_manual.vgg import steps_to
from nst_manual.weights import Weights
from nst_manual.weights.formats.hdf5 import write_hdf5

STYLE_LAYERS = "conv1_1,conv2_1"
QUICK = {"size": 40, "iterations": 6, "style_layers": STYLE_LAYERS, "content_layers": "conv2_2", "engine": "reference"}


@pytest.fixture(scope="module")
def content():
    return scene(64, 48)


@pytest.fixture(scope="module")
def style():
    return painting(80, 64)


@pytest.fixture
def weights(tmp_path):
    filters = random_filters(steps_to("conv2_2"), 1)
    path = tmp_path / "weights.h5"
    write_hdf5(path, Weights(filters, (120.0, 115.0, 100.0), "oxford", "made here", "none"))
    return str(path)


def test_a_transfer_lowers_the_loss_and_keeps_the_contents_size(content, style, weights):
    result = transfer(content, style, weights=weights, **QUICK)
    assert result.image.size == (40, 30)
    assert result.pixels.shape == (30, 40, 3)
    assert 0 <= result.pixels.min() <= result.pixels.max() <= 255
    assert len(result.trace) == 6
    assert result.trace[-1].loss < result.trace[0].loss / 2
    assert result.stopped == "iterations"
    assert result.settings.size == 40


def test_a_laplacian_weight_keeps_the_contents_edges(content, style, weights):
    options = {**QUICK, "weights": weights, "scales": "24,40"}
    target = laplacian(transfer(content, style, **{**options, "iterations": 0}).pixels)  # of the content itself
    free, held = (transfer(content, style, laplacian_weight=weight, **options) for weight in (0.0, 1.0))
    assert laplacian_loss(held.pixels, target)[0] < laplacian_loss(free.pixels, target)[0] / 4
    assert list(held.trace[-1].terms)[-1] == "laplacian"


def test_the_same_seed_gives_the_same_picture(content, style):
    one, two = (transfer(content, style, seed=7, **QUICK) for _ in range(2))
    np.testing.assert_array_equal(one.pixels, two.pixels)
    other = transfer(content, style, seed=8, **QUICK)
    assert not np.array_equal(one.pixels, other.pixels)


def test_paths_pictures_and_arrays_give_the_same(tmp_path, content, style, weights):
    content.save(tmp_path / "c.png")
    style.save(tmp_path / "s.png")
    from_files = transfer(str(tmp_path / "c.png"), tmp_path / "s.png", weights=weights, **QUICK)
    from_arrays = transfer(np.asarray(content), np.asarray(style), weights=weights, **QUICK)
    np.testing.assert_array_equal(from_files.pixels, from_arrays.pixels)


def test_a_result_saves_itself(tmp_path, content, style, weights):
    result = transfer(content, style, weights=weights, **QUICK)
    result.save(tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as saved:
        np.testing.assert_array_equal(np.asarray(saved), np.asarray(result.image))


@pytest.mark.parametrize("output", ["output", "checkpoint", "trace"])
@pytest.mark.parametrize("source", ["content", "style", "mask", "init"])
def test_no_input_is_ever_written_over(tmp_path, content, style, output, source):
    """Not even with `overwrite`, and not under another name of the same file."""
    name = "own.csv" if output == "trace" else "own.png"  # what a picture's file is called does not matter
    own, other = tmp_path / name, tmp_path / "nowhere" / ".." / name
    content.save(own, "PNG")
    (tmp_path / "nowhere").mkdir()
    before = own.read_bytes()
    inputs = {
        "content": {"content": own, "style": style},
        "style": {"content": content, "style": [style, own]},
        "mask": {"content": content, "style": style, "content_mask": [own]},
        "init": {"content": content, "style": style, "init": str(own)},
    }[source]
    written = {"output": other} if output == "output" else {"output": tmp_path / "out.png", output: other}
    with pytest.raises(NSTError, match="is one of the inputs"):
        transfer(**inputs, **written, overwrite=True, **QUICK)
    assert own.read_bytes() == before


def test_the_callback_gets_each_record_and_can_end_the_run(content, style, weights):
    seen = []

    def watch(record):
        seen.append(record)
        if record.iteration == 3:
            raise StopIteration

    result = transfer(content, style, weights=weights, callback=watch, **QUICK)
    assert result.trace == seen
    assert result.stopped == "callback"


def test_cancelling_returns_the_picture_so_far(content, style, weights):
    cancel = threading.Event()
    result = transfer(content, style, weights=weights, callback=lambda record: cancel.set(), cancel=cancel, **QUICK)
    assert (result.stopped, result.image.size, len(result.trace)) == ("interrupted", (40, 30), 1)
    result = transfer(content, style, weights=weights, cancel=cancel, **QUICK)
    assert (result.stopped, len(result.trace)) == ("interrupted", 0)


def test_ctrl_c_saves_the_picture_so_far_and_is_raised_with_it(tmp_path, content, style, weights):
    def interrupt(record):
        raise KeyboardInterrupt

    with pytest.raises(Interrupted) as interruption:
        transfer(content, style, weights=weights, callback=interrupt, output=tmp_path / "out.png", **QUICK)
    assert interruption.value.result.image.size == (40, 30)
    assert (tmp_path / "out.png").exists()
    assert isinstance(interruption.value, KeyboardInterrupt)


def test_ctrl_c_before_the_first_evaluation_leaves_no_picture(tmp_path, content, style, weights, monkeypatch):
    def interrupt(self, image):
        raise KeyboardInterrupt

    monkeypatch.setattr(Objective, "on_device", interrupt)
    with pytest.raises(KeyboardInterrupt) as interruption:
        transfer(content, style, weights=weights, output=tmp_path / "out.png", **QUICK)
    assert not isinstance(interruption.value, Interrupted)
    assert not (tmp_path / "out.png").exists()


def test_no_style_is_refused(content):
    for make in (lambda: transfer(content, []), lambda: texture([])):
        with pytest.raises(NSTError, match="there is no style picture: give at least one"):
            make()


def test_a_result_has_a_short_repr_and_shows_itself_in_a_notebook(tmp_path, content, style, weights):
    result = transfer(content, style, weights=weights, output=tmp_path / "out.png", **QUICK)
    assert repr(result).startswith("<Result 40×30, loss=")
    assert repr(result).endswith(f"iterations=6, stopped='iterations', path={str(tmp_path / 'out.png')!r}>")
    with Image.open(io.BytesIO(result._repr_png_())) as shown:
        np.testing.assert_array_equal(np.asarray(shown), np.asarray(result.image))


@pytest.mark.parametrize("preset", ["paper", "gatys", "johnson"])
@pytest.mark.parametrize("bounds", [False, True])
def test_every_preset_lowers_the_loss_with_and_without_bounds(content, style, weights, preset, bounds):
    result = transfer(content, style, weights=weights, preset=preset, bounds=bounds, **QUICK)
    assert result.loss < result.trace[0].loss


@pytest.mark.parametrize(("optimizer", "bounds"), [("lbfgs", False), ("lbfgs", True), ("adam", True)])
def test_every_optimizer_lowers_the_loss(content, style, weights, optimizer, bounds):
    options = {**QUICK, "size": 24, "optimizer": optimizer, "bounds": bounds}
    result = transfer(content, style, weights=weights, **options)
    assert result.loss < result.trace[0].loss
    assert (result.stopped, len(result.trace)) == ("iterations", 6)
    assert set(result.trace[-1].terms) == {"content:conv2_2", "style:conv1_1", "style:conv2_1"}
    assert sum(result.trace[-1].terms.values()) == pytest.approx(result.trace[-1].loss)


def test_in_float64_both_l_bfgs_give_the_same_picture(content, style, weights):
    theirs, ours = (
        transfer(
            content, style, weights=weights, optimizer=name, precision="float64", bounds=False, **{**QUICK, "size": 24}
        )
        for name in ("l-bfgs-b", "lbfgs")
    )
    np.testing.assert_allclose(ours.pixels, theirs.pixels, atol=1e-6)
    assert [record.evaluations for record in ours.trace] == [record.evaluations for record in theirs.trace]


def test_a_device_optimizer_gets_the_image_on_the_device_and_no_copies_of_it_in_between(
    content, style, weights, monkeypatch
):
    copies = []
    for name in ("to_device", "to_host"):
        original = getattr(ReferenceEngine, name)

        def counted(self, array, name=name, original=original):
            if np.shape(array) == (22, 28, 3):
                copies.append(name)
            return original(self, array)

        monkeypatch.setattr(ReferenceEngine, name, counted)
    counts = []
    for iterations in (1, 3):
        copies.clear()
        options = {**QUICK, "size": 24, "margin": 2, "iterations": iterations}
        transfer(content, style, weights=weights, optimizer="lbfgs", **options)
        counts.append(len(copies))
    assert counts[0] == counts[1] >= 3  # of content, start and outcome


@pytest.mark.parametrize("init", ["content", "noise", "style"])
def test_the_run_starts_where_it_is_told_to(content, style, weights, init):
    result = transfer(content, style, weights=weights, init=init, **QUICK)
    assert result.image.size == (40, 30)


def test_a_file_can_be_the_start(tmp_path, content, style):
    content.rotate(180).save(tmp_path / "start.png")
    images = np.asarray(content, dtype=np.float32), np.asarray(style, dtype=np.float32)
    start = starting_image(Settings(init=str(tmp_path / "start.png")), images[0], [Style(images[1])])
    np.testing.assert_allclose(start, images[0][::-1, ::-1])
    noise = [starting_image(Settings(init="noise", seed=seed), images[0], []) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(noise[0], noise[1])
    assert not np.array_equal(noise[0], noise[2])
    assert noise[0].shape == images[0].shape


def test_small_pictures_are_refused_with_their_name(style):
    with pytest.raises(NSTError, match="content picture is 20×8 pixels, but conv5_1 needs at least 16"):
        transfer(np.zeros((8, 20, 3)), style, iterations=1)
    with pytest.raises(NSTError, match="style picture is 5×50 pixels"):
        transfer(np.zeros((50, 50, 3)), np.zeros((50, 5, 3)), iterations=1)


def test_the_log_says_which_weights_and_which_engine(content, style, caplog):
    with caplog.at_level(logging.INFO, "nst_manual"):
        transfer(content, style, **{**QUICK, "engine": "auto", "iterations": 1})
    text = caplog.text
    assert "engine: " in text
    assert "calibrated" in text
    assert "weights get" in text


def test_flat_and_extreme_pictures_stay_finite(weights):
    black, white = np.zeros((16, 18, 3)), np.full((16, 18, 3), 255.0)
    for options in ({}, {"weights": weights}):
        for content, style in ((black, white), (white, black), (black, black)):
            result = transfer(content, style, **{**QUICK, **options})
            assert np.isfinite(result.pixels).all()


def test_the_result_has_the_contents_alpha_and_exif_again(tmp_path, content, style, weights):
    see_through = content.convert("RGBA")
    see_through.putalpha(Image.linear_gradient("L").resize(content.size))
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    see_through.save(tmp_path / "c.png", exif=exif)
    result = transfer(tmp_path / "c.png", style, weights=weights, bits=16, **QUICK)
    assert result.image.mode == "RGBA"
    assert result.pixels.shape == (30, 40, 3)
    np.testing.assert_allclose(np.asarray(result.image)[:, :, 3], 255 * result.alpha, atol=0.51)
    result.save(tmp_path / "out.png")
    loaded = load_picture(tmp_path / "out.png")
    np.testing.assert_allclose(loaded.alpha, result.alpha, atol=1e-5)
    assert b"Maker" in loaded.exif


def test_hidden_colours_do_not_change_the_result(content, style, weights):
    results = []
    for hidden in ("black", "white"):
        picture = Image.new("RGBA", content.size, hidden)
        picture.putalpha(0)
        picture.paste(content.crop((0, 0, 30, 48)), (0, 0))
        results.append(transfer(picture, style, weights=weights, **QUICK).pixels)
    np.testing.assert_array_equal(*results)


def test_the_styles_size_is_its_own_matter(content, style):
    def shapes(**options):
        inputs = load_inputs(Settings(**{"style_layers": STYLE_LAYERS, **options}), content, [style])
        return [picture.rgb.shape[1::-1] for picture in inputs.pictures]

    assert shapes(size=40) == [(40, 30), (40, 32)]
    assert shapes(size=40, style_scale=0.5) == [(40, 30), (20, 16)]
    assert shapes(size=40, style_size=60) == [(40, 30), (60, 48)]
    assert shapes(size=40, style_size=60, style_scale=0.5) == [(40, 30), (30, 24)]
    assert shapes(size="original", style_scale=0.5) == [(64, 48), (40, 32)]
    assert shapes(size=128) == [(64, 48), (80, 64)]
    assert shapes(size=128, enlarge=True) == [(128, 96), (128, 102)]


def test_each_style_may_have_a_scale_of_its_own(content, style):
    def shapes(count, **options):
        settings = Settings(style_layers=STYLE_LAYERS, size=40, **options)
        inputs = load_inputs(settings, content, [style] * count)
        return [picture.image.shape[1::-1] for picture in inputs.styles]

    assert shapes(2, style_scale="1.5,0.5") == [(60, 48), (20, 16)]
    assert shapes(2, style_scale=0.5) == [(20, 16), (20, 16)]
    with pytest.raises(NSTError, match=r"one number, or one for each of 3 style pictures, not '1.5,0.5'"):
        shapes(3, style_scale="1.5,0.5")
    with pytest.raises(NSTError, match=r"style_scale must be one number, not '1.5,0.5'"):
        shapes(1, style_scale="1.5,0.5")
