"""Neural style transfer (Gatys, Ecker and Bethge, 2015/2016) with every gradient written by hand."""

from importlib import import_module

TYPE_CHECKING = False  # to a type checker it is true; `typing` itself takes a while to load
if TYPE_CHECKING:
    from .batch import transfer_many
    from .errors import NSTError
    from .optimise import Record
    from .runs.pairs import Pair
    from .runs.results import Interrupted, Result
    from .runs.style_files import StyleTargets
    from .settings import Run, Settings
    from .story import reconstruct, texture, transfer
    from .study.figures.figures import figure
    from .study.looks import Looks, evaluate
    from .styles import compute_targets

__all__ = [
    "Interrupted",
    "Looks",
    "NSTError",
    "Pair",
    "Record",
    "Result",
    "Run",
    "Settings",
    "StyleTargets",
    "__version__",
    "compute_targets",
    "evaluate",
    "figure",
    "reconstruct",
    "texture",
    "transfer",
    "transfer_many",
]
__version__ = "0.1.0"

_ROOMS = {  # each is loaded when one of its names is first used, so that the program can catch Ctrl-C before
    "batch": ("transfer_many",),
    "errors": ("NSTError",),
    "optimise": ("Record",),
    "runs.pairs": ("Pair",),
    "runs.results": ("Interrupted", "Result"),
    "runs.style_files": ("StyleTargets",),
    "settings": ("Run", "Settings"),
    "story": ("reconstruct", "texture", "transfer"),
    "study.figures.figures": ("figure",),
    "study.looks": ("Looks", "evaluate"),
    "styles": ("compute_targets",),
}

if not TYPE_CHECKING:  # a type checker would take any name for one of ours

    def __getattr__(name):
        for room, names in _ROOMS.items():
            if name in names:
                return getattr(import_module(f".{room}", __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})
