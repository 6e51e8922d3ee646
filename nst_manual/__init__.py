"""Neural style transfer (Gatys, Ecker and Bethge, 2015/2016) with every gradient written by hand."""

from .batch import Pair, transfer_many
from .errors import NSTError
from .optimise import Record
from .runs.results import Interrupted, Result
from .runs.style_files import StyleTargets
from .settings import Run, Settings
from .story import reconstruct, texture, transfer
from .study.figures.figures import figure
from .styles import compute_targets

__all__ = [
    "Interrupted",
    "NSTError",
    "Pair",
    "Record",
    "Result",
    "Run",
    "Settings",
    "StyleTargets",
    "__version__",
    "compute_targets",
    "figure",
    "reconstruct",
    "texture",
    "transfer",
    "transfer_many",
]
__version__ = "0.1.0"
