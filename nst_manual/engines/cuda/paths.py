"""Three steps of trust: the quickest path that has proved itself on this card is taken, and none without its proof."""

import importlib
import logging
from collections.abc import Mapping
from typing import Any

from ...errors import NSTError
from ..reference import ReferenceEngine
from .engine import CudaEngine
from .plain import PlainEngine, ProductsEngine
from .probe import NoGPU, Trouble, for_amd, why_no_gpu
from .verdicts import verdict_of

log = logging.getLogger(__name__)

PATHS: Mapping[str, Any] = {"fused": CudaEngine, "products": ProductsEngine, "plain": PlainEngine}  # quickest first
TENSOR_CORES = 80  # the oldest compute capability, 8.0, whose tensor cores know TF32 and bfloat16
AGAIN = "`python -m nst_manual check --engine cuda` tests it again and shows all"


def open_gpu(precision: str, number: int | None = None) -> ReferenceEngine:
    """The engine of the best path on the card of that number, or on the one with the most free memory. Raises NoGPU."""
    cupy = ready(precision, number)
    failed: list[str] = []
    for path in paths(precision, cupy):
        verdict = verdict_of(path, precision, cupy)
        if verdict.passed:
            if failed:
                log.info("engine: cuda by its %s path, for on this card %s; %s", path, failed[0], AGAIN)
            engine: ReferenceEngine = PATHS[path](precision, cupy)
            return engine
        failed.append(f"the {path} path fails its self-test ({verdict.faults[0]})")
    raise NoGPU(Trouble(f"on this GPU {' and '.join(failed)}", AGAIN))


def ready(precision: str, number: int | None) -> Any:
    """CuPy, with its device chosen. Raises NoGPU."""
    if precision not in PlainEngine.precisions:
        raise NSTError(f"the cuda engine computes in {', '.join(PlainEngine.precisions)}, not in {precision}")
    if trouble := why_no_gpu(number):
        raise NoGPU(trouble)
    cupy = importlib.import_module("cupy")
    capability = cupy.cuda.Device().compute_capability
    if precision in ("tf32", "float16") and not for_amd(cupy) and int(capability) < TENSOR_CORES:
        reason = (
            f"{precision} needs a GPU of compute capability 8.0, and this one's is {capability[:-1]}.{capability[-1]}"
        )
        raise NoGPU(Trouble(reason, "choose --precision float32"))
    return cupy


def paths(precision: str, cupy: Any) -> list[str]:
    """The paths for a precision. Kernels and calls of cuBLAS are NVIDIA's: AMD's cards have the plain one."""
    return [
        path
        for path, engine in PATHS.items()
        if precision in engine.precisions and not (for_amd(cupy) and path != "plain")
    ]
