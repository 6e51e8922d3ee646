"""The proof at full width, on small pictures; its parts on a narrow network."""

import json
import re

import numpy as np
import pytest

from nst_manual.cli.main import main
from nst_manual.engines import open_engine
from nst_manual.objective import ImageTerm, Objective, Style, content_terms, style_terms
from nst_manual.presets import PRESETS, Formula
from nst_manual.proof.checks import LAYER_WEIGHTS, MEAN, NARROW, random_filters
from nst_manual.proof.full_width import (
    DeepProof,
    curve,
    held_value,
    plot_errors,
    telling_pixels,
    term_checks,
    term_values,
)
from nst_manual.vgg import Network

NAMES = ["content:conv4_2", *(f"style:conv{block}_1" for block in range(1, 6)), "tv", "total"]


def narrow(rng, pooling="avg"):
    image, content, style = (rng.uniform(0, 255, (18, 21, 3)) for _ in range(3))
    network = Network.build(open_engine("reference", "float64"), random_filters(NARROW, 3), MEAN, NARROW, pooling)
    formula = Formula(PRESETS["gatys"], gamma=0.01)
    terms = content_terms(network, content, LAYER_WEIGHTS[0], formula)
    terms += style_terms(network, [Style(style)], LAYER_WEIGHTS[1], formula, image.shape[:2])
    return Objective(network, [*terms, ImageTerm("tv", formula.variation(), formula.preset.tv)]), image


def test_values_without_a_walk_down_are_those_with_one(rng):
    objective, image = narrow(rng)
    evaluation = objective(image)
    values = term_values(objective, image)
    assert values.pop("total") == pytest.approx(evaluation.loss, rel=1e-14)
    assert values == pytest.approx(dict(evaluation.terms), rel=1e-14)


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_every_term_passes_and_a_wrong_one_is_found_where_it_is_wrong(rng, monkeypatch, pooling):
    objective, image = narrow(rng, pooling)
    table = term_checks(objective, image, rng)
    assert sorted(table) == sorted(NAMES)
    assert [check.explanation() for check in table.values() if not check.passed] == []
    evaluate = Objective.__call__

    def wrong(self, x):  # one corner, of one term
        evaluation = evaluate(self, x)
        if [term.name for term in self.terms] == ["style:conv1_1"]:
            evaluation.gradient[0, 20, 1] += 0.1 * np.abs(evaluation.gradient).max()
        return evaluation

    monkeypatch.setattr(Objective, "__call__", wrong)
    failed = [check for check in term_checks(objective, image, rng).values() if not check.passed]
    assert [check.name for check in failed] == ["style:conv1_1"]
    assert "at row 0, column 20, channel 1 expected " in failed[0].explanation()


def test_the_tested_pixels_are_the_corners_and_both_sides_of_the_seams(rng):
    rows, columns, _ = np.unravel_index(telling_pixels((40, 50, 3), rng), (40, 50, 3))
    places = set(zip(rows.tolist(), columns.tolist(), strict=True))
    assert {(0, 0), (0, 49), (39, 0), (39, 49), (15, 25), (16, 25), (20, 15), (20, 16)} <= places
    assert len(telling_pixels((5, 6, 3), rng)) == 5


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_with_every_relu_held_the_function_is_a_polynomial_of_degree_four(rng, pooling):
    objective, image = narrow(rng, pooling)
    held, line = held_value(objective, image), rng.standard_normal(image.shape)
    assert held(image) == pytest.approx(objective(image).loss, rel=1e-13)
    h = np.arange(-4.0, 4.1, 2)
    polynomial = np.polyfit(h, [held(image + t * line) for t in h], 4)
    assert np.polyval(polynomial, 7.0) == pytest.approx(held(image + 7 * line), rel=1e-9)
    assert polynomial[3] == pytest.approx(float(np.vdot(objective(image).gradient, line)), rel=1e-6)


def test_the_curve_shows_rounding_truncation_and_kinks(rng, tmp_path):
    objective, image = narrow(rng)
    steps = np.logspace(-9, 2, 12)
    found = curve(objective, image, rng.standard_normal(image.shape), "a line", steps)
    best = found.held.min()
    assert found.held[0] > 100 * best  # rounding
    assert found.held[-1] / found.held[-2] == pytest.approx(100, rel=0.5)  # truncation as h²
    assert found.five_points[steps <= found.inside].min() < 1e-7
    assert found.five_points[-1] > 1e-4  # kinks
    pytest.importorskip("matplotlib")
    for suffix in (".png", ".svg"):
        plot_errors([found], tmp_path / f"errors{suffix}")
        assert (tmp_path / f"errors{suffix}").stat().st_size > 5000


@pytest.fixture
def shallow(monkeypatch):
    """The proof of the command line, no deeper than conv2_2: the same in a second."""
    whole = DeepProof.of
    layers = {"style_layers": "conv1_1,conv2_1", "content_layers": "conv2_2"}
    monkeypatch.setattr(DeepProof, "of", lambda *picture, **options: whole(*picture, **layers, **options))


def test_check_deep_proves_the_network_of_the_weights_on_a_picture(shallow, capsys):
    words = ["check", "--deep", "--weights", "calibrated", "--size", "22", "--engine", "cpu", "--json"]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert re.search(r"^terms: differences along 1 of 1\d lines, about 0:00:\d\d left$", captured.err, re.MULTILINE)
    rows = [json.loads(line) for line in captured.out.splitlines()]
    names = [row["name"] for row in rows]
    assert names[:5] == ["conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1"]
    assert set(names[9:]) == {"content:conv2_2", "style:conv1_1", "style:conv2_1", "laplacian", "tv", "total"}
    assert all(row["passed"] and row["explanation"] is None for row in rows)


def test_a_failure_is_explained_on_the_terminal(shallow, monkeypatch, capsys):
    right = __import__("nst_manual").layers.average_pool_backward
    monkeypatch.setattr("nst_manual.layers.average_pool_backward", lambda *given: 1.01 * right(*given))
    words = ["check", "--deep", "--weights", "calibrated", "--size", "22", "--engine", "reference"]
    assert main([*words, "--precision", "float64"]) == 1
    out = capsys.readouterr().out
    assert "\npool1: by the dot test its relative error is " in out
    assert " of the derivatives above are wrong\n" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--plot", "errors.png"], "--plot belongs to `check --deep`"),
        (["--size", "30"], "--size belongs to `check --deep`"),
        (["--deep", "--plot", "errors.gif"], "a plot's name ends in .png or .svg"),
    ],
)
def test_mistakes_are_reported_before_the_long_work(capsys, words, sentence):
    assert main(["check", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_the_directions_are_those_with_room_for_a_step(monkeypatch):
    """Else rounding alone would fail a right derivative: one direction in ten has a kink very near."""
    objective, image = narrow(np.random.default_rng(0))
    worst = {tried: [] for tried in (1, 4)}
    for tried, errors in worst.items():
        monkeypatch.setattr("nst_manual.proof.full_width.TRIED", tried)
        monkeypatch.setattr("nst_manual.proof.full_width.telling_pixels", lambda shape, rng: [])
        for seed in range(8):
            checks = term_checks(objective, image, np.random.default_rng(seed), directions=1)
            errors.append(max(check.numeric for check in checks.values()))
    assert max(worst[4]) < max(worst[1]) / 4
    assert max(worst[4]) < 1e-8
