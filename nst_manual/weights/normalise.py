"""The network of Gatys' papers: each filter scaled so that its mean activation over some pictures is 1.

With m_l the mean activations of layer l, features'_l = features_l / m_l. ReLU and every pooling commute with a positive
factor per channel, so it is enough to divide each filter by its own mean and to multiply its inputs by theirs:

    kernel'[i, j, c, o] = kernel[i, j, c, o] · m_{l−1}[c] / m_l[o]        bias'[o] = bias[o] / m_l[o]
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from ..arrays import Array
from ..engines import Engine
from ..errors import NSTError
from ..vgg import Network, steps_to, walk_up
from .naming import contiguous
from .weights import Weights


def normalised(weights: Weights, images: Iterable[Array], engine: Engine, pooling: str = "avg") -> Weights:
    """The same network with mean activations of 1 over all positions and images; a filter that never opens is kept."""
    means = mean_activations(weights, images, engine, pooling)
    filters = {}
    before = np.ones(3)
    for layer, mean in means.items():
        kernel, bias = weights.filters[layer]
        after = np.where(mean > 0, mean, 1.0)
        scaled = kernel * (before[:, None] / after), bias / after
        filters[layer] = scaled[0].astype(np.float32), scaled[1].astype(np.float32)
        if not all(np.isfinite(array).all() for array in filters[layer]):
            raise NSTError(
                f"{layer} has a filter that hardly ever responds to these pictures: give more pictures with --images"
            )
        before = after
    return replace(weights, filters=filters, source=f"{weights.source}, mean activations normalised to 1")


def mean_activations(
    weights: Weights, images: Iterable[Array], engine: Engine, pooling: str = "avg"
) -> dict[str, Array]:
    """Each layer's mean activation by filter, in float64, over all positions: larger pictures count more."""
    layers = contiguous(weights.filters)
    network = Network.build(engine, weights.filters, weights.mean, steps_to(layers[-1]), pooling, layers)
    sums = {layer: np.zeros(weights.filters[layer][1].size) for layer in layers}
    counts = dict.fromkeys(layers, 0)
    for image in images:
        for operation, features, _ in walk_up(network, engine.to_device(image)):
            if operation.name in sums:
                host = engine.to_host(features)
                sums[operation.name] += host.sum(axis=(0, 1), dtype=np.float64)
                counts[operation.name] += host.shape[0] * host.shape[1]
    if not all(counts.values()):
        raise NSTError("normalising needs at least one picture: give it with --images")
    return {layer: sums[layer] / counts[layer] for layer in layers}
