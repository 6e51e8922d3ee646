"""The two pictures that the demo draws."""

import numpy as np
import pytest

from nst_manual.pictures.demo import painting, scene


@pytest.mark.parametrize("draw", [scene, painting])
def test_a_drawing_is_the_same_each_time_and_fills_its_canvas(draw):
    picture = draw(96, 72)
    assert (picture.mode, picture.size) == ("RGB", (96, 72))
    pixels = np.asarray(picture, dtype=np.float64)
    np.testing.assert_array_equal(pixels, np.asarray(draw(96, 72)))
    assert pixels.std() > 30
    for quarter in (pixels[:36, :48], pixels[:36, 48:], pixels[36:, :48], pixels[36:, 48:]):
        assert quarter.std() > 10


@pytest.mark.parametrize("draw", [scene, painting])
@pytest.mark.parametrize("size", [(64, 64), (65, 97), (64, 160)])
def test_a_drawing_takes_any_size(draw, size):
    assert draw(*size).size == size
