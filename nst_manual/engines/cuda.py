"""The GPU's engine: the reference's functions on CuPy arrays, uploaded once."""

import importlib
from typing import Any

import numpy as np

from ..arrays import Array
from ..errors import NSTError
from .reference import ReferenceEngine

REMEDY = "install CuPy for your CUDA version (pip install 'nst_manual[cuda12]' or '[cuda13]'), or use --engine cpu"


def why_no_gpu() -> str | None:
    """One reason why the GPU can't be used, or None if it can: a small product is computed on it to find out."""
    try:
        cupy = importlib.import_module("cupy")
    except Exception as error:  # a broken installation raises more than ImportError
        missing = isinstance(error, ModuleNotFoundError) and error.name == "cupy"
        return "no GPU: CuPy is not installed" if missing else f"no GPU: CuPy can't be imported: {_first_line(error)}"
    try:
        a = cupy.ones((4, 4), dtype=np.float32)
        if float((a @ a + a).sum()) != 80.0:
            return "no GPU: its test product is wrong"
    except Exception as error:  # no device, no driver, no compiler, no memory: each has its own type
        return f"no GPU: {_first_line(error)}"
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class CudaEngine(ReferenceEngine):
    """CuPy. NumPy's functions called on CuPy arrays run on the device, so every step is the reference's own."""

    name = "cuda"
    precisions = ("float32", "float64")

    def __init__(self, precision: str = "float32") -> None:
        super().__init__(precision)
        if reason := why_no_gpu():
            raise NSTError(f"--engine cuda: {reason}; {REMEDY}")
        self.cupy = importlib.import_module("cupy")

    def to_device(self, array: Any) -> Array:
        on_device: Array = self.cupy.asarray(array, dtype=self.dtype)
        return on_device

    def to_host(self, array: Array) -> Array:
        on_host: Array = self.cupy.asnumpy(array)
        return on_host
