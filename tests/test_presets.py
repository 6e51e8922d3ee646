"""Each preset against its program's own formula, written here from its definition: in float64, with tiny pictures."""

import dataclasses

import numpy as np
import pytest

from nst_manual import NSTError, Settings
from nst_manual.engines import open_engine
from nst_manual.losses import tv_loss, tv_nine_point_loss, tv_normalised_loss, tv_power_loss
from nst_manual.objective import Style
from nst_manual.presets import PRESETS, preset_settings
from nst_manual.problem import make_objective, new_search
from nst_manual.proof.checks import ACTIVATIONS, MEAN, in_units_of, random_filters
from nst_manual.proof.differences import affine_region, gradient_error
from nst_manual.runs.inputs import starting_image
from nst_manual.settings import OF_PRESET
from nst_manual.vgg import Conv, Network, Pool, steps_to, vgg_table

TINY = vgg_table(((2, 4), (2, 5), (4, 5), (4, 6), (4, 6)))[:-1]
FILTERS = random_filters(TINY, 8)
SIZE = (17, 37)  # odd: poolings drop rows and columns


def filters(preset):
    return in_units_of(FILTERS, ACTIVATIONS.get(preset, 1.0))


def features(image, pooling, preset="default"):
    """{layer: N × M}, before ("pre:…") and after each ReLU, by the definition of a convolution."""
    x, found = image - MEAN, {}
    for step in TINY:
        height, width, _ = x.shape
        if isinstance(step, Conv):
            kernel, bias = filters(preset)[step.layer]
            padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
            windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (0, 1))  # (H, W, C, 3, 3)
            y = np.einsum("hwcij,ijco->hwo", windows, kernel) + bias
            x = np.where(y > 0, y, 0)
            found[step.name], found[step.layer] = (a.reshape(-1, step.c_out).T for a in (y, x))
        elif isinstance(step, Pool):
            windows = x[: height // 2 * 2, : width // 2 * 2].reshape(height // 2, 2, width // 2, 2, -1)
            x = windows.max((1, 3)) if pooling == "max" else windows.mean((1, 3))
    return found


def gram(f):
    return f @ f.T


def squares(x):
    return (x**2).sum()


def neighbours(x):
    return squares(x[1:] - x[:-1]) + squares(x[:, 1:] - x[:, :-1])


def root(a):
    values, vectors = np.linalg.eigh(a)
    return vectors * np.sqrt(values) @ vectors.T


def transport(f, s, floor):
    a, b = (np.cov(features, bias=True) + floor * np.eye(len(f)) for features in (f, s))
    bures = np.trace(a + b - 2 * root(root(b) @ a @ root(b)))
    return (squares(f.mean(1) - s.mean(1)) + bures) / len(f)


def default(x, f, p, s):
    loss = 0.45 * sum(((f[layer] - p[layer]) ** 2).mean() for layer in ("conv4_2", "conv3_1", "conv2_1"))
    for layer, weight in {"conv1_1": 64, "conv2_1": 16, "conv3_1": 4, "conv4_1": 1, "conv5_1": 0.25}.items():
        floor = max(1e-4 * s[layer].var(1).mean(), 1e-8 * (s[layer] ** 2).mean())
        loss += weight * transport(f[layer], s[layer], floor)
    return loss


def crowsonkb(x, f, p, s):
    loss = 0.015 * ((f["conv4_2"] - p["conv4_2"]) ** 2).mean()
    for layer, weight in {"conv1_1": 256, "conv2_1": 64, "conv3_1": 16, "conv4_1": 4, "conv5_1": 1}.items():
        loss += weight / (256 + 64 + 16 + 4 + 1) * transport(f[layer], s[layer], 1e-4)
    x = np.pad(x / 255, ((1, 1), (1, 1), (0, 0)), "edge")
    straight = ((x[1:-1, 2:] - x[1:-1, 1:-1]) ** 2).mean() + ((x[2:, 1:-1] - x[1:-1, 1:-1]) ** 2).mean()
    diagonal = ((x[1:, 1:] - x[:-1, :-1]) ** 2).mean() + ((x[1:, :-1] - x[:-1, 1:]) ** 2).mean()
    return loss + 2 * 2 * (straight / 3 + diagonal / 12)


def gatys(x, f, p, s):
    style = ["conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"]
    loss = ((f["conv4_2"] - p["conv4_2"]) ** 2).mean()
    for layer in style:
        (n, m), m_s = f[layer].shape, s[layer].shape[1]
        loss += 1e3 / n**2 * ((gram(f[layer]) / m - gram(s[layer]) / m_s) ** 2).mean()
    return loss


def paper(x, f, p, s):
    loss = 0.5 * squares(f["conv4_2"] - p["conv4_2"])
    for layer in ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"):
        n, m = f[layer].shape
        loss += 1e3 / 5 * squares(gram(f[layer]) - gram(s[layer])) / (4 * n**2 * m**2)
    return loss


def johnson(x, f, p, s):
    loss = 5 * ((f["conv4_2"] - p["conv4_2"]) ** 2).mean()
    for layer in ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"):
        loss += 100 * ((gram(f[layer]) / f[layer].size - gram(s[layer]) / s[layer].size) ** 2).mean()
    return loss + 1e-3 * neighbours(x) / 2


def pytorch_tutorial(x, f, p, s):
    loss = ((f["pre:conv2_2"] - p["pre:conv2_2"]) ** 2).mean()
    for layer in ("pre:conv1_1", "pre:conv1_2", "pre:conv2_1", "pre:conv2_2", "pre:conv3_1"):
        loss += 1e6 * ((gram(f[layer]) / f[layer].size - gram(s[layer]) / s[layer].size) ** 2).mean()
    return loss


def keras(x, f, p, s):
    height, width, _ = x.shape
    loss = 2.5e-8 * squares(f["conv5_2"] - p["conv5_2"])
    for layer in ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"):
        loss += 1e-6 / 5 * squares(gram(s[layer]) - gram(f[layer])) / (4.0 * 3**2 * (height * width) ** 2)
    a, b = (x[:-1, :-1] - x[1:, :-1]) ** 2, (x[:-1, :-1] - x[:-1, 1:]) ** 2
    return loss + 1e-6 * ((a + b) ** 1.25).sum()


def eecs498(x, f, p, s):
    loss = 5e-2 * squares(f["conv3_1"] - p["conv3_1"])
    for layer, weight in {"conv2_1": 20000, "conv3_2": 500, "conv4_1": 12, "conv4_2": 1}.items():
        loss += weight * squares(gram(f[layer]) / f[layer].size - gram(s[layer]) / s[layer].size)
    return loss + 5e-2 * neighbours((x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225])


FORMULAS = {
    "default": default,
    "paper": paper,
    "gatys": gatys,
    "johnson": johnson,
    "pytorch-tutorial": pytorch_tutorial,
    "keras": keras,
    "eecs498": eecs498,
    "crowsonkb": crowsonkb,
}


@pytest.fixture
def pictures(rng):
    return [rng.uniform(0, 255, (*SIZE, 3)) for _ in range(3)]


def tiny_objective(settings, content, style):
    steps = steps_to(settings.taps(), TINY)
    engine = open_engine("reference", "float64")
    network = Network.build(engine, filters(settings.preset), MEAN, steps, settings.pooling)
    return make_objective(settings, network, content, [Style(style)])


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_its_programs_formula_in_value_and_gradient(rng, pictures, preset):
    settings = Settings(preset=preset)
    image, content, style = pictures
    objective = tiny_objective(settings, content, style)
    p, s = (features(picture, settings.pooling, preset) for picture in (content, style))

    def theirs(x):
        return float(FORMULAS[preset](x, features(x, settings.pooling, preset), p, s))

    evaluation = objective(image)
    assert evaluation.loss == pytest.approx(theirs(image), rel=1e-12)
    region = affine_region(objective.network)
    error = gradient_error(
        lambda x: (theirs(x), evaluation.gradient), image, rng, region, directions=2, pixels=3, step=0.01
    )
    assert error < 1e-7


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "keras"])
def test_only_keras_needs_a_style_picture_of_the_contents_size(rng, pictures, preset):
    settings = Settings(preset=preset)
    image, content, _ = pictures
    style = rng.uniform(0, 255, (24, 19, 3))
    p, s = (features(picture, settings.pooling, preset) for picture in (content, style))
    f = features(image, settings.pooling, preset)
    if preset == "paper":  # G sums over M positions, A over M_s
        s = {layer: a * np.sqrt(f[layer].shape[1] / a.shape[1]) for layer, a in s.items()}
    ours = tiny_objective(settings, content, style)(image).loss
    assert ours == pytest.approx(float(FORMULAS[preset](image, f, p, s)), rel=1e-12)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 5, 3), (6, 1, 3), (4, 5, 3)])
@pytest.mark.parametrize("tv", [tv_loss, tv_power_loss, tv_normalised_loss, tv_nine_point_loss])
def test_every_total_variation_has_its_own_gradient(rng, tv, shape):
    image = rng.random(shape)
    if not tv(image)[1].any():
        assert tv(image)[0] == 0
    else:
        assert gradient_error(tv, image, rng, step=1e-4) < 1e-9


@pytest.mark.parametrize("tv", [tv_power_loss, tv_normalised_loss, tv_nine_point_loss])
def test_a_flat_picture_has_no_total_variation_and_precision_is_kept(tv):
    value, gradient = tv(np.full((4, 5, 3), 7, np.float32))
    assert value == 0
    assert not gradient.any()
    assert gradient.dtype == np.float32


def test_a_preset_sets_every_option_that_presets_set():
    ours = {field.name for field in dataclasses.fields(Settings) if field.default is OF_PRESET}
    for preset in PRESETS:
        assert set(preset_settings(preset)) == ours
        assert set(PRESETS[preset].settings) <= ours


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_lowers_its_loss_with_its_own_optimiser(pictures, preset):
    settings = Settings(preset=preset, iterations=4, history=4)
    _, content, style = pictures
    objective, trace = tiny_objective(settings, content, style), []
    search = new_search(settings, objective, starting_image(settings, content, [Style(style)]))
    outcome = search.run(iterations=4, tolerance=0.0, callback=trace.append)
    assert outcome.stopped == "iterations"
    assert outcome.loss < trace[0].loss


def test_an_unknown_preset_lists_them_all():
    with pytest.raises(NSTError, match="default, paper, gatys, johnson, pytorch-tutorial, keras, eecs498"):
        Settings(preset="picasso")
