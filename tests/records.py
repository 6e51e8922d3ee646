"""A run of made-up records, for the rooms that watch runs."""

import numpy as np

from nst_manual.optimise import Record

LAYERS = ["conv1_1", "conv2_1", "conv3_1"]


def run(iterations=12, scales=((64, 48), (128, 96)), style=1e6, image=None):
    """Loss, gradient and steps fall at each scale as 1/k; every fourth iteration takes a second evaluation."""
    records = []
    each = iterations // len(scales)
    for k in range(1, iterations + 1):
        scale = min((k - 1) // each, len(scales) - 1)
        local = k - scale * each
        terms = {"content:conv4_2": 1000.0 * (1 + k / 100)}
        terms |= {f"style:{layer}": style / 10**n / local for n, layer in enumerate(LAYERS)}
        terms["tv"] = 50.0
        records.append(
            Record(
                k,
                k + k // 4,
                sum(terms.values()),
                terms,
                seconds=0.5 * k,
                gradient=1e4 / local,
                step=16 / local,
                iterations=iterations,
                scale=scale + 1,
                scales=len(scales),
                width=scales[scale][0],
                height=scales[scale][1],
                left=0.5 * (iterations - k),
                image=image or (lambda: np.zeros((3, 4, 3))),
            )
        )
    return records
