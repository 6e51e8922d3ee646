"""Whose numbers are these? Family, channel order, orientation and scale, recognised from conv1_1's numbers alone.

Neither a file's container nor its names say which image the network expects; a few of conv1_1's filters do. Only their
directions are compared, so filters rescaled one by one ("normalised" networks), float16 and 8 bits match as well.
"""

from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from ..arrays import Array

OXFORD_MEAN_RGB = (123.68, 116.779, 103.939)  # the mean colour that VGG-19 subtracts
UNIT_MEAN_RGB = (0.485, 0.456, 0.406)  # ImageNet's mean and deviation for images of 0 … 1
UNIT_DEVIATION_RGB = (0.229, 0.224, 0.225)
OXFORD_LICENCE = "CC BY 4.0, Karen Simonyan and Andrew Zisserman, Visual Geometry Group, University of Oxford"
TORCHVISION_LICENCE = "BSD 3-Clause, PyTorch/torchvision contributors; trained on ImageNet"
LICENCES = {"oxford": OXFORD_LICENCE, "torchvision": TORCHVISION_LICENCE}
FAMILIES = tuple(LICENCES)

# Four of Oxford's 64 filters, those least like their own mirror images and channel reversals: in thousandths, with the
# axes (rows, columns, B G R); then their biases.
OXFORD = {
    2: (18, 102, -36, 21, 98, -48, -76, -22, -145, 121, 217, 60, 153, 239, 74, -39, 22, -115, 13, 100, -35, 26, 104,
        -39, -81, -27, -147),
    9: (48, -148, -133, -19, -237, -232, 60, -134, -121, 145, -49, -49, 98, -115, -126, 164, -26, -29, 198, 43, 53, 207,
        36, 33, 212, 61, 68),
    24: (35, 112, -13, -17, 40, -87, -82, -43, -149, 89, 173, 36, 29, 92, -47, -79, -38, -155, 50, 138, 14, 20, 89, -39,
         -52, -3, -111),
    48: (43, 125, 179, -113, -113, -26, -269, -374, -288, 141, 272, 327, -32, 17, 109, -318, -387, -290, 80, 223, 258,
         58, 138, 202, -91, -114, -46),
}  # fmt: skip
OXFORD_BIASES = {2: 0.03429, 9: 0.06297, 24: 0.03217, 48: 0.42472}

# Torchvision's first filter, rounded to four digits (channels R G B, then rows, columns). docs/weights.md says where it
# comes from. A match proves the family, since 27 numbers don't match by chance; a mismatch proves nothing.
TORCHVISION = {
    0: (-535, -493, -679, 153, 451, 21, 362, 200, 199, 170, 554, -62, 1416, 2271, 1376, -1200, -2030, -921, -449, 127,
        -145, 597, 1395, 541, -10, 11, -311),
}  # fmt: skip

# The first 16 digits of the SHA-256 of Oxford's original kernels (out, in, rows, columns; B G R) and biases, as
# little-endian float32, for the layers whose published numbers could be compared.
ORIGINALS = {
    "conv1_1": ("f8ee325686ded007", "f8941ad2059e42cc"),
    "conv1_2": ("6359a74e0dcd6dd6", "5761d90241981f04"),
    "conv2_1": ("b041ae17dca50654", "4b770cb032dabd86"),
    "conv2_2": ("f4ce3ca269e6523b", "2b817920c16e27b4"),
    "conv3_1": ("4ce2a8bd985dc3ac", "b00b2e1b3f88d364"),
    "conv3_2": ("5e082fa2a7741488", "8a2d2d519f265c12"),
    "conv3_3": ("01ffd66f0d43827d", "9af5673e3e3a99dc"),
    "conv3_4": ("4caecc66b12469af", "2f7261deddc17113"),
}

MATCH = 0.98  # smallest cosine; 8-bit rounding leaves 0.9999, other orientations reach at most 0.88


@dataclass(frozen=True)
class Reading:
    """What conv1_1's numbers tell. Its R, G and B filters must be divided by `unit` for images of 0 … 255."""

    family: str
    channel_order: str  # RGB or BGR
    transposed: bool = False  # width before height
    flipped: bool = False  # turned by 180°, for a true convolution
    unit: tuple[float, float, float] = (1.0, 1.0, 1.0)
    mean: tuple[float, float, float] = OXFORD_MEAN_RGB
    rescaled: bool = False


def family_reading(family: str, channel_order: str) -> Reading:
    """The family's usual convention, for a network whose numbers are not recognised."""
    if family == "torchvision":
        return Reading(family, "RGB", unit=_STANDARDISED, mean=_STANDARDISED_MEAN)
    return Reading(family, channel_order)


def read_fingerprint(kernel: Array, bias: Array) -> Reading | None:
    """Compares conv1_1, (3, 3, channels in, out), with the known filters; None if neither they nor the scale match."""
    kernel, bias = np.asarray(kernel, np.float64), np.asarray(bias, np.float64)
    tables = ((_OXFORD_FILTERS, "oxford", "BGR"), (_TORCHVISION_FILTERS, "torchvision", "RGB"))
    for (table, family, order), transposed, flipped, turn in product(
        tables, (False, True), (False, True), (False, True)
    ):
        turned = orient(kernel, transposed, flipped)[:, :, :: -1 if turn else 1]
        if all(_cosine(turned[..., number], known) >= MATCH for number, known in table.items()):
            found = Reading(family, order[::-1] if turn else order, transposed, flipped)
            if family == "torchvision":
                return replace(found, unit=_STANDARDISED, mean=_STANDARDISED_MEAN)
            return _oxford_scale(kernel, bias, found)
    return None


def orient(kernel: Array, transposed: bool, flipped: bool) -> Array:
    """A kernel with its transposition and its turn by 180° undone."""
    if transposed:
        kernel = kernel.transpose(1, 0, 2, 3)
    return kernel[::-1, ::-1] if flipped else kernel


def _oxford_scale(kernel: Array, bias: Array, found: Reading) -> Reading | None:
    """Adds the scale of the images, which leaves the biases alone, while rescaling a filter rescales its bias too."""
    numbers = list(_OXFORD_FILTERS)
    known_bias = np.array([OXFORD_BIASES[number] for number in numbers])
    known_norm = np.array([np.linalg.norm(known) for known in _OXFORD_FILTERS.values()])
    norm = np.array([np.linalg.norm(kernel[..., number]) for number in numbers])
    with np.errstate(all="ignore"):
        by_bias = bias[numbers] / known_bias  # the factor of each filter
        scale = float(np.median(norm / known_norm / by_bias))
    conventions = (
        ((1.0, 1.0, 1.0), OXFORD_MEAN_RGB),  # 0 … 255 minus the mean
        ((255.0, 255.0, 255.0), OXFORD_MEAN_RGB),  # the same divided by 255
        (_STANDARDISED, _STANDARDISED_MEAN),  # like torchvision's networks
    )
    for unit, mean in conventions:
        if 0.9 < scale / float(np.mean(unit)) < 1.1:
            return replace(found, unit=unit, mean=mean, rescaled=bool(np.abs(by_bias - 1).max() > 0.02))
    return None


def _cosine(a: Array, b: Array) -> float:
    length = float(np.linalg.norm(a))
    return float((a * b).sum() / length / np.linalg.norm(b)) if 0 < length < np.inf else 0.0


_OXFORD_FILTERS = {number: np.reshape(values, (3, 3, 3)) / 1000 for number, values in OXFORD.items()}
_TORCHVISION_FILTERS = {
    number: np.reshape(values, (3, 3, 3)).transpose(1, 2, 0) / 10000 for number, values in TORCHVISION.items()
}
_STANDARDISED = (255 * UNIT_DEVIATION_RGB[0], 255 * UNIT_DEVIATION_RGB[1], 255 * UNIT_DEVIATION_RGB[2])
_STANDARDISED_MEAN = (255 * UNIT_MEAN_RGB[0], 255 * UNIT_MEAN_RGB[1], 255 * UNIT_MEAN_RGB[2])
