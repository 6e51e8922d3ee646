"""Writes tests/golden: what PyTorch's autograd says of seeded networks, so that the tests can compare without PyTorch.

    python tools/golden.py [FOLDER]

Two cases: a narrow VGG-19 on a small picture, and the full-width one up to conv5_1 on a smaller one, both with filters
from a generator that is frozen for ever. Each file holds the pictures, activations (of the wide network a fixed random
sample of them), every loss term, the gradient in the pixels, and the first 10 iterates of SciPy's L-BFGS-B with
PyTorch computing value and gradient.
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
from nst_manual.vgg import VGG19, Conv

FULL = VGG19[: [step.name for step in VGG19].index("conv5_1") + 1]
CASES = {  # name: (steps, seed, image and content size, style size, pooling, preset, activations kept per layer)
    "narrow": (NARROW, 11, (19, 26), (17, 32), "avg", "paper", None),
    "narrow_max": (NARROW, 11, (19, 26), (17, 32), "max", "johnson", None),
    "full_width": (FULL, 12, (18, 21), (16, 25), "avg", "gatys", 400),
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
            maps = features.numpy().transpose(1, 2, 0)
            places = np.sort(rng.choice(maps.size, min(kept or maps.size, maps.size), replace=False))
            _store(file, f"activations/{layer}/places", places.astype(np.uint32))
            _store(file, f"activations/{layer}/values", maps.ravel()[places])
        for term, value in {"total": evaluation.loss, **evaluation.terms}.items():
            file[f"loss/{term}"] = value
        _store(file, "gradient", evaluation.gradient)
        # Iterates in float32: the pixels agree to less than that after ten steps of a line search anyway.
        _store(file, "iterates/images", np.array([x for x, _ in iterates], dtype=np.float32))
        file["iterates/losses"] = [fun for _, fun in iterates]
    layers = sum(isinstance(step, Conv) for step in steps)
    print(f"{path}: {path.stat().st_size} bytes, {layers} convolutions, {len(iterates)} iterates")


def _store(file: h5py.File, name: str, array: np.ndarray) -> None:
    file.create_dataset(name, data=array, compression="gzip", compression_opts=9, shuffle=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = Path(__file__).resolve().parents[1] / "tests" / "golden"
    parser.add_argument("folder", nargs="?", type=Path, default=here, help="where to write (default: tests/golden)")
    folder = parser.parse_args().folder
    for case in CASES:
        write_case(folder / f"{case}.h5", case)
