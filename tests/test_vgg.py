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
    Linear,
    Network,
    Pool,
    Relu,
    convolutions,
    layer_name,
    smallest_side,
    steps_for,
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
    assert [step.name for step in VGG19][:4] == ["conv1_1", "conv1_2", "pool1", "conv2_1"]


def test_the_walk_goes_no_further_than_the_deepest_layer_in_use():
    assert steps_to("conv2_1")[-1].name == "conv2_1"
    assert len(steps_to("conv2_1")) == 4
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


def test_only_a_convolution_that_is_tapped_before_its_relu_is_split():
    assert steps_for({"conv4_2", "conv1_1"}) == steps_to("conv4_2")
    assert steps_for({"pre:conv1_2", "conv2_1"}) == (
        VGG19[0],
        Linear("pre:conv1_2", "conv1_2"),
        Relu("conv1_2"),
        *VGG19[2:4],
    )
    assert steps_for({"pre:conv1_2"}) == (VGG19[0], Linear("pre:conv1_2", "conv1_2"))
    assert [step.name for step in steps_for({"pre:conv1_1", "conv1_1"})] == ["pre:conv1_1", "conv1_1"]
    assert convolutions(steps_for({"pre:conv2_1", "conv1_1"})) == ["conv1_1", "conv1_2", "conv2_1"]
    assert smallest_side(steps_for({"pre:conv3_1"})) == 4


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_a_walk_through_split_convolutions_is_the_same_walk(rng, pooling):
    image = rng.uniform(0, 255, (19, 22, 3))
    taps = {"pre:conv1_1", "pre:conv1_2", "pre:conv4_2", "conv5_1"}
    whole, split = narrow_network(pooling), narrow_network(pooling, steps_for(taps, NARROW))
    before = {step.name: features for step, features, _ in walk_up(split, image, taps)}
    after = {step.name: features for step, features, _ in walk_up(whole, image)}
    np.testing.assert_array_equal(np.maximum(before["pre:conv4_2"], 0), after["conv4_2"])
    assert (before["pre:conv4_2"] < 0).any()
    np.testing.assert_array_equal(before["conv5_1"], after["conv5_1"])
    gradients = []
    for network in (whole, split):
        walk = [*walk_up(network, image)]
        tape = [(step, saved, features if step.name == "conv5_1" else None) for step, features, saved in walk]
        gradients.append(walk_down(network, tape))
    np.testing.assert_array_equal(*gradients)


def test_the_walk_up_is_the_layers_one_after_another(rng):
    image = rng.uniform(0, 255, (19, 22, 3))
    filters = random_filters(NARROW, 0)
    features = {step.name: features for step, features, _ in walk_up(narrow_network(), image)}
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
            (step, saved, np.cos(features) if step.name in tapped else None)
            for step, features, saved in walk_up(network, image)
        ]
        return walk_down(network, tape)

    joined = down({"conv1_1", "pool2", "conv4_2", "conv5_1"})
    apart = sum(down({name}) for name in ("conv1_1", "pool2", "conv4_2", "conv5_1"))
    np.testing.assert_allclose(joined, apart, rtol=1e-10, atol=1e-12 * np.abs(apart).max())


def test_a_picture_smaller_than_the_network_needs_is_refused():
    with pytest.raises(NSTError, match=r"15×40 pixels, but conv5_1 needs at least 16"):
        next(iter(walk_up(narrow_network(), np.zeros((40, 15, 3)))))


def test_the_tape_is_consumed(rng):
    network = narrow_network()
    tape = [(step, saved, features) for step, features, saved in walk_up(network, rng.random((16, 16, 3)))]
    walk_down(network, tape)
    assert tape == []
