"""The seam: what an engine is, and the choice of one. Questions about the machine are asked in this folder only."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from ..arrays import Array, Scalar
from ..errors import NSTError
from .needs import Needs

log = logging.getLogger(__name__)

ENGINES = ("cuda", "cpu", "reference")  # in the order in which `auto` would have them
PRECISIONS = ("float32", "float64", "tf32", "float16")


class Engine(Protocol):
    """Computes VGG's steps. Arrays go in with `to_device` and come out with `to_host`; between them nobody looks.

    `filters`, `saved`, and the gradients d_… between `loss` and the image are this engine's own: they are only handed
    back to the same engine. `conv_relu_pool` is both steps at once, for features between them that nobody taps;
    `conv` and `relu` are the two halves of `conv_relu`, where somebody taps the features before the ReLU.
    """

    name: str
    precision: str
    threads: int  # that runs at once can have a part of each; 1: there is nothing to be divided
    vectors: Any  # what computes an optimiser's sums over vectors on this device; None: NumPy's functions do

    def needs(self) -> Needs | int: ...  # of memory, step by step; of a GPU's: bytes per pixel, as measured
    def share(self, runs: int) -> None: ...  # the threads, from now on, among so many runs at once
    def at_work(self) -> AbstractContextManager[None]: ...  # around an evaluation
    def to_device(self, array: Any) -> Array: ...
    def to_host(self, array: Array) -> Array: ...
    def repeated(self, function: Callable[[Array], Any]) -> Callable[[Array], Any]: ...  # the same, for many images
    def prepare(self, kernel: Array, bias: Array) -> Any: ...
    def conv_relu(self, x: Array, filters: Any) -> tuple[Array, Any]: ...
    def conv_relu_backward(self, d_y: Any, saved: Any, filters: Any) -> Array: ...
    def pool(self, x: Array, pooling: str) -> tuple[Array, Any]: ...
    def pool_backward(self, d_y: Any, saved: Any) -> Array: ...
    def conv_relu_pool(self, x: Array, filters: Any, pooling: str) -> tuple[Array, Any]: ...
    def conv_relu_pool_backward(self, d_y: Any, saved: Any, filters: Any) -> Array: ...

    def prepare_linear(self, kernel: Array, bias: Array) -> Any: ...  # filters for `conv` alone
    def conv(self, x: Array, filters: Any) -> tuple[Array, Any]: ...
    def conv_backward(self, d_y: Any, saved: Any, filters: Any) -> Array: ...
    def relu(self, x: Array) -> tuple[Array, Any]: ...
    def relu_backward(self, d_y: Any, saved: Any) -> Array: ...

    # weight · loss(features, target), and weight · its gradient; `saved` is that of the step that gave the features.
    def loss(
        self, loss: Callable[..., tuple[Scalar, Array]], features: Array, saved: Any, target: Any, weight: float
    ) -> tuple[Scalar, Any]: ...
    def keep(self, features: Array) -> Array: ...  # the same, to compare others with for a whole run
    def gram(self, features: Array) -> Array: ...
    def guided_gram(self, features: Array, guide: Array) -> Array: ...
    def join(self, d: Any, d_features: Any) -> Any: ...  # their sum; None is no gradient; d may be changed


def open_engine(name: str = "auto", precision: str = "float32", threads: int | None = None) -> Engine:
    """The engine of that name, or, for "auto", a working GPU's, else the CPU's. The log says which and why.

    Only the CPU's has threads of its own to be told the number of; None are as many as the process may use cores.
    """
    from .cpu.engine import CpuEngine
    from .cuda.engine import open_cuda
    from .cuda.probe import NoGPU
    from .reference import ReferenceEngine

    if threads is not None and threads < 1:
        raise NSTError(f"--threads must be a number of at least 1, not {threads}")
    if name in ("auto", "cuda"):
        try:
            engine = open_cuda(precision)
            log.info("engine: cuda, %s", precision)
            return engine
        except NoGPU as error:
            if name == "cuda":
                raise
            log.info("engine: cpu, %s (%s)", precision, error.trouble.reason)
            name = "cpu"
    if name == "cpu" and precision != "float64":
        return CpuEngine(precision, threads)
    if name in ("cpu", "reference"):  # in float64 there is nothing quicker than the reference on a CPU
        return ReferenceEngine(precision)
    raise NSTError(f"there is no engine {name!r}: choose auto, {', '.join(ENGINES)}")
