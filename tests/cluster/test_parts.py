"""A picture in parts: which there are, and that the terms of the pixels add up."""

from functools import partial

import numpy as np
import pytest

from nst_manual.cluster.grid import Grid, Rectangle
from nst_manual.cluster.pixels import MARGIN, pixel_term, pixels_of
from nst_manual.losses import laplacian, laplacian_loss
from nst_manual.presets import PRESETS
from nst_manual.tiles.plan import Interval
from nst_manual.vgg import VGG19, steps_to


@pytest.mark.parametrize("size", [(1024, 1024), (300, 1000), (17, 33), (63, 40)], ids=str)
@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
def test_the_parts_of_a_grid_cover_the_picture_once(size, count):
    grid = Grid.of(size, count, steps_to("conv5_1"))
    assert 1 <= len(grid.parts) <= count
    seen = np.zeros(size)
    for part in grid.parts:
        seen[part.place] += 1
        assert min(part.shape[:2]) >= 16
        assert part.rows.start % 16 == part.columns.start % 16 == 0
    assert (seen == 1).all()


def test_a_grid_is_as_even_as_it_can_be():
    assert [part.shape[:2] for part in Grid.of((1024, 1024), 4, VGG19).parts] == [(512, 512)] * 4
    assert len(Grid.of((1024, 4096), 7, VGG19).parts) == 7
    assert [part.shape[:2] for part in Grid.of((1024, 1024), 2, VGG19).parts] in ([(512, 1024)] * 2, [(1024, 512)] * 2)


@pytest.mark.parametrize("size", [(48, 33), (35, 64), (63, 50)], ids=str)
@pytest.mark.parametrize("count", [1, 2, 6])
def test_terms_of_the_pixels_add_up(rng, size, count):
    image, content = rng.uniform(0, 255, (2, *size, 3))
    losses = [preset.tv for preset in PRESETS.values()]
    for loss in (*dict.fromkeys(losses), partial(laplacian_loss, target=laplacian(content))):
        expected, expected_gradient = loss(image)
        value, gradient = 0.0, np.zeros_like(image)
        for own in Grid.of(size, count, steps_to("conv4_1")).parts:
            window = Rectangle(
                *(
                    Interval(max(a.start - 3, 0), min(a.stop + MARGIN, length))
                    for a, length in zip((own.rows, own.columns), size, strict=True)
                )
            )
            term = pixels_of(loss, content[window.place], window)
            seen = image[window.place].copy()
            value += pixel_term(term, 0.7, seen, gradient[window.place], window, own, size)
        assert value == pytest.approx(0.7 * expected, rel=1e-12)
        np.testing.assert_allclose(gradient, 0.7 * expected_gradient, rtol=0, atol=1e-12 * np.abs(gradient).max())
