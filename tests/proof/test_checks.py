"""The proof must be able to fail."""

import re

import numpy as np
import pytest

from nst_manual import layers
from nst_manual.engines import open_engine
from nst_manual.engines.reference import ReferenceEngine
from nst_manual.losses import STYLE_LOSSES
from nst_manual.objective import Style
from nst_manual.proof import checks as verify
from nst_manual.proof.checks import MEAN, NARROW, checks, random_filters
from nst_manual.proof.report import ENGINE_LIMITS
from nst_manual.vgg import Conv, Network, Operation, Pool


def test_every_derivative_is_right():
    table = list(checks())
    assert [check.name for check in table if not check.passed] == []
    assert len(table) == 33 + 2 * len(STYLE_LOSSES)


WRONG = {  # derivative: the layers that have it
    "conv_backward": ["convolution", "convolution, replicate padding"],
    "replicate_backward": ["convolution, replicate padding"],
    "relu_backward": ["ReLU"],
    "average_pool_backward": ["average pooling", "average pooling, scaled"],
    "max_pool_backward": ["max pooling"],
    "l2_pool_backward": ["L2 pooling"],
}


@pytest.mark.parametrize("name", WRONG)
def test_the_table_names_the_layer_whose_derivative_is_wrong(monkeypatch, name):
    right = getattr(layers, name)
    monkeypatch.setattr(layers, name, lambda *arguments: right(*arguments) * 1.01)
    rng = np.random.default_rng(0)
    wrong = [
        check.name for check in (verify.check_layer(pair, rng) for pair in verify.layer_pairs(rng)) if not check.passed
    ]
    assert wrong == WRONG[name]


def test_a_border_that_is_not_folded_is_found(rng, monkeypatch):
    monkeypatch.setattr(layers, "replicate_backward", lambda d_y: d_y[1:-1, 1:-1])
    image, content, style = (rng.uniform(0, 255, (16, 19, 3)) for _ in range(3))
    engine = open_engine("reference", "float64")
    check = verify.check_objective("gatys", "avg", (image, content), [Style(style)], rng, engine, padding="replicate")
    assert not check.passed
    assert "the first step that is wrong by itself is conv1_1: " in check.fault


def broken_at_one_pixel(monkeypatch):
    """conv2_1's derivative alone, the only one of 8 channels in a narrow network that has 6 below it."""
    right = layers.conv_backward

    def wrong(d_y, kernel):
        d_x = right(d_y, kernel)
        if kernel.shape[2:] == (6, 8):
            d_x[0, -1, 2] *= 1.5
        return d_x

    monkeypatch.setattr(layers, "conv_backward", wrong)


def test_a_failure_says_which_step_where_what_was_expected_and_what_was_found(rng, monkeypatch):
    broken_at_one_pixel(monkeypatch)
    image, content, style = (rng.uniform(0, 255, (16, 19, 3)) for _ in range(3))
    engine = open_engine("reference", "float64")
    check = verify.check_objective("gatys", "avg", (image, content), [Style(style)], rng, engine)
    text = check.explanation()
    assert not check.passed
    assert text.startswith("objective, gatys, avg pooling: by finite differences its relative error is ")
    assert "the first step that is wrong by itself is conv2_1: " in text
    assert "\n" not in text
    for part in (text, text.split("conv2_1")[1]):
        assert re.search(r"at (row|random direction) .*expected \S+, found \S+ \(step \S+\)", part)


def test_every_step_is_proved_at_its_own_features_and_only_the_wrong_one_fails(rng, monkeypatch):
    for pooling in ("avg", "max"):
        network = Network.build(open_engine("reference", "float64"), random_filters(NARROW, 3), MEAN, NARROW, pooling)
        image = rng.uniform(0, 255, (17, 22, 3))
        table = list(verify.walk_checks(network, image, rng))
        names = [check.name for check in table]
        assert names[:5] == ["conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1"]
        assert len(names) == len(NARROW)
        assert [check.explanation() for check in table if not check.passed] == []
        linear = [isinstance(step, Conv) or (isinstance(step, Pool) and pooling == "avg") for step in NARROW]
        assert [check.adjoint is not None for check in table] == linear
    broken_at_one_pixel(monkeypatch)
    assert [check.name for check in verify.walk_checks(network, image, rng) if not check.passed] == ["conv2_1"]


BITS = {"float32": (23, 23), "tf32": (10, 10), "float16": (10, 7)}  # of a number's fraction: on the way up, and down


class RoughEngine(ReferenceEngine):
    """The reference with operands rounded as in a precision, and convolutions' derivatives times a factor."""

    def __init__(self, precision, factor):
        super().__init__("float64")
        self.precision, self.factor = precision, factor

    def operation(self, step, filters, pooling):
        right, (up, down) = super().operation(step, filters, pooling), BITS[self.precision]
        if not isinstance(step, Conv):
            return right
        return Operation(
            step.name,
            lambda x: right.up(rounded(x, up)),
            lambda d_y, saved: self.factor * right.down(rounded(d_y, down), saved),
        )


def rounded(x, bits):
    fraction, exponent = np.frexp(x)
    return np.ldexp(np.rint(fraction * 2 ** (bits + 1)), exponent - bits - 1)


@pytest.mark.parametrize(("precision", "wrong"), [("float32", 1.001), ("tf32", 1.05), ("float16", 1.05)])
@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_an_engines_rounding_passes_and_a_wrong_factor_fails(rng, precision, wrong, pooling):
    image, content, style = (rng.uniform(0, 255, (33, 38, 3)) for _ in range(3))
    for factor, right in ((1.0, True), (wrong, False)):
        engine = RoughEngine(precision, factor)
        check = verify.check_objective("paper", pooling, (image, content), [Style(style)], rng, engine)
        assert (check.engine <= ENGINE_LIMITS[precision]) == check.passed == right
