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
NEW_CAPABILITY = 75  # the least compute capability, 7.5, that CUDA 13 knows
CAPABILITY = 75, 76  # the driver's numbers of its two digits
OTHERWISE = "or use --engine cpu"


class Trouble(NamedTuple):
    """Why not, and the remedy."""

    reason: str
    remedy: str
    near: bool = True  # whether a GPU seems to be there, so that `auto` gives the remedy too

    def __str__(self) -> str:
        return f"{self.reason}: {self.remedy}" if self.near else self.reason


NO_DRIVER = Trouble("no GPU: there is no NVIDIA driver", "install NVIDIA's driver for your card", near=False)


class NoGPU(NSTError):
    """The CUDA engine can't be opened; `trouble` says why."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(f"--engine cuda: {trouble.reason}: {trouble.remedy}, {OTHERWISE}")
        self.trouble = trouble

    def __reduce__(self) -> tuple[Any, ...]:  # from a cluster's worker
        return NoGPU, (self.trouble,)


def why_no_gpu(number: int | None = None) -> Trouble | None:
    """Why no GPU can be used, or None if one can: then CuPy's current device is the card of that number, or the one
    with the most free memory, and a small product was computed on it."""
    allowed = driver_version()
    if allowed is not None and allowed < 1000 * min(PACKAGES):
        reason = f"no GPU: the driver goes up to CUDA {_dotted(allowed)} only, and CuPy needs {min(PACKAGES)}"
        return Trouble(reason, "update NVIDIA's driver")
    cupy, problem = _imported()
    if allowed is None and not for_amd(cupy):
        return NO_DRIVER
    if cupy is None:
        return Trouble(f"no GPU: {problem}", _install(allowed))
    try:
        return _trouble_with(cupy, allowed, number)
    except NSTError:
        raise
    except MemoryError as error:
        return Trouble(f"no GPU: its memory is full ({_first_line(error)})", "close what else computes on it")
    except Exception as error:  # no device, compiler, headers or cuBLAS: each raises a type of its own
        return Trouble(f"no GPU: {_first_line(error)}", _install(allowed))


def _trouble_with(cupy: Any, allowed: int | None, number: int | None) -> Trouble | None:
    runtime = cupy.cuda.runtime
    built = 0 if allowed is None else int(runtime.runtimeGetVersion()) // 1000
    remedy = f"remove it (pip uninstall cupy-cuda{built}x) and {_install(allowed)}"
    if allowed is not None and built > allowed // 1000:
        reason = f"this CuPy is for CUDA {built}, and the driver goes up to CUDA {_dotted(allowed)}"
        return Trouble(f"no GPU: {reason}", remedy)
    count = int(runtime.getDeviceCount())
    if count == 0:
        return Trouble("no GPU: the driver finds no card", "see whether nvidia-smi lists it")
    if number is not None and number >= count:
        there = "is one card, number 0" if count == 1 else f"are {count} cards, numbered from 0"
        raise NSTError(f"--device {number}: there {there}")
    cards = range(count) if number is None else (number,)
    known = capabilities() if built > min(PACKAGES) else ()
    able = [card for card in cards if card >= len(known) or known[card] >= NEW_CAPABILITY]
    if not able:
        reason = f"this CuPy is for CUDA {built}, which needs a card of compute capability 7.5, and there is one of"
        best = max(known[card] for card in cards)
        return Trouble(f"no GPU: {reason} {best // 10}.{best % 10}", remedy)
    cupy.cuda.Device(max(able, key=lambda card: _free(cupy, card)) if len(able) > 1 else able[0]).use()
    a = cupy.ones((4, 4), dtype=np.float32)
    if float((a @ a + a).sum()) != 80.0:  # a kernel compiled here (NVRTC, headers), and a product of cuBLAS
        return Trouble("no GPU: its test product is wrong", "see whether nvidia-smi reports errors")
    return None


def _imported() -> tuple[Any, str]:
    """CuPy, or why there is none."""
    try:
        return importlib.import_module("cupy"), ""
    except Exception as error:  # a broken installation raises more than ImportError
        missing = isinstance(error, ModuleNotFoundError) and error.name == "cupy"
        return None, "CuPy is not installed" if missing else f"CuPy can't be imported ({_first_line(error)})"


def for_amd(cupy: Any) -> bool:
    """Whether this is a CuPy for AMD's cards."""
    return cupy is not None and bool(getattr(cupy.cuda.runtime, "is_hip", False))


def _free(cupy: Any, card: int) -> int:
    """Bytes of a card's memory that are free; −1 for a card that can't be used."""
    try:
        with cupy.cuda.Device(card):
            return int(cupy.cuda.runtime.memGetInfo()[0])
    except Exception:
        return -1


def driver_version() -> int | None:
    """The newest CUDA that the driver can run, as 12040 for 12.4; None if there is no driver."""
    if (driver := _driver()) is None:
        return None
    version = ctypes.c_int(0)
    known = driver.cuDriverGetVersion(ctypes.byref(version)) == 0 and version.value > 0
    return version.value if known else None


def capabilities() -> list[int]:
    """The compute capability of each card, as 75 for 7.5; none if the driver can't tell."""
    if (driver := _driver()) is None or driver.cuInit(0) != 0:
        return []
    count, found = ctypes.c_int(0), list[int]()
    driver.cuDeviceGetCount(ctypes.byref(count))
    for card in range(count.value):
        parts = []
        for attribute in CAPABILITY:
            value = ctypes.c_int(0)
            driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, card)
            parts.append(value.value)
        found.append(10 * parts[0] + parts[1])
    return found


def _driver() -> Any:
    for name in DRIVERS.get(sys.platform, DRIVER):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _install(allowed: int | None) -> str:
    """The command that installs the CuPy for the driver and the cards."""
    if allowed is None:
        return "see whether rocminfo lists your card, and whether CuPy is for your ROCm"
    newest = min(PACKAGES) if min(capabilities(), default=NEW_CAPABILITY) < NEW_CAPABILITY else max(PACKAGES)
    return f"pip install '{PACKAGES[min(max(allowed // 1000, min(PACKAGES)), newest)]}'"


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
