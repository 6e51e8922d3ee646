"""Neural style transfer (Gatys, Ecker and Bethge, 2015/2016) with every gradient written by hand."""

from .errors import NSTError
from .figures import figure
from .optimise import Record
from .settings import Run, Settings
from .transfer import Interrupted, Result, reconstruct, texture, transfer

__all__ = [
    "Interrupted",
    "NSTError",
    "Record",
    "Result",
    "Run",
    "Settings",
    "__version__",
    "figure",
    "reconstruct",
    "texture",
    "transfer",
]
__version__ = "0.1.0"
