"""Looking inside the gradient: every term's value and gradient at one image, and its size at each layer.

The file serves to compare other programs with this one. It holds /loss/<term> and /gradient/<term>, weighted so that
the terms sum to the total. Gradients are float64, (height, width, 3), RGB, in loss per unit of a 0 … 255 pixel.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import h5py
import numpy as np

from ..arrays import Array
from ..engines import open_engine
from ..errors import NSTError
from ..objective import Evaluation, Objective
from ..options import GradientOptions
from ..pictures.files import replaced
from ..pictures.heatmap import signed_picture
from ..pictures.reading import load_picture
from ..pictures.writing import save_image
from ..problem import build_network, choose_weights, make_objective
from ..runs.fitting import fitted, tile_of
from ..runs.inputs import load_inputs
from ..settings import documented, split_options
from ..vgg import IMAGE, Conv, Network, Relu, Tape, walk_down, walk_up

UNIT = "loss per unit of brightness"


class LayerGradient(NamedTuple):
    """The walk down at one layer: |d(loss)/d(features)|, and the fraction of its ReLUs that are open."""

    name: str
    norm: float
    open: float | None  # None if the layer has no ReLU


@dataclasses.dataclass(frozen=True)
class Gradients:
    """`total` comes from one joined walk down and each term from a walk of its own, so their sum proves the joining."""

    total: Evaluation
    terms: Mapping[str, Evaluation]
    attributes: Mapping[str, Any]
    layers: tuple[LayerGradient, ...]  # from the deepest down to the image; none if computed in tiles

    def norms(self) -> dict[str, float]:
        """The norm of each term's gradient in the pixels, and of the total's."""
        return {name: _norm(vector) for name, vector in self._vectors().items()}

    def shares(self) -> dict[str, float]:
        """Each term's share of the total gradient, ⟨g_term, g⟩/⟨g, g⟩. They sum to 1; opposing terms are negative."""
        vectors = self._vectors()
        total = vectors.pop("total")
        length = float(total @ total)
        return {name: float(vector @ total) / length if length else 0.0 for name, vector in vectors.items()}

    def cosines(self) -> dict[str, dict[str, float | None]]:
        """The cosine between any two gradients, including the total's; None if one of them is 0."""
        vectors, norms = self._vectors(), self.norms()

        def cosine(a: str, b: str) -> float | None:
            scale = norms[a] * norms[b]
            return float(vectors[a] @ vectors[b]) / scale if scale else None

        return {a: {b: cosine(a, b) for b in vectors} for a in vectors}

    def save_maps(self, folder: Path) -> list[Path]:
        """A picture of each term's gradient and the total's: how the loss changes where a pixel gets brighter."""
        shares, norms, paths = {**self.shares(), "total": 1.0}, self.norms(), self.maps(folder)
        for name, evaluation in self._all().items():
            title = f"{name}: loss {evaluation.loss:.4g}\n|gradient| {norms[name]:.4g}, share {shares[name]:.1%}"
            brighter = evaluation.gradient.astype(np.float64).sum(2)  # if a pixel's three channels grow together
            save_image(signed_picture(brighter, title, UNIT), paths[name])
        return [*paths.values()]

    def maps(self, folder: Path) -> dict[str, Path]:
        """The files that `save_maps` writes."""
        return {name: folder / f"{name.replace(':', '_')}.png" for name in self._all()}

    def _all(self) -> dict[str, Evaluation]:
        return {**self.terms, "total": self.total}

    def _vectors(self) -> dict[str, Array]:
        return {name: evaluation.gradient.astype(np.float64).ravel() for name, evaluation in self._all().items()}

    def save(self, path: str | Path, new: bool = False) -> None:
        """As HDF5, and with `new` over no other file. A failure leaves no half-written file."""
        with replaced(Path(path), new) as temporary, h5py.File(temporary, "w") as file:
            file.attrs.update(self.attributes)
            for name, evaluation in self._all().items():
                file[f"loss/{name}"] = np.float64(evaluation.loss)
                file[f"gradient/{name}"] = evaluation.gradient.astype(np.float64)


@documented("gradient")
def gradients(
    image: Any,
    content: Any,
    style: Any,
    *,
    content_mask: Sequence[Any] = (),
    style_mask: Sequence[Any] = (),
    **options: Unpack[GradientOptions],
) -> Gradients:
    """Every term's value and gradient at `image`. Pictures keep their own size unless `size` is given.

    Styles and masks are those of `transfer`: one or several.
    """
    settings, run = split_options(options, "gradient")
    x = load_picture(image, settings.size, enlarge=settings.enlarge).rgb
    styles = style if isinstance(style, list | tuple) else [style]
    inputs = load_inputs(settings, content, styles, content_mask, style_mask)
    height, width, _ = inputs.content.shape
    if x.shape != inputs.content.shape:
        raise NSTError(
            f"IMAGE is {x.shape[1]}×{x.shape[0]} and CONTENT {width}×{height} pixels: both must have the same size, "
            "which --size gives them if they have the same shape"
        )
    weights, engine = (
        choose_weights(settings, inputs),
        open_engine(settings.engine, settings.precision, run.threads, run.device),
    )
    network = build_network(settings, weights, engine)
    _, run = fitted(dataclasses.replace(settings, optimizer="adam"), run, inputs, engine, loaded=True)
    tile = tile_of(run, x)
    objective = make_objective(settings, network, inputs.content, inputs.styles, tile=tile)
    chosen = {name: "" if value is None else value for name, value in dataclasses.asdict(settings).items()}
    factors = {"weight of tv": 0.0} | {f"weight of {term.name}": term.weight for term in objective.terms}
    source = {"weights_family": weights.family, "weights_source": weights.source, "weights_licence": weights.licence}
    total, terms = objective(x), {term.name: objective.only(term.name)(x) for term in objective.terms}
    terms.setdefault("tv", Evaluation(0.0, np.zeros_like(total.gradient), {}))
    # Tapping every layer keeps the engine from fusing poolings with the layers below them.
    every = {step.name for step in network.steps if not isinstance(step, Conv)} | settings.taps()
    apart = Network.build(engine, weights.filters, weights.mean, network.steps, settings.pooling, every)
    # In tiles, the gradient at a layer is the sum of overlapping ones, which are never all in memory.
    walked = (
        []
        if tile is not None and tile < max(height, width)
        else layer_gradients(dataclasses.replace(objective, network=apart), x)
    )
    return Gradients(total, terms, chosen | factors | source, tuple(walked))


def layer_gradients(objective: Objective, image: Array) -> list[LayerGradient]:
    """The gradient's norm at every layer on the way down to the image, and the fraction of its ReLUs that are open."""
    network, engine = objective.network, objective.network.engine
    relus = {step.name for step in network.steps if isinstance(step, Relu)}
    tape: Tape = []
    opened: dict[str, float] = {}
    for operation, features, saved in walk_up(network, engine.to_device(image)):
        d_features = None
        for term in objective.terms:
            if term.layer == operation.name != IMAGE:
                _, gradient = term.evaluate(engine, features, None)  # without `saved`, no engine can postpone it
                d_features = engine.join(d_features, gradient)
        if operation.name in relus:
            opened[operation.name] = float((features > 0).mean())
        tape.append((operation, saved, d_features))
    found: list[LayerGradient] = []
    of_pixels = " and ".join(term.name for term in objective.terms if term.layer == IMAGE)
    inner = {step.name for step in network.steps if isinstance(step, Conv)} - {term.layer for term in objective.terms}

    def watch(name: str, d: Any) -> None:
        if name not in inner:
            shown = f"image, before {of_pixels}" if name == IMAGE and of_pixels else name
            found.append(LayerGradient(shown, _norm(engine.to_host(d)), opened.get(name)))

    if any(term.layer != IMAGE for term in objective.terms):
        walk_down(network, tape, watch)
    return found


def _norm(x: Array) -> float:
    return float(np.linalg.norm(x.astype(np.float64)))
