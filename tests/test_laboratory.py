"""Every term's value and gradient at one image."""

import h5py
import numpy as np
import pytest

from nst_manual import NSTError
from nst_manual.drawings import painting, scene
from nst_manual.laboratory import gradients


@pytest.fixture(scope="module")
def pictures():
    return painting(64, 64).resize((20, 17)), scene(64, 64).resize((20, 17)), painting(64, 80).resize((21, 24))


def test_the_terms_sum_to_the_total_and_so_does_the_file(tmp_path, pictures):
    found = gradients(*pictures, precision="float64", tv_weight=0.5, engine="reference")
    found.save(tmp_path / "g.h5")
    with h5py.File(tmp_path / "g.h5") as file:
        names = sorted(set(file["gradient"]) - {"total"})
        assert names == sorted(set(file["loss"]) - {"total"})
        assert names == ["content:conv4_2", *(f"style:conv{block}_1" for block in range(1, 6)), "tv"]
        assert file["loss/total"][()] == pytest.approx(sum(file[f"loss/{name}"][()] for name in names), rel=1e-12)
        total = file["gradient/total"]
        assert total.dtype == np.float64
        assert total.shape == (17, 20, 3)
        apart = sum(file[f"gradient/{name}"][()] for name in names)
        np.testing.assert_allclose(apart, total[()], rtol=1e-9, atol=1e-9 * np.abs(total[()]).max())
        assert file.attrs["precision"] == "float64"
        assert file.attrs["weight of tv"] == 0.5
        assert file.attrs["weights_family"]


def test_pictures_keep_their_own_size_unless_one_is_asked_for(pictures):
    assert gradients(*pictures, style_layers="conv1_1", content_layers="conv1_2").total.gradient.shape == (17, 20, 3)
    small = gradients(*pictures, style_layers="conv1_1", content_layers="conv1_2", size=10)
    assert small.total.gradient.shape == (8, 10, 3)


def test_image_and_content_must_agree(pictures):
    image, content, style = pictures
    with pytest.raises(NSTError, match="IMAGE is 19×17 and CONTENT 20×17 pixels"):
        gradients(image.resize((19, 17)), content, style)


def test_a_term_of_weight_zero_is_zero(pictures):
    found = gradients(*pictures, style_layers="conv1_1", content_layers="conv1_2")
    assert found.terms["tv"].loss == 0
    assert not found.terms["tv"].gradient.any()
