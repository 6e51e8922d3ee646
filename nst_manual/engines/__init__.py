"""The seam: what an engine is, and the choice of one. Questions about the machine are asked in this folder only."""

import logging
from typing import Any, Protocol

from ..arrays import Array
from ..errors import NSTError

log = logging.getLogger(__name__)

ENGINES = ("cuda", "cpu", "reference")  # in the order in which `auto` would have them
PRECISIONS = ("float32", "float64", "tf32", "float16")


class Engine(Protocol):
    """Computes VGG's steps. Arrays go in with `to_device` and come out with `to_host`; between them nobody looks.

    `filters`, `mask` and `saved` are this engine's own: what `prepare`, `conv_relu` and `pool` return is only handed
    back to the same engine.
    """

    name: str
    precision: str

    def to_device(self, array: Any) -> Array: ...
    def to_host(self, array: Array) -> Array: ...
    def prepare(self, kernel: Array, bias: Array) -> Any: ...
    def conv_relu(self, x: Array, filters: Any) -> tuple[Array, Any]: ...
    def conv_relu_backward(self, d_y: Array, mask: Any, filters: Any) -> Array: ...
    def pool(self, x: Array, pooling: str) -> tuple[Array, Any]: ...
    def pool_backward(self, d_y: Array, saved: Any) -> Array: ...


def open_engine(name: str = "auto", precision: str = "float32") -> Engine:
    """The engine of that name, or, for "auto", a working GPU's, else the CPU's. The log says which and why."""
    from .cpu import CpuEngine
    from .cuda import CudaEngine, why_no_gpu
    from .reference import ReferenceEngine

    if name == "auto":
        reason = why_no_gpu()
        name = "cpu" if reason else "cuda"
        log.info("engine: %s, %s%s", name, precision, f" ({reason})" if reason else "")
    if name == "cuda":
        return CudaEngine(precision)
    if name == "cpu" and precision != "float64":
        return CpuEngine(precision)
    if name in ("cpu", "reference"):  # in float64 there is nothing quicker than the reference on a CPU
        return ReferenceEngine(precision)
    raise NSTError(f"there is no engine {name!r}: choose auto, {', '.join(ENGINES)}")
