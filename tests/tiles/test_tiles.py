"""Tiles give the loss and the gradient that the whole picture gives: every loss, pooling, padding and odd border."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from nst_manual import transfer
from nst_manual.cli.main import main
from nst_manual.engines import open_engine
from nst_manual.engines.cuda.paths import PATHS
from nst_manual.errors import NSTError
from nst_manual.losses import STYLE_LOSSES, laplacian, laplacian_loss, tv_nine_point_loss
from nst_manual.objective import ImageTerm, Objective, Style, content_terms, style_terms, targets_of
from nst_manual.options import OptionError
from nst_manual.pictures.demo import scene
from nst_manual.pictures.reading import load_picture
from nst_manual.presets import PRESETS, Formula
from nst_manual.proof.checks import LAYER_WEIGHTS, MEAN, NARROW, random_filters
from nst_manual.settings import Run
from nst_manual.study.gradients import gradients
from nst_manual.tiles import pixels
from nst_manual.tiles.objective import InTiles, TiledObjective
from nst_manual.tiles.plan import tiles_of
from nst_manual.vgg import BEFORE, Network, feature_sizes, padded, steps_to

FORMULA = Formula(PRESETS["gatys"])
PLAIN = ("avg", "zero", "gram")
# Height and width, the tiles' side, then pooling, padding and style loss.
CASES = [
    ((33, 49), 16, "avg", "replicate", "transport"),
    ((50, 35), 32, "max", "zero", "gram"),
    ((31, 64), 16, "l2", "zero", "spread"),
    ((17, 80), 32, "avg-scaled", "replicate", "gram"),
    ((64, 48), 20, *PLAIN),
]


def objective(engine, size, pooling="avg", padding="zero", loss="gram", layers=LAYER_WEIGHTS, regions=False):
    rng = np.random.default_rng(7)
    alphas, betas = layers
    steps = padded(steps_to({*alphas, *betas}, NARROW), padding)
    network = Network.build(engine, random_filters(NARROW, 3), MEAN, steps, pooling, {*alphas, *betas})
    content, style = rng.uniform(0, 255, (*size, 3)), rng.uniform(0, 255, (40, 37, 3))
    styles = [Style(style)]
    if regions:  # the second is nowhere in the first tile
        left = np.zeros(size)
        left[:, : size[1] // 2] = rng.random((size[0], size[1] // 2))
        styles = [Style(style, region=left), Style(style[::-1], region=1 - left, mask=rng.random((40, 37)))]
    terms = content_terms(network, content, alphas, FORMULA)
    terms += style_terms(network, styles, betas, FORMULA, size, STYLE_LOSSES[loss])
    edges = laplacian(network.engine.to_device(content))
    terms.append(ImageTerm("laplacian", 0.1, partial(laplacian_loss, target=edges)))
    return Objective(network, [*terms, ImageTerm("tv", 0.01, tv_nine_point_loss)])


def in_tiles_of(whole, side):
    return TiledObjective(whole.network, whole.terms, side)


def assert_same(whole, tiled, image, most):
    """Pixel by pixel: at a seam or a border there may be no more than anywhere else."""
    expected, found = whole(image), tiled(image)
    assert list(found.terms) == list(expected.terms)
    assert found.loss == pytest.approx(expected.loss, rel=most)
    largest = np.abs(expected.gradient).max()
    np.testing.assert_allclose(found.gradient, expected.gradient, rtol=0, atol=most * largest)


@pytest.mark.parametrize(("size", "side", "pooling", "padding", "loss"), CASES, ids=str)
def test_the_gradient_is_the_whole_pictures_in_float64(rng, size, side, pooling, padding, loss):
    whole = objective(open_engine("reference", "float64"), size, pooling, padding, loss)
    tiled = in_tiles_of(whole, side)
    image = rng.uniform(0, 255, (*size, 3))
    assert len(tiled.tiles(image)) > 1
    assert_same(whole, tiled, image, 1e-12)
    values = tiled.values(image)
    assert values == pytest.approx(whole.values(image), rel=1e-10)
    for name in ("content:conv4_2", "style:conv1_1", "tv"):
        assert_same(whole.only(name), tiled.only(name), image, 1e-12)


@pytest.mark.parametrize("loss", STYLE_LOSSES)
def test_regions_and_layers_before_their_relu_are_the_same(rng, loss):
    """And each style term alone. Of noise, the transport loss is a small difference of large traces, of which rounding
    leaves eleven digits: each term is compared in a picture of things."""
    layers = ({f"{BEFORE}conv2_2": 1.0, "conv2_2": 1.0}, {f"{BEFORE}conv1_1": 1.0, "conv2_2": 2.0, "conv4_1": 1.0})
    whole = objective(open_engine("reference", "float64"), (70, 45), "avg", "zero", loss, layers, regions=True)
    tiled, picture = in_tiles_of(whole, 24), np.asarray(scene(45, 70).convert("RGB"), float)
    for image in (rng.uniform(0, 255, (70, 45, 3)), picture):
        assert_same(whole, tiled, image, 1e-12)
    for name in (term.name for term in whole.terms if term.name.startswith("style")):
        assert_same(whole.only(name), tiled.only(name), picture, 1e-12)


@pytest.mark.parametrize(("precision", "most"), [("float64", 1e-12), ("float32", 1e-5)])
def test_real_pictures_are_the_same(real_data, precision, most):
    """With the Gram loss. The transport loss of this photo has nearly singular matrices, whose inverse roots magnify
    rounding: a change in the picture's last digit moves its gradient by 5e-12 as well as tiles do."""
    photo, painting = (
        load_picture(real_data / "images" / name, 120).rgb
        for name in ("content_astronaut.png", "style_starry_night.jpg")
    )
    size, (alphas, betas) = photo.shape[:2], LAYER_WEIGHTS
    engine = open_engine("reference" if precision == "float64" else "cpu", precision)
    network = Network.build(engine, random_filters(NARROW, 3), MEAN, NARROW, "avg", {*alphas, *betas})
    terms = content_terms(network, photo, alphas, FORMULA)
    terms += style_terms(network, [Style(painting)], betas, FORMULA, size, STYLE_LOSSES["gram"])
    whole = Objective(network, [*terms, ImageTerm("tv", 0.01, tv_nine_point_loss)])
    tiled = in_tiles_of(whole, 48)
    for image in (photo, 0.5 * (photo + photo[::-1])):
        assert len(tiled.tiles(image)) > 4
        assert_same(whole, tiled, image, most)


@pytest.mark.parametrize("which", ["reference", "cpu", *(f"{path} on the host" for path in PATHS)])
def test_every_engine_gives_the_same_in_float32(rng, request, which):
    path = which.removesuffix(" on the host")
    if path in PATHS:
        engine = PATHS[path]("float32", request.getfixturevalue("cupy_on_host"))
    else:
        engine = open_engine(which, "float32")
    whole = objective(engine, (43, 70), padding="replicate", loss="transport")
    assert_same(whole, in_tiles_of(whole, 32), rng.uniform(0, 255, (43, 70, 3)), 1e-5)


def unknown(image):
    """A loss that nobody has cut into strips."""
    return np.sum(image**2), 2 * image


@pytest.mark.parametrize("size", [(20, 23), (33, 18), (17, 31)], ids=str)
def test_terms_of_the_pixels_are_the_same_in_strips(rng, monkeypatch, size):
    monkeypatch.setattr(pixels, "PIXELS", 100)
    image, content = rng.uniform(0, 255, (2, *size, 3))
    losses = [preset.tv for preset in PRESETS.values()]
    for loss in (*dict.fromkeys(losses), partial(laplacian_loss, target=laplacian(content)), unknown):
        gradient = np.ones_like(image)
        value = pixels.add_image_term(ImageTerm("term", 0.7, loss), image, gradient)
        expected, expected_gradient = loss(image)
        assert value == pytest.approx(0.7 * expected, rel=1e-13)
        np.testing.assert_allclose(gradient - 1, 0.7 * expected_gradient, rtol=0, atol=1e-13 * gradient.max())


def test_targets_of_large_pictures_are_the_same(rng):
    whole = objective(open_engine("reference", "float64"), (33, 33))
    network, in_tiles, layers = whole.network, InTiles(32), LAYER_WEIGHTS[1]
    image, mask = rng.uniform(0, 255, (61, 90, 3)), rng.random((61, 90))
    for style in (Style(image), Style(image, mask=mask)):
        found, expected = in_tiles.targets(network, style, layers), targets_of(network, style, layers)
        for layer in layers:
            for one, other in zip(found[layer], expected[layer], strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-12)
    (term,) = content_terms(network, image, {"conv4_2": 1.0}, FORMULA, in_tiles.features)
    (other,) = content_terms(network, image, {"conv4_2": 1.0}, FORMULA)
    np.testing.assert_allclose(term.target, other.target, rtol=1e-12)
    assert term.weight == other.weight


@pytest.mark.parametrize("size", [(16, 16), (97, 230), (300, 47)], ids=str)
@pytest.mark.parametrize("side", [16, 50, 64, 1000])
def test_each_position_of_each_layer_belongs_to_one_tile(size, side):
    network = objective(open_engine("reference", "float64"), (16, 16)).network
    counts = {name: np.zeros(layer, int) for name, layer in feature_sizes(network.steps, *size).items()}
    for tile in tiles_of(network, {*LAYER_WEIGHTS[0], *LAYER_WEIGHTS[1]}, size, side):
        assert tile.rows.size <= max(side, 31) + 80 + 70 + 48
        for cut in tile.cuts:
            counts[cut.name][cut.place] += 1
            assert cut.positions > 0
    assert all((counts[operation.name] == 1).all() for operation in network.operations)


def test_where_memory_runs_out_the_tiles_shrink_and_the_run_goes_on(rng, caplog):
    whole = objective(open_engine("reference", "float64"), (16, 640))
    image = rng.uniform(0, 255, (16, 640, 3))
    expected = whole(image)
    seen: list[tuple[int, ...]] = []

    def up(x, operation=whole.network.operations[0]):
        seen.append(x.shape)
        if x.shape[1] > 300 and len(seen) > 2:
            raise MemoryError("full")
        return operation.up(x)

    first = whole.network.operations[0]._replace(up=up)
    network = replace(whole.network, operations=[first, *whole.network.operations[1:]])
    function = TiledObjective(network, whole.terms, 640).repeated()
    for _ in range(3):
        loss, gradient, _ = function(image)
    assert loss == pytest.approx(expected.loss)
    np.testing.assert_allclose(gradient, expected.gradient, rtol=0, atol=1e-12 * np.abs(gradient).max())
    assert "tiles of 160 pixels" in caplog.text
    seen.clear()
    again = TiledObjective(network, whole.terms, 640)(image)
    np.testing.assert_allclose(again.gradient, expected.gradient, rtol=0, atol=1e-12 * np.abs(gradient).max())
    network = replace(network, operations=[first._replace(up=partial(fail, MemoryError)), *network.operations[1:]])
    with pytest.raises(MemoryError):
        TiledObjective(network, whole.terms, 640).repeated()(image)


def test_where_memory_runs_out_a_styles_tiles_shrink(rng, caplog):
    network, layers = objective(open_engine("reference", "float64"), (16, 16)).network, LAYER_WEIGHTS[1]
    style = Style(rng.uniform(0, 255, (16, 600, 3)))
    expected = targets_of(network, style, layers)
    found = InTiles(600).targets(with_little_memory(network, 400), style, layers)
    assert "going on with tiles of 300 pixels" in caplog.text
    for layer in layers:
        np.testing.assert_allclose(found[layer].second, expected[layer].second, rtol=1e-12)


def with_little_memory(network, width):
    """The network where a wider picture does not fit."""

    def up(x, first=network.operations[0]):
        if x.shape[1] > width:
            raise MemoryError("full")
        return first.up(x)

    return replace(network, operations=[network.operations[0]._replace(up=up), *network.operations[1:]])


def test_on_a_gpu_whose_memory_is_full_the_picture_stays_on_the_host(rng, cupy_without_kernels, caplog):
    """On a stand-in, where no array of the host may meet one of the card."""
    engine = PATHS["plain"]("float32", cupy_without_kernels)
    whole = objective(engine, (40, 512), padding="replicate", loss="transport")
    image = rng.uniform(0, 255, (40, 512, 3)).astype(np.float32)
    expected = whole(image)
    network = with_little_memory(whole.network, 300)
    tiled = TiledObjective(network, whole.terms, 512, on_host=True)
    found = tiled.fetched(tiled.repeated())(image)
    assert "tiles of 128 pixels" in caplog.text
    assert type(found.gradient) is np.ndarray
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    np.testing.assert_allclose(found.gradient, expected.gradient, rtol=0, atol=1e-5 * np.abs(expected.gradient).max())
    values = replace(tiled, side=128).values(image)
    assert values == pytest.approx(expected.terms, rel=1e-4)


def fail(error, *arguments):
    raise error


@pytest.fixture
def pictures(rng):
    return [rng.integers(0, 256, shape).astype(np.uint8) for shape in ((48, 64, 3), (48, 64, 3), (40, 50, 3))]


QUICK = {"engine": "reference", "precision": "float64", "iterations": 3, "weights": "calibrated", "scales": "off"}
SHALLOW = {"content_layers": "conv2_2", "style_layers": "conv1_1,conv3_1"}


def test_a_run_in_tiles_makes_the_same_picture(pictures):
    whole, tiled = (transfer(*pictures[:2], tile=tile, **QUICK, **SHALLOW) for tile in ("off", 16))
    np.testing.assert_allclose(tiled.pixels, whole.pixels, atol=1e-6)
    assert tiled.loss == pytest.approx(whole.loss, rel=1e-9)


def test_gradients_in_tiles_are_the_same(pictures):
    options = {"engine": "reference", "precision": "float64", "weights": "calibrated", "tv_weight": 1.0, **SHALLOW}
    whole, tiled = (gradients(*pictures, tile=tile, **options) for tile in ("auto", 16))
    for name, term in whole.terms.items():
        np.testing.assert_allclose(tiled.terms[name].gradient, term.gradient, atol=1e-9 * np.abs(term.gradient).max())
    assert whole.layers
    assert not tiled.layers


@pytest.mark.parametrize("tile", ["15", "0", "-64", "big", "1e3", 12])
def test_an_impossible_tile_is_refused_in_one_sentence(tile, tmp_path, capsys):
    with pytest.raises(OptionError, match="tile must be auto, off, or a number of pixels of at least 16"):
        Run(tile=tile)
    assert main(["transfer", "a.png", "b.png", "-o", str(tmp_path / "out.png"), "--tile", str(tile)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_tiles_that_are_larger_than_the_picture_are_one_tile(rng):
    whole = objective(open_engine("reference", "float64"), (33, 40))
    image = rng.uniform(0, 255, (33, 40, 3))
    assert len(in_tiles_of(whole, 40).tiles(image)) == 1
    with pytest.raises(NSTError, match="at least 16"):
        in_tiles_of(whole, 40)(image[:15])
