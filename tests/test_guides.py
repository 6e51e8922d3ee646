"""Masks on their way through the network."""

import numpy as np
import pytest

from nst_manual.engines import open_engine
from nst_manual.errors import NSTError
from nst_manual.guides import area, propagated, region_weights
from nst_manual.vgg import IMAGE, VGG19, Conv, Network, Relu, padded, steps_to, walk_up

STEPS = VGG19[:-1]


@pytest.mark.parametrize("size", [(16, 16), (37, 22)])
def test_a_mask_has_the_size_of_every_layers_features(size):
    narrow = tuple(Conv(step.layer, 3, 3) if isinstance(step, Conv) else step for step in STEPS)
    filters = {step.layer: (np.zeros((3, 3, 3, 3)), np.zeros(3)) for step in narrow if isinstance(step, Conv)}
    network = Network.build(open_engine("reference"), filters, (0, 0, 0), narrow)
    walk = walk_up(network, np.zeros((*size, 3)))
    sizes = {operation.name: features.shape[:2] for operation, features, _ in walk if operation.name != IMAGE}
    shares = propagated(np.ones(size), STEPS)
    assert {step: share.shape for step, share in shares.items()} == sizes


@pytest.mark.parametrize("size", [(16, 16), (37, 22)])
def test_the_shares_of_regions_that_fill_the_picture_sum_to_one_at_every_neuron(rng, size):
    one = rng.random(size)
    first, second, whole = (propagated(mask, STEPS) for mask in (one, 1 - one, np.ones(size)))
    for layer in whole:
        np.testing.assert_allclose(whole[layer], 1, rtol=1e-12)
        np.testing.assert_allclose(first[layer] + second[layer], 1, rtol=1e-12)


def test_a_share_is_the_part_of_the_paths_that_begin_in_the_region():
    mask = np.zeros((9, 9))
    mask[4, 4] = 1
    shares = propagated(mask, STEPS[:4])
    np.testing.assert_allclose(shares["conv1_1"][3:6, 3:6], 1 / 9)
    assert shares["conv1_1"].sum() == pytest.approx(1)
    np.testing.assert_allclose(shares["conv1_2"][4, 1:8], np.array([0, 1, 2, 3, 2, 1, 0]) * 3 / 81, atol=1e-15)
    corner = np.zeros((9, 9))
    corner[0, 0] = 1
    np.testing.assert_allclose(propagated(corner, STEPS[:2])["conv1_1"][:2, :2], [[1 / 4, 1 / 6], [1 / 6, 1 / 9]])


def test_where_the_images_edge_is_repeated_paths_begin_in_it_more_often(rng):
    steps = padded(STEPS, "replicate")
    corner = np.zeros((9, 9))
    corner[0, 0] = 1
    np.testing.assert_allclose(propagated(corner, steps[:2])["conv1_1"][:2, :2], [[4 / 9, 2 / 9], [2 / 9, 1 / 9]])
    one = rng.random((17, 22))
    first, second = (propagated(mask, steps) for mask in (one, 1 - one))
    for layer in first:
        np.testing.assert_allclose(first[layer] + second[layer], 1, rtol=1e-12)


def test_a_mask_is_seen_exactly_where_the_network_sees_it():
    """The filters of ones carry a picture's middle pixel to just the neurons that have a share of it."""
    steps = tuple(Conv(step.layer, 3, 3) if isinstance(step, Conv) else step for step in steps_to("conv3_2"))
    filters = {step.layer: (np.ones((3, 3, 3, 3)), np.zeros(3)) for step in steps if isinstance(step, Conv)}
    network = Network.build(open_engine("reference"), filters, (0, 0, 0), steps)
    image = np.zeros((40, 31, 3))
    image[19, 12] = 1
    shares = propagated(image[:, :, 0], steps)
    relus = {step.name for step in steps if isinstance(step, Relu)}
    for operation, features, _ in walk_up(network, image):
        if operation.name in relus:
            np.testing.assert_array_equal(features[:, :, 0] > 0, shares[operation.name] > 0)


def test_a_regions_weights_sum_to_one(rng):
    for layer, share in propagated(rng.random((34, 21)), STEPS).items():
        assert region_weights(share, layer).sum() == pytest.approx(1, rel=1e-12)


def test_regions_that_fill_the_picture_have_areas_and_weights_that_add_up_to_one(rng):
    mask = rng.random((34, 21)) ** 3
    first, second = propagated(mask, STEPS), propagated(1 - mask, STEPS)
    for layer, share in first.items():
        assert area(share) + area(second[layer]) == pytest.approx(1, rel=1e-12)
        pull = [area(s) * region_weights(s, layer) * s.size for s in (share, second[layer])]
        np.testing.assert_allclose(pull[0], share, rtol=1e-12)
        np.testing.assert_allclose(pull[0] + pull[1], 1, rtol=1e-12)


def test_a_layer_sees_the_same_before_its_relu(rng):
    mask, taps = rng.random((20, 17)), ("pre:conv2_2", "conv3_1")
    shares, plain = propagated(mask, steps_to(taps)), propagated(mask, STEPS)
    np.testing.assert_array_equal(shares["pre:conv2_2"], plain["conv2_2"])
    np.testing.assert_array_equal(shares["conv3_1"], plain["conv3_1"])


def test_a_mask_without_a_region_is_refused():
    with pytest.raises(NSTError, match="nothing of its region at conv4_1"):
        region_weights(propagated(np.zeros((20, 20)), STEPS)["conv4_1"], "conv4_1")
