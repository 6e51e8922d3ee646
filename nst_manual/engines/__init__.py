"""The seam: what an engine is, and the choice of one. Questions about the machine are asked in this folder only."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from ..arrays import Array, Place, Scalar
from ..errors import NSTError
from ..losses import Moments
from ..vgg import Operation, Steps
from .cuda.device import device_errors as device_errors
from .cuda.device import what_failed as what_failed

log = logging.getLogger(__name__)

ENGINES = ("cuda", "cpu", "reference")  # in the order in which `auto` prefers them
PRECISIONS = ("float32", "float64", "tf32", "float16")


class Engine(Protocol):
    """Computes the walks and what the losses need of features.

    Arrays go in with `to_device` and come out with `to_host`. What lies between — features, `saved`, and gradients on
    their way down — is the engine's own, and is only handed back to the same engine.
    """

    name: str
    precision: str
    vectors: Any  # computes an optimiser's sums on this device; None: NumPy's functions do
    optimizer: str  # the one to take where nobody chooses: a GPU would wait for SciPy's, which is on the host

    def to_device(self, array: Any, dtype: Any = None) -> Array: ...  # in the engine's precision unless told otherwise
    def to_host(self, array: Array) -> Array: ...
    def repeated(self, function: Callable[[Array], Any]) -> Callable[[Array], Any]: ...  # the same, for many images

    def free_memory(self) -> int | None: ...  # bytes that a device of its own has free; None if it has none

    # The steps as this engine's operations: any steps may be fused, as long as the features named in `taps` come out.
    def operations(
        self,
        steps: Steps,
        filters: Mapping[str, tuple[Array, Array]],
        taps: Collection[str],
        pooling: str,
    ) -> Sequence[Operation]: ...

    # m = Σ t F and S = Σ t F Fᵀ, in float64 on the device; no weights mean 1/M everywhere.
    def moments(self, features: Array, weights: Array | None) -> Moments: ...
    def known_moments(self, mean: Array, second: Array) -> Moments: ...  # those that were found before, on the device

    # d + t (d_m + 2 d_S F), the latter d(loss)/d(features) of every style loss. d may be changed; None is no gradient.
    # `saved` is that of the operation behind the features.
    def pull_back(
        self, d: Any, features: Array, saved: Any, weights: Array | None, d_mean: Array | None, d_second: Array
    ) -> Any: ...
    def kept(self, features: Array, saved: Any, weights: Array | None) -> Any: ...  # its `features`, if called later
    def each(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]: ...  # on small matrices

    # The content term: weight · ½ Σ (F − P)², and its derivative. `place` is where the target lies; None is everywhere.
    def difference(
        self, features: Array, target: Array, weight: float, place: Place | None = None
    ) -> tuple[Scalar, Any]: ...
    def join(self, d: Any, d_features: Any) -> Any: ...  # their sum; None is no gradient; d may be changed


def open_engine(
    name: str = "auto", precision: str = "float32", threads: int | None = None, device: int | None = None
) -> Engine:
    """The engine of that name. "auto" is a working GPU's engine, or else the CPU's; the log says which and why.

    `threads` are the CPU engine's; None means as many as this process may use cores. `device` is the number of a GPU;
    None means the one with the most free memory.
    """
    from .cpu.engine import CpuEngine
    from .cuda.paths import open_gpu
    from .cuda.probe import NoGPU
    from .reference import ReferenceEngine

    if threads is not None and threads < 1:
        raise NSTError(f"--threads must be a number of at least 1, not {threads}")
    if name in ("auto", "cuda"):
        try:
            engine = open_gpu(precision, device)
            log.info("engine: %s, %s", engine.name, precision)
            return engine
        except NoGPU as error:
            if name == "cuda":
                raise
            log.info("engine: cpu, %s (%s)", precision, error.trouble)
            name = "cpu"
    if name == "cpu" and precision != "float64":
        return CpuEngine(precision, threads)
    if name in ("cpu", "reference"):  # in float64 nothing is quicker than the reference on a CPU
        return ReferenceEngine(precision)
    raise NSTError(f"there is no engine {name!r}: choose auto, {', '.join(ENGINES)}")
