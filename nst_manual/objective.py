"""Weighted terms → one function: image → (loss, gradient).

One walk up looks at each term's layer as it passes; one walk down joins the terms' gradients on the way.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from .arrays import Array, Scalar
from .engines import Engine
from .guides import area, propagated, region_weights
from .losses import Moments, StyleLoss, gram_loss
from .presets import Formula
from .vgg import IMAGE, Network, Tape, feature_sizes, tapped, walk_down, walk_up

Targets = Callable[[Network, "Style", Collection[str]], Mapping[str, Moments]]  # such as targets_of
Features = Callable[[Network, Array, Collection[str]], Iterator[tuple[str, Array]]]  # such as features_of
Compared = tuple[Scalar, Array | None, Array]  # what a style loss gives: E, dE/dm, dE/dS


@dataclass(frozen=True)
class ContentTerm:
    """weight · L_c at one layer."""

    name: str
    layer: str
    weight: float
    target: Array  # P, the content picture's features

    def evaluate(self, engine: Engine, features: Array, saved: Any) -> tuple[Scalar, Any]:
        return engine.difference(features, self.target, self.weight)


@dataclass(frozen=True)
class StyleTerm:
    """weight · E_l at one layer, of the whole picture or of a region."""

    name: str
    layer: str
    weight: float
    loss: StyleLoss
    target: Moments
    region: Array | None = None  # the weights t of its positions; None is all of the picture

    def evaluate(self, engine: Engine, features: Array, saved: Any) -> tuple[Scalar, Any]:
        value, d_mean, d_second = self.compare(engine.moments(features, self.region))
        return value, engine.pull_back(None, features, saved, self.region, d_mean, d_second)

    def compare(self, found: Moments) -> Compared:
        """The weighted value, and its derivatives in the moments."""
        value, d_mean, d_second = self.loss(found, self.target)
        return self.weight * value, None if d_mean is None else self.weight * d_mean, self.weight * d_second


@dataclass(frozen=True)
class ImageTerm:
    """weight · a loss of the pixels themselves: total variation, or the Laplacian term."""

    name: str
    weight: float
    loss: Callable[[Array], tuple[Scalar, Array]]
    layer: str = IMAGE

    def evaluate(self, engine: Engine, features: Array, saved: Any) -> tuple[Scalar, Any]:
        value, gradient = self.loss(features)
        return self.weight * value, self.weight * gradient


Term = ContentTerm | StyleTerm | ImageTerm


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

    def __call__(self, image: Array) -> Evaluation:
        """Host image in, host gradient out."""
        return self.fetched(self.on_device)(image)

    def repeated(self) -> Callable[[Array], tuple[Scalar, Array, dict[str, Scalar]]]:
        """`on_device`, made ready by the engine for many images of one size."""
        return self.network.engine.repeated(self.on_device)

    def fetched(self, on_device: Callable[[Array], Any]) -> Callable[[Array], Evaluation]:
        """The same for images on the host: the only copies between host and device within an evaluation."""
        engine = self.network.engine

        def evaluation(image: Array) -> Evaluation:
            _, d_image, values = on_device(engine.to_device(image))
            # The walk is over before any value is looked at: on a GPU this is the one wait for it.
            numbers = {name: float(value) for name, value in values.items()}
            return Evaluation(sum(numbers.values()), engine.to_host(d_image), numbers)

        return evaluation

    def on_device(self, image: Array) -> tuple[Scalar, Array, dict[str, Scalar]]:
        """Loss, gradient and terms, all left on the device: a caller that wants them fetches them together."""
        tape: Tape = []
        values = self._walk_up(image, tape)
        d_image = walk_down(self.network, tape)
        return sum(values.values()), d_image, values

    def values(self, image: Array) -> dict[str, float]:
        """Each term's value at a host image, without a walk down."""
        values = self._walk_up(self.network.engine.to_device(image), None)
        return {name: float(value) for name, value in values.items()}

    def only(self, name: str) -> "Objective":
        """The same objective with one of its terms alone."""
        return replace(self, terms=[term for term in self.terms if term.name == name])

    def _walk_up(self, image: Array, tape: Tape | None) -> dict[str, Scalar]:
        """Every term's value, as far up as the deepest of them; the tape gets what the walk down needs.

        Moments are compared when the walk is over, all at once: a style loss may take a while for its small matrices,
        each on one core. Its gradient in the features is computed when the walk down arrives there.
        """
        engine, values = self.network.engine, dict[str, Scalar]()
        seen: list[tuple[StyleTerm, Moments]] = []
        compared: dict[str, Compared] = {}
        missing = {term.layer for term in self.terms}
        for operation, features, saved in walk_up(self.network, image):
            gradients, pulls = [], list[tuple[StyleTerm, Any]]()
            for term in self.terms:
                if term.layer != operation.name:
                    continue
                if isinstance(term, StyleTerm):
                    seen.append((term, engine.moments(features, term.region)))
                    pulls.append((term, None if tape is None else engine.kept(features, saved, term.region)))
                else:
                    values[term.name], gradient = term.evaluate(engine, features, saved)
                    gradients.append(gradient)
                    del gradient
            if tape is not None:
                added = partial(_added, engine, gradients, pulls, compared, saved)
                tape.append((operation, saved, added if gradients or pulls else None))
                del added
            missing.discard(operation.name)
            del features, saved, gradients, pulls  # while the next step is computed, only the tape holds what it must
            if not missing:
                break
        found = engine.each(lambda pair: pair[0].compare(pair[1]), seen[::-1])  # the largest matrices first
        compared.update((term.name, result) for (term, _), result in zip(seen[::-1], found, strict=True))
        values.update((name, value) for name, (value, _, _) in compared.items())
        return {term.name: values[term.name] for term in self.terms}


def _added(
    engine: Engine,
    gradients: Sequence[Any],
    pulls: Sequence[tuple[StyleTerm, Any]],
    compared: Mapping[str, Compared],
    saved: Any,
    d: Any,
) -> Any:
    """d, gradients, and those of style terms, all at one layer, with what the engine has kept for each."""
    for gradient in gradients:
        d = engine.join(d, gradient)
    for term, kept in pulls:
        _, d_mean, d_second = compared[term.name]
        d = engine.pull_back(d, kept, saved, term.region, d_mean, d_second)
    return d


@dataclass(frozen=True, eq=False)
class Style:
    """One of several styles: a picture, its share in the blend, and where it is taken from and where it goes.

    `targets` are its moments by layer where they are known already: then it needs neither picture nor mask.
    """

    image: Array | None = None  # RGB, 0 … 255
    share: float = 1.0  # relative to those of the other styles
    mask: Array | None = None  # the part of this picture that is the style, 0 … 1; None is all of it
    region: Array | None = None  # the part of the content picture that takes it, 0 … 1; None is all of it
    targets: Mapping[str, Moments] | None = None


def targets_of(network: Network, style: Style, layers: Collection[str]) -> dict[str, Moments]:
    """A style's moments at the given layers, on the engine's device: those it brings, or those of its picture."""
    if style.targets is not None:
        return {layer: network.engine.known_moments(*style.targets[layer]) for layer in layers}
    if style.image is None:
        raise ValueError("a style needs a picture or its moments")
    return style_targets(network, style.image, layers, style.mask)


def style_targets(
    network: Network, image: Array, layers: Collection[str], mask: Array | None = None
) -> dict[str, Moments]:
    """{layer: (m, S)} of a style picture; with a mask, of that part of it."""
    engine = network.engine
    shares = {} if mask is None else propagated(mask, network.steps)
    targets = {}
    for layer, features in tapped(network, image, layers):
        weights = None if mask is None else engine.to_device(region_weights(shares[layer], layer))
        targets[layer] = engine.moments(features, weights)
        del features  # the largest of all may go before the next is made
    return targets


def features_of(network: Network, image: Array, layers: Collection[str]) -> Iterator[tuple[str, Array]]:
    """(layer, features) of a host image, each with memory of its own."""
    for layer, features in tapped(network, image, layers):
        yield layer, features.copy()


def content_terms(
    network: Network,
    content: Array,
    layers: Mapping[str, float],
    formula: Formula,
    find_features: Features = features_of,
) -> list[Term]:
    """The content term at each of the layers, {layer: w_l}, with the content picture's features P as targets."""
    terms: list[Term] = []
    for layer, features in find_features(network, content, layers):
        height, width, n = features.shape
        weight = formula.content(layers[layer], n, height * width)
        terms.append(ContentTerm(f"content:{layer}", layer, weight, features))
    return terms


def style_terms(
    network: Network,
    styles: Sequence[Style],
    layers: Mapping[str, float],
    formula: Formula,
    size: tuple[int, int],
    loss: StyleLoss = gram_loss,
    find_targets: Targets = targets_of,
) -> list[Term]:
    """The style term at each of the layers, {layer: w_l}, of a picture of that (height, width).

    All styles without a region make one term at each layer; each style with a region makes its own.

    - Styles without a region are blended into one target, Σ c_i (m_i, S_i) with shares c_i of sum 1. For the Gram loss
      this has the same gradient as the sum of losses, since Σ c_i ‖S − S_i‖² is ‖S − Σ c_i S_i‖² and a constant.
    - A region's E is that of a mean over its neurons, so its gradient at each of them grows by 1/area as the region
      shrinks. Weighted by the area, it is what it would be if the region were all of the picture: how strong a style is
      against the content does not depend on the size of its region. (The paper leaves this weight, λ_r, to the user.)
    - Styles that each have their own place take nothing from each other: of equal shares, each counts in full.
    """
    average = sum(style.share for style in styles) / len(styles)
    targets = [find_targets(network, style, layers) for style in styles]
    floor = formula.preset.floor
    sizes = feature_sizes(network.steps, *size)
    of_pixels = {layer: sizes[layer][0] * sizes[layer][1] / (size[0] * size[1]) for layer in layers}
    whole = [(style.share, found) for style, found in zip(styles, targets, strict=True) if style.region is None]
    terms: list[Term] = []
    if whole:
        total = sum(share for share, _ in whole)
        for layer, w_l in layers.items():
            target = blended([(share / total, found[layer]) for share, found in whole])
            target = target if floor is None else target.with_floor(floor)
            weight = formula.style(w_l, len(target.second), of_pixels[layer], total / len(whole) / average)
            terms.append(StyleTerm(f"style:{layer}", layer, weight, loss, target))
    for number, (style, found) in enumerate(zip(styles, targets, strict=True), 1):
        if style.region is not None:
            shares = propagated(style.region, network.steps)
            for layer, w_l in layers.items():
                part = style.share / average * area(shares[layer])
                weight = formula.style(w_l, len(found[layer].second), of_pixels[layer], part)
                region = network.engine.to_device(region_weights(shares[layer], layer))
                target = found[layer] if floor is None else found[layer].with_floor(floor)
                terms.append(StyleTerm(f"style{number}:{layer}", layer, weight, loss, target, region))
    return terms


def blended(parts: Sequence[tuple[float, Moments]]) -> Moments:
    """Σ c_i (m_i, S_i)"""
    mean: Any = sum(share * moments.mean for share, moments in parts)
    second: Any = sum(share * moments.second for share, moments in parts)
    return parts[0][1].like(mean, second)
