"""The same objective in PyTorch, differentiated by autograd: used only to compare with.

Each program's loss is written here as that program writes it, not as `presets.PRESETS` converts it, so agreement proves
the conversion as well as the derivatives. PyTorch is imported only when these functions are called.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..arrays import Array
from ..engines.reference import Filters
from ..objective import Evaluation, Style
from ..vgg import Conv, Pool, Relu, Step, Steps

Tensor = Any


def torch_installed() -> bool:
    return importlib.util.find_spec("torch") is not None


def torch_features(
    filters: Filters, mean: Sequence[float], steps: Steps, pooling: str, image: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """(name, features (channels, height, width)) after each step, from an image tensor (height, width, 3)."""
    functional = importlib.import_module("torch.nn.functional")
    x = (image - image.new_tensor(list(mean))).permute(2, 0, 1)[None]
    for step in steps:
        if isinstance(step, Conv):
            kernel, bias = (image.new_tensor(np.ascontiguousarray(array)) for array in filters[step.layer])
            mode = {"zero": "constant", "replicate": "replicate"}[step.padding]
            x = functional.conv2d(functional.pad(x, (1, 1, 1, 1), mode), kernel.permute(3, 2, 0, 1), bias)
        elif isinstance(step, Relu):
            x = functional.relu(x)
        elif isinstance(step, Pool):
            x = torch_pool(x, pooling)
        yield step.name, x[0]


def torch_pool(x: Tensor, pooling: str) -> Tensor:
    functional = importlib.import_module("torch.nn.functional")
    if pooling == "l2":
        return 0.78 * functional.lp_pool2d(x, 2, 2)
    factor = {"avg": 1, "avg-scaled": 2}.get(pooling)
    return functional.max_pool2d(x, 2) if factor is None else factor * functional.avg_pool2d(x, 2)


def torch_layer(filters: Filters, step: Step, pooling: str, x: Tensor) -> Tensor:
    """One step alone, on tensors (height, width, channels)."""
    ((_, y),) = torch_features(filters, (0, 0, 0), (step,), pooling, x)
    return y.permute(1, 2, 0)


def torch_gradient(function: Callable[..., Tensor], x: Array, *others: Array) -> Array:
    """d(function(x, *others))/dx by autograd, in float64."""
    torch: Any = importlib.import_module("torch")
    tensor, *rest = (torch.tensor(array, dtype=torch.float64) for array in (x, *others))
    function(tensor.requires_grad_(), *rest).backward()
    gradient: Array = tensor.grad.numpy()
    return gradient


def gram_over_m(features: Tensor, share: Tensor | None = None) -> Tensor:
    """F Fᵀ / M, (N, N). With shares, of the paper's guided features: every map times T, here √(share/Σ share)."""
    rows = features.flatten(1)
    if share is None:
        return rows @ rows.T / rows.shape[1]
    rows = rows * (share / share.sum()).sqrt().flatten()
    return rows @ rows.T


def squares(x: Tensor) -> Tensor:
    return (x**2).sum()


def mean_square(x: Tensor) -> Tensor:
    return (x**2).mean()


def paper_content(f: Tensor, p: Tensor) -> Tensor:
    return squares(f - p) / 2


def paper_style(g: Tensor, a: Tensor) -> Tensor:
    return squares(g - a) / (4 * len(g) ** 2)


def paper_style_of_maps(f: Tensor, s: Array, share: Array | None = None) -> Tensor:
    """The same from maps (height, width, channels), s still an array; with a region's shares, for that region."""
    g = gram_over_m(f.permute(2, 0, 1), None if share is None else f.new_tensor(share))
    return paper_style(g, gram_over_m(f.new_tensor(s).permute(2, 0, 1)))


def mean_and_covariance(maps: Tensor, share: Tensor | None = None) -> tuple[Tensor, Tensor]:
    weights = maps.new_ones(maps.shape[:2]) if share is None else share
    weights = (weights / weights.sum()).flatten()[:, None]
    rows = maps.flatten(0, 1)
    mean = (weights * rows).sum(0)
    return mean, (weights * (rows - mean)).T @ (rows - mean)


def spread_of_maps(f: Tensor, s: Array, share: Array | None = None) -> Tensor:
    """Mean squared differences of the means and standard deviations, with 1e-4 of s's mean variance in both."""
    mean, covariance = mean_and_covariance(f, None if share is None else f.new_tensor(share))
    wanted_mean, wanted = mean_and_covariance(f.new_tensor(s))
    floor = 1e-4 * wanted.diag().mean()
    deviations = ((variance + floor).sqrt() for variance in (covariance.diag(), wanted.diag()))
    return mean_square(mean - wanted_mean) + mean_square(next(deviations) - next(deviations))


def transport(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor], floor: Tensor | float) -> Tensor:
    """The squared Wasserstein distance of two Gaussians over N, with `floor` on the diagonals of both covariances."""
    (mean, covariance), (wanted_mean, wanted_covariance) = found, wanted
    more = floor * mean.new_ones(len(mean)).diag()
    covariance, wanted_covariance = covariance + more, wanted_covariance + more

    def root(matrix: Tensor) -> Tensor:
        values, vectors = importlib.import_module("torch").linalg.eigh(matrix)
        return vectors * values.sqrt() @ vectors.T

    half = root(wanted_covariance)
    bures = (covariance + wanted_covariance - 2 * root(half @ covariance @ half)).trace()
    return mean_square(mean - wanted_mean) + bures / len(mean)


def relative_transport(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> Tensor:
    """With 1e-4 of the wanted mean variance."""
    return transport(found, wanted, 1e-4 * wanted[1].diag().mean())


def transport_of_maps(f: Tensor, s: Array, share: Array | None = None) -> Tensor:
    found = mean_and_covariance(f, None if share is None else f.new_tensor(share))
    return relative_transport(found, mean_and_covariance(f.new_tensor(s)))


# Each style loss of losses.STYLE_LOSSES as its authors write it, of (maps, style's maps, a region's shares or None).
STYLE_FORMULAS: Mapping[str, Callable[..., Tensor]] = {
    "gram": paper_style_of_maps,
    "spread": spread_of_maps,
    "transport": transport_of_maps,
}


def half_tv(x: Tensor) -> Tensor:
    return (squares(x[1:] - x[:-1]) + squares(x[:, 1:] - x[:, :-1])) / 2


def whole_tv(x: Tensor) -> Tensor:
    return 2 * half_tv(x)


def keras_tv(x: Tensor) -> Tensor:
    a, b = (x[:-1, :-1] - x[1:, :-1]) ** 2, (x[:-1, :-1] - x[:-1, 1:]) ** 2
    return ((a + b) ** 1.25).sum()


def eecs498_tv(x: Tensor) -> Tensor:
    return whole_tv(x / 255 / x.new_tensor([0.229, 0.224, 0.225]))


def crowsonkb_tv(x: Tensor) -> Tensor:
    pad = importlib.import_module("torch.nn.functional").pad
    p = pad(x.permute(2, 0, 1) / 255, (1, 1, 1, 1), "replicate")
    straight = mean_square(p[:, 1:-1, 2:] - p[:, 1:-1, 1:-1]) + mean_square(p[:, 2:, 1:-1] - p[:, 1:-1, 1:-1])
    diagonal = mean_square(p[:, 1:, 1:] - p[:, :-1, :-1]) + mean_square(p[:, 1:, :-1] - p[:, :-1, 1:])
    return 2 * (straight / 3 + diagonal / 12)


def lapstyle(x: Tensor, c: Tensor) -> Tensor:
    functional = importlib.import_module("torch.nn.functional")
    kernel = x.new_tensor([[0, -1, 0], [-1, 4, -1], [0, -1, 0]]).expand(1, 3, 3, 3)
    edges = (functional.conv2d(functional.avg_pool2d(y.permute(2, 0, 1)[None], 4), kernel) for y in (x, c))
    return squares(next(edges) - next(edges))


def gatys_content(f: Tensor, p: Tensor) -> Tensor:
    return mean_square(f - p)


def johnson_style(g: Tensor, a: Tensor) -> Tensor:
    return mean_square(g / len(g) - a / len(a))


# Of features for the content; for the style of Gram matrices, or of pairs of mean and covariance; of pixels.
FORMULAS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], Callable[[Tensor], Tensor]]] = {
    "default": (gatys_content, relative_transport, whole_tv),
    "paper": (paper_content, paper_style, whole_tv),
    "gatys": (gatys_content, lambda g, a: mean_square(g - a) / len(g) ** 2, whole_tv),
    "johnson": (gatys_content, johnson_style, half_tv),
    "pytorch-tutorial": (gatys_content, johnson_style, whole_tv),
    # Without Keras' factor (M / pixels)², which torch_evaluation applies.
    "keras": (lambda f, p: squares(f - p), lambda g, a: squares(g - a) / (4 * 3**2), keras_tv),
    "eecs498": (lambda f, p: squares(f - p), lambda g, a: squares(g / len(g) - a / len(a)), eecs498_tv),
    "crowsonkb": (gatys_content, lambda found, wanted: transport(found, wanted, 1e-4), crowsonkb_tv),
}
OF_COVARIANCES = ("default", "crowsonkb")  # the style formulas that compare pairs of mean and covariance
PER_PIXELS_SQUARED = ("keras",)  # programs that divide Gram matrices by the picture's pixels, not by the layer's


def torch_masks(steps: Steps, mask: Tensor) -> dict[str, Tensor]:
    """{layer: mask (height, width)}: averaged over neighbours inside the picture or its repeated edge, and pooled."""
    functional = importlib.import_module("torch.nn.functional")
    x, masks = mask[None, None], {}
    for step in steps:
        if isinstance(step, Conv):
            if step.padding == "replicate":
                x = functional.pad(x, (1, 1, 1, 1), "replicate")
            padding = 1 if step.padding == "zero" else 0
            x = functional.avg_pool2d(x, 3, stride=1, padding=padding, count_include_pad=False)
        elif isinstance(step, Pool):
            x = functional.avg_pool2d(x, 2)
        masks[step.name] = x[0, 0]
    return masks


def torch_evaluation(
    filters: Filters,
    mean: Sequence[float],
    steps: Steps,
    pooling: str,
    preset: str,
    pictures: tuple[Array, Array],
    styles: Sequence[Style],
    weights: tuple[Mapping[str, float], Mapping[str, float], float],
    laplacian_weight: float = 0.0,
) -> Evaluation:
    """Loss, gradient and terms at `pictures` = (image, content), in float64. With several styles, each has a region.

    `weights` are α w_l of each content layer, β w_l of each style layer, and γ, in the preset's units.
    """
    torch: Any = importlib.import_module("torch")
    content_formula, style_formula, tv_formula = FORMULAS[preset]
    content_weights, style_weights, tv_weight = weights

    def statistics(features: Tensor, share: Tensor | None) -> Any:
        if preset in OF_COVARIANCES:
            return mean_and_covariance(features.permute(1, 2, 0), share)
        return gram_over_m(features, share)

    def tensor(array: Array | None) -> Tensor:
        return torch.tensor(array, dtype=torch.float64)

    x = tensor(pictures[0]).requires_grad_()
    f, p = (dict(torch_features(filters, mean, steps, pooling, picture)) for picture in (x, tensor(pictures[1])))
    if preset in PER_PIXELS_SQUARED:
        style_weights = {name: w * (f[name][0].numel() / x[..., 0].numel()) ** 2 for name, w in style_weights.items()}
    terms = {f"content:{name}": w * content_formula(f[name], p[name]) for name, w in content_weights.items()}
    for number, style in enumerate(styles, 1):
        s = dict(torch_features(filters, mean, steps, pooling, tensor(style.image)))
        masks = {} if style.mask is None else torch_masks(steps, tensor(style.mask))
        regions = {} if style.region is None else torch_masks(steps, tensor(style.region))
        for name, w in style_weights.items():
            g, a = statistics(f[name], regions.get(name)), statistics(s[name], masks.get(name))
            part = len(styles) * style.share * regions[name].mean() if regions else 1
            terms[f"style{number if regions else ''}:{name}"] = w * part * style_formula(g, a)
    if laplacian_weight:
        terms["laplacian"] = laplacian_weight * lapstyle(x, tensor(pictures[1]))
    if tv_weight:
        terms["tv"] = tv_weight * tv_formula(x)
    loss = sum(terms.values())
    loss.backward()
    return Evaluation(loss.item(), x.grad.numpy(), {name: value.item() for name, value in terms.items()})
