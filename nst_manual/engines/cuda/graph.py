"""A function of images on the device, evaluated many times: recorded once as a CUDA graph, then launched as one.

Launching some hundred kernels one by one takes the host longer than a GPU needs for a small picture. A graph uses the
memory that it was recorded with, so this comes from a pool of its own. All that the function returns is overwritten by
the next evaluation: fetch or copy it before.
"""

import contextlib
import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...arrays import Array
from .device import Device

log = logging.getLogger(__name__)

EVERY = 8  # a picture's memory is estimated in sides that are multiples of it


class Repeated:
    """The function, with the same results. What cannot be recorded (calls of cuBLAS) is launched one by one."""

    def __init__(self, device: Device, function: Callable[[Array], Any]) -> None:
        self.device, self.function = device, function
        self.shape: tuple[int, ...] = ()
        self.image: Any = None
        self.results: Any = None
        self.graph: Any = None
        self.pool: Any = None  # lives as long as the graph, which writes to its memory
        self.expected: float | None = None  # the loss that the first launch must give
        self.can_record = device.recordable

    def __call__(self, image: Any) -> Any:
        self.device.use()
        try:
            if isinstance(image, np.ndarray):  # whose tiles come from the host: no graph can hold that
                return self.function(image)
            if self.can_record and image.shape != self.shape:
                self._record(image)
            if self.graph is not None:
                self.image[...] = image
                self.graph.launch(stream=self.device.cupy.cuda.get_current_stream())
                if self._as_expected():
                    return self.results
            return self.function(image)
        except MemoryError as error:
            raise MemoryError(self._what_would_fit(image, error)) from None

    def _record(self, image: Array) -> None:
        """Evaluates twice, then records an evaluation: first with CuPy's own pool, for what the function keeps for
        later must outlive the graph's pool, then with the graph's, so that this has its memory."""
        cuda = self.device.cupy.cuda
        self.release()
        self.shape, self.image = image.shape, image.copy()
        expected = float(self.function(self.image)[0])
        spare = [math.inf]  # bytes that the pool may still take from the card

        def more(size: int) -> Any:
            """Of the card. An error of our own: CuPy's would give back what is recorded already, and try again."""
            spare[0] -= size
            if spare[0] < 0:
                raise MemoryError("too little memory to record an evaluation")
            return cuda.MemoryPointer(cuda.Memory(size), 0)

        self.pool = pool = cuda.MemoryPool(more)
        stream = cuda.Stream(non_blocking=True)
        cuda.get_current_stream().synchronize()
        self.device.cupy.get_default_memory_pool().free_all_blocks()  # another pool can't use what this one keeps
        try:
            with cuda.using_allocator(pool.malloc), stream:
                float(self.function(self.image)[0])
                spare[0] = cuda.runtime.memGetInfo()[0] // 2  # it hardly needs more than it has
                stream.begin_capture()
                try:
                    self.results = self.function(self.image)
                finally:
                    graph = stream.end_capture()
            self.graph, self.expected = graph, expected
        except Exception as error:  # a driver or a CuPy that cannot do it, or too little memory: each has its own type
            self._do_without(str(error))

    def _as_expected(self) -> bool:
        """Whether the first launch gave the loss that the evaluation gave step by step; if not, no graph is used."""
        expected, self.expected = self.expected, None
        if expected is None:
            return True
        found = float(self.results[0])
        if found == expected or (math.isnan(found) and math.isnan(expected)):
            return True
        self._do_without(f"it gave {found} instead of {expected}")
        return False

    def _do_without(self, reason: str) -> None:
        log.info("engine: cuda, without a CUDA graph (%s)", reason)
        self.can_record = False
        self.release()

    def release(self) -> None:
        """Graph and results go before their pool's memory does: CuPy frees it under them up to 14.0, and keeps it for
        good from 14.1 on, where a pool dies first."""
        self.graph = self.results = self.expected = None
        if self.pool is not None:
            self.pool.free_all_blocks()
            self.pool = None

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # at the program's end, CuPy may be gone before
            self.release()

    def _what_would_fit(self, image: Array, error: MemoryError) -> str:
        """What was asked for, and the size at which a picture of this shape should fit."""
        height, width = image.shape[:2]
        free, total = self.device.cupy.cuda.runtime.memGetInfo()
        needed = self.device.bytes_per_pixel * height * width
        scale = math.sqrt(min(1.0, 0.9 * total / needed)) if needed > 0.9 * total else 0.7
        fits = (max(EVERY, int(side * scale) // EVERY * EVERY) for side in (width, height))
        text = " × ".join(map(str, fits))
        gigabytes = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        return f"the GPU has {gigabytes}, too little at {width} × {height} pixels; about {text} should fit ({error})"
