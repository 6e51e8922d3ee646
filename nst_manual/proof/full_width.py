"""The proof at full width: VGG-19 itself, on a picture, in float64. It checks each step, each term and the total, and
draws the error of finite differences against their step.

All terms share the same lines, along which walks up alone measure them: random directions, and single pixels in the
corners, where padding matters, and on both sides of the seams between pooling windows and tiles.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Array
from ..engines import Engine, open_engine
from ..objective import Evaluation, Objective, Style
from ..options import shown_duration
from ..pictures.demo import painting, scene
from ..problem import build_network, choose_weights, make_objective
from ..runs.inputs import load_inputs
from ..runs.plots import plotted
from ..settings import Settings
from ..vgg import IMAGE, Operation, Relu, Step, walk_up
from ..weights import Weights
from .by_torch import torch_evaluation, torch_installed
from .checks import against_reference, walk_checks
from .differences import (
    POINTS,
    affine_region,
    evaluations_differ,
    five_points,
    lines,
    longest_step,
    numeric_slope,
    pattern,
    worst_slopes,
)
from .report import ENGINE_LIMITS, Check

log = logging.getLogger(__name__)

Line = tuple[str, Array, bool]  # its name, the direction, and whether that is a single pixel

SIDE = 64  # the picture's longer side by default, in pixels
SEAM = 16  # a multiple of the side of every pooling window and every engine's tile, up to conv5_1
# The Gram loss: a picture as small as this has fewer positions than filters, which is hard on covariances' roots.
OWN = {"size": SIDE, "style_loss": "gram", "tv_weight": 0.01, "laplacian_weight": 0.01}
STEPS = np.logspace(-10, 2, 25)  # of the curves
OFTEN = 30.0  # seconds between two estimates of the time left
TRIED = 4  # random directions for each that is measured: the shorter the step without kinks, the more rounding
ENGINE_IMAGES = 16  # of `against_reference`: fewer than in a narrow network, where each activation counts for more


@dataclass(frozen=True)
class Curve:
    """The relative error of central differences along one line, at each of `steps`."""

    name: str
    steps: Array
    two_points: Array
    five_points: Array
    held: Array  # two points, with every ReLU and pooling winner held: no kinks, only rounding and truncation
    inside: float  # up to this step no ReLU opens or closes and no pooling changes its winner


@dataclass(frozen=True)
class DeepProof:
    """The network with these weights, at the mean of a photograph and noise: far from every optimum."""

    settings: Settings
    weights: Weights
    image: Array
    content: Array
    styles: Sequence[Style]

    @classmethod
    def of(cls, picture: Any = None, **options: Any) -> "DeepProof":
        """From a photograph, by default the demo's, and the demo's painting; `options` are those of Settings."""
        settings = Settings(**{**OWN, **options})
        drawn = settings.size or SIDE
        photograph = scene(drawn, drawn * 3 // 4) if picture is None else picture
        inputs = load_inputs(settings, photograph, [painting(drawn, drawn)])
        content = inputs.content.astype(np.float64)
        noise = np.random.default_rng(settings.seed).uniform(0, 255, content.shape)
        return cls(settings, choose_weights(settings, inputs), (content + noise) / 2, content, inputs.styles)

    def objective(self, engine: Engine) -> Objective:
        network = build_network(self.settings, self.weights, engine)
        return make_objective(self.settings, network, self.content, self.styles)

    def by_torch(self, only: str = "total") -> Evaluation:
        """One term, or the whole objective, by PyTorch in float64."""
        settings = self.settings

        def kept(kind: str, factor: float, weights: Mapping[str, float]) -> dict[str, float]:
            return {layer: factor * w_l for layer, w_l in weights.items() if only in ("total", f"{kind}:{layer}")}

        alphas = kept("content", settings.content_weight, settings.content_layer_weights())
        betas = kept("style", settings.style_weight, settings.style_layer_weights())
        tv_weight = settings.tv_weight if only in ("total", "tv") else 0.0
        laplacian_weight = settings.laplacian_weight if only in ("total", "laplacian") else 0.0
        return torch_evaluation(
            self.weights.filters,
            self.weights.mean,
            settings.steps(),
            settings.pooling,
            "gatys" if (settings.preset, settings.style_loss) == ("default", "gram") else settings.preset,
            (self.image, self.content),
            self.styles,
            (alphas, betas, tv_weight),
            laplacian_weight,
        )

    def checks(
        self, engine: str = "auto", precision: str = "float32", threads: int | None = None, device: int | None = None
    ) -> Iterator[Check]:
        """A row for each step of the network, for each term, and for the total."""
        rng = np.random.default_rng(0)
        reference = self.objective(open_engine("reference", "float64"))
        chosen = open_engine(engine, precision, threads, device)
        yield from walk_checks(reference.network, self.image, rng)
        whole = self.objective(chosen), reference
        for name, row in term_checks(reference, self.image, rng).items():
            fast, exact = whole if name == "total" else (objective.only(name) for objective in whole)
            check = replace(row, engine_limit=ENGINE_LIMITS[chosen.precision])
            check = check.compared("engine", *against_reference(fast, exact, self.image, ENGINE_IMAGES))
            if torch_installed():
                check = check.compared("pytorch", *evaluations_differ(exact(self.image), self.by_torch(name)))
            yield check

    def curves(self) -> list[Curve]:
        """Error against step, along a random direction and for one pixel."""
        objective = self.objective(open_engine("reference", "float64"))
        rng = np.random.default_rng(1)
        single = np.zeros_like(self.image)
        single[self.image.shape[0] // 2, self.image.shape[1] // 2, 1] = 1
        lines = {"random direction": rng.standard_normal(self.image.shape), "one pixel": single}
        return [curve(objective, self.image, line, name) for name, line in lines.items()]


def term_checks(objective: Objective, image: Array, rng: np.random.Generator, directions: int = 2) -> dict[str, Check]:
    """{term: check} for each term and "total": the gradient against finite differences along the same lines."""
    gradients = {term.name: objective.only(term.name)(image).gradient for term in objective.terms}
    gradients["total"] = objective(image).gradient

    def values_of(x: Array) -> Array:
        values = term_values(objective, x)
        return np.array([values[name] for name in gradients])

    region, longest = affine_region(objective.network), longest_step(objective.network)
    every = list(lines(image.shape, rng, TRIED * directions, telling_pixels(image.shape, rng)))
    random, pixels = every[: TRIED * directions], every[TRIED * directions :]
    steps = [numeric_slope(lambda x: 0.0, image, line, region, longest).step for _, line, _ in random]
    along = [random[number] for number in np.argsort(steps)[-directions:]] + pixels
    found = worst_slopes(values_of, [*gradients.values()], image, _told(along), region, longest)
    return {name: Check(name).compared("numeric", *worst) for name, worst in zip(gradients, found, strict=True)}


def _told(along: Sequence[Line]) -> Iterator[Line]:
    """The lines. How long they will take is logged after the first one, and then twice a minute."""
    began = time.monotonic()
    said = -math.inf
    for number, line in enumerate(along):
        now = time.monotonic()
        if number and now - said >= OFTEN:
            said, left = now, (now - began) / number * (len(along) - number)
            log.info("terms: differences along %d of %d lines, about %s left", number, len(along), shown_duration(left))
        yield line


def telling_pixels(shape: tuple[int, ...], rng: np.random.Generator) -> list[int]:
    """The four corners, both sides of a horizontal and a vertical seam, and a random pixel; channels take turns."""
    height, width, channels = shape
    places = [(0, 0), (0, width - 1), (height - 1, 0), (height - 1, width - 1)]
    places += [(row, width // 2) for row in (SEAM - 1, SEAM) if row < height]
    places += [(height // 2, column) for column in (SEAM - 1, SEAM) if column < width]
    places.append((int(rng.integers(height)), int(rng.integers(width))))
    return [int(np.ravel_multi_index((*p, number % channels), shape)) for number, p in enumerate(places)]


def term_values(objective: Objective, image: Array) -> dict[str, float]:
    """Every term's value and their sum, without a walk down."""
    values = objective.values(image)
    return {**values, "total": sum(values.values())}


def curve(objective: Objective, image: Array, line: Array, name: str, steps: Array = STEPS) -> Curve:
    """The error of central differences at each step, with and without kinks."""
    analytic = float(np.vdot(objective(image).gradient, line))
    held = held_value(objective, image)
    found: list[tuple[float, float, float]] = []
    for h in steps:
        values = [term_values(objective, image + k * h * line)["total"] for k in POINTS]
        smooth = held(image + h * line) - held(image - h * line)
        found.append(((values[2] - values[1]) / (2 * h), five_points(values, h), smooth / (2 * h)))
    inside = numeric_slope(lambda x: 0.0, image, line, affine_region(objective.network)).step
    errors = np.abs(np.array(found) - analytic) / abs(analytic)
    return Curve(name, steps, errors[:, 0], errors[:, 1], errors[:, 2], inside)


def held_value(objective: Objective, image: Array) -> Callable[[Array], float]:
    """The objective with every ReLU and pooling winner held as at `image`: a polynomial of degree 4, without kinks."""
    network = objective.network
    patterns = [saved for _, _, saved in walk_up(network, image)][1:]  # after the image itself

    def held(step: Step, operation: Operation, saved: Any, x: Array) -> Any:
        if isinstance(step, Relu):
            return x * saved
        if not pattern(step, saved):
            return operation.up(x)[0]
        winner, (height, width, _) = saved
        corners = np.stack([x[i : height // 2 * 2 : 2, j : width // 2 * 2 : 2] for i, j in np.ndindex(2, 2)])
        return np.take_along_axis(corners, winner[None].astype(int), 0)[0]

    def value(x: Array) -> float:
        features = {IMAGE: x}
        x = x - network.mean
        for step, operation, saved in zip(network.steps, network.operations, patterns, strict=True):
            features[step.name] = x = held(step, operation, saved, x)
        return sum(float(term.evaluate(network.engine, features[term.layer], None)[0]) for term in objective.terms)

    return value


def plot_errors(curves: Sequence[Curve], path: Path) -> None:
    """Error against step, a panel for each line: rounding falls as 1/h, truncation grows as h², kinks lie between."""
    with plotted(path, 5 * len(curves), 4) as figure:
        for number, line in enumerate(curves, 1):
            axes = figure.add_subplot(1, len(curves), number)
            for errors, style, label in (
                (line.two_points, "o-", "2 points"),
                (line.five_points, "s-", "5 points"),
                (line.held, "^:", "2 points, ReLUs and pooling winners held: no kinks"),
            ):
                axes.loglog(line.steps, errors.clip(1e-17), style, ms=3, label=label)
            axes.axvline(line.inside, color="grey", ls="--", label="no kink within this step")
            axes.set(title=line.name, xlabel="step h, in units of 0 … 255", ylabel="relative error of the slope")
            axes.legend(fontsize="small")
