"""The device as the CUDA engine sees it: memory, kernels compiled from kernels.cu and launched, cuBLAS products."""

from importlib.resources import files
from typing import Any

import numpy as np

from ...arrays import Array
from ..winograd import transforms

SHARED = 48 << 10  # bytes of shared memory that a block may have without asking
NOTHING = np.uint64(0)  # a null pointer


class Device:
    """CuPy's current device."""

    def __init__(self, cupy: Any, recordable: bool = True, bytes_per_pixel: int = 800) -> None:
        self.cupy, self.recordable, self.bytes_per_pixel = cupy, recordable, bytes_per_pixel
        device = cupy.cuda.Device()
        self.multiprocessors = int(device.attributes["MultiProcessorCount"])
        self.most_shared = int(device.attributes["MaxSharedMemoryPerBlockOptin"])
        self.capability = int(device.compute_capability)
        self.source = source()
        self.kernels: dict[str, Any] = {}
        self.factors = {value: np.array(value, np.float32) for value in (0.0, 1.0)}  # cuBLAS wants pointers to them

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
            module = self.cupy.RawModule(code=self.source, options=("-std=c++17",), name_expressions=(name,))
            kernel = self.kernels[name] = module.get_function(name)
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
    """kernels.cu, with Winograd's matrices in front; in ASCII, because CuPy may write it in the system's encoding."""
    lines = []
    for name, matrices in zip(("UP", "DOWN"), transforms(), strict=True):
        lines += [f"#define BT_{name} {_text(matrices.bt)}", f"#define AT_{name} {_text(matrices.at)}"]
    kernels = files(__package__).joinpath("kernels.cu").read_text(encoding="utf-8")
    return "\n".join([*lines, kernels.encode("ascii", "replace").decode()])


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
