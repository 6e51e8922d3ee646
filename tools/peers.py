"""Two other programs' defaults in PyTorch, written from their formulas: what tools/looks.py compares ours with.

- neural-style-pt (ProGamerGov): Gram matrices, max pooling, L-BFGS from noise.
- style-transfer-pytorch (Katherine Crowson): Gaussian transport, max pooling, replicated border, Adam on a ladder of
  sizes, the average of the iterates.

Both take PIL pictures and our Weights, and run on PyTorch's default device. `fraction` shortens their searches, and
`report` is shown (stage, iteration, loss).
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from nst_manual.vgg import VGG19, Conv, Pool, Relu, Step, steps_to
from nst_manual.weights import Weights

Report = Callable[[str, int, float], None]
STYLE_LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
CONTENT_LAYER = "conv4_2"
OXFORD_TO_TORCHVISION = 1 / 60  # torchvision's activations are about this much of Oxford's


class Vgg:
    """VGG-19 with max pooling, as far as conv5_1, on RGB minus the mean colour, 0 … 255.

    `scale` multiplies every activation, which a network of ReLUs allows: the first kernel and all biases.
    """

    def __init__(self, weights: Weights, scale: float = 1.0, replicate: bool = False) -> None:
        self.steps: tuple[Step, ...] = steps_to(STYLE_LAYERS, VGG19)
        self.replicate = replicate  # the pixels at the border, where conv1_1 looks beyond it
        self.mean = torch.tensor(weights.mean, dtype=torch.float32)[:, None, None]
        self.filters = {}
        for layer, (kernel, bias) in weights.filters.items():
            factor = scale if layer == "conv1_1" else 1.0
            oihw = torch.tensor(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))) * factor
            self.filters[layer] = oihw.contiguous(memory_format=torch.channels_last), torch.tensor(bias) * scale

    def __call__(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        x = x[None].contiguous(memory_format=torch.channels_last)
        for step in self.steps:
            if isinstance(step, Conv):
                padded = self.replicate and step.layer == "conv1_1"
                x = functional.pad(x, (1, 1, 1, 1), "replicate") if padded else x
                x = functional.conv2d(x, *self.filters[step.layer], padding=0 if padded else 1)
            elif isinstance(step, Relu):
                x = functional.relu(x)
            elif isinstance(step, Pool):
                x = functional.max_pool2d(x, 2)
            yield step.name, x[0]

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """At the layers that both programs compare."""
        return {name: f for name, f in self(x) if name in (*STYLE_LAYERS, CONTENT_LAYER)}


def _tensor(picture: Image.Image) -> Tensor:
    """(3, height, width), 0 … 1."""
    return torch.tensor(np.asarray(picture.convert("RGB"), np.float32) / 255).permute(2, 0, 1)


def _picture(x: Tensor) -> Image.Image:
    return Image.fromarray((x.detach().clamp(0, 1) * 255 + 0.5).byte().permute(1, 2, 0).contiguous().cpu().numpy())


# neural-style-pt


def neural_style_pt(
    content: Image.Image,
    style: Image.Image,
    weights: Weights,
    size: int = 512,
    fraction: float = 1.0,
    report: Report = lambda *_: None,
    seed: int = 0,
) -> Image.Image:
    """5 · mean (F − P)² + 100 · Σ mean ((G − A)/(N M))² + 1e-3 · Σ |neighbours' differences|, 1000 iterations.

    The image is 256 times the picture's 0 … 1 minus the mean colour, and starts as noise of deviation 0.001.
    """
    torch.manual_seed(seed)
    network = Vgg(weights)

    def prepared(picture: Image.Image) -> Tensor:
        share = size / max(picture.size)
        shape = int(share * picture.width), int(share * picture.height)
        return _tensor(picture.convert("RGB").resize(shape, Image.Resampling.BILINEAR)) * 256 - network.mean

    def gram(f: Tensor) -> Tensor:
        rows = f.flatten(1)
        return rows @ rows.T / f.numel()

    with torch.no_grad():
        photo = prepared(content)
        p = network.features(photo)[CONTENT_LAYER]
        a = {layer: gram(f) for layer, f in network.features(prepared(style)).items() if layer in STYLE_LAYERS}
    image = (torch.randn(photo.shape) * 0.001).requires_grad_()
    iterations = max(1, round(1000 * fraction))
    options: dict[str, Any] = {"max_iter": iterations, "tolerance_change": -1, "tolerance_grad": -1}
    optimizer = torch.optim.LBFGS([image], **options)
    calls, last = 0, image.detach()

    def evaluation() -> Tensor:
        nonlocal calls, last
        optimizer.zero_grad()
        f = network.features(image)
        loss = 5 * functional.mse_loss(f[CONTENT_LAYER], p)
        loss = loss + 100 * sum(functional.mse_loss(gram(f[layer]), a[layer]) for layer in STYLE_LAYERS)
        down, right = image[:, 1:] - image[:, :-1], image[:, :, 1:] - image[:, :, :-1]
        loss = loss + 1e-3 * (down.abs().sum() + right.abs().sum())
        loss.backward()
        calls += 1
        if calls <= iterations:
            last = image.detach().clone()
        report("", calls, float(loss.detach()))
        return loss

    optimizer.step(evaluation)
    return _picture((last + network.mean) / 256)


# style-transfer-pytorch

LAYER_WEIGHTS = dict(zip(STYLE_LAYERS, (256, 64, 16, 4, 1), strict=True))
CONTENT_WEIGHT, VARIATION_WEIGHT, EPSILON = 0.015, 2.0, 1e-4
STEP, BETAS, DECAY = 0.02, (0.9, 0.99), 0.99
FIRST_ITERATIONS, ITERATIONS, FIRST_SIDE = 1000, 500, 128
ROOT_STEPS = 12


class MatrixRoot(torch.autograd.Function):
    """A^½ by twelve steps of Newton and Schulz, and its derivative X with A^½ X + X A^½ = d, by twelve for the sign."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        size = matrix.norm()
        three = 3 * torch.eye(len(matrix), device=matrix.device)
        root, inverse = matrix / size, three / 3
        for _ in range(ROOT_STEPS):
            factor = (three - inverse @ root) / 2
            root, inverse = root @ factor, factor @ inverse
        root = root * size.sqrt()
        ctx.save_for_backward(root)
        return root

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (root,) = ctx.saved_tensors
        size = root.norm()
        three = 3 * torch.eye(len(root), device=root.device)  # this thread has another default
        sign, x = root / size, gradients[0] / size
        for _ in range(ROOT_STEPS):
            rest = three - sign @ sign
            x = (x @ rest - sign.T @ (sign.T @ x - x @ sign)) / 2
            sign = sign @ rest / 2
        return x / 2


def _gaussian(f: Tensor) -> tuple[Tensor, Tensor]:
    rows = f.flatten(1)
    mean = rows.mean(1)
    return mean, rows @ rows.T / rows.shape[1] - torch.outer(mean, mean) + EPSILON * torch.eye(len(mean))


class Transport(nn.Module):
    """mean (m − m*)² + mean of the diagonal of Σ + Σ* − 2 (Σ*^½ Σ Σ*^½)^½."""

    def __init__(self, f: Tensor) -> None:
        super().__init__()
        self.mean, self.covariance = _gaussian(f)
        self.root = MatrixRoot.apply(self.covariance)

    def forward(self, f: Tensor) -> Tensor:
        mean, covariance = _gaussian(f)
        between = MatrixRoot.apply(self.root @ covariance @ self.root)
        return (mean - self.mean).pow(2).mean() + torch.diagonal(self.covariance + covariance - 2 * between).mean()


def _variation(x: Tensor) -> Tensor:
    """Nine points: neighbours weigh 1/3, diagonals 1/12."""
    x = functional.pad(x[None], (1, 1, 1, 1), "replicate")[0]
    down, right = x[:, 2:, 1:-1] - x[:, 1:-1, 1:-1], x[:, 1:-1, 2:] - x[:, 1:-1, 1:-1]
    falling, rising = x[:, 1:, 1:] - x[:, :-1, :-1], x[:, 1:, :-1] - x[:, :-1, 1:]
    near, far = down.pow(2).mean() + right.pow(2).mean(), falling.pow(2).mean() + rising.pow(2).mean()
    return 2 * (near / 3 + far / 12)


def _fitted(picture: Image.Image, side: int, enlarge: bool) -> Image.Image:
    width, height = picture.size
    if max(width, height) <= side and not enlarge:
        return picture.convert("RGB")
    shape = (round(side * width / height), side) if height > width else (side, round(side * height / width))
    return picture.convert("RGB").resize(shape, Image.Resampling.BICUBIC)


def _resized(x: Tensor, shape: tuple[int, int], mode: str = "bicubic") -> Tensor:
    return functional.interpolate(x[None], shape, mode=mode, align_corners=False)[0]


def style_transfer_pytorch(
    content: Image.Image,
    style: Image.Image,
    weights: Weights,
    size: int = 512,
    fraction: float = 1.0,
    report: Report = lambda *_: None,
) -> Image.Image:
    """0.015 · mean (F − P)² + Σ w_l transport + 2 · variation, with torchvision's activations and pixels of 0 … 1.

    Sides of 128 … size, each √2 of the last; 1000 iterations at the first, then 500. Each size starts from the average
    of the last one's iterates, and from Adam's averages, resized.
    """
    scale = 1.0 if weights.family == "torchvision" else OXFORD_TO_TORCHVISION
    network = Vgg(weights, scale, replicate=True)
    total = sum(LAYER_WEIGHTS.values())
    sides = {round(size / 2 ** (k / 2)) for k in range(64)}
    sides = sorted(side for side in sides if side >= min(FIRST_SIDE, size))
    average = _tensor(_fitted(content, sides[0], True))
    kept: dict[str, Any] | None = None
    for side in sides:
        photo = _tensor(_fitted(content, side, True))
        shape = photo.shape[1], photo.shape[2]
        with torch.no_grad():
            p = network.features(photo * 255 - network.mean)[CONTENT_LAYER]
            painting = network.features(_tensor(_fitted(style, side, False)) * 255 - network.mean)
            losses = {layer: Transport(painting[layer]) for layer in STYLE_LAYERS}
        image = _resized(average, shape).clamp(0, 1).requires_grad_()
        value, weight = (1 - DECAY) * image.detach(), DECAY  # an average of the iterates, corrected for its start
        optimizer = torch.optim.Adam([image], lr=STEP, betas=BETAS)
        if kept is not None:
            optimizer.state[image] = {
                "step": kept["step"],
                "exp_avg": _resized(kept["exp_avg"], shape),
                "exp_avg_sq": _resized(kept["exp_avg_sq"], shape, "bilinear").relu(),
            }
        iterations = max(1, round((FIRST_ITERATIONS if side == sides[0] else ITERATIONS) * fraction))
        for iteration in range(1, iterations + 1):
            f = network.features(image * 255 - network.mean)
            loss = CONTENT_WEIGHT * functional.mse_loss(f[CONTENT_LAYER], p) + VARIATION_WEIGHT * _variation(image)
            loss = loss + sum(w / total * losses[layer](f[layer]) for layer, w in LAYER_WEIGHTS.items())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                image.clamp_(0, 1)
            value, weight = DECAY * value + (1 - DECAY) * image.detach(), DECAY * weight
            report(f"{side} px", iteration, float(loss.detach()))
        average, kept = value / (1 - weight), optimizer.state[image]
    return _picture(average)


PEERS: dict[str, Callable[..., Image.Image]] = {
    "neural-style-pt": neural_style_pt,
    "style-transfer-pytorch": style_transfer_pytorch,
}
