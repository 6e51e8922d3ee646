"""The whole function of the image: value, gradient, terms."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from nst_manual.engines import open_engine
from nst_manual.errors import NSTError
from nst_manual.losses import content_loss, gram_loss, moments, style_loss, tv_loss
from nst_manual.objective import ImageTerm, Objective, Style, content_terms, style_targets, style_terms
from nst_manual.presets import PRESETS, Formula
from nst_manual.proof.checks import LAYER_WEIGHTS, MEAN, NARROW, PROGRAMS, check_objective, random_filters
from nst_manual.proof.differences import affine_region, gradient_error
from nst_manual.proof.report import LIMITS
from nst_manual.vgg import Network, steps_to, tapped, walk_up


def pictures(rng, image=(20, 23), style=(17, 26)):
    return rng.uniform(0, 255, (*image, 3)), rng.uniform(0, 255, (*image, 3)), rng.uniform(0, 255, (*style, 3))


def narrow_objective(content, style, preset="gatys", pooling="avg", tv_weight=0.01):
    network = Network.build(open_engine("reference", "float64"), random_filters(NARROW, 3), MEAN, NARROW, pooling)
    terms = content_terms(network, content, LAYER_WEIGHTS[0], Formula(PRESETS[preset]))
    terms += style_terms(network, [Style(style)], LAYER_WEIGHTS[1], Formula(PRESETS[preset]), content.shape[:2])
    return Objective(network, [*terms, ImageTerm("tv", tv_weight, tv_loss)] if tv_weight else terms)


SIZES = ((16, 16), (17, 31), (33, 18))
CASES = [(*case, SIZES[number % 3]) for number, case in enumerate(product(PROGRAMS, ("avg", "max")))]


@pytest.mark.parametrize(("preset", "pooling", "size"), CASES)
def test_the_whole_gradient_passes_finite_differences(rng, preset, pooling, size):
    image, content, style = pictures(rng, size)
    engine = open_engine("reference", "float64")
    check = check_objective(preset, pooling, (image, content), [Style(style)], rng, engine)
    assert check.numeric < LIMITS["numeric"]


@pytest.mark.parametrize("name", ["content:conv4_2", "style:conv1_1", "style:conv3_1", "style:conv5_1", "tv"])
def test_each_terms_gradient_passes_finite_differences(rng, name):
    image, content, style = pictures(rng)
    objective = narrow_objective(content, style).only(name)
    region = affine_region(objective.network)
    assert gradient_error(lambda x: objective(x)[:2], image, rng, region, 2, 3) < LIMITS["numeric"]


def test_a_gradient_without_the_relu_mask_fails(rng, monkeypatch):
    image, content, style = pictures(rng)
    monkeypatch.setattr("nst_manual.layers.relu_backward", lambda d_y, mask: d_y)
    objective = narrow_objective(content, style)
    region = affine_region(objective.network)
    assert gradient_error(lambda x: objective(x)[:2], image, rng, region, 2, 3) > 1e-3


def test_the_loss_is_the_sum_of_its_terms_and_so_is_the_gradient(rng):
    image, content, style = pictures(rng)
    objective = narrow_objective(content, style)
    loss, gradient, terms = objective(image)
    assert list(terms) == [
        "content:conv4_2",
        "style:conv1_1",
        "style:conv2_1",
        "style:conv3_1",
        "style:conv4_1",
        "style:conv5_1",
        "tv",
    ]
    assert loss == pytest.approx(sum(terms.values()), rel=1e-14)
    apart = [objective.only(name)(image) for name in terms]
    assert loss == pytest.approx(sum(evaluation.loss for evaluation in apart), rel=1e-12)
    np.testing.assert_allclose(sum(evaluation.gradient for evaluation in apart), gradient, rtol=1e-9, atol=1e-9)


def test_terms_are_the_losses_of_the_tapped_features(rng):
    image, content, style = pictures(rng)
    objective = narrow_objective(content, style, "paper", tv_weight=0)
    f, p, s = (
        {operation.name: features for operation, features, _ in walk_up(objective.network, x)}
        for x in (image, content, style)
    )
    terms = objective(image).terms
    assert terms["content:conv4_2"] == pytest.approx(2 * content_loss(f["conv4_2"], p["conv4_2"])[0])
    assert terms["style:conv4_1"] == pytest.approx(3 * style_loss(f["conv4_1"], moments(s["conv4_1"]))[0])


def test_the_content_picture_itself_has_no_content_loss(rng):
    _, content, style = pictures(rng)
    evaluation = narrow_objective(content, style).only("content:conv4_2")(content)
    assert evaluation.loss == 0
    assert not evaluation.gradient.any()


def test_a_layer_can_carry_content_and_style_at_once(rng):
    image, content, style = pictures(rng)
    network = narrow_objective(content, style).network
    terms = content_terms(network, content, {"conv3_1": 1.0}, Formula(PRESETS["gatys"]))
    terms += style_terms(network, [Style(style)], {"conv3_1": 5.0}, Formula(PRESETS["gatys"]), image.shape[:2])
    objective = Objective(network, terms)
    assert gradient_error(lambda x: objective(x)[:2], image, rng, affine_region(network), 2, 3) < 1e-7


@pytest.mark.parametrize("pooling", ["avg", "max"])
@pytest.mark.parametrize("preset", ["paper", "gatys"])
def test_terms_before_the_relu_pass_finite_differences(rng, preset, pooling):
    image, content, style = pictures(rng)
    alphas, betas = {"pre:conv4_2": 2.0, "conv4_2": 1.0}, {"pre:conv1_1": 1.0, "pre:conv2_2": 3.0, "conv3_1": 1.0}
    steps = steps_to((*alphas, *betas), NARROW)
    network = Network.build(open_engine("reference", "float64"), random_filters(NARROW, 3), MEAN, steps, pooling)
    terms = content_terms(network, content, alphas, Formula(PRESETS[preset])) + style_terms(
        network, [Style(style)], betas, Formula(PRESETS[preset]), image.shape[:2]
    )
    objective = Objective(network, terms)
    names = ["content:pre:conv4_2", "content:conv4_2", "style:pre:conv1_1", "style:pre:conv2_2", "style:conv3_1"]
    assert list(objective(image).terms) == names
    for function in (objective, objective.only("content:pre:conv4_2"), objective.only("style:pre:conv2_2")):
        assert gradient_error(lambda x, f=function: f(x)[:2], image, rng, affine_region(network), 2, 3) < 1e-7


def test_the_mask_of_a_layers_own_relu_is_not_applied_to_a_term_before_it(rng, monkeypatch):
    image, content, _ = pictures(rng)

    def gradient(tap):
        steps = steps_to(tap, NARROW)
        network = Network.build(open_engine("reference", "float64"), random_filters(NARROW, 3), MEAN, steps)
        return Objective(network, content_terms(network, content, {tap: 1.0}, Formula(PRESETS["paper"])))(
            image
        ).gradient

    right = {tap: gradient(tap) for tap in ("pre:conv1_1", "conv1_1")}
    assert not np.allclose(*right.values())
    monkeypatch.setattr("nst_manual.layers.relu_backward", lambda d_y, mask: d_y)
    np.testing.assert_array_equal(gradient("pre:conv1_1"), right["pre:conv1_1"])
    assert not np.array_equal(gradient("conv1_1"), right["conv1_1"])


def test_the_image_is_left_as_it_was(rng):
    image, content, style = pictures(rng)
    before = image.copy()
    narrow_objective(content, style)(image)
    np.testing.assert_array_equal(image, before)


def test_tapped_walks_no_further_than_it_must(rng):
    image, content, style = pictures(rng)
    network, passed = narrow_objective(content, style).network, []

    def counted(operation):
        return operation._replace(up=lambda x: (passed.append(operation.name), operation.up(x))[1])

    network = replace(network, operations=[counted(operation) for operation in network.operations])
    assert [layer for layer, _ in tapped(network, image, {"conv2_1"})] == ["conv2_1"]
    assert passed[-1] == "conv2_1"
    assert list(tapped(network, image, ())) == []


def style_objective(styles, engine=None, size=(20, 23)):
    network = Network.build(
        engine or open_engine("reference", "float64"), random_filters(NARROW, 3), MEAN, NARROW, "avg"
    )
    return Objective(network, style_terms(network, styles, LAYER_WEIGHTS[1], Formula(PRESETS["gatys"]), size))


def halves(size=(20, 23)):
    left = np.zeros(size)
    left[:, : size[1] // 2] = 1
    return left, 1 - left


def test_one_style_is_the_style_loss_with_its_own_moments_to_the_last_bit(rng):
    _, _, style = pictures(rng)
    objective = style_objective([Style(style)])
    features = dict(tapped(objective.network, style, LAYER_WEIGHTS[1]))
    for term in objective.terms:
        assert term.loss is gram_loss
        assert term.weight == LAYER_WEIGHTS[1][term.layer] * PRESETS["gatys"].style_unit(features[term.layer].shape[2])
        for found, expected in zip(term.target, moments(features[term.layer]), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_a_blend_has_the_gradient_of_the_sum_of_its_styles(rng):
    image, one, two = pictures(rng)
    blend = style_objective([Style(one, 3.0), Style(two, 1.0)])(image)
    apart = [style_objective([Style(style)])(image) for style in (one, two)]
    np.testing.assert_allclose(blend.gradient, 0.75 * apart[0].gradient + 0.25 * apart[1].gradient, rtol=1e-9)
    assert list(blend.terms) == [f"style:{layer}" for layer in LAYER_WEIGHTS[1]]
    assert blend.loss < 0.75 * apart[0].loss + 0.25 * apart[1].loss  # by a constant: no image has both styles


def test_shares_are_relative(rng):
    image, one, two = pictures(rng)
    left, right = halves()
    for regions in ((None, None), (left, right), (left, None)):
        found = [
            style_objective([Style(one, a, region=regions[0]), Style(two, b, region=regions[1])])(image)
            for a, b in ((0.75, 0.25), (6, 2))
        ]
        np.testing.assert_allclose(found[0].gradient, found[1].gradient, rtol=1e-12)


def test_known_targets_are_as_good_as_the_picture(rng):
    image, one, two = pictures(rng)
    (left, right), mask = halves(), rng.random(two.shape[:2])
    network = style_objective([Style(one)]).network
    known = [style_targets(network, one, LAYER_WEIGHTS[1]), style_targets(network, two, LAYER_WEIGHTS[1], mask)]
    from_pictures = style_objective([Style(one, region=left), Style(two, mask=mask, region=right)])(image)
    from_targets = style_objective([Style(targets=known[0], region=left), Style(targets=known[1], region=right)])(image)
    np.testing.assert_array_equal(from_pictures.gradient, from_targets.gradient)


def test_a_region_that_is_everything_is_no_region(rng):
    image, _, style = pictures(rng)
    whole = style_objective([Style(style)])(image)
    found = style_objective([Style(style, mask=np.ones(style.shape[:2]), region=np.ones(image.shape[:2]))])(image)
    assert found.loss == pytest.approx(whole.loss, rel=1e-12)
    np.testing.assert_allclose(found.gradient, whole.gradient, rtol=1e-9)
    assert list(found.terms) == [f"style1:{layer}" for layer in LAYER_WEIGHTS[1]]


def test_regions_that_are_both_everywhere_by_halves_are_a_blend(rng):
    image, one, two = pictures(rng)
    half = np.full(image.shape[:2], 0.5)
    found = style_objective([Style(one, region=half), Style(two, region=half)])(image)
    blend = style_objective([Style(one), Style(two)])(image)
    np.testing.assert_allclose(found.gradient, blend.gradient, rtol=1e-8)


def test_how_strong_a_regions_style_is_does_not_depend_on_the_regions_size(rng):
    """On a picture that repeats itself every 16 pixels, a region's neurons all feel what those of the whole feel."""
    tile, style = rng.uniform(0, 255, (16, 16, 3)), rng.uniform(0, 255, (17, 26, 3))
    image, region = np.tile(tile, (5, 12, 1)), np.zeros((80, 192))
    region[:, :96] = 1
    weights = {"conv2_1": 1.0}
    network = style_objective([Style(style)]).network
    gradients = []
    for styles in ([Style(style)], [Style(style, region=region)]):
        terms = style_terms(network, styles, weights, Formula(PRESETS["gatys"]), image.shape[:2])
        gradients.append(Objective(network, terms)(image).gradient)
    inside = np.s_[:, 16:64]
    assert np.linalg.norm((gradients[1] - gradients[0])[inside]) < 0.15 * np.linalg.norm(gradients[0][inside])
    assert not gradients[1][:, 112:].any()


def test_each_region_feels_its_own_style_alone(rng):
    image, one, two = pictures(rng, image=(24, 160))
    left, right = halves((24, 160))
    styles = [Style(one, region=left), Style(two, region=right)]
    terms = style_objective(styles, size=image.shape[:2]).terms
    assert [term.name for term in terms] == [f"style{n}:{layer}" for n in (1, 2) for layer in LAYER_WEIGHTS[1]]
    shallow = {"conv1_1": 1.0, "conv2_1": 1.0, "conv3_1": 1.0}
    network = style_objective(styles).network
    gradient, changed = (
        Objective(network, style_terms(network, these, shallow, Formula(PRESETS["gatys"]), image.shape[:2]))(
            image
        ).gradient
        for these in (styles, [styles[0], Style(one, region=right)])
    )
    reach = 26  # columns beyond which a neuron of conv3_1 on one side has no share of the other
    np.testing.assert_array_equal(gradient[:, : 80 - reach], changed[:, : 80 - reach])
    assert np.abs(gradient - changed)[:, 80 + reach :].max() > 0.1 * np.abs(gradient).max()


def test_a_black_mask_is_refused(rng):
    image, _, style = pictures(rng)
    with pytest.raises(NSTError, match="nothing of its region at conv1_1"):
        style_objective([Style(style, region=np.zeros(image.shape[:2]))])
    with pytest.raises(NSTError, match="nothing of its region at conv1_1"):
        style_objective([Style(style, mask=np.zeros(style.shape[:2]))])
