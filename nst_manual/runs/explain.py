"""Explains a run's numbers in words: what fell by how much, what dominates, what it cost, and why it stopped."""

import math
from typing import Any

import numpy as np

from ..arrays import Array
from .traces import Trace

COSTLY = 1.5  # evaluations per iteration above which line searches are called costly
STILL = 0.01  # a loss that falls by more than this share in its last tenth of iterations is still falling


@np.errstate(all="ignore")  # a loss of 0 gives unknown shares
def explained(trace: Trace) -> dict[str, Any]:
    """The numbers behind `sentences`, ready for JSON. Terms, gradient and steps are those of the last scale."""
    scales = np.split(np.arange(len(trace)), trace.starts())
    last = scales[-1]
    evaluations = np.diff(trace["evaluations"], prepend=0) / np.diff(trace["iteration"], prepend=0)
    loss = trace["loss"][last]
    terms = {
        name: {**_fall(values[last]), "share": _known(values[last][-1] / loss[-1])}
        for name, values in trace.terms.items()
    }
    tail = loss[-(len(loss) // 10) - 1 :]
    return {
        "iterations": int(trace["iteration"][-1]),
        "planned": _known(trace["iterations"][-1]),
        "seconds": _known(trace["seconds"][-1]),
        "scales": [_scale(trace, rows) for rows in scales],
        "terms": terms,
        "largest": max(terms, key=lambda name: terms[name]["last"] or 0.0, default=None),
        "gradient": _fall(trace["gradient"][last]),
        "step": _fall(trace["step"][last]),
        "evaluations": {
            "all": _known(trace["evaluations"][-1]),
            "per_iteration": _known(trace["evaluations"][-1] / trace["iteration"][-1]),
            "most": _known(np.nanmax(evaluations, initial=-math.inf)),
        },
        "last_tenth": _known(1 - tail[-1] / tail[0]) if len(tail) > 1 else None,
        "stopped": trace.stopped or None,
        "message": trace.message or None,
    }


def sentences(about: dict[str, Any]) -> list[str]:
    """The same in plain words, one line each."""
    planned = f" of {about['planned']:g}" if about["planned"] not in (None, 0, about["iterations"]) else ""
    seconds = "" if about["seconds"] is None else f" in {about['seconds']:.1f} s"
    lines = [f"{about['iterations']} iterations{planned}{seconds}"]
    for scale in about["scales"]:
        size = f"{scale['width']:g}×{scale['height']:g}, " if scale["width"] and scale["height"] else ""
        line = f"{size}iterations {scale['first_iteration']} to {scale['last_iteration']}: the loss {_told(scale)}"
        for percent in (90, 99):
            if (reached := scale[f"fell_{percent}"]) is not None:
                line += f", {percent} % of the fall by iteration {reached}"
        lines.append(line)
    finest = " (at the finest scale)" if len(about["scales"]) > 1 else ""
    if about["terms"]:
        lines.append(f"the terms{finest}:")
        width = max(map(len, about["terms"]))
        for name, term in about["terms"].items():
            share = "" if term["share"] is None else f" ({term['share']:.0%} of the loss)"
            lines.append(f"  {name:<{width}}  {_told(term)}{share}")
        lines.append(f"the largest term at the end is {about['largest']}")
    if about["gradient"]["first"] is not None:
        lines.append(f"the gradient's norm{finest} {_told(about['gradient'])}")
    if about["step"]["first"] is not None:
        lines.append(f"the change per pixel in an iteration{finest} (root mean square, 0 … 255) {_told(about['step'])}")
    cost = about["evaluations"]
    if cost["per_iteration"] is not None:
        searches = "line searches were " + ("costly" if cost["per_iteration"] >= COSTLY else "cheap")
        most = f", at most {cost['most']:.3g}" if cost["most"] is not None else ""
        lines.append(f"{cost['all']:g} evaluations, {cost['per_iteration']:.3g} per iteration{most}: {searches}")
    if about["last_tenth"] is not None:
        still = "it was still falling" if about["last_tenth"] > STILL else "more iterations would hardly help"
        verb = "fell by" if about["last_tenth"] >= 0 else "rose by"
        lines.append(f"in the last tenth of these iterations the loss {verb} {abs(about['last_tenth']):.2%}: {still}")
    why = ": ".join(filter(None, (about["stopped"], about["message"])))
    lines.append(f"it stopped: {why}" if why else "it is not known why it stopped: it was killed, or is still running")
    return lines


def _scale(trace: Trace, rows: Array) -> dict[str, Any]:
    loss, iterations = trace["loss"][rows], trace["iteration"][rows]
    return {
        "width": _known(trace["width"][rows[0]]),
        "height": _known(trace["height"][rows[0]]),
        "first_iteration": int(iterations[0]),
        "last_iteration": int(iterations[-1]),
        **_fall(loss),
        "fell_90": _reached(loss, iterations, 0.9),
        "fell_99": _reached(loss, iterations, 0.99),
    }


def _reached(loss: Array, iterations: Array, share: float) -> int | None:
    """The first iteration by which the loss had made that share of its whole fall."""
    low = np.nanmin(loss, initial=math.inf)
    if not loss[0] > low:
        return None
    return int(iterations[np.flatnonzero(loss <= loss[0] - share * (loss[0] - low))[0]])


def _fall(values: Array) -> dict[str, float | None]:
    first, last = _known(values[0]), _known(values[-1])
    factor = None if not first or not last else _known(first / last)
    return {"first": first, "last": last, "factor": factor}


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _told(fall: dict[str, Any]) -> str:
    first, last = ("?" if fall[key] is None else f"{fall[key]:.3g}" for key in ("first", "last"))
    if fall["factor"] is None or fall["factor"] <= 0:
        return f"went from {first} to {last}"
    if 0.995 < fall["factor"] < 1.005:
        return f"stayed at {last}"
    if fall["factor"] >= 1:
        return f"fell from {first} to {last}, by a factor of {fall['factor']:.3g}"
    return f"rose from {first} to {last}, by a factor of {1 / fall['factor']:.3g}"
