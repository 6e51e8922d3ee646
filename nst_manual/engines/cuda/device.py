"""The device as the CUDA engine sees it: memory, kernels compiled from kernels/ and launched, cuBLAS products."""

import re
import sys
from contextlib import suppress
from importlib.resources import files
from typing import Any

import numpy as np

from ...arrays import Array
from ..winograd import transforms

SHARED = 48 << 10  # bytes of shared memory that a block may have without asking
LEAST_WORKSPACE, MOST_WORKSPACE = 8 << 20, 48 << 20  # bytes
TILES = ((16, 128), (8, 128), (16, 64), (8, 64))  # rows of 16 pixels, and channels, of a block; best reuse first
ERRORS = (  # of CuPy: where they are, and their names
    ("runtime", "CUDARuntimeError"),
    ("driver", "CUDADriverError"),
    ("cublas", "CUBLASError"),
    ("cusolver", "CUSOLVERError"),
    ("nvrtc", "NVRTCError"),
    ("compiler", "CompileException"),
)
SOURCES = ("numbers", "convolution", "first_and_pooling", "losses", "transport", "vectors")  # the first is for all
NOTHING = np.uint64(0)  # a null pointer


class Device:
    """CuPy's current device."""

    def __init__(self, cupy: Any, recordable: bool = True, bytes_per_pixel: int = 800) -> None:
        self.cupy, self.recordable, self.bytes_per_pixel = cupy, recordable, bytes_per_pixel
        self.card = cupy.cuda.Device()
        attributes = self.card.attributes  # ROCm lacks some
        self.multiprocessors = int(attributes.get("MultiProcessorCount", 16))
        self.most_shared = int(attributes.get("MaxSharedMemoryPerBlockOptin", SHARED))
        # What one kernel writes and the next one reads should still be in the L2 cache.
        self.workspace = min(max(int(attributes.get("L2CacheSize", 0)), LEAST_WORKSPACE), MOST_WORKSPACE)
        self.tiles = TILES
        self.source = source()
        self.kernels: dict[str, Any] = {}
        self.factors = {value: np.array(value, np.float32) for value in (0.0, 1.0)}  # cuBLAS wants pointers to them

    def use(self) -> None:
        """Makes the card CuPy's current one in this thread too."""
        self.card.use()

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Memory from CuPy's pool. After the first evaluation it needs no more from the device."""
        array: Array = self.cupy.empty(shape, dtype)
        return array

    def launch(
        self, name: str, grid: tuple[int, ...], threads: tuple[int, ...], *arguments: Any, shared: int = 0
    ) -> None:
        """Arguments are arrays, None, NumPy scalars, or Python numbers, which become int and float."""
        kernel = self.kernels.get(name)
        if kernel is None:
            module = self.cupy.RawModule(code=specialised(self.source, name), options=("-std=c++17",))
            kernel = self.kernels[name] = module.get_function(name.partition("<")[0])
        if shared > SHARED:
            kernel.max_dynamic_shared_size_bytes = shared
        full = (*grid, 1, 1)[:3], (*threads, 1, 1)[:3]
        kernel(*full, tuple(map(_argument, arguments)), shared_mem=shared)

    def products(self, a: Any, b: Any, out: Any, turned: str = "", add: bool = False) -> None:
        """out[k] = a[k] @ b[k] of (count, …, …) in float32, or out[k] += …; `turned` names a matrix to transpose.

        cuBLAS stores matrices by columns: to it ours are transposed already, and outᵀ = bᵀ aᵀ.
        """
        count, rows, columns = out.shape
        inner = a.shape[1] if turned == "a" else a.shape[2]
        one, other = (self.factors[value].ctypes.data for value in (1.0, float(add)))
        self.cupy.cuda.cublas.sgemmStridedBatched(
            self.cupy.cuda.device.get_cublas_handle(),
            int(turned == "b"), int(turned == "a"), columns, rows, inner, one,
            b.data.ptr, b.shape[2], b.shape[1] * b.shape[2],
            a.data.ptr, a.shape[2], a.shape[1] * a.shape[2], other,
            out.data.ptr, columns, rows * columns, count,
        )  # fmt: skip

    def add_up(self, values: Array, factor: float) -> Array:
        """factor · Σ values, left on the device."""
        total = self.empty((), np.float64)
        self.launch("add_up", (1,), (256,), values, values.size, np.float64(factor), total)
        return total


def source() -> str:
    """All of kernels/ behind Winograd's matrices; in ASCII, because CuPy may write it in the system's encoding."""
    lines = []
    for name, matrices in zip(("UP", "DOWN"), transforms(), strict=True):
        lines += [f"#define BT_{name} {_text(matrices.bt)}", f"#define AT_{name} {_text(matrices.at)}"]
    lines += [files(__package__).joinpath("kernels", f"{name}.cu").read_text(encoding="utf-8") for name in SOURCES]
    return "\n".join(lines).encode("ascii", "replace").decode()


def specialised(source: str, name: str) -> str:
    """The source with one kernel as a plain C function: the template `conv<Tf32, Half, 8, 64>` becomes `conv`.

    CuPy up to 14.0 keeps no kernel on disk that it has to look up by a C++ name. All others are templates then, which
    nobody uses and the compiler passes over.
    """
    kernel, _, values = name.removesuffix(">").partition("<")
    head = re.search(rf"(?:template <(.*)>\n)?(__global__ void (?:__launch_bounds__\(\d+\)\n)?{kernel}\()", source)
    if head is None:
        raise ValueError(f"there is no kernel {kernel}")
    parameters = head[1].split(", ") if head[1] else []
    lines = []
    for parameter, value in zip(parameters, values.split(", ") if values else [], strict=True):
        kind, own = parameter.split()
        lines.append(f"typedef {value} {own};" if kind == "class" else f"constexpr {kind} {own} = {value};")
    plain = "\n".join([*lines, f'extern "C" {head[2]}'])
    text = source[: head.start()] + plain + source[head.end() :]
    return re.sub(r"(?m)(?<!>\n)^__global__", "template <class = void>\n__global__", text)


def device_errors() -> tuple[type[Exception], ...]:
    """What CuPy raises when the GPU, its libraries or its compiler fail; nothing where CuPy is not in use."""
    cupy: Any = sys.modules.get("cupy")
    if cupy is None or not hasattr(cupy, "cuda"):
        return ()
    found = []
    for place, name in ERRORS:
        with suppress(AttributeError, ImportError):  # CuPy looks for a library when it is first asked about it
            found.append(getattr(getattr(cupy.cuda, place), name))
    return tuple(found)


def what_failed(error: Exception) -> str:
    """Such an error in one sentence, with the remedy."""
    text = (str(error).strip().splitlines() or [""])[0]
    if "out of memory" in text or "MemoryAllocation" in text:
        return f"out of memory on the GPU ({text}): choose a smaller --size"
    remedy = "run it again, with --engine cpu if it fails again"
    return f"the GPU failed ({type(error).__name__}: {text}): {remedy}"


def blocks(size: int, each: int) -> int:
    """How many blocks of `each` cover `size`."""
    return -(-size // each)


def _text(matrix: Array) -> str:
    rows = ("{" + ", ".join(f"{value:.9e}f" for value in row) + "}" for row in matrix)
    return "{" + ", ".join(rows) + "}"


def _argument(value: Any) -> Any:
    if value is None:
        return NOTHING
    if isinstance(value, np.generic) or not isinstance(value, bool | int | float):  # np.float64 is a float, too
        return value
    return np.float32(value) if isinstance(value, float) else np.int32(value)
