"""Looking inside the gradient: every term's value and gradient at one image, with no optimisation.

The file is for comparing with other programs: /loss/<term> and /gradient/<term>, weighted so that the terms sum to
the total; the gradient is float64, (height, width, 3), RGB, in loss per unit of a 0 … 255 pixel.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .errors import NSTError
from .files import replaced
from .images import load_picture
from .objective import Evaluation
from .settings import Settings
from .transfer import build_network, choose_weights, load_pictures, make_objective


@dataclasses.dataclass(frozen=True)
class Gradients:
    """`total` is one joined walk down; each term's own is a walk of its own, so their sum proves the joining."""

    total: Evaluation
    terms: Mapping[str, Evaluation]
    attributes: Mapping[str, Any]

    def save(self, path: str | Path) -> None:
        """As HDF5; whole or not at all."""
        with replaced(Path(path)) as temporary, h5py.File(temporary, "w") as file:
            file.attrs.update(self.attributes)
            for name, evaluation in {"total": self.total, **self.terms}.items():
                file[f"loss/{name}"] = np.float64(evaluation.loss)
                file[f"gradient/{name}"] = evaluation.gradient.astype(np.float64)


def gradients(image: Any, content: Any, style: Any, **options: Any) -> Gradients:
    """Every term at `image`; pictures keep their own size unless `size` is given. Options are those of Settings."""
    settings = Settings(**{"size": None, **options})
    x = load_picture(image, settings.size, enlarge=settings.enlarge).rgb
    content_image, style_image = (picture.rgb for picture in load_pictures(settings, content, style))
    if x.shape != content_image.shape:
        raise NSTError(
            f"IMAGE is {x.shape[1]}×{x.shape[0]} and CONTENT {content_image.shape[1]}×{content_image.shape[0]} pixels: "
            "both must have the same size"
        )
    weights = choose_weights(settings, content_image, style_image)
    objective = make_objective(settings, build_network(settings, weights), content_image, style_image)
    names = [*(term.name for term in objective.terms), "tv"]
    chosen = {name: "" if value is None else value for name, value in dataclasses.asdict(settings).items()}
    factors = {f"weight of {term.name}": term.weight for term in objective.terms} | {
        "weight of tv": objective.tv_weight
    }
    source = {"weights_family": weights.family, "weights_source": weights.source, "weights_licence": weights.licence}
    return Gradients(objective(x), {name: objective.only(name)(x) for name in names}, chosen | factors | source)
