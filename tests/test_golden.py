"""Against PyTorch's results, stored by tools/golden.py, so PyTorch is not needed here."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from nst_manual.engines import open_engine
from nst_manual.objective import ImageTerm, Objective, Style, content_terms, style_terms
from nst_manual.optimise import Lbfgsb, lbfgsb
from nst_manual.presets import PRESETS, Formula
from nst_manual.proof.checks import LAYER_WEIGHTS, MEAN, NARROW, TV_WEIGHT, random_filters
from nst_manual.proof.differences import relative_error
from nst_manual.vgg import Network, steps_to, walk_up

FOLDER = Path(__file__).parent / "golden"
STEPS = {"narrow": NARROW, "narrow_max": NARROW, "full_width": steps_to("conv5_1")}


@pytest.fixture(scope="module", params=STEPS)
def golden(request):
    """(file, objective in float64, image)"""
    with h5py.File(FOLDER / f"{request.param}.h5") as file:
        steps, formula = STEPS[request.param], Formula(PRESETS[file.attrs["preset"]], gamma=TV_WEIGHT)
        filters = random_filters(steps, int(file.attrs["seed"]))
        image, content, style = (file[f"pictures/{name}"][()] for name in ("image", "content", "style"))

        def objective(engine, precision):
            network = Network.build(open_engine(engine, precision), filters, MEAN, steps, file.attrs["pooling"])
            terms = content_terms(network, content, LAYER_WEIGHTS[0], formula)
            terms += style_terms(network, [Style(style)], LAYER_WEIGHTS[1], formula, image.shape[:2])
            return Objective(network, [*terms, ImageTerm("tv", formula.variation(), formula.preset.tv)])

        yield file, objective, image.astype(np.float64)


def test_the_files_are_small():
    assert sum(path.stat().st_size for path in FOLDER.glob("*.h5")) < 1_000_000


def test_activations_are_pytorchs(golden):
    file, objective, image = golden
    walk = walk_up(objective("reference", "float64").network, image)
    found = {operation.name: features.ravel() for operation, features, _ in walk}
    for name, stored in file["activations"].items():
        assert relative_error(found[name][stored["places"][()]], stored["values"][()]) < 1e-12, name


def test_every_term_is_pytorchs(golden):
    file, objective, image = golden
    evaluation = objective("reference", "float64")(image)
    assert evaluation.loss == pytest.approx(file["loss/total"][()], rel=1e-12)
    assert evaluation.terms.keys() == set(file["loss"]) - {"total"}
    for name, value in evaluation.terms.items():
        assert value == pytest.approx(file[f"loss/{name}"][()], rel=1e-11), name


def test_the_gradient_is_pytorchs_within_1e_10(golden):
    file, objective, image = golden
    assert relative_error(objective("reference", "float64")(image).gradient, file["gradient"][()]) < 1e-10


@pytest.mark.parametrize("engine", ["reference", "cpu"])
def test_in_float32_the_gradient_is_pytorchs_within_1e_4(golden, engine):
    file, objective, image = golden
    assert relative_error(objective(engine, "float32")(image).gradient, file["gradient"][()]) < 1e-4


def test_ten_iterates_follow_pytorchs(golden, monkeypatch):
    """From SciPy's own first step, of norm 1, with which PyTorch's iterates began."""
    monkeypatch.setattr(lbfgsb, "first_length", lambda count: 1.0)
    file, objective, image = golden
    function, images, losses = objective("reference", "float64"), [], []

    def evaluate(x):
        evaluation = function(x)
        images.append(x.copy())
        losses.append(evaluation.loss)
        return evaluation

    records = []
    Lbfgsb(evaluate, image, history=10).run(iterations=10, callback=records.append)
    np.testing.assert_allclose([record.loss for record in records], file["iterates/losses"][()], rtol=1e-6)
    for record, theirs in zip(records, file["iterates/images"][()], strict=True):
        ours = images[losses.index(record.loss)].ravel()
        moved = np.linalg.norm(theirs - image.ravel())
        assert np.linalg.norm(ours - theirs) < 1e-5 * moved
