"""Whether one of the GPU's paths computes right on this very card: `python -m … PATH PRECISION DEVICE`.

It runs in a process of its own (verdicts.py), for nothing survives an illegal access. All memory starts as NaN, between
two bands that nobody may write to. What is tried: trials.py.
"""

import importlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from ...arrays import Array
from .device import Device
from .paths import PATHS
from .trials import Trial, trials

BAND = 4096  # bytes before and behind each array
MOST_FAULTS = 10


class Guarded(Device):
    """A device that sees writes beside its arrays, and remembers which kernels were launched."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.launched: list[str] = []
        self.arrays: list[tuple[Array, int]] = []

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        whole = super().empty((BAND + size + BAND,), np.uint8)
        whole[...] = 0xA5
        inside = whole[BAND : BAND + size]
        inside[...] = 0xFF
        self.arrays.append((whole, size))
        array: Array = inside.view(dtype).reshape(shape)
        return array

    def launch(
        self, name: str, grid: tuple[int, ...], threads: tuple[int, ...], *arguments: Any, shared: int = 0
    ) -> None:
        self.launched.append(name)
        super().launch(name, grid, threads, *arguments, shared=shared)

    def overwritten(self) -> int:
        """How many bytes beside the arrays were written to."""
        bands = [band for whole, size in self.arrays for band in (whole[:BAND], whole[BAND + size :])]
        return sum(int(float((band != 0xA5).sum())) for band in bands)


def report(
    make: Callable[..., Any], precision: str, cupy: Any, chosen: Callable[..., Iterable[Trial]] = trials
) -> Iterator[dict[str, Any]]:
    """Runs every trial: {"begin": its name}, {"fault": a sentence} …, and at last {"done": how many}."""
    yield {"begin": "its opening"}
    count = wrong = 0
    engine: Any = None
    try:
        engine = make(precision, cupy, Guarded)
        for trial in chosen(engine, lambda: make(precision, cupy)):
            yield {"begin": trial.name}
            count += 1
            for fault in faults(trial, engine.device):
                wrong += 1
                yield {"fault": fault}
            if wrong >= MOST_FAULTS:
                break
    except Exception as error:  # of any type: whatever it is, no further result can be trusted
        text = " ".join(f"{type(error).__name__}: {error}".split())
        kernels = _kernels(engine.device) if engine is not None else ""
        transient = isinstance(error, MemoryError) or "Unavailable" in text  # others use the card
        yield {"fault": text + kernels, "lasts": not transient}
    yield {"done": count}


def faults(trial: Trial, device: Guarded) -> Iterator[str]:
    """What is wrong, each in one sentence that names the kernels launched so far."""
    device.launched, device.arrays = [], []
    for what, found, expected, limit in trial.pairs():
        if fault := difference(np.asarray(found, np.float64), np.asarray(expected, np.float64), limit):
            yield f"{what}: {fault}{_kernels(device)}"
    if count := device.overwritten():
        yield f"{count} bytes beside an array were written to{_kernels(device)}"


def _kernels(device: Guarded) -> str:
    return f" ({', '.join(dict.fromkeys(device.launched))})" if device.launched else ""


def difference(found: Array, expected: Array, limit: float) -> str:
    """How two arrays differ; empty if they do so by no more than the limit. NaN equals nothing."""
    if found.shape != expected.shape:
        return f"its shape is {found.shape} instead of {expected.shape}"
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(found - expected) <= limit * (np.abs(expected).max(initial=0) or 1.0))
    if not wrong.any():
        return ""
    first = tuple(int(k) for k in np.argwhere(wrong)[0])
    place = f"{wrong.sum()} of {found.size} numbers are wrong, the first at {first}: " if first else ""
    return f"{place}{found[first]:.9g} instead of {expected[first]:.9g}"


def main(arguments: list[str]) -> None:
    path, precision, number = arguments
    cupy = importlib.import_module("cupy")
    cupy.cuda.Device(int(number)).use()
    for record in report(PATHS[path], precision, cupy):
        sys.stdout.write(json.dumps(record) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
