"""The story: pictures → targets → objective → minimise → a picture.

x* = argmin over the pixels of  α L_content(x, content picture) + β L_style(x, style picture) + γ TV(x)
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .arrays import Array
from .engines import Engine, open_engine
from .errors import NSTError
from .objective import Objective, Style, Targets, content_terms, shared, style_terms, targets_of
from .optimise import OPTIMIZERS, AnySearch, Outcome, Record
from .pictures.reading import resize
from .runs.checkpoint import Checkpoint, load_checkpoint
from .runs.inputs import Inputs, load_inputs, starting_image
from .runs.memory import check_memory
from .runs.recipe import Recipe, describe
from .runs.results import Interrupted, Result
from .runs.scales import Scale
from .runs.watch import Flag, Watch, check_outputs
from .settings import Run, Settings, split_options
from .vgg import Network, convolutions
from .weights import GET_COMMAND, Weights, find_weights, load_weights
from .weights.calibrated import calibrate

log = logging.getLogger(__name__)

Guard = Callable[[Callable[..., Any]], Callable[..., Any]]  # of the function that a search calls

FINISHED = ("iterations", "converged")  # ends of a search after which the next scale's can begin


def transfer(
    content: Any,
    style: Any,
    *,
    content_mask: Sequence[Any] = (),
    style_mask: Sequence[Any] = (),
    callback: Callable[[Record], object] | None = None,
    cancel: Flag | None = None,
    **options: Any,
) -> Result:
    """Recompose the content picture in the style of the other, or of a list of others: paths, PIL images or arrays.

    `options` are those of `Settings` and `Run`, with the command line's names and defaults. With masks, each style goes
    to the region that its content mask shows, and is taken from the part that its style mask shows. `callback` gets
    each iteration's Record and may raise StopIteration; `cancel`, such as a threading.Event, is looked at after each
    evaluation. Several transfers may run at once: they share nothing.
    """
    styles = style if isinstance(style, list | tuple) else [style]
    return make("transfer", options, content, styles, content_mask, style_mask, callback=callback, cancel=cancel)


def reconstruct(
    image: Any,
    *,
    callback: Callable[[Record], object] | None = None,
    cancel: Flag | None = None,
    **options: Any,
) -> Result:
    """What the content layers know of a picture: from noise, another that is the same to them.

    As `transfer`, without the options of styles.
    """
    return make("reconstruct", options, image, (), callback=callback, cancel=cancel)


def texture(
    style: Any,
    *,
    content_mask: Sequence[Any] = (),
    style_mask: Sequence[Any] = (),
    callback: Callable[[Record], object] | None = None,
    cancel: Flag | None = None,
    **options: Any,
) -> Result:
    """What the style layers know of a picture, or of a list of pictures: from noise, another of the same style.

    As `transfer`, without the options of the content, and of any `width` and `height`.
    """
    styles = style if isinstance(style, list | tuple) else [style]
    return make("texture", options, None, styles, content_mask, style_mask, callback=callback, cancel=cancel)


def make(
    command: str,
    options: Mapping[str, Any],
    content: Any | None,
    styles: Sequence[Any],
    content_masks: Sequence[Any] = (),
    style_masks: Sequence[Any] = (),
    *,
    callback: Callable[[Record], object] | None = None,
    cancel: Flag | None = None,
    engine: Engine | None = None,
) -> Result:
    """What the three have in common: from options and pictures to the run. Whoever gives an engine, for several runs,
    has looked after their memory."""
    settings, run = split_options(options, command)
    kept = load_checkpoint(run.resume) if run.resume else None
    check_outputs(settings, run, kept)
    inputs = load_inputs(settings, content, styles, content_masks, style_masks)
    if kept and run.resume:
        kept.check(settings, inputs.checksums(), run.resume)
    if engine is None:
        engine = open_engine(settings.engine, settings.precision, run.threads)
        check_memory(settings, run, inputs, engine)
    weights = choose_weights(settings, inputs)
    network = build_network(settings, weights, engine)
    recipe = describe(settings, inputs, weights)
    del weights  # the network has them in its engine's own form
    return recompose(settings, run, inputs, network, recipe, callback=callback, cancel=cancel, kept=kept)


def choose_weights(settings: Settings, inputs: Inputs) -> Weights:
    """Pretrained filters where there are any, else filters made from the pictures."""
    weights = pretrained_weights(settings) or calibrated_weights(settings, inputs)
    inputs.check(settings, weights)
    return weights


def pretrained_weights(settings: Settings) -> Weights | None:
    """Those that the settings choose; None if the network is to be calibrated."""
    path = find_weights(settings.weights)
    if path is not None:
        log.info("weights: %s", path)
        return load_weights(path, convolutions(settings.steps()), settings.family)
    if settings.weights == "auto":
        log.info("weights: calibrated on the pictures; VGG-19's own make finer ones: `%s`", GET_COMMAND)
    return None


def calibrated_weights(settings: Settings, inputs: Inputs) -> Weights:
    """Made from the pictures."""
    if kept := next(filter(None, inputs.kept), None):
        raise NSTError(f"{kept.targets} is a style as pretrained weights see it, and there are none: `{GET_COMMAND}`")
    styles = [style.image for style in inputs.styles if style.image is not None]
    content, deepest = None if inputs.canvas else inputs.content, convolutions(settings.steps())[-1]
    return calibrate(content, styles, deepest, seed=settings.seed, pooling=settings.pooling)


def build_network(settings: Settings, weights: Weights, engine: Engine | None = None) -> Network:
    """VGG-19 as far as the deepest layer in use, on that engine or the one that the settings choose."""
    engine = engine or open_engine(settings.engine, settings.precision)
    return Network.build(engine, weights.filters, weights.mean, settings.steps(), settings.pooling)


def recompose(
    settings: Settings,
    run: Run,
    inputs: Inputs,
    network: Network,
    recipe: Recipe,
    *,
    callback: Callable[[Record], object] | None = None,
    cancel: Flag | None = None,
    kept: Checkpoint | None = None,
    find_targets: Targets = targets_of,
) -> Result:
    """The run itself: coarse to fine, watched, kept and written as it was asked for."""
    scales = inputs.scales(settings)
    watch = Watch(
        settings, run, inputs, scales, recipe, network.engine.to_host, callback=callback, cancel=cancel, kept=kept
    )
    outcome = coarse_to_fine(settings, scales, inputs, network, watch, kept, find_targets)
    result = watch.result(outcome)
    if outcome.stopped == "interrupted":
        raise Interrupted(result)
    return result


def coarse_to_fine(
    settings: Settings,
    scales: Sequence[Scale],
    inputs: Inputs,
    network: Network,
    watch: Watch,
    kept: Checkpoint | None = None,
    find_targets: Targets = targets_of,
) -> Outcome:
    """Each scale's outcome starts the next; the last one's, or that of the scale at which the run was ended."""
    outcome: Outcome | None = None

    def search_at(number: int, scale: Scale) -> Outcome:
        content, styles = inputs.at(scale)
        objective = make_objective(settings, network, content, styles, find_targets)
        if kept and number == kept.scale:
            search = resumed_search(settings, objective, content.shape, kept.search, watch.guarded)
        elif outcome is None:
            search = new_search(settings, objective, starting_image(settings, content, styles), watch.guarded)
        else:
            search = new_search(settings, objective, resize(outcome.image, scale.height, scale.width), watch.guarded)
        watch.begin(number, search)
        found = search.run(iterations=scale.iterations, tolerance=settings.tolerance, callback=watch.record)
        found = replace(found, image=network.engine.to_host(found.image))
        watch.end(found)
        return found

    for number, scale in enumerate(scales):
        if kept and number < kept.scale:
            continue
        try:
            outcome = search_at(number, scale)
        except MemoryError as error:
            if outcome is None:
                raise
            message = f"out of memory at {scale.width}×{scale.height}: {error}; the picture is that of the scale before"
            outcome = replace(outcome, stopped="out of memory", message=message)
        if outcome.stopped not in FINISHED:
            break
    if outcome is None:
        raise NSTError("the checkpoint is of a run with more scales: resume it with the settings it was begun with")
    return outcome


def make_objective(
    settings: Settings,
    network: Network,
    content: Array,
    styles: Sequence[Style],
    find_targets: Targets = targets_of,
) -> Objective:
    """The targets of all pictures, and the function of the image that they make."""
    preset = settings.preset_values()
    terms = content_terms(network, content, settings.content_layer_weights(), preset)
    if styles:
        weights = shared(settings.style_layer_weights(), preset, network.steps, content.shape[:2])
        terms += style_terms(network, styles, weights, preset, find_targets)
    return Objective(network, terms, settings.tv_factor(), preset.tv)


def new_search(settings: Settings, objective: Objective, start: Array, guarded: Guard = lambda f: f) -> AnySearch:
    """The settings' optimiser at the start: SciPy's on the host, others on the engine's device."""
    optimizer = OPTIMIZERS[settings.optimizer]
    options: dict[str, Any] = {name: getattr(settings, name) for name in ("bounds", *optimizer.options)}
    if not optimizer.on_device:
        return optimizer.search(guarded(objective.fetched(objective.repeated())), start, **options)
    engine = objective.network.engine
    options["vectors"] = engine.vectors
    return optimizer.search(guarded(objective.repeated()), engine.to_device(start), **options)


def resumed_search(
    settings: Settings,
    objective: Objective,
    shape: tuple[int, ...],
    state: Mapping[str, Any],
    guarded: Guard,
) -> AnySearch:
    """The search that was in that state: exactly, but for SciPy's, whose memory can't be had."""
    optimizer, engine = OPTIMIZERS[settings.optimizer], objective.network.engine
    try:
        if tuple(state["shape"]) != shape:
            raise ValueError("its image has another size")
        if not optimizer.on_device:
            log.info("SciPy's L-BFGS-B goes on from its last picture, but has to learn again what it knew of the way")
            return optimizer.search.restored(guarded(objective.fetched(objective.repeated())), state)
        on_device = {**state, "image": engine.to_device(state["image"])}
        own: dict[str, Any] = {"vectors": engine.vectors}
        return optimizer.search.restored(guarded(objective.repeated()), on_device, **own)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise NSTError("the checkpoint can't be resumed: its numbers are damaged, or of another version") from error
