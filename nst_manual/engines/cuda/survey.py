"""What a GPU's paths are worth here: the verdict of each, its time, and the facts about the card and versions."""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ...vgg import Steps
from .device import what_failed
from .paths import PATHS, paths, ready
from .probe import NoGPU
from .trials import DEEP, objective, random_filters
from .verdicts import Verdict, circumstances, verdict_of

SIDE, TIMES = 512, 7  # pixels of the picture whose evaluation is timed, and how often


def survey(
    precisions: Sequence[str], number: int | None, timed: bool, side: int = SIDE, steps: Steps = DEEP
) -> Iterator[tuple[Verdict, dict[str, Any]]]:
    """Every path's verdict, from new self-tests, and all about it for a report. Raises NoGPU if there is none."""
    for precision in precisions:
        try:
            cupy = ready(precision, number)
        except NoGPU as error:
            if len(precisions) == 1:
                raise
            yield _judged(Verdict("no path", precision, (str(error.trouble),)))
            continue
        for path in paths(precision, cupy):
            verdict, record = _judged(verdict_of(path, precision, cupy, anew=True))
            if timed and verdict.passed:
                try:
                    record[f"ms of an evaluation at {side}²"] = milliseconds(path, precision, cupy, side, steps)
                except Exception as error:  # of any type: the report shall be written
                    record["not timed"] = what_failed(error)
            yield verdict, record


def _judged(verdict: Verdict) -> tuple[Verdict, dict[str, Any]]:
    return verdict, {**asdict(verdict), "passed": verdict.passed}


def milliseconds(path: str, precision: str, cupy: Any, side: int = SIDE, steps: Steps = DEEP) -> float:
    """The median time of one evaluation, five style layers and a content layer, after two to warm up."""
    engine = PATHS[path](precision, cupy)
    image = engine.to_device(np.random.default_rng(0).uniform(0, 255, (side, side, 3)))
    function = engine.repeated(objective(engine, steps, random_filters(steps)))
    times = []
    for _ in range(2 + TIMES):
        began = time.perf_counter()
        loss, _, _ = function(image)
        float(loss)
        cupy.cuda.Device().synchronize()
        times.append(1000 * (time.perf_counter() - began))
    return round(statistics.median(times[2:]), 2)


def card_facts(number: int | None) -> dict[str, str]:
    """The card, its driver and the libraries; or why there is none."""
    try:
        return circumstances(ready("float32", number))
    except NoGPU as error:
        return {"trouble": str(error)}
