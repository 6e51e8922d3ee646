"""The table, and the two walks."""

import numpy as np
import pytest

from nst_manual import layers
from nst_manual.engines import open_engine
from nst_manual.errors import NSTError
from nst_manual.proof.checks import MEAN, NARROW, random_filters
from nst_manual.vgg import (
    LAYERS,
    VGG19,
    Conv,
    Network,
    Pool,
    Relu,
    convolutions,
    feature_sizes,
    layer_name,
    smallest_side,
    steps_to,
    walk_down,
    walk_up,
)


def narrow_network(pooling="avg", steps=NARROW):
    return Network.build(open_engine("reference", "float64"), random_filters(NARROW, 0), MEAN, steps, pooling)


def test_the_table_is_vgg19():
    convolutions = [step for step in VGG19 if isinstance(step, Conv)]
    assert len(convolutions) == 16
    assert sum(isinstance(step, Pool) for step in VGG19) == 5
    assert sum(9 * step.c_in * step.c_out + step.c_out for step in convolutions) == 20_024_384
    assert LAYERS[8] == "conv4_1"  # the ninth convolution, which course notes call conv_9
    assert VGG19[:5] == (
        Conv("conv1_1", 3, 64),
        Relu("conv1_1"),
        Conv("conv1_2", 64, 64),
        Relu("conv1_2"),
        Pool("pool1"),
    )
    assert [step.name for step in VGG19[:3]] == ["pre:conv1_1", "conv1_1", "pre:conv1_2"]


def test_the_walk_goes_no_further_than_the_deepest_layer_in_use():
    assert steps_to("conv2_1")[-1].name == "conv2_1"
    assert len(steps_to("conv2_1")) == 7
    assert steps_to("pre:conv2_1") == VGG19[:6]
    assert steps_to({"conv4_2", "pre:conv1_2"}) == steps_to("conv4_2")
    assert convolutions(steps_to({"pre:conv2_1", "conv1_1"})) == ["conv1_1", "conv1_2", "conv2_1"]
    assert smallest_side(steps_to("conv5_1")) == 16


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ("conv4_2", "conv4_2"),
        ("relu4_2", "conv4_2"),
        ("block4_conv2", "conv4_2"),
        ("r42", "conv4_2"),
        ("conv_9", "conv4_1"),
        ("16", "conv5_4"),
        ("pre:relu4_1", "pre:conv4_1"),
        ("pre:conv_4", "pre:conv2_2"),
    ],
)
def test_a_layer_is_known_by_the_names_that_other_programs_give_it(given, ours):
    assert layer_name(given) == ours


@pytest.mark.parametrize("name", ["conv6_1", "conv_17", "0", "pre:", "pre:pre:conv1_1", "pool1", "Conv1_1", ""])
def test_an_unknown_layer_lists_what_is_understood(name):
    with pytest.raises(NSTError, match=r"conv1_1, .*conv5_4; relu4_2, .*conv_10 .*pre:conv4_2 is before it"):
        layer_name(name)


@pytest.mark.parametrize("size", [(16, 16), (37, 22)])
def test_features_have_the_sizes_that_are_told(size):
    network = narrow_network()
    sizes = {op.name: features.shape[:2] for op, features, _ in walk_up(network, np.zeros((*size, 3)))}
    assert sizes == feature_sizes(NARROW, *size)


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_what_is_tapped_does_not_change_the_walk(rng, pooling):
    image = rng.uniform(0, 255, (19, 22, 3))
    engine, filters = open_engine("cpu"), random_filters(NARROW, 0)
    walks, gradients = [], []
    for taps in (None, {"pre:conv1_1", "pre:conv1_2", "pre:conv4_2", "conv5_1"}, {"conv5_1"}):
        network = Network.build(engine, filters, MEAN, NARROW, pooling, taps)
        walk = list(walk_up(network, image.astype(np.float32)))
        walks.append({operation.name: features for operation, features, _ in walk})
        assert (taps or set()) <= walks[-1].keys()
        tape = [(op, saved, features.copy() if op.name == "conv5_1" else None) for op, features, saved in walk]
        gradients.append(walk_down(network, tape))
    assert (walks[1]["pre:conv4_2"] < 0).any()
    np.testing.assert_allclose(np.maximum(walks[1]["pre:conv4_2"], 0), walks[0]["conv4_2"], rtol=1e-3, atol=1e-3)
    for walk, gradient in zip(walks[1:], gradients[1:], strict=True):
        np.testing.assert_allclose(walk["conv5_1"], walks[0]["conv5_1"], rtol=1e-4)
        assert np.linalg.norm(gradient - gradients[0]) < 1e-4 * np.linalg.norm(gradients[0])


def test_the_walk_up_is_the_layers_one_after_another(rng):
    image = rng.uniform(0, 255, (19, 22, 3))
    filters = random_filters(NARROW, 0)
    features = {operation.name: features for operation, features, _ in walk_up(narrow_network(), image)}
    np.testing.assert_array_equal(features["image"], image)
    x, _ = layers.relu(layers.conv(image - MEAN, *filters["conv1_1"]))
    np.testing.assert_allclose(features["conv1_1"], x)
    x, _ = layers.relu(layers.conv(x, *filters["conv1_2"]))
    np.testing.assert_allclose(features["pool1"], layers.average_pool(x))
    assert features["conv5_1"].shape == (1, 1, 10)


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_the_walk_down_joins_the_gradients_of_all_tapped_layers(rng, pooling):
    image = rng.uniform(0, 255, (21, 17, 3))
    network = narrow_network(pooling)

    def down(tapped):
        tape = [
            (operation, saved, np.cos(features) if operation.name in tapped else None)
            for operation, features, saved in walk_up(network, image)
        ]
        return walk_down(network, tape)

    joined = down({"image", "conv1_1", "pool2", "pre:conv3_1", "conv4_2", "conv5_1"})
    apart = sum(down({name}) for name in ("image", "pre:conv3_1", "conv1_1", "pool2", "conv4_2", "conv5_1"))
    np.testing.assert_allclose(joined, apart, rtol=1e-10, atol=1e-12 * np.abs(apart).max())


def test_a_picture_smaller_than_the_network_needs_is_refused():
    with pytest.raises(NSTError, match=r"15×40 pixels, but conv5_1 needs at least 16"):
        next(iter(walk_up(narrow_network(), np.zeros((40, 15, 3)))))


def test_the_tape_is_consumed(rng):
    network = narrow_network()
    tape = [(operation, saved, features) for operation, features, saved in walk_up(network, rng.random((16, 16, 3)))]
    walk_down(network, tape)
    assert tape == []
