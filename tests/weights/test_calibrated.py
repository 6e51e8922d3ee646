"""Filters made from the pictures: VGG-19's shapes, useful responses, and a style that real VGG-19 recognises."""

import numpy as np
import pytest

from nst_manual import transfer
from nst_manual.engines import open_engine
from nst_manual.losses import moments
from nst_manual.pictures.demo import painting, scene
from nst_manual.pictures.reading import load_image
from nst_manual.vgg import POOLINGS, Network, convolutions, steps_to, tapped
from nst_manual.weights import Weights, load_weights
from nst_manual.weights.calibrated import MEAN_ACTIVATION, calibrate
from nst_manual.weights.naming import SHAPES

STYLE_LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
CONTENT, STYLE = load_image(scene(64, 48)), load_image(painting(48, 64))


def network(weights, deepest):
    return Network.build(open_engine("cpu"), weights.filters, weights.mean, steps_to(deepest))


def test_same_pictures_and_seed_give_the_same_numbers_and_another_seed_others():
    first, again, other = (calibrate(CONTENT, [STYLE], "conv3_1", seed=seed) for seed in (3, 3, 4))
    for layer, (kernel, bias) in first.filters.items():
        assert np.array_equal(kernel, again.filters[layer][0])
        assert np.array_equal(bias, again.filters[layer][1])
        assert not np.allclose(kernel, other.filters[layer][0])


@pytest.mark.parametrize("pictures", [(CONTENT, []), (None, [STYLE]), (None, [STYLE, CONTENT])])
def test_one_kind_of_pictures_is_enough(pictures):
    net = network(calibrate(*pictures, "conv2_1"), "conv2_1")
    images = [image for image in (pictures[0], *pictures[1]) if image is not None]
    for layer in ("conv1_1", "conv2_1"):
        means = [features.mean() for image in images for _, features in tapped(net, image, [layer])]
        assert np.mean(means) == pytest.approx(MEAN_ACTIVATION[layer], rel=0.02)


@pytest.mark.parametrize("deepest", ["conv1_1", "conv2_2", "conv5_1"])
def test_layers_and_shapes_are_vggs_down_to_the_deepest_asked_for(deepest):
    weights = calibrate(CONTENT, [STYLE], deepest)
    assert isinstance(weights, Weights)
    assert list(weights.filters) == convolutions(steps_to(deepest))
    for layer, (kernel, bias) in weights.filters.items():
        assert kernel.shape == SHAPES[layer]
        assert bias.shape == kernel.shape[3:]
        assert kernel.dtype == bias.dtype == np.float32


def test_mean_activation_is_vggs_and_no_filter_is_dead_or_always_open():
    net = network(calibrate(CONTENT, [STYLE], "conv4_1"), "conv4_1")
    layers = [layer for layer in SHAPES if layer <= "conv4_1"]
    for (layer, x), (_, y) in zip(tapped(net, CONTENT, layers), tapped(net, STYLE, layers), strict=True):
        assert (x.mean() + y.mean()) / 2 == pytest.approx(MEAN_ACTIVATION[layer], rel=0.02)
        responses = np.concatenate([x.reshape(-1, x.shape[2]), y.reshape(-1, y.shape[2])])
        share = (responses > 0).mean(axis=0)
        assert share.min() > 0.05
        assert share.max() < 0.999


@pytest.mark.parametrize("pooling", POOLINGS)
def test_mean_activation_holds_for_every_pooling(pooling):
    weights = calibrate(CONTENT, [STYLE], "conv3_1", pooling=pooling)
    net = Network.build(open_engine("cpu"), weights.filters, weights.mean, steps_to("conv3_1"), pooling)
    means = [features.mean() for image in (CONTENT, STYLE) for _, features in tapped(net, image, ["conv3_1"])]
    assert np.mean(means) == pytest.approx(MEAN_ACTIVATION["conv3_1"], rel=0.02)


@pytest.mark.parametrize(
    ("content", "style", "deepest"),
    [
        (np.full((16, 16, 3), 90.0), np.full((32, 16, 3), 90.0), "conv5_1"),
        (np.zeros((16, 16, 3)), STYLE, "conv3_2"),
        (CONTENT, np.repeat(STYLE.mean(axis=2, keepdims=True), 3, axis=2), "conv4_1"),
        (CONTENT[:16, :16], STYLE[:17, :39], "conv5_1"),
        (CONTENT[:1, :1], STYLE[:16], "conv1_2"),
    ],
    ids=["two flat", "one flat", "one gray", "tiny", "one pixel"],
)
def test_degenerate_pictures_give_finite_filters(content, style, deepest):
    weights = calibrate(content, [style], deepest)
    assert all(np.isfinite(array).all() for pair in weights.filters.values() for array in pair)


def test_a_few_iterations_bring_the_picture_nearer_to_the_style():
    options = {"weights": "calibrated", "style_loss": "gram", "style_layers": "conv1_1,conv3_1"}
    result = transfer(CONTENT, STYLE, engine="cpu", iterations=5, **options)
    assert np.isfinite(result.pixels).all()
    first, last = (
        sum(record.terms[f"style:{layer}"] for layer in ("conv1_1", "conv3_1"))
        for record in (result.trace[0], result.trace[-1])
    )
    assert last < 0.5 * first


def test_real_vgg19_sees_the_style_in_the_result(real_data, vgg19):
    judge = network(load_weights(vgg19, [layer for layer in SHAPES if layer <= "conv5_1"]), "conv5_1")

    content = load_image(real_data / "images" / "content_astronaut.png", 96)
    style = load_image(real_data / "images" / "style_starry_night.jpg", 96)
    result = transfer(content, style, weights="calibrated", engine="cpu", iterations=20).pixels
    f, p, a = (
        {layer: moments(features).second for layer, features in tapped(judge, image, STYLE_LAYERS)}
        for image in (np.clip(result, 0, 255), content, style)
    )
    ratios = [np.sum((f[layer] - a[layer]) ** 2) / np.sum((p[layer] - a[layer]) ** 2) for layer in STYLE_LAYERS]
    assert np.exp(np.mean(np.log(ratios))) < 0.35
