"""The table, and the two walks."""

import numpy as np
import pytest

from nst_manual import layers
from nst_manual.engines import open_engine
from nst_manual.errors import NSTError
from nst_manual.verify import MEAN, NARROW, random_filters
from nst_manual.vgg import LAYERS, VGG19, Conv, Network, Pool, smallest_side, steps_to, walk_down, walk_up


def narrow_network(pooling="avg", steps=NARROW):
    return Network.build(open_engine("reference", "float64"), random_filters(steps, 0), MEAN, steps, pooling)


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
