"""Weighted terms → one function: image → (loss, gradient).

One walk up evaluates each term as it passes the term's layer; one walk down joins their gradients on the way.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from .arrays import Array, Scalar
from .guides import area, guide, propagated
from .losses import GuidedTarget, content_loss, guided_style_loss, style_loss, tv_loss
from .presets import Preset
from .vgg import Network, Pool, Step, Steps, walk_down, walk_up

Loss = Callable[[Array, Any], tuple[Scalar, Array]]
Targets = Callable[[Network, "Style", Collection[str]], Mapping[str, Array]]  # as targets_of


@dataclass(frozen=True)
class Term:
    """One weighted loss at one layer: weight · loss(features, target)."""

    name: str
    layer: str
    weight: float
    loss: Loss
    target: Array | GuidedTarget


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
    tv: Callable[[Array], tuple[Scalar, Array]] = tv_loss

    def __call__(self, image: Array) -> Evaluation:
        """Host image in, host gradient out."""
        return self.fetched(self.on_device)(image)

    def repeated(self) -> Callable[[Array], tuple[Scalar, Array, dict[str, Scalar]]]:
        """`on_device`, made ready by the engine for many images of one size."""
        return self.network.engine.repeated(self.on_device)

    def fetched(self, on_device: Callable[[Array], Any]) -> Callable[[Array], Evaluation]:
        """The same for images on the host: the only copies between them within an evaluation."""
        engine = self.network.engine

        def evaluation(image: Array) -> Evaluation:
            _, d_image, values = on_device(engine.to_device(image))
            # The walk is over before any value is looked at: on a GPU this is the one wait for it.
            numbers = {name: float(value) for name, value in values.items()}
            return Evaluation(sum(numbers.values()), engine.to_host(d_image), numbers)

        return evaluation

    def on_device(self, image: Array) -> tuple[Scalar, Array, dict[str, Scalar]]:
        """Loss, gradient and terms, with nothing fetched from the device: whoever wants them fetches them together."""
        values: dict[str, Scalar] = {}
        with self.network.engine.at_work():
            d_image = self._through_network(image, values) if self.terms else np.zeros_like(image)
        if self.tv_weight:
            value, gradient = self.tv(image)
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
                    del gradient
            tape.append((step, saved, d_features))
            del features, saved, d_features  # while the next step is computed, only the tape holds what it must
        return walk_down(self.network, tape)

    def values(self, image: Array) -> dict[str, float]:
        """Each term's value at a host image, without its gradient: one walk up."""
        engine = self.network.engine
        x = engine.to_device(image)
        values: dict[str, Scalar] = {}
        layers = {term.layer for term in self.terms}
        for step, features, saved in walk_up(self.network, x, layers) if layers else ():
            for term in self.terms:
                if term.layer == step.name:
                    values[term.name], _ = engine.loss(term.loss, features, saved, term.target, term.weight)
        if self.tv_weight:
            values["tv"] = self.tv_weight * self.tv(x)[0]
        return {name: float(value) for name, value in values.items()}

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
        terms.append(Term(f"content:{layer}", layer, weight, content_loss, network.engine.keep(features)))
    return terms


@dataclass(frozen=True, eq=False)
class Style:
    """One of several styles: a picture, its share in the blend, and where it is taken from and where it goes.

    `targets` are its Gram matrices by layer where they are known already: then no picture and no mask are needed.
    """

    image: Array | None = None  # RGB, 0 … 255
    share: float = 1.0  # relative to those of the other styles
    mask: Array | None = None  # the part of this picture that is the style, 0 … 1; None is all of it
    region: Array | None = None  # the part of the content picture that takes it, 0 … 1; None is all of it
    targets: Mapping[str, Array] | None = None


def targets_of(network: Network, style: Style, layers: Collection[str]) -> dict[str, Array]:
    """A style's Gram matrices at the given layers, on the engine's device: those it has, or those of its picture."""
    if style.targets is not None:
        return {layer: network.engine.to_device(style.targets[layer]) for layer in layers}
    if style.image is None:
        raise ValueError("a style needs a picture or its Gram matrices")
    return style_targets(network, style.image, layers, style.mask)


def style_terms(
    network: Network,
    styles: Sequence[Style],
    weights: Mapping[str, float],
    preset: Preset,
    find_targets: Targets = targets_of,
) -> list[Term]:
    """β w_l E_l at each layer of `weights`: one term for all styles of the whole picture, and one for each region's.

    - Styles without a region are blended into one target, Σ c_i A_i with shares c_i of sum 1: for Σ c_i ‖G − A_i‖² is
      ‖G − Σ c_i A_i‖² and a constant, so the gradient is the same, for one product.
    - A region's E is that of a mean over its neurons, so its gradient at each of them grows by 1/area as it shrinks.
      Weighted by the area, it is what it would be were the region all of the picture: how strong a style is against the
      content does not depend on the size of its region. (The paper leaves this weight, λ_r, to the user.)
    - Styles that each have their own place take nothing from each other: of equal shares, each counts in full.
    """
    average = sum(style.share for style in styles) / len(styles)
    targets = [find_targets(network, style, weights) for style in styles]
    whole = [(style.share, grams) for style, grams in zip(styles, targets, strict=True) if style.region is None]
    terms = []
    if whole:
        total = sum(share for share, _ in whole)
        for layer in targets[0]:
            blend: Any = sum(share / total * grams[layer] for share, grams in whole)
            weight = weights[layer] * preset.style_unit(len(blend)) * (total / len(whole) / average)
            terms.append(Term(f"style:{layer}", layer, weight, style_loss, blend))
    for number, (style, grams) in enumerate(zip(styles, targets, strict=True), 1):
        if style.region is not None:
            shares = propagated(style.region, network.steps)
            for layer, gram in grams.items():
                weight = weights[layer] * preset.style_unit(len(gram)) * (style.share / average * area(shares[layer]))
                target = GuidedTarget(gram, network.engine.to_device(guide(shares[layer], layer)))
                terms.append(Term(f"style{number}:{layer}", layer, weight, guided_style_loss, target))
    return terms


def style_targets(
    network: Network, image: Array, layers: Collection[str], mask: Array | None = None
) -> dict[str, Array]:
    """{layer: A/M_s} of a style picture; with a mask, of that part of it."""
    engine = network.engine
    shares = {} if mask is None else propagated(mask, network.steps)
    targets = {}
    for layer, features in tapped(network, image, layers):
        if mask is None:
            targets[layer] = engine.gram(features)
        else:
            targets[layer] = engine.guided_gram(features, engine.to_device(guide(shares[layer], layer)))
        del features  # the largest of all may go before the next is made
    return targets


def shared(weights: Mapping[str, float], preset: Preset, steps: Steps, size: tuple[int, ...]) -> dict[str, float]:
    """β w_l with the preset's unit of M/pixels; `size` is the generated picture's (height, width)."""
    height, width = size
    found = {}
    for step in steps:
        if isinstance(step, Pool):
            height, width = height // 2, width // 2
        if step.name in weights:
            found[step.name] = weights[step.name] * preset.share_unit(height * width / (size[0] * size[1]))
    return found


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
