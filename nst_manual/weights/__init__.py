"""VGG-19's numbers: what a set of weights is, where installed ones are kept, and how a file is read.

`reading` recognises a file's format by its content, `fingerprint` its network by its numbers. Nothing in a file is
executed, and only what is needed is read. See docs/weights.md.
"""

import os
from collections.abc import Collection
from pathlib import Path

import platformdirs

from ..errors import NSTError
from .bounded_file import unusable
from .fingerprint import FAMILIES
from .registry import published
from .weights import Weights

__all__ = ["FAMILIES", "GET_COMMAND", "INSTALLED_NAME", "Weights", "find_weights", "folders", "load_weights"]

INSTALLED_NAME = "vgg19.h5"
GET_COMMAND = "python -m nst_manual weights get"


def folders() -> list[Path]:
    """Where weights are installed: $NST_MANUAL_CACHE alone if set, else the checkout, then the user's cache."""
    if cache := os.environ.get("NST_MANUAL_CACHE"):
        return [Path(cache)]
    checkout = Path(__file__).parents[2]
    in_checkout = [checkout / "weights"] if (checkout / "pyproject.toml").is_file() else []
    return [*in_checkout, Path(platformdirs.user_cache_dir("nst_manual", appauthor=False))]


def installed(name: str) -> Path | None:
    """Where `get` has put the file of this name. Several published files with the same numbers have the same name."""
    return next((folder / name for folder in folders() if os.path.isfile(folder / name)), None)


def find_weights(choice: str) -> Path | None:
    """The file that `--weights` means, by its path or by its name in `weights list`.

    None means that the network is calibrated on the pictures.
    """
    if choice == "calibrated":
        return None
    names = {known.name: known.installs for known in published() if known.installs} | {"auto": INSTALLED_NAME}
    path = Path(choice)
    if choice in ("auto", "vgg19") or (choice in names and not os.path.isfile(path)):
        if (found := installed(names[choice])) or choice == "auto":
            return found
        where = " or ".join(str(folder) for folder in folders())
        command = GET_COMMAND if choice == "vgg19" else f"{GET_COMMAND} {choice}"
        raise NSTError(
            f"--weights {choice}: {names[choice]} is not in {where}: download it with `{command}`, or give a file"
        )
    if problem := unusable(path):
        raise NSTError(f"--weights {choice}: the file {problem}: give auto, vgg19, calibrated or a weights file")
    return path


def load_weights(path: Path, layers: Collection[str], family: str | None = None) -> Weights:
    """The filters of the given layers from a file of any known format, recognised by its content.

    `family`, one of FAMILIES, is needed only for a network whose numbers are not known.
    """
    from .reading import read_weights

    return read_weights(Path(path), layers, family)
