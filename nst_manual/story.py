"""The story: pictures → targets → objective → minimise → a picture.

x* = argmin over the pixels of  α L_content(x, content picture) + β L_style(x, style picture) + γ TV(x)
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

from .engines import Engine, open_engine
from .errors import NSTError
from .objective import Targets, targets_of
from .optimise import Outcome, Record
from .options import ReconstructOptions, TextureOptions, TransferOptions
from .pictures.alpha import resize
from .problem import build_network, choose_weights, make_objective, new_search, resumed_search
from .runs.checkpoint import Checkpoint, load_checkpoint
from .runs.inputs import Inputs, load_inputs, starting_image
from .runs.memory import check_memory
from .runs.recipe import Recipe, describe
from .runs.results import Interrupted, Result
from .runs.scales import Scale
from .runs.watch import Flag, Watch, check_outputs
from .settings import Run, Settings, documented, split_options
from .vgg import Network

log = logging.getLogger(__name__)

FINISHED = ("iterations", "converged")  # ends of a search after which the next scale's can begin


@documented("transfer")
def transfer(
    content: Any,
    style: Any,
    *,
    content_mask: Sequence[Any] = (),
    style_mask: Sequence[Any] = (),
    callback: Callable[[Record], object] | None = None,
    cancel: Flag | None = None,
    **options: Unpack[TransferOptions],
) -> Result:
    """Recompose the content picture in the style of the other, or of a list of others: paths, PIL images or arrays.

    `options` are those of `Settings` and `Run`, with the command line's names and defaults. With masks, each style goes
    to the region that its content mask shows, and is taken from the part that its style mask shows. `callback` gets
    each iteration's Record and may raise StopIteration; `cancel`, such as a threading.Event, is looked at after each
    evaluation. Several transfers may run at once: they share nothing.
    """
    styles = style if isinstance(style, list | tuple) else [style]
    return make("transfer", options, content, styles, content_mask, style_mask, callback=callback, cancel=cancel)


@documented("reconstruct")
def reconstruct(
    image: Any,
    *,
    callback: Callable[[Record], object] | None = None,
    cancel: Flag | None = None,
    **options: Unpack[ReconstructOptions],
) -> Result:
    """What the content layers know of a picture: from noise, another that is the same to them.

    As `transfer`, without the options of styles.
    """
    return make("reconstruct", options, image, (), callback=callback, cancel=cancel)


@documented("texture")
def texture(
    style: Any,
    *,
    content_mask: Sequence[Any] = (),
    style_mask: Sequence[Any] = (),
    callback: Callable[[Record], object] | None = None,
    cancel: Flag | None = None,
    **options: Unpack[TextureOptions],
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
