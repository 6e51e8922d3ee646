"""The story: pictures → targets → objective → minimise → picture, coarse to fine.

x* = argmin over the pixels of  α L_content(x, content picture) + β L_style(x, style picture) + γ TV(x)

`transfer`, `reconstruct` and `texture` differ in their pictures. `make` loads these and builds the network; `recompose`
sets up the objective at each scale and minimises it.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from .arrays import Array
from .cluster.connection import WorkerLost, check_search, opened
from .engines import Engine, device_errors, open_engine, what_failed
from .errors import NSTError
from .objective import Style, Targets
from .optimise import Ended, Outcome, Record, Search
from .optimise.history import NoRoom
from .options import ReconstructOptions, TextureOptions, TransferOptions
from .problem import Guard, build_network, choose_weights, make_objective, new_search, resumed_search, settled
from .runs.checkpoint import Checkpoint, load_checkpoint
from .runs.fitting import as_before, fitted, scratch_folder, tile_of
from .runs.inputs import Inputs, load_inputs, starting_image
from .runs.memory import decoding_limit
from .runs.outputs import claimed
from .runs.recipe import Recipe, describe
from .runs.results import Interrupted, Result
from .runs.scales import Scale
from .runs.watch import Flag, Watch
from .settings import Run, Settings, documented, split_options
from .vgg import Network
from .weights import find_weights

if TYPE_CHECKING:
    from .cluster.team import Team

FINISHED = ("iterations", "converged")  # how a search may end for the next scale to begin


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
    """Recompose the content picture in the style of another, or of several: each a path, a PIL image or an array.

    With masks, each style is applied where its content mask is white, and taken from where its style mask is white.
    `callback` receives the Record of each iteration and may raise StopIteration to end the run. `cancel`, such as a
    threading.Event, is checked before each evaluation: once it is set, the picture so far is returned, with
    `stopped="interrupted"`. Transfers share no state, so several may run at once.
    """
    return make(
        "transfer", options, content, _several(style), content_mask, style_mask, callback=callback, cancel=cancel
    )


@documented("reconstruct")
def reconstruct(
    image: Any,
    *,
    callback: Callable[[Record], object] | None = None,
    cancel: Flag | None = None,
    **options: Unpack[ReconstructOptions],
) -> Result:
    """Reconstruct a picture from its content features, starting from noise.

    The arguments are those of `transfer`, without the options about styles.
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
    """Synthesise a texture: a new picture, of any `width` and `height`, with the style of one or several others.

    The arguments are those of `transfer`, without the options about the content.
    """
    return make("texture", options, None, _several(style), content_mask, style_mask, callback=callback, cancel=cancel)


def _several(style: Any) -> Sequence[Any]:
    styles = style if isinstance(style, list | tuple) else [style]
    if not styles:
        raise NSTError("there is no style picture: give at least one")
    return styles


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
    """Load the pictures, build the network and run. Callers that pass their own engine must check memory themselves."""
    settings, run = split_options(options, command)
    checkpoint = load_checkpoint(run.resume) if run.resume else None
    if checkpoint and settings.optimizer == "auto":
        settings = replace(settings, optimizer=checkpoint.settings.get("optimizer", "auto"))
    read = (content, *styles, *content_masks, *style_masks, settings.init, settings.weights)
    if run.cluster is not None:
        settings = check_search(settings, run)
    if checkpoint is not None:
        settings, run = as_before(settings, run, checkpoint)
    with claimed(settings, run, checkpoint, read) as own:
        held = own
        inputs = load_inputs(settings, content, styles, content_masks, style_masks, decoding_limit(run))
        if checkpoint and held.resume:
            checkpoint.check(settings, inputs.checksums(), held.resume)
        more: Any = {"callback": callback, "cancel": cancel, "checkpoint": checkpoint}
        if run.cluster is not None:
            return _on_cluster(settings, held, inputs, more)
        engine_of = engine or open_engine(settings.engine, settings.precision, held.threads, held.device)
        settings = settled(settings, engine_of)
        if engine is None:
            settings, held = fitted(settings, held, inputs, engine_of, fixed=checkpoint is not None)
        weights = choose_weights(settings, inputs)
        network = build_network(settings, weights, engine_of)
        recipe = describe(settings, inputs, weights)
        del weights  # the network has its own copy
        return recompose(settings, held, inputs, network, recipe, **more)


def _on_cluster(settings: Settings, run: Run, inputs: Inputs, more: Mapping[str, Any]) -> Result:
    with opened(settings, run) as client:
        from .cluster.team import Team

        weights = choose_weights(settings, inputs)
        team = Team(client, settings, run, None if find_weights(settings.weights) else weights)
        return recompose(settings, run, inputs, team, describe(settings, inputs, weights), **more)


def recompose(
    settings: Settings,
    run: Run,
    inputs: Inputs,
    network: "Network | Team",
    recipe: Recipe,
    *,
    callback: Callable[[Record], object] | None = None,
    cancel: Flag | None = None,
    checkpoint: Checkpoint | None = None,
    find_targets: Targets | None = None,
) -> Result:
    """Minimise the objective at each scale, coarse to fine; each scale starts from the result of the one before. The
    network is in this process, or the members of a team have it."""
    scales = inputs.scales(settings)
    first = checkpoint.scale if checkpoint else 0
    outcome: Outcome | None = None
    before: tuple[Scale, Array] | None = None  # the scale before, and its image with the margin
    to_host: Callable[[Any], Array]
    begin: Callable[..., Search]
    if isinstance(network, Network):
        to_host, begin = network.engine.to_host, partial(_begun, settings, run, network, find_targets)
    else:
        to_host, begin = np.asarray, network.search
    with Watch(run, inputs, scales, recipe, to_host, callback, cancel, checkpoint) as watch:
        for number, scale in enumerate(scales[first:], first):
            kept = checkpoint.search if checkpoint and outcome is None else None
            try:
                content, styles = inputs.at(scale)
                start = partial(_start, settings, run, scale, content, styles, before)
                again = partial(_framed, begin, scale, content, styles, start)
                found = _searched(network, watch, number, scale, settings.tolerance, again, kept)
                before = scale, to_host(found.image)
                outcome = replace(found, image=scale.cut(before[1]))
            except (MemoryError, KeyboardInterrupt) as error:  # while preparing this scale
                if outcome is None:
                    raise
                by_user = isinstance(error, KeyboardInterrupt)
                stopped, why = ("interrupted", "") if by_user else ("out of memory", f" ({error})")
                message = f"{stopped} at {scale.width}×{scale.height}{why}; the picture is that of the previous scale"
                outcome = replace(outcome, stopped=stopped, message=message)
                break
            except (Ended, NoRoom) as error:  # likewise: the disk
                if outcome is None:
                    raise NSTError(str(error)) from error
                what, _, _ = str(error).partition("; the picture")
                message = f"{what}; the picture is that of the previous scale"
                outcome = replace(outcome, stopped=error.stopped, message=message)
                break
            except device_errors() as error:
                outcome = watch.rescued(what_failed(error), outcome)
                if outcome is None:
                    raise
                break
            except WorkerLost as error:
                outcome = watch.left(str(error), outcome)
                break
            if outcome.stopped not in FINISHED:
                break
    if outcome is None:
        raise NSTError("the checkpoint is of a run with more scales: resume it with the settings it was started with")
    if outcome.stopped == "interrupted" and not watch.cancelled:  # by Ctrl-C
        raise Interrupted(watch.result(outcome)) if watch.evaluated else KeyboardInterrupt
    return watch.result(outcome)


def _searched(
    network: "Network | Team",
    watch: Watch,
    number: int,
    scale: Scale,
    tolerance: float,
    begin: Callable[..., Search],
    kept: Mapping[str, Any] | None,
) -> Outcome:
    """A scale's search, from its start or a kept state. Where a team loses a worker, it goes on from the last
    checkpoint, or anew from the start."""
    while True:
        try:
            search = begin(kept, watch.guarded)
            watch.begin(number, search)
            found = search.run(iterations=scale.iterations, tolerance=tolerance, callback=watch.record)
            break
        except WorkerLost as error:
            if isinstance(network, Network):
                raise
            checkpoint = watch.rewound(number)
            kept = None if checkpoint is None else checkpoint.search
            network.renew(error, f"the checkpoint of iteration {len(watch.trace)}" if kept else "this size's start")
    with suppress(WorkerLost):  # it has its picture, and the next scale's search will notice
        watch.end(found)
    return found


def _framed(
    begin: Callable[..., Search],
    scale: Scale,
    content: Array,
    styles: Sequence[Style],
    start: Callable[[], Array],
    kept: Mapping[str, Any] | None,
    guarded: Guard,
) -> Search:
    """A scale's search, with its margin around the pictures."""
    return begin(scale.framed(content), [*map(scale.framed_style, styles)], start, kept, guarded)


def _begun(
    settings: Settings,
    run: Run,
    network: Network,
    find_targets: Targets | None,
    content: Array,
    styles: Sequence[Style],
    start: Callable[[], Array],
    kept: Mapping[str, Any] | None,
    guarded: Guard,
) -> Search:
    """A scale's search in this process: from its start, or from the state of a checkpoint."""
    folder = scratch_folder(run)
    objective = make_objective(settings, network, content, styles, find_targets, tile_of(run, content), folder)
    if kept is not None:
        return resumed_search(settings, objective, content.shape, kept, guarded, folder)
    return new_search(settings, objective, start(), guarded, folder)


def _start(
    settings: Settings,
    run: Run,
    scale: Scale,
    content: Array,
    styles: Sequence[Style],
    before: tuple[Scale, Array] | None,
) -> Array:
    """The picture of the scale before, enlarged; or where the settings say."""
    if before is not None:
        smaller, image = before
        return smaller.enlarged(image, scale)
    return scale.framed(starting_image(settings, content, styles, decoding_limit(run)))
