"""Which pixels a feature sees."""

import numpy as np
import pytest

from nst_manual.engines import open_engine
from nst_manual.proof.checks import MEAN, NARROW, random_filters
from nst_manual.study.receptive import Box, fields_of, receptive_field
from nst_manual.vgg import VGG19, Network, Relu, walk_down, walk_up

SIZE = 45, 38


@pytest.mark.parametrize(
    ("layer", "place"), [("conv1_1", (0, 37)), ("conv2_2", (7, 9)), ("conv3_2", (10, 0)), ("conv4_1", (2, 2))]
)
def test_a_feature_depends_on_its_field_and_on_nothing_else(layer, place, rng):
    """By its gradient, which reaches every pixel that the feature can see where ReLUs are open."""
    network = Network.build(open_engine("reference", "float64"), random_filters(NARROW, 1), MEAN, NARROW)
    seen = np.zeros(SIZE, bool)
    for _ in range(4):
        image, tape = rng.uniform(0, 255, (*SIZE, 3)), []
        for operation, features, saved in walk_up(network, image):
            d = None
            if operation.name == f"pre:{layer}":
                d = np.zeros_like(features)
                d[place] = 1
            tape.append((operation, saved, d))
        seen |= np.abs(walk_down(network, tape)).sum(2) > 0
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    found = receptive_field(NARROW, layer, *place, *SIZE)
    assert found == Box(rows[0], columns[0], rows[-1], columns[-1])


def test_fields_of_a_pixel_hold_it_and_grow():
    fields = dict(fields_of(VGG19, 100, 60, 256, 200))
    assert list(fields) == [step.name for step in VGG19 if isinstance(step, Relu)]
    sides = [box.bottom - box.top + 1 for box in fields.values()]
    assert sides[:4] == [3, 5, 10, 14]
    assert sides == sorted(sides)
    assert all(box.top <= 100 <= box.bottom and box.left <= 60 <= box.right for box in fields.values())
