"""The settings, formulas and weights of other programs: one record for each.

Our terms are the paper's; a preset turns them into its program's by factors:

    L = α Σ w_l L_c + β Σ w_l E_l + γ TV

with a preset's units in α, β and γ: `Formula` multiplies them, and nothing else does. How each unit follows from the
program's own formula: docs/gradients.md.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .arrays import Array, Scalar
from .losses import tv_loss, tv_nine_point_loss, tv_normalised_loss, tv_power_loss

STYLE_LAYERS = "conv1_1,conv2_1,conv3_1,conv4_1,conv5_1"

# What a preset's `settings` don't say.
DEFAULTS: Mapping[str, Any] = {
    "size": 512,
    "style_size": None,
    "style_loss": "gram",
    "scales": "auto",
    "iterations": 300,
    "later_iterations": None,
    "optimizer": "auto",
    "history": 10,
    "learning_rate": 10.0,
    "bounds": True,
    "init": "content",
    "pooling": "avg",
    "padding": "zero",
    "margin": 0,
    "content_layers": "conv4_2",
    "style_layers": STYLE_LAYERS,
}
QUICK: Mapping[str, Any] = {"size": 256, "iterations": 15}  # a draft


def _mean_of_squares(n: int, m: int) -> float:
    return 2 / (n * m)  # mean (F − P)² = 2/(N M) · ½ Σ (F − P)²


def _mean_of_gram_squares(n: int) -> float:
    return 4 / n**2  # 1/N² · mean (ΔG/M)² = mean (ΔG/(N M))² = 4/N² · E_l


@dataclass(frozen=True)
class Preset:
    """One program: weights, factors on the paper's terms, and the settings in which it differs from our own."""

    content_weight: float
    style_weight: float
    tv_weight: float = 0.0
    layer_weight: Callable[[int], float] = lambda layers: 1  # w_l, from the number of style layers
    content_unit: Callable[[int, int], float] = _mean_of_squares
    style_unit: Callable[[int], float] = _mean_of_gram_squares
    share_unit: Callable[[float], float] = lambda share: 1.0
    tv_unit: float = 1.0
    tv: Callable[[Array], tuple[Scalar, Array]] = tv_loss
    floor: float | None = None  # ε of the transport loss, where it does not depend on the style picture
    settings: Mapping[str, Any] = field(default_factory=dict)
    with_loss: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # settings with another style loss


_LADDER = {
    "style_loss": "transport",
    "content_layers": "conv4_2,conv3_1,conv2_1",
    "style_layers": "conv1_1:64,conv2_1:16,conv3_1:4,conv4_1:1,conv5_1:0.25",
    "scales": "ladder",
    "iterations": 32,
    "padding": "replicate",
    "margin": 4,
}
_ONE_SIZE = {"scales": "off"}
_AS_TORCH = {**_ONE_SIZE, "pooling": "max", "optimizer": "lbfgs", "history": 100}

PRESETS: Mapping[str, Preset] = {
    # Ours: transport on a ladder of sizes. The spread loss pulls less than transport, so the content weighs less beside
    # it. The Gram loss has the scaling of Gatys' code and its style weight; four times its content weight make it pull
    # as much as transport.
    "default": Preset(
        content_weight=0.45,
        style_weight=1,
        settings=_LADDER,
        with_loss={
            "spread": {"content_weight": 0.075},
            "gram": {"content_weight": 4.0, "style_weight": 1e3, **{name: DEFAULTS[name] for name in _LADDER}},
        },
    ),
    # The formulas, α/β = 1e-3 and w_l = 1/5 as printed; they assume a network of mean activation 1.
    "paper": Preset(
        content_weight=1,
        style_weight=1e3,
        layer_weight=lambda layers: 1 / layers,
        content_unit=lambda n, m: 1,
        style_unit=lambda n: 1,
        settings={**_ONE_SIZE, "init": "noise", "bounds": False},
    ),
    # Gatys' own PyTorch code: 1e3/N² · mean (ΔG/M)², and mean (F − P)².
    "gatys": Preset(1, 1e3, settings={**_AS_TORCH, "iterations": 500, "bounds": False}),
    # jcjohnson/neural-style: 100 · mean (ΔG/(N M))², and 5 · mean (F − P)². Its total-variation gradient is that of
    # ½ Σ of squares; it leaves out the last row's and column's differences and the value, which we do not.
    "johnson": Preset(
        content_weight=5,
        style_weight=100,
        tv_weight=1e-3,
        tv_unit=0.5,
        settings={**_AS_TORCH, "iterations": 1000, "bounds": False, "init": "noise"},
    ),
    # PyTorch's tutorial: 1e6 · mean (ΔG/(N M))², and mean (F − P)².
    "pytorch-tutorial": Preset(
        content_weight=1,
        style_weight=1e6,
        settings={
            **_AS_TORCH,
            "content_layers": "pre:conv2_2",
            "style_layers": "pre:conv1_1,pre:conv1_2,pre:conv2_1,pre:conv2_2,pre:conv3_1",
        },
    ),
    # Keras' example: 1e-6 · mean over the layers of Σ ΔG²/(4 · 3² · pixels²), and 2.5e-8 Σ (F − P)². Its style picture
    # is brought to the content's size; where it is not, A is scaled by M/M_s, as everywhere here.
    "keras": Preset(
        content_weight=2.5e-8,
        style_weight=1e-6,
        tv_weight=1e-6,
        layer_weight=lambda layers: 1 / layers,
        content_unit=lambda n, m: 2,
        style_unit=lambda n: n**2 / 9,
        share_unit=lambda share: share**2,
        tv=tv_power_loss,
        settings={
            **_ONE_SIZE,
            "size": 400,
            "iterations": 200,
            "pooling": "max",
            "bounds": False,
            "content_layers": "conv5_2",
        },
    ),
    # The notes of EECS 498 and CS231n: w_l Σ (ΔG/(N M))², 5e-2 Σ (F − P)², and TV of the normalised picture.
    "eecs498": Preset(
        content_weight=5e-2,
        style_weight=1,
        tv_weight=5e-2,
        content_unit=lambda n, m: 2,
        style_unit=lambda n: 4,
        tv=tv_normalised_loss,
        settings={
            **_ONE_SIZE,
            "size": 192,
            "style_size": 512,
            "iterations": 200,
            "optimizer": "adam",
            "pooling": "max",
            "content_layers": "conv3_1",
            "style_layers": "conv2_1:20000,conv3_2:500,conv4_1:12,conv4_2:1",
        },
    ),
    # crowsonkb/style-transfer-pytorch: 0.015 mean (F − P)², transport with weights 256 … 1 of sum 1 and a fixed ε, and
    # twice its own total variation. It expects torchvision's weights.
    "crowsonkb": Preset(
        content_weight=0.015,
        style_weight=1 / 341,
        tv_weight=2,
        tv=tv_nine_point_loss,
        floor=1e-4,
        settings={
            "style_loss": "transport",
            "style_layers": "conv1_1:256,conv2_1:64,conv3_1:16,conv4_1:4,conv5_1:1",
            "scales": "ladder",
            "iterations": 1000,
            "later_iterations": 500,
            "optimizer": "adam",
            "learning_rate": 5.1,
            "pooling": "max",
            "padding": "replicate",
        },
    ),
}


class Formula(NamedTuple):
    """L = α Σ w_l L_c + β Σ w_l E_l + γ TV, in a preset's units: the factor of each term on the paper's.

    N and M are a layer's channels and positions, `of_pixels` is M / (pixels of the generated picture), and `part` is
    what the blend or a region leaves of a style.
    """

    preset: Preset
    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 0.0

    def content(self, w_l: float, n: int, m: int) -> float:
        return self.alpha * w_l * self.preset.content_unit(n, m)

    def style(self, w_l: float, n: int, of_pixels: float, part: float = 1.0) -> float:
        return self.beta * w_l * self.preset.style_unit(n) * self.preset.share_unit(of_pixels) * part

    def variation(self) -> float:
        return self.gamma * self.preset.tv_unit


def preset_settings(name: str, style_loss: str | None = None, quick: bool = False) -> dict[str, Any]:
    """Every option that the preset sets, with its value; with that style loss, or else the preset's own."""
    preset = PRESETS[name]
    weights = {weight: getattr(preset, weight) for weight in ("content_weight", "style_weight", "tv_weight")}
    settings: dict[str, Any] = {**DEFAULTS, **weights, **preset.settings}
    if style_loss is not None and style_loss != settings["style_loss"]:
        settings.update(preset.with_loss.get(style_loss, {}), style_loss=style_loss)
    if quick:
        settings.update(QUICK)
    return settings
