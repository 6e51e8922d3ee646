"""From settings and pictures to what is minimised: weights, network, objective, and the search that minimises it."""

import dataclasses
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .arrays import Array
from .engines import Engine, open_engine
from .errors import NSTError
from .losses import STYLE_LOSSES, laplacian, laplacian_loss
from .objective import ImageTerm, Objective, Style, Targets, content_terms, features_of, style_terms, targets_of
from .optimise import OPTIMIZERS, Search
from .runs.inputs import Inputs
from .settings import Settings
from .tiles.objective import InTiles, TiledObjective
from .vgg import Network, convolutions
from .weights import GET_COMMAND, Weights, find_weights, load_weights
from .weights.calibrated import calibrate

log = logging.getLogger(__name__)

DAMAGED = "the checkpoint can't be resumed: it is damaged or from another version; start the run again"
Guard = Callable[[Callable[..., Any]], Callable[..., Any]]  # wraps the function that a search calls


def choose_weights(settings: Settings, inputs: Inputs) -> Weights:
    """Pretrained filters where there are any, else filters made from the pictures."""
    weights = pretrained_weights(settings) or calibrated_weights(settings, inputs)
    inputs.check(settings, weights)
    return weights


def pretrained_weights(settings: Settings) -> Weights | None:
    """The weights that the settings choose; None if the network is to be calibrated."""
    path = find_weights(settings.weights)
    if path is not None:
        log.info("weights: %s", path)
        return load_weights(path, convolutions(settings.steps()), settings.family)
    if settings.weights == "auto":
        log.info("weights: calibrated on the pictures; VGG-19's own make finer ones: `%s`", GET_COMMAND)
    return None


def calibrated_weights(settings: Settings, inputs: Inputs) -> Weights:
    """Filters made from the pictures themselves."""
    if kept := next(filter(None, inputs.kept), None):
        raise NSTError(f"{kept.targets} was made with pretrained weights, and there are none: `{GET_COMMAND}`")
    styles = [style.image for style in inputs.styles if style.image is not None]
    content, deepest = None if inputs.canvas else inputs.content, convolutions(settings.steps())[-1]
    seed, pooling, loss = settings.seed, settings.pooling, settings.style_loss
    return calibrate(content, styles, deepest, seed=seed, pooling=pooling, style_loss=loss)


def build_network(settings: Settings, weights: Weights, engine: Engine | None = None) -> Network:
    """VGG-19 as far as the deepest layer in use, on that engine or the one that the settings choose."""
    engine = engine or open_engine(settings.engine, settings.precision)
    return Network.build(engine, weights.filters, weights.mean, settings.steps(), settings.pooling, settings.taps())


def make_objective(
    settings: Settings,
    network: Network,
    content: Array,
    styles: Sequence[Style],
    find_targets: Targets | None = None,
    tile: int | None = None,
    folder: Path | None = None,
) -> Objective:
    """The targets of all pictures, and the function of the image that they define, in tiles of at most so many pixels
    on a side if `tile` is given. With a folder, targets of several tiles are in a file there."""
    find_targets, in_tiles = find_targets or targets_finder(tile), None if tile is None else InTiles(tile, folder)
    formula, loss = settings.formula(), STYLE_LOSSES[settings.style_loss]
    find_features = features_of if in_tiles is None else in_tiles.features
    terms = content_terms(network, content, settings.content_layer_weights(), formula, find_features)
    if styles:
        size = content.shape[0], content.shape[1]
        terms += style_terms(network, styles, settings.style_layer_weights(), formula, size, loss, find_targets)
    if settings.laplacian_weight:
        edges = laplacian(network.engine.to_device(content))
        terms.append(ImageTerm("laplacian", settings.laplacian_weight, partial(laplacian_loss, target=edges)))
    if settings.tv_weight:
        terms.append(ImageTerm("tv", formula.variation(), formula.preset.tv))
    if tile is None:
        return Objective(network, terms)
    return TiledObjective(network, terms, tile, on_host=tile < max(content.shape[:2]))


def targets_finder(tile: int | None) -> Targets:
    """What computes a style's targets: at once, or in tiles."""
    return targets_of if tile is None else InTiles(tile).targets


def settled(settings: Settings, engine: Engine) -> Settings:
    """With the optimiser that suits the engine, where the settings leave it open."""
    return dataclasses.replace(settings, optimizer=engine.optimizer) if settings.optimizer == "auto" else settings


def new_search(
    settings: Settings,
    objective: Objective,
    start: Array,
    guarded: Guard = lambda f: f,
    folder: Path | None = None,
) -> Search:
    """The settings' optimiser at its start: SciPy's works on the host, the others on the engine's device, unless
    memory is to be spared: then the picture is on the host, and only its tiles go to the device. With a folder, lbfgs
    remembers its steps in a file there."""
    engine = objective.network.engine
    settings = settled(settings, engine)
    optimizer = OPTIMIZERS[settings.optimizer]
    options: dict[str, Any] = {name: getattr(settings, name) for name in ("bounds", *optimizer.options)}
    if not optimizer.on_device:
        return optimizer.search(guarded(objective.fetched(objective.repeated())), start, **options)
    if folder is not None and settings.optimizer == "lbfgs":
        options["folder"] = folder
    if _spares_memory(settings, objective, options):
        host = engine.to_host(engine.to_device(start[:1])).dtype
        return optimizer.search(
            guarded(objective.fetched(objective.repeated())), start.astype(host, copy=False), **options
        )
    options["vectors"] = engine.vectors
    return optimizer.search(guarded(objective.repeated()), engine.to_device(start), **options)


def _spares_memory(settings: Settings, objective: Objective, options: Mapping[str, Any]) -> bool:
    tiled = isinstance(objective, TiledObjective) and objective.on_host
    return tiled or settings.history_bits == 16 or "folder" in options


def resumed_search(
    settings: Settings,
    objective: Objective,
    shape: tuple[int, ...],
    state: Mapping[str, Any],
    guarded: Guard,
    folder: Path | None = None,
) -> Search:
    """The search that was in that state, exactly; except for SciPy's, whose memory can't be saved. What lbfgs remembers
    is in a file again if it was in one."""
    optimizer, engine = OPTIMIZERS[settings.optimizer], objective.network.engine
    try:
        if tuple(state["shape"]) != shape:
            raise ValueError("its image has another size")
        if any(state[name] != getattr(settings, name) for name in optimizer.search.settings):
            raise ValueError("its search has other settings")
        if not optimizer.on_device:
            log.info("SciPy's L-BFGS-B continues from its last picture and restarts its estimate of the curvature")
            return optimizer.search.restored(guarded(objective.fetched(objective.repeated())), state)
        own: dict[str, Any] = {}
        in_blocks = settings.optimizer == "lbfgs" and len(state["rows"].shape) == 1
        if in_blocks and (folder is not None or settings.history_bits == 32):
            own["folder"] = folder or Path(tempfile.gettempdir())
        if _spares_memory(settings, objective, own):
            return optimizer.search.restored(guarded(objective.fetched(objective.repeated())), state, **own)
        on_device = {**state, "image": engine.to_device(state["image"])}
        own["vectors"] = engine.vectors
        return optimizer.search.restored(guarded(objective.repeated()), on_device, **own)
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise NSTError(DAMAGED) from error
