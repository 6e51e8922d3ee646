"""Makes style files: the moments of a picture's features at every size that a run will need."""

import dataclasses
from typing import Any, Unpack

from .engines import open_engine
from .errors import NSTError
from .losses import Moments
from .objective import Style
from .options import StyleTargetsOptions
from .pictures.reading import Picture
from .problem import build_network, pretrained_weights
from .runs.inputs import gray, load_mask, load_style, smaller_style
from .runs.scales import ladder
from .runs.style_files import StyleTargets, network_checksums
from .settings import Settings, documented, split_options
from .tiles.objective import InTiles
from .vgg import smallest_side
from .weights import GET_COMMAND

TILE = 2048  # pixels on a side: a larger picture is walked in such tiles


@documented("style-targets")
def compute_targets(style: Any, *, style_mask: Any = None, **options: Unpack[StyleTargetsOptions]) -> StyleTargets:
    """Compute a picture's style once, for runs with the same size, scales, style layers, pooling, padding and weights.

    With a mask, the style is that of its white part.
    """
    settings, run = split_options(options, "style-targets")
    settings = dataclasses.replace(settings, content_weight=0.0)  # the network ends at the last style layer
    picture = load_style(settings, style)
    if not isinstance(picture, Picture):
        raise NSTError(f"{picture} is a kept style already: give its picture")
    weights = pretrained_weights(settings)
    if weights is None:
        raise NSTError(f"a style file needs pretrained weights, and there are none: `{GET_COMMAND}`")
    mask = None if style_mask is None else gray(load_mask(style_mask, picture.rgb))
    engine = open_engine(settings.engine, settings.precision, run.threads, run.device)
    network, layers = build_network(settings, weights, engine), settings.style_layer_weights()
    shown, moments = Style(picture.rgb, mask=mask), {}
    height, width, _ = picture.rgb.shape
    longer = settings.size or max(height, width)  # of a content picture as large as the settings ask for
    for scale in ladder(settings, longer, longer, (smallest_side(settings.steps()) + 1) / min(height, width)):
        seen = smaller_style(shown, scale.height / longer)
        size = (height, width) if seen.image is None else seen.image.shape[:2]
        moments[size] = {
            layer: Moments(*map(network.engine.to_host, found))
            for layer, found in InTiles(TILE).targets(network, seen, layers).items()
        }
    return StyleTargets(
        moments,
        _own_size(settings, max(height, width)),
        settings.pooling,
        network_checksums(weights, layers),
        weights.source,
        picture.name,
        picture.sha256,
        padding=settings.padding,
    )


def _own_size(settings: Settings, side: int) -> bool:
    """Whether a picture with that longer side keeps its size."""
    asked, (scale,) = settings.style_size or settings.size, settings.style_scales(1)
    kept = scale >= 1 if asked is None else side < round(scale * asked)
    return kept and not settings.enlarge
