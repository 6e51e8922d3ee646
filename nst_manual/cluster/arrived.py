"""What a worker makes of what it is given: its own threads and card, and arrays where NumPy would put them."""

import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from ..settings import Run


def worker_threads(run: Run) -> int:
    """The CPU threads of a worker's engine: what the run says, or else as many as Dask gives the worker."""
    from distributed import get_worker

    return run.threads or int(get_worker().state.nthreads)


def worker_device(run: Run) -> int | None:
    """The number of a worker's GPU: `dask cuda worker` makes each worker's own the first that it sees."""
    return 0 if run.device is None and os.environ.get("CUDA_VISIBLE_DEVICES") else run.device


def settled_in_memory(thing: Any) -> Any:
    """The same with its arrays copied to where NumPy would put them. They come from other machines at any address, and
    the last digits of a product depend on that."""
    if isinstance(thing, np.ndarray):
        return np.array(thing)
    if isinstance(thing, Mapping):
        return {name: settled_in_memory(part) for name, part in thing.items()}
    if isinstance(thing, list | tuple):
        parts = map(settled_in_memory, thing)
        return type(thing)(*parts) if hasattr(thing, "_fields") else type(thing)(parts)
    if is_dataclass(thing) and not isinstance(thing, type):
        return replace(thing, **{field.name: settled_in_memory(getattr(thing, field.name)) for field in fields(thing)})
    return thing
