"""Writes tests/golden: results of PyTorch's autograd for seeded networks, so that tests can compare without PyTorch.

    python tools/golden.py [FOLDER]

There are three cases: a narrow VGG-19 with either pooling on a small picture, and the full-width one up to conv5_1 on
a smaller one, all with filters from a generator whose numbers never change. Each file holds the pictures, the
activations (a random sample for the wide network), every loss term, the gradient in the pixels, and the first 10
iterates of SciPy's L-BFGS-B with value and gradient from PyTorch.
"""

import argparse
from pathlib import Path

import h5py
import numpy as np
import torch
from scipy.optimize import minimize

from nst_manual.objective import Style
from nst_manual.proof.by_torch import torch_evaluation, torch_features
from nst_manual.proof.checks import LAYER_WEIGHTS, MEAN, NARROW, TV_WEIGHT, random_filters
from nst_manual.vgg import BEFORE, convolutions, steps_to

CASES = {  # name: (steps, seed, image and content size, style size, pooling, preset, activations kept per layer)
    "narrow": (NARROW, 11, (19, 26), (17, 32), "avg", "paper", None),
    "narrow_max": (NARROW, 11, (19, 26), (17, 32), "max", "johnson", None),
    "full_width": (steps_to("conv5_1"), 12, (18, 21), (16, 25), "avg", "gatys", 400),
}
ITERATES = 10


def write_case(path: Path, name: str) -> None:
    steps, seed, size, style_size, pooling, preset, kept = CASES[name]
    rng = np.random.RandomState(seed)
    pictures = tuple(np.rint(rng.uniform(0, 255, (*shape, 3))) for shape in (size, size, style_size))
    filters = random_filters(steps, seed)
    weights = (*LAYER_WEIGHTS, TV_WEIGHT)

    def evaluate(image: np.ndarray):
        return torch_evaluation(
            filters, MEAN, steps, pooling, preset, (image, pictures[1]), [Style(pictures[2])], weights
        )

    def value_and_gradient(x: np.ndarray):
        evaluation = evaluate(x.reshape(*size, 3))
        return evaluation.loss, evaluation.gradient.ravel()

    evaluation = evaluate(pictures[0])
    iterates = []
    minimize(
        value_and_gradient,
        pictures[0].ravel(),
        jac=True,
        method="L-BFGS-B",
        callback=lambda intermediate_result: iterates.append((intermediate_result.x.copy(), intermediate_result.fun)),
        options={"maxiter": ITERATES, "maxcor": 10, "ftol": 0, "gtol": 0, "maxfun": 1000},
    )
    with h5py.File(path, "w") as file:
        file.attrs.update(seed=seed, pooling=pooling, preset=preset, torch=str(torch.__version__))
        for label, picture in zip(("image", "content", "style"), pictures, strict=True):
            _store(file, f"pictures/{label}", picture.astype(np.uint8))
        for layer, features in torch_features(filters, MEAN, steps, pooling, torch.tensor(pictures[0])):
            if layer.startswith(BEFORE):
                continue
            maps = features.numpy().transpose(1, 2, 0)
            places = np.sort(rng.choice(maps.size, min(kept or maps.size, maps.size), replace=False))
            _store(file, f"activations/{layer}/places", places.astype(np.uint32))
            _store(file, f"activations/{layer}/values", maps.ravel()[places])
        for term, value in {"total": evaluation.loss, **evaluation.terms}.items():
            file[f"loss/{term}"] = value
        _store(file, "gradient", evaluation.gradient)
        # float32 is enough: after ten steps of a line search the pixels agree to fewer digits.
        _store(file, "iterates/images", np.array([x for x, _ in iterates], dtype=np.float32))
        file["iterates/losses"] = [fun for _, fun in iterates]
    print(f"{path}: {path.stat().st_size} bytes, {len(convolutions(steps))} convolutions, {len(iterates)} iterates")


def _store(file: h5py.File, name: str, array: np.ndarray) -> None:
    file.create_dataset(name, data=array, compression="gzip", compression_opts=9, shuffle=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = Path(__file__).resolve().parents[1] / "tests" / "golden"
    parser.add_argument("folder", nargs="?", type=Path, default=here, help="where to write (default: tests/golden)")
    folder = parser.parse_args().folder
    for case in CASES:
        write_case(folder / f"{case}.h5", case)
