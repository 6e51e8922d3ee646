"""Every term's value and gradient at one image."""

import h5py
import numpy as np
import pytest
from PIL import Image

from nst_manual import NSTError
from nst_manual.pictures.demo import painting, scene
from nst_manual.pictures.heatmap import coloured, scale_of
from nst_manual.study.gradients import gradients


@pytest.fixture(scope="module")
def pictures():
    return painting(64, 64).resize((20, 17)), scene(64, 64).resize((20, 17)), painting(64, 80).resize((21, 24))


def test_the_terms_sum_to_the_total_and_so_does_the_file(tmp_path, pictures):
    found = gradients(*pictures, precision="float64", tv_weight=0.5, engine="reference")
    found.save(tmp_path / "g.h5")
    with h5py.File(tmp_path / "g.h5") as file:
        names = sorted(set(file["gradient"]) - {"total"})
        assert names == sorted(set(file["loss"]) - {"total"})
        content = [f"content:{layer}" for layer in ("conv2_1", "conv3_1", "conv4_2")]
        assert names == [*content, *(f"style:conv{block}_1" for block in range(1, 6)), "tv"]
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


LAYERS = {"style_layers": "conv1_1,pre:conv2_1", "content_layers": "conv2_2", "content_weight": 1.0, "tv_weight": 0.1}


@pytest.fixture(scope="module")
def small(pictures):
    return gradients(*pictures, **LAYERS, precision="float64", engine="reference")


def test_shares_sum_to_one_and_cosines_are_those_of_the_gradients(small):
    assert sum(small.shares().values()) == pytest.approx(1, rel=1e-12)
    cosines, norms = small.cosines(), small.norms()
    assert cosines["tv"]["total"] == cosines["total"]["tv"]
    assert all(cosines[name][name] == pytest.approx(1) for name in cosines)
    for name, share in small.shares().items():  # the projection on the total
        assert share == pytest.approx(cosines[name]["total"] * norms[name] / norms["total"], rel=1e-9)
    a, b = small.terms["tv"].gradient, small.terms["style:conv1_1"].gradient
    expected = (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())
    assert cosines["tv"]["style:conv1_1"] == pytest.approx(expected, rel=1e-12)


def test_a_term_without_gradient_has_no_angle(pictures):
    found = gradients(*pictures, style_layers="conv1_1", content_layers="conv1_2")
    assert found.shares()["tv"] == 0
    assert found.cosines()["tv"]["total"] is None


def test_the_walk_down_is_followed_layer_by_layer(small, pictures):
    names = [layer.name for layer in small.layers]
    assert names == ["conv2_2", "conv2_1", "pre:conv2_1", "pool1", "conv1_2", "conv1_1", "image, before tv"]
    network_only = small.total.gradient - small.terms["tv"].gradient
    assert small.layers[-1].norm == pytest.approx(np.linalg.norm(network_only), rel=1e-9)
    assert [layer.name for layer in small.layers if layer.open is None] == ["pre:conv2_1", "pool1", "image, before tv"]
    assert all(0 < layer.open < 1 for layer in small.layers if layer.open is not None)
    content = gradients(*pictures, **LAYERS | {"style_layers": "", "tv_weight": 0}, engine="reference")
    features = content.terms["content:conv2_2"].loss  # mean (F − P)²: |2 (F − P)/(N M)|² is 4/(N M) times it
    assert content.layers[0].norm == pytest.approx(np.sqrt(4 * features / (128 * 8 * 10)), rel=1e-5)


def test_the_laplacian_term_is_told_beside_the_others(pictures):
    found = gradients(*pictures, **LAYERS, laplacian_weight=0.5, precision="float64", engine="reference")
    assert found.terms["laplacian"].loss > 0
    assert found.layers[-1].name == "image, before laplacian and tv"
    apart = sum(term.gradient for term in found.terms.values())
    np.testing.assert_allclose(apart, found.total.gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("engine", ["cpu", "reference"])
def test_every_engine_tells_the_same_of_its_layers(small, pictures, engine):
    found = gradients(*pictures, **LAYERS, engine=engine)
    for layer, expected in zip(found.layers, small.layers, strict=True):
        assert layer.name == expected.name
        assert layer.norm == pytest.approx(expected.norm, rel=1e-4)
        assert layer.open == pytest.approx(expected.open, abs=1e-2)


def test_maps_show_each_term_with_its_sign(small, tmp_path):
    paths = small.save_maps(tmp_path)
    assert [path.name for path in paths] == [
        "content_conv2_2.png", "style_conv1_1.png", "style_pre_conv2_1.png", "tv.png", "total.png"
    ]  # fmt: skip
    with Image.open(tmp_path / "tv.png") as picture:
        shown = np.asarray(picture).astype(int)
    brightness = small.terms["tv"].gradient.sum(2)
    factor = round(320 / 17)
    corner = shown[8 + 2 * 16 :, 8:][: 17 * factor : factor, : 20 * factor : factor]
    redder = corner[:, :, 0] - corner[:, :, 2]
    strong = np.abs(brightness) > 0.1 * np.abs(brightness).max()
    np.testing.assert_array_equal(np.sign(redder[strong]), np.sign(brightness[strong]))


def test_a_field_of_zeros_is_grey_and_one_large_value_does_not_hide_the_rest(rng):
    assert (coloured(np.zeros((2, 3)), scale_of(np.zeros((2, 3)))) == 128).all()
    field = rng.uniform(-1, 1, (40, 50))
    field[3, 4] = 1e9
    assert scale_of(field) < 1.01
    lonely = np.zeros((40, 50))
    lonely[3, 4] = -2
    assert scale_of(lonely) == 2
    assert tuple(coloured(lonely, 2)[3, 4]) == (33, 102, 172)


def test_several_styles_have_shares_and_regions(pictures):
    image, content, style = pictures
    layers = {"style_layers": "conv1_1", "content_layers": "conv1_2", "engine": "reference"}
    both = gradients(image, content, [style, image], style_blend="1,3", **layers)
    assert "style:conv1_1" in both.terms
    left = np.zeros((17, 20, 3), np.uint8)
    left[:, :10] = 255
    apart = gradients(image, content, [style, image], content_mask=[left, 255 - left], **layers)
    assert {"style1:conv1_1", "style2:conv1_1"} <= set(apart.terms)
    assert np.abs(apart.terms["style1:conv1_1"].gradient[:, 12:]).max() == 0  # beyond its region and a kernel's reach
