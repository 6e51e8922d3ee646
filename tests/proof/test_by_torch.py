"""Live comparisons with PyTorch's autograd, skipped where it is not installed."""

from functools import partial

import numpy as np
import pytest

from nst_manual.engines import open_engine
from nst_manual.losses import laplacian, laplacian_loss
from nst_manual.objective import ImageTerm, Objective, Style, content_terms, style_terms
from nst_manual.presets import PRESETS, Formula
from nst_manual.proof.by_torch import torch_evaluation
from nst_manual.proof.checks import MEAN, random_filters
from nst_manual.proof.differences import evaluation_error, relative_error
from nst_manual.vgg import VGG19, Network, steps_to

pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")

STYLE_LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
CASES = [  # preset, pooling, sizes of image and style, style layers, content layers
    ("gatys", "avg", (16, 16), (16, 16), STYLE_LAYERS, ("conv4_2",)),
    ("gatys", "max", (17, 30), (41, 22), STYLE_LAYERS, ("conv2_2", "conv4_2")),
    ("paper", "avg", (27, 21), (20, 34), ("conv3_4",), ("conv3_4", "conv1_2")),
    ("johnson", "avg", (16, 25), (23, 16), ("conv1_1", "conv5_1"), ()),
    ("keras", "avg", (17, 22), (20, 16), ("conv1_1", "conv3_1"), ("conv3_2",)),
    ("eecs498", "max", (16, 25), (23, 16), ("conv1_1", "conv2_1"), ("conv2_2",)),
    ("pytorch-tutorial", "max", (17, 18), (20, 16), ("pre:conv1_1", "pre:conv2_1", "conv2_1"), ("pre:conv3_2",)),
]


@pytest.mark.parametrize(("preset", "pooling", "size", "style_size", "style_layers", "content_layers"), CASES)
def test_the_full_width_network_agrees_with_autograd(
    rng, preset, pooling, size, style_size, style_layers, content_layers
):
    pictures = tuple(rng.uniform(0, 255, (*shape, 3)) for shape in (size, size, style_size))
    alphas, betas = dict.fromkeys(content_layers, 3.0), dict.fromkeys(style_layers, 0.5)
    steps = steps_to((*alphas, *betas))
    filters = random_filters(steps, 5)
    theirs = torch_evaluation(
        filters, MEAN, steps, pooling, preset, pictures[:2], [Style(pictures[2])], (alphas, betas, 0.2), 0.3
    )
    network = Network.build(open_engine("reference", "float64"), filters, MEAN, steps, pooling)
    formula = Formula(PRESETS[preset], gamma=0.2)
    terms = content_terms(network, pictures[1], alphas, formula)
    terms += style_terms(network, [Style(pictures[2])], betas, formula, size)
    edges = partial(laplacian_loss, target=laplacian(pictures[1]))
    terms += [ImageTerm("laplacian", 0.3, edges), ImageTerm("tv", formula.variation(), formula.preset.tv)]
    ours = Objective(network, terms)(pictures[0])
    assert evaluation_error(ours, theirs) < 1e-10


def test_all_sixteen_convolutions_and_five_poolings_agree_with_autograd(rng):
    pictures = tuple(rng.uniform(0, 255, (32, 35, 3)) for _ in range(2))
    filters = random_filters(VGG19, 6)
    weights = ({"conv5_4": 1.0}, {}, 0.0)
    theirs = torch_evaluation(filters, MEAN, VGG19, "avg", "paper", pictures, [], weights)
    network = Network.build(open_engine("reference", "float64"), filters, MEAN, VGG19)
    terms = content_terms(network, pictures[1], {"conv5_4": 1.0}, Formula(PRESETS["paper"]))
    ours = Objective(network, terms)(pictures[0])
    assert relative_error(ours.gradient, theirs.gradient) < 1e-10
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-12)
    assert np.abs(ours.gradient).max() > 0
