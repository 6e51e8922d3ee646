"""A run's input pictures: loaded in the sizes and colours that the settings ask for, and resized for each scale."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array
from ..errors import NSTError
from ..objective import Style
from ..pictures.alpha import resize
from ..pictures.colours import luminance_pair, match_colours, with_colours_of
from ..pictures.reading import Picture, check_pixels, load_picture
from ..settings import Settings
from ..vgg import convolutions, smallest_side
from ..weights import Weights
from .checkpoint import checksum
from .scales import Scale, ladder
from .style_files import StyleTargets, is_style_file

log = logging.getLogger(__name__)

ASPECT = 0.02  # how far a mask's aspect ratio may differ from its picture's, because small sizes are rounded


class Kept(NamedTuple):
    """A style from a style file, and the longer side that its picture would have at the result's full size."""

    targets: StyleTargets
    side: float


@dataclass(frozen=True)
class Inputs:
    """The pictures as loaded, and `content` and `styles` as the network sees them at the result's full size.

    A texture has no content picture. A gray canvas of the result's size takes its place.
    """

    pictures: Sequence[Picture]  # the content, then the styles except those from style files
    content_masks: Sequence[Picture]
    style_masks: Sequence[Picture]
    content: Array
    styles: Sequence[Style]
    kept: Sequence[Kept | None]  # for each style: None, or its style file
    canvas: bool = False  # whether the content is only a canvas

    def sources(self) -> tuple[Picture, list[Picture | StyleTargets]]:
        """The content, and the styles in their order."""
        content, *pictures = self.pictures
        return content, [kept.targets if kept else pictures.pop(0) for kept in self.kept]

    def at(self, scale: Scale) -> tuple[Array, list[Style]]:
        """Content and styles in the size of a scale."""
        height, width, _ = self.content.shape
        if (scale.height, scale.width) == (height, width):
            return self.content, list(self.styles)
        share = max(scale.height, scale.width) / max(height, width)
        styles = []
        for style, kept in zip(self.styles, self.kept, strict=True):
            region = _resized_mask(style.region, scale.height, scale.width)
            targets = kept.targets.at(kept.side * share) if kept else None
            styles.append(replace(smaller_style(style, share), region=region, targets=targets))
        return resize(self.content, scale.height, scale.width), styles

    def check(self, settings: Settings, weights: Weights) -> None:
        """Check that style files were made for these settings and weights."""
        for kept in filter(None, self.kept):
            kept.targets.check(settings, weights)

    def scales(self, settings: Settings) -> list[Scale]:
        """Coarse to fine. At none of them is a picture too small for the network."""
        side = smallest_side(settings.steps())
        shown = [self.content, *(style.image for style in self.styles if style.image is not None)]
        least = max((side + 1) / min(image.shape[:2]) for image in shown)
        height, width, _ = self.content.shape
        return ladder(settings, height, width, least)

    def finished(self, settings: Settings, image: Array) -> Array:
        """The network's image as a picture: clipped to 0 … 255, and in the content's colours with --colors content."""
        pixels: Array = np.clip(image, 0, 255)
        if settings.colors != "content":
            return pixels
        return with_colours_of(pixels, resize(self.pictures[0].rgb, pixels.shape[0], pixels.shape[1]))

    def checksums(self) -> list[str]:
        """Checksums of everything that the network sees."""
        arrays = [self.content]
        for style, kept in zip(self.styles, self.kept, strict=True):
            arrays += [array for array in (style.image, style.mask, style.region) if array is not None]
            if kept:
                arrays += [array for at in kept.targets.moments.values() for found in at.values() for array in found]
        return [checksum(array) for array in arrays]


def load_inputs(
    settings: Settings,
    content: Any | None,
    styles: Sequence[Any],
    content_masks: Sequence[Any] = (),
    style_masks: Sequence[Any] = (),
    max_memory: float | None = None,
) -> Inputs:
    """Load and check all pictures; masks get their picture's size. `content` is None for a texture. None may take more
    than `max_memory` bytes to decode."""
    if {"content": content is None, "style": not styles}.get(settings.init):
        raise NSTError(f"there is no {settings.init} picture to start from: choose --init noise or pink, or a file")
    for kind, masks in (("content", content_masks), ("style", style_masks)):
        if len(masks) not in (0, len(styles)):
            raise NSTError(
                f"there are {len(masks)} {kind} masks for {len(styles)} style pictures: give one for each style, in "
                "the same order, or none"
            )
    if content is None and not styles:
        raise NSTError("there is no picture: give one")
    each = [replace(settings, style_scale=scale) for scale in settings.style_scales(len(styles))]
    loaded = [load_style(*given, max_memory) for given in zip(each, styles, strict=True)]
    kept = [
        _kept(each[k], style, bool(style_masks)) if isinstance(style, StyleTargets) else None
        for k, style in enumerate(loaded)
    ]
    pictures = [_canvas(settings, loaded[0]) if content is None else load_content(settings, content, max_memory)]
    pictures += [style for style in loaded if isinstance(style, Picture)]
    _check_sizes(settings, pictures, "result" if content is None else "content picture")
    regions = [load_mask(mask, pictures[0].rgb, max_memory) for mask in content_masks]
    pairs = zip(style_masks, pictures[1:], strict=False)
    parts = [load_mask(mask, picture.rgb, max_memory) for mask, picture in pairs]
    seen_content, seen_styles = _seen(settings, pictures)
    seen = iter(seen_styles)
    shares = settings.style_shares(len(styles)) if styles else []
    made = [
        Style(
            None if own else next(seen),
            share=shares[k],
            mask=gray(parts[k]) if parts else None,
            region=gray(regions[k]) if regions else None,
            targets=own.targets.at(own.side) if own else None,
        )
        for k, own in enumerate(kept)
    ]
    inputs = Inputs(pictures, regions, parts, seen_content, made, kept, content is None)
    for scale in inputs.scales(settings) if any(kept) else ():
        inputs.at(scale)  # raises NSTError now if a style file lacks a size
    return inputs


def _canvas(settings: Settings, sample: Picture | StyleTargets) -> Picture:
    """A gray picture of the settings' height and width. What they leave open follows from the style picture."""
    rows, columns = sample.rgb.shape[:2] if isinstance(sample, Picture) else max(sample.moments)
    height = settings.height or max(1, round(rows * (settings.width or columns) / columns))
    width = settings.width or max(1, round(columns * (settings.height or rows) / rows))
    check_pixels(height, width)
    return Picture(np.full((height, width, 3), 127.5, np.float32))


def load_content(settings: Settings, source: Any, max_memory: float | None = None) -> Picture:
    """The content picture in the result's size; a picture that is loaded already is returned as it is."""
    if isinstance(source, Picture):
        return source
    picture = load_picture(source, settings.size, enlarge=settings.enlarge, max_memory=max_memory)
    height, width, _ = picture.rgb.shape
    if settings.size is not None and max(height, width) < settings.size:
        name = picture.name or "the content picture"
        log.info("size: %d×%d, as %s is smaller than %d: --enlarge enlarges it", width, height, name, settings.size)
    return picture


def load_style(settings: Settings, source: Any, max_memory: float | None = None) -> Picture | StyleTargets:
    """A style picture in its size, or a style file; what is loaded already is returned as it is."""
    if isinstance(source, Picture | StyleTargets):
        return source
    if is_style_file(source):
        return StyleTargets.load(source)
    side = settings.style_size or settings.size
    (scale,) = settings.style_scales(1)
    return load_picture(source, side, scale=scale, enlarge=settings.enlarge, max_memory=max_memory)


def load_mask(source: Any, image: Array, max_memory: float | None = None) -> Picture:
    """A mask, resized to the picture that it belongs to: white is inside, black or transparent is outside."""
    mask = load_picture(source, max_memory=max_memory)
    (height, width), (rows, columns) = image.shape[:2], mask.rgb.shape[:2]
    if abs(columns * height / (rows * width) - 1) > ASPECT and abs(columns * height - rows * width) > rows + columns:
        raise NSTError(
            f"the mask {mask.name or ''} is {columns}×{rows} pixels and its picture {width}×{height}: "
            "a mask must have its picture's aspect ratio"
        )
    inside = mask.rgb if mask.alpha is None else mask.rgb * mask.alpha[:, :, None]
    return replace(mask, rgb=resize(inside, height, width), alpha=None)


def starting_image(
    settings: Settings, content: Array, styles: Sequence[Style], max_memory: float | None = None
) -> Array:
    """Where the search starts: the content picture, noise, the first style picture or a file; in the content's size."""
    height, width = content.shape[:2]
    if settings.init == "content":
        return content
    if settings.init in NOISES:
        return NOISES[settings.init](height, width, settings.seed)
    by_style = settings.init == "style"
    style = styles[0].image if by_style else load_picture(settings.init, max_memory=max_memory).rgb
    if style is None:
        raise NSTError("--init style needs the style's picture, and a style file holds none: choose another start")
    return resize(style, height, width)


def white_noise(height: int, width: int, seed: int) -> Array:
    """The paper's start: each channel of each pixel is uniform in 0 … 255."""
    return np.random.default_rng(seed).uniform(0, 255, (height, width, 3))


def pink_noise(height: int, width: int, seed: int) -> Array:
    """Noise of amplitude 1/frequency, roughly that of photographs; each channel is stretched to 0 … 255."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf  # the mean
    white = np.random.default_rng(seed).standard_normal((height, width, 3))
    waves = np.fft.rfft2(white, axes=(0, 1)) / frequency[:, :, None]
    pink: Array = np.fft.irfft2(waves, (height, width), axes=(0, 1))
    pink -= pink.min((0, 1))
    pink *= 255 / np.maximum(pink.max((0, 1)), 1e-9)
    return pink.clip(0, 255)


NOISES = {"noise": white_noise, "pink": pink_noise}


def smaller_style(style: Style, share: float) -> Style:
    """The style with its picture and mask scaled by `share`."""
    if share == 1 or style.image is None:
        return style
    height, width = (max(1, round(side * share)) for side in style.image.shape[:2])
    return replace(style, image=resize(style.image, height, width), mask=_resized_mask(style.mask, height, width))


def _kept(settings: Settings, style: StyleTargets, masked: bool) -> Kept:
    """Refuse the options for which a style file is not enough."""
    lacking = [f"--colors {settings.colors}"] * (settings.colors != "style") + ["--style-mask"] * masked
    if lacking:
        raise NSTError(f"{style} holds no picture, which {lacking[0]} needs: give the style's picture instead")
    return Kept(style, style.side(settings))


def _check_sizes(settings: Settings, pictures: Sequence[Picture], first: str) -> None:
    side, deepest = smallest_side(settings.steps()), convolutions(settings.steps())[-1]
    for number, picture in enumerate(pictures):
        height, width, _ = picture.rgb.shape
        if min(height, width) < side:
            raise NSTError(
                f"the {'style picture' if number else first} is {width}×{height} pixels, but {deepest} needs at "
                f"least {side} on each side: choose a larger picture, a larger --size or shallower layers"
            )


def _seen(settings: Settings, pictures: Sequence[Picture]) -> tuple[Array, list[Array]]:
    """Content and styles in the colours in which they are compared. Transparent pixels have no influence on these."""
    content, *styles = pictures
    if settings.colors == "match":
        method = settings.color_match
        return content.rgb, [match_colours(s.rgb, content.rgb, method, s.alpha, content.alpha) for s in styles]
    if settings.colors == "content":
        pairs = [luminance_pair(content.rgb, s.rgb, content.alpha, s.alpha) for s in styles]
        return pairs[0][0], [style for _, style in pairs]
    return content.rgb, [style.rgb for style in styles]


def gray(mask: Picture) -> Array:
    """(height, width), 0 … 1."""
    gray: Array = mask.rgb.mean(axis=2) / 255
    return gray


def _resized_mask(mask: Array | None, height: int, width: int) -> Array | None:
    return None if mask is None else resize(255 * mask[:, :, None], height, width)[:, :, 0] / 255
