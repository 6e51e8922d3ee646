"""The story: two pictures → targets → objective → minimise → a picture.

x* = argmin over the pixels of  α L_content(x, content picture) + β L_style(x, style picture) + γ TV(x)
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .arrays import Array
from .calibrate import calibrate
from .engines import open_engine
from .errors import NSTError
from .images import Picture, load_image, load_picture, resize, save_image, to_picture
from .objective import Objective, Style, content_terms, shared, style_terms
from .optimise import OPTIMIZERS, Outcome, Record
from .recipe import Recipe, describe
from .settings import Settings
from .vgg import Network, convolutions, smallest_side
from .weights import GET_COMMAND, Weights, find_weights, load_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """A finished transfer. `stopped` says why it ended: iterations, converged, callback, interrupted or not finite."""

    image: Image.Image
    pixels: Array  # the same before rounding, (height, width, 3), RGB
    loss: float
    trace: list[Record]
    settings: Settings
    stopped: str
    message: str
    alpha: Array | None  # the content picture's, 0 … 1, which `image` has too; None if it is opaque
    exif: bytes  # the content picture's
    recipe: Recipe

    def save(self, path: str | Path) -> None:
        """PNG, JPEG, WebP or TIFF by the name's ending, of as many bits as the settings say; whole or not at all."""
        recipe = self.recipe.to_json(str(path))
        save_image(self.pixels, Path(path), alpha=self.alpha, bits=self.settings.bits, exif=self.exif, recipe=recipe)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a transfer; `result` is the picture so far."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.message)
        self.result = result


def transfer(content: Any, style: Any, *, callback: Callable[[Record], object] | None = None, **options: Any) -> Result:
    """Recompose the content picture in the style of the other; both are paths, PIL images or arrays.

    `options` are those of `Settings`, with the command line's names and defaults. `callback` gets each iteration's
    Record and may raise StopIteration.
    """
    settings = Settings(**options)
    pictures = load_pictures(settings, content, style)
    content_image, style_image = (picture.rgb for picture in pictures)
    start = starting_image(settings, content_image, style_image)
    weights = choose_weights(settings, content_image, style_image)
    recipe = describe(settings, pictures[0], pictures[1:], weights)
    network = build_network(settings, weights)
    objective = make_objective(settings, network, content_image, style_image)

    trace: list[Record] = []

    def record(entry: Record) -> None:
        trace.append(entry)
        if callback is not None:
            callback(entry)

    outcome = minimise(settings, objective, start, record)
    pixels = np.clip(outcome.image, 0, 255)
    alpha, exif = pictures[0].alpha, pictures[0].exif
    ending = {"stopped": outcome.stopped, "iterations": outcome.iterations, "loss": outcome.loss}
    result = Result(
        to_picture(pixels, alpha),
        pixels,
        outcome.loss,
        trace,
        settings,
        outcome.stopped,
        outcome.message,
        alpha,
        exif,
        replace(recipe, result=ending),
    )
    if outcome.stopped == "interrupted":
        raise Interrupted(result)
    return result


def load_pictures(settings: Settings, content: Any, style: Any) -> tuple[Picture, Picture]:
    """Both pictures in the sizes that the settings ask for, neither smaller than the network needs."""
    side, deepest = smallest_side(settings.steps()), convolutions(settings.steps())[-1]
    pictures = (
        load_picture(content, settings.size, enlarge=settings.enlarge),
        load_picture(style, settings.style_size or settings.size, scale=settings.style_scale, enlarge=settings.enlarge),
    )
    for name, picture in zip(("content", "style"), pictures, strict=True):
        height, width, _ = picture.rgb.shape
        if min(height, width) < side:
            raise NSTError(
                f"the {name} picture is {width}×{height} pixels, but {deepest} needs at least {side} on each side: "
                "take a larger picture, a larger --size or shallower layers"
            )
    return pictures


def choose_weights(settings: Settings, content: Array, style: Array) -> Weights:
    """Pretrained filters where there are any, else filters made from the two pictures."""
    path, layers = find_weights(settings.weights), convolutions(settings.steps())
    if path is not None:
        log.info("weights: %s", path)
        return load_weights(path, layers, settings.family)
    if settings.weights == "auto":
        log.info("weights: calibrated on the two pictures; VGG-19's own make finer ones: `%s`", GET_COMMAND)
    return calibrate(content, style, layers[-1], seed=settings.seed, pooling=settings.pooling)


def build_network(settings: Settings, weights: Weights) -> Network:
    """VGG-19 as far as the deepest layer in use, on the engine that the settings choose."""
    engine = open_engine(settings.engine, settings.precision)
    return Network.build(engine, weights.filters, weights.mean, settings.steps(), settings.pooling)


def make_objective(settings: Settings, network: Network, content: Array, style: Array) -> Objective:
    """The targets of both pictures, and the function of the image that they make."""
    preset = settings.preset_values()
    terms = content_terms(network, content, settings.content_layer_weights(), preset)
    weights = shared(settings.style_layer_weights(), preset, network.steps, content.shape[:2])
    terms += style_terms(network, [Style(style)], weights, preset)
    return Objective(network, terms, settings.tv_factor(), preset.tv)


def minimise(
    settings: Settings, objective: Objective, start: Array, callback: Callable[[Record], object] | None = None
) -> Outcome:
    """From the start to the outcome by the settings' optimiser: SciPy's on the host, others on the engine's device."""
    optimizer, engine = OPTIMIZERS[settings.optimizer], objective.network.engine
    options: dict[str, Any] = {name: getattr(settings, name) for name in ("bounds", *optimizer.options)}
    if optimizer.on_device:
        search = optimizer.search(objective.on_device, engine.to_device(start), **options)
    else:
        search = optimizer.search(objective, start, **options)
    outcome = search.run(iterations=settings.iterations, tolerance=settings.tolerance, callback=callback)
    return replace(outcome, image=engine.to_host(outcome.image)) if optimizer.on_device else outcome


def starting_image(settings: Settings, content: Array, style: Array) -> Array:
    """The content picture, white noise as in the paper, the style picture, or a file; in the content's size."""
    height, width = content.shape[:2]
    if settings.init == "content":
        return content
    if settings.init == "noise":
        return np.random.default_rng(settings.seed).uniform(0, 255, content.shape)
    return resize(style if settings.init == "style" else load_image(settings.init), height, width)
