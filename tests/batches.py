"""Small runs of many pictures: their settings, and weights for them."""

from nst_manual.proof.checks import random_filters
from nst_manual.vgg import steps_to
from nst_manual.weights import Weights
from nst_manual.weights.formats.hdf5 import write_hdf5

QUICK = {
    "size": 24, "iterations": 2, "style_layers": "conv1_1,conv2_1", "content_layers": "conv2_2", "engine": "reference",
}  # fmt: skip
WORDS = [word for name, value in QUICK.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def written_weights(folder):
    """The path of a weights file with random filters."""
    path = folder / "weights.h5"
    filters = random_filters(steps_to("conv2_2"), 1)
    write_hdf5(path, Weights(filters, (120.0, 115.0, 100.0), "oxford", "made here", "none"))
    return str(path)
