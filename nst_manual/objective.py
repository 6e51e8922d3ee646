"""Weighted terms → one function: image → (loss, gradient).

One walk up evaluates each term as it passes the term's layer; one walk down joins their gradients on the way.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from .arrays import Array, Scalar
from .losses import Preset, content_loss, style_loss, tv_loss
from .vgg import Network, Step, walk_down, walk_up

Loss = Callable[[Array, Array], tuple[Scalar, Array]]


@dataclass(frozen=True)
class Term:
    """One weighted loss at one layer: weight · loss(features, target)."""

    name: str
    layer: str
    weight: float
    loss: Loss
    target: Array


class Evaluation(NamedTuple):
    """What one walk up and down gives: the loss, d(loss)/d(image), and the weighted terms that sum to the loss."""

    loss: float
    gradient: Array
    terms: Mapping[str, float]


@dataclass(frozen=True)
class Objective:
    """L(x) = α L_c + β Σ w_l E_l + γ TV, as a function of the image alone: the targets are fixed."""

    network: Network
    terms: Sequence[Term]
    tv_weight: float = 0.0

    def __call__(self, image: Array) -> Evaluation:
        """Host image in, host gradient out: the only copies between them within an evaluation."""
        engine = self.network.engine
        loss, gradient, terms = self.evaluate(engine.to_device(image))
        return Evaluation(loss, engine.to_host(gradient), terms)

    def evaluate(self, image: Array) -> Evaluation:
        """The same with the image and the gradient on the engine's device."""
        _, d_image, values = self.on_device(image)
        # The walk is over before any value is looked at: on a GPU this is the one wait for it.
        numbers = {name: float(value) for name, value in values.items()}
        return Evaluation(sum(numbers.values()), d_image, numbers)

    def on_device(self, image: Array) -> tuple[Scalar, Array, dict[str, Scalar]]:
        """Loss, gradient and terms, with nothing fetched from the device: whoever wants them fetches them together."""
        values: dict[str, Scalar] = {}
        d_image = self._through_network(image, values) if self.terms else np.zeros_like(image)
        if self.tv_weight:
            value, gradient = tv_loss(image)
            values["tv"] = self.tv_weight * value
            d_image += self.tv_weight * gradient
        return sum(values.values()), d_image, values

    def _through_network(self, image: Array, values: dict[str, Scalar]) -> Array:
        """d_image of all tapped terms; their values are put into `values`."""
        engine = self.network.engine
        tape: list[tuple[Step, Any, Any]] = []
        for step, features, saved in walk_up(self.network, image, {term.layer for term in self.terms}):
            d_features = None
            for term in self.terms:
                if term.layer == step.name:
                    value, gradient = engine.loss(term.loss, features, saved, term.target, term.weight)
                    values[term.name] = value
                    d_features = engine.join(d_features, gradient)
            tape.append((step, saved, d_features))
            del features, saved, d_features  # while the next step is computed, only the tape holds what it must
        return walk_down(self.network, tape)

    def only(self, name: str) -> "Objective":
        """The same objective with one of its terms alone."""
        terms = [term for term in self.terms if term.name == name]
        return replace(self, terms=terms, tv_weight=self.tv_weight if name == "tv" else 0.0)


def content_terms(network: Network, content: Array, weights: Mapping[str, float], preset: Preset) -> list[Term]:
    """α L_c at each layer of `weights`, with the content picture's features P as targets."""
    terms = []
    for layer, features in tapped(network, content, weights):
        height, width, n = features.shape
        weight = weights[layer] * preset.content_unit(n, height * width)
        terms.append(Term(f"content:{layer}", layer, weight, content_loss, features))
    return terms


def style_terms(network: Network, style: Array, weights: Mapping[str, float], preset: Preset) -> list[Term]:
    """β w_l E_l at each layer of `weights`, with the style picture's Gram matrices A/M_s as targets."""
    terms = []
    for layer, features in tapped(network, style, weights):
        weight = weights[layer] * preset.style_unit(features.shape[2])
        terms.append(Term(f"style:{layer}", layer, weight, style_loss, network.engine.gram(features)))
        del features  # the largest of all may go before the next is made
    return terms


def tapped(network: Network, image: Array, layers: Collection[str]) -> Iterator[tuple[str, Array]]:
    """(layer, features) of a host image at the given layers, walking no further than the last of them."""
    missing = set(layers)
    walk = walk_up(network, network.engine.to_device(image), layers) if missing else iter(())
    for step, features, _ in walk:
        if step.name in missing:
            missing.remove(step.name)
            yield step.name, features
        del features
        if not missing:
            return
