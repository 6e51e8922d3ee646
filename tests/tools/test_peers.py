"""The other programs' formulas, as tools/looks.py runs them."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest

from nst_manual.losses import moments
from nst_manual.roots import root
from nst_manual.vgg import convolutions, steps_to
from nst_manual.weights import Weights

torch = pytest.importorskip("torch")
TOOL = Path(__file__).parents[2] / "tools" / "peers.py"


@pytest.fixture(scope="module")
def peers():
    spec = importlib.util.spec_from_file_location("peers", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_the_matrix_root_and_its_derivative_are_those_by_eigenvalues(peers, rng, float64):
    rows = rng.standard_normal((6, 40))
    matrix = torch.tensor(rows @ rows.T / 40, requires_grad=True)
    found = peers.MatrixRoot.apply(matrix)
    np.testing.assert_allclose(found.detach().numpy(), root(matrix.detach().numpy()), atol=1e-12)
    weights = torch.tensor(rng.standard_normal((6, 6)))
    values, vectors = torch.linalg.eigh(matrix)
    exact = (vectors * values.sqrt()) @ vectors.T
    by_steps, by_values = (
        torch.autograd.grad((x * (weights + weights.T)).sum(), matrix)[0].numpy() for x in (found, exact)
    )
    np.testing.assert_allclose(by_steps, by_values, atol=1e-10)


def test_transport_is_the_distance_of_two_gaussians(peers, rng, float64):
    f, s = rng.uniform(size=(5, 6, 7)), rng.uniform(size=(5, 4, 9))
    found = float(peers.Transport(torch.tensor(s))(torch.tensor(f)))
    (m, sigma), (wanted_m, wanted) = (
        (x.mean, x.second - np.outer(x.mean, x.mean) + peers.EPSILON * np.eye(5))
        for x in (moments(maps.transpose(1, 2, 0)) for maps in (f, s))
    )
    half = root(wanted)
    expected = ((m - wanted_m) ** 2).sum() + np.trace(sigma + wanted - 2 * root(half @ sigma @ half))
    assert found == pytest.approx(expected / 5, rel=1e-9)


def test_the_scale_of_a_network_scales_every_activation(peers, rng):
    filters, channels = {}, 3
    for layer in convolutions(steps_to("conv5_1")):
        kernel = rng.standard_normal((3, 3, channels, 4)).astype(np.float32) / math.sqrt(9 * channels)
        filters[layer], channels = (kernel, rng.standard_normal(4).astype(np.float32)), 4
    weights = Weights(filters, (1.0, 2.0, 3.0), "oxford", "")
    image = torch.tensor(rng.uniform(0, 255, (3, 16, 16)).astype(np.float32))
    whole, small = peers.Vgg(weights).features(image), peers.Vgg(weights, 1 / 60).features(image)
    assert set(whole) == {*peers.STYLE_LAYERS, peers.CONTENT_LAYER}
    for layer, features in whole.items():
        np.testing.assert_allclose(small[layer].numpy() * 60, features.numpy(), rtol=1e-4, atol=1e-3)
