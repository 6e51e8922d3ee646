"""Whether this machine has a GPU to compute on; if not, the reason in one sentence and what to do about it."""

import ctypes
import importlib
import sys
from typing import Any, NamedTuple

import numpy as np

from ...errors import NSTError

DRIVERS = {"win32": ("nvcuda.dll",)}  # by sys.platform; elsewhere:
DRIVER = ("libcuda.so.1", "libcuda.so")
PACKAGES = {12: "cupy-cuda12x[ctk]", 13: "cupy-cuda13x[ctk]"}  # CUDA's major number → the CuPy for it
OTHERWISE = "or use --engine cpu"


class Trouble(NamedTuple):
    """Why not, and the remedy."""

    reason: str
    remedy: str
    near: bool = True  # whether a GPU seems to be there, so that `auto` gives the remedy too

    def __str__(self) -> str:
        return f"{self.reason}: {self.remedy}" if self.near else self.reason


class NoGPU(NSTError):
    """The CUDA engine can't be opened; `trouble` says why."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(f"--engine cuda: {trouble.reason}: {trouble.remedy}, {OTHERWISE}")
        self.trouble = trouble


def why_no_gpu() -> Trouble | None:
    """Why the GPU can't be used, or None if it can: a small product is computed on it to find out."""
    allowed = driver_version()
    if allowed is None:
        return Trouble("no GPU: there is no NVIDIA driver", "install NVIDIA's driver for your card", near=False)
    if allowed < 1000 * min(PACKAGES):
        reason = f"no GPU: the driver goes up to CUDA {_dotted(allowed)} only, and CuPy needs {min(PACKAGES)}"
        return Trouble(reason, "update NVIDIA's driver")
    try:
        cupy = importlib.import_module("cupy")
    except Exception as error:  # a broken installation raises more than ImportError
        missing = isinstance(error, ModuleNotFoundError) and error.name == "cupy"
        reason = "CuPy is not installed" if missing else f"CuPy can't be imported ({_first_line(error)})"
        return Trouble(f"no GPU: {reason}", _install(allowed))
    try:
        return _trouble_with(cupy, allowed)
    except MemoryError as error:
        return Trouble(f"no GPU: its memory is full ({_first_line(error)})", "close what else computes on it")
    except Exception as error:  # no device, compiler, headers or cuBLAS: each raises a type of its own
        return Trouble(f"no GPU: {_first_line(error)}", _install(allowed))


def _trouble_with(cupy: Any, allowed: int) -> Trouble | None:
    built = int(cupy.cuda.runtime.runtimeGetVersion())
    if built // 1000 > allowed // 1000:
        reason = f"this CuPy is for CUDA {built // 1000}, and the driver goes up to CUDA {_dotted(allowed)}"
        remove = f"remove it (pip uninstall cupy-cuda{built // 1000}x)"
        return Trouble(f"no GPU: {reason}", f"{remove} and {_install(allowed)}")
    if cupy.cuda.runtime.getDeviceCount() == 0:
        return Trouble("no GPU: the driver finds no card", "see whether nvidia-smi lists it")
    a = cupy.ones((4, 4), dtype=np.float32)
    if float((a @ a + a).sum()) != 80.0:  # a kernel compiled here (NVRTC, headers), and a product of cuBLAS
        return Trouble("no GPU: its test product is wrong", "see whether nvidia-smi reports errors")
    return None


def driver_version() -> int | None:
    """The newest CUDA that the driver can run, as 12040 for 12.4; None if there is no driver."""
    for name in DRIVERS.get(sys.platform, DRIVER):
        try:
            driver: Any = ctypes.CDLL(name)
        except OSError:
            continue
        version = ctypes.c_int(0)
        if driver.cuDriverGetVersion(ctypes.byref(version)) == 0 and version.value:
            return version.value
    return None


def _install(allowed: int) -> str:
    package = PACKAGES[min(max(allowed // 1000, min(PACKAGES)), max(PACKAGES))]
    return f"pip install '{package}'"


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
