"""Plots of a run's numbers, drawn by matplotlib: `pip install matplotlib`.

The same numbers give the same file: the user's matplotlib settings are ignored, and an SVG has no date.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import Array
from ..errors import NSTError
from ..pictures.files import check_folder, written
from .traces import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")
KINDS = {"content": "Blues", "style": "Oranges", "tv": "Greys"}  # colour maps of the terms; others are green
LOOK = {"svg.hashsalt": "nst_manual", "axes.grid": True, "grid.alpha": 0.4}
MOST_NAMES = 24  # in a legend: as many as fit beside the panel

_ONE_AT_A_TIME = threading.Lock()  # matplotlib's settings are shared by all threads


def check_plot(path: Path) -> None:
    """Check before the long work that a plot can be drawn and written there."""
    if path.suffix.lower() not in FORMATS:
        raise NSTError(f"{path}: a plot's name ends in {' or '.join(FORMATS)}")
    if find_spec("matplotlib") is None:
        raise NSTError(f"{path} can't be drawn without matplotlib: pip install matplotlib")
    check_folder(path)


@contextmanager
def plotted(path: Path, width: float, height: float, new: bool = False) -> Iterator["Figure"]:
    """An empty figure, sized in inches, which is written to `path` after the `with` block has drawn it."""
    check_plot(path)
    from matplotlib import style
    from matplotlib.figure import Figure

    with _ONE_AT_A_TIME, style.context(["default", LOOK]):
        figure = Figure((width, height), layout="constrained")
        yield figure
        kind = path.suffix.lower()[1:]
        with written(path, new=new) as file:
            figure.savefig(file, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None)


def plot_losses(path: Path, trace: Trace, new: bool = False) -> None:
    """The loss and its terms over the iterations."""
    with plotted(path, 9, 5, new) as figure:
        axes = figure.subplots()
        _draw_losses(axes, trace)
        _finish(trace, axes)


def plot_trace(path: Path, trace: Trace) -> None:
    """Three panels: the loss and its terms, the gradient's norm, and the change that each iteration made."""
    with plotted(path, 9, 10) as figure:
        losses, gradients, steps = figure.subplots(3, sharex=True, height_ratios=(2, 1, 1))
        _draw_losses(losses, trace)
        _draw(gradients, trace, trace["gradient"], color="black")
        gradients.set_ylabel("norm of the gradient")
        _draw(steps, trace, trace["step"], color="black")
        steps.set_ylabel("change per pixel\n(root mean square)")
        _finish(trace, losses, gradients, steps)


def plot_searches(path: Path, title: str, traces: Mapping[str, Trace]) -> None:
    """Compare several runs: the loss of each over its evaluations and over the seconds."""
    with plotted(path, 11, 4.5) as figure:
        figure.suptitle(title)
        evaluations, seconds = figure.subplots(1, 2, sharey=True)
        for panel, column in ((evaluations, "evaluations"), (seconds, "seconds")):
            for name, trace in traces.items():
                panel.plot(trace[column], trace["loss"], label=name)
            panel.set_xlabel(column)
            panel.set_yscale("log")
        evaluations.set_ylabel("weighted loss")
        evaluations.legend()


def _draw_losses(axes: "Axes", trace: Trace) -> None:
    from matplotlib import colormaps

    kinds = [name.partition(":")[0] for name in trace.terms]
    for k, (name, values) in enumerate(trace.terms.items()):
        others = kinds.count(kinds[k]) - 1  # the shallowest layer is the darkest
        shade = 0.9 - 0.55 * kinds[:k].count(kinds[k]) / others if others else 0.7
        _draw(axes, trace, values, label=name[:30].lstrip("_"), color=colormaps[KINDS.get(kinds[k], "Greens")](shade))
    _draw(axes, trace, trace["loss"], label="total", color="black", linewidth=2.5)
    axes.set_ylabel("weighted loss")
    lines = [*axes.lines[: MOST_NAMES - 1], axes.lines[-1]] if len(axes.lines) > MOST_NAMES else axes.lines
    legend = axes.legend(handles=lines, loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    for text in legend.get_texts():
        text.set_parse_math(False)  # matplotlib would take $ for a formula
    for first in (0, *trace.starts()) if trace.starts() else ():
        size = f"{trace['width'][first]:g}×{trace['height'][first]:g}"
        place = (trace["iteration"][first] - 0.5, 1.0)
        axes.annotate(size, place, (0, 3), xycoords=("data", "axes fraction"), textcoords="offset points")


def _draw(axes: "Axes", trace: Trace, values: Array, linewidth: float = 1.2, **look: Any) -> None:
    """A line on a logarithmic axis, with gaps at values that it cannot show and where a finer scale begins."""
    values = np.where((values > 1e-99) & (values < 1e99), values, np.nan)
    x, y = (np.insert(column, trace.starts(), np.nan) for column in (trace["iteration"], values))
    axes.plot(x, y, linewidth=linewidth, marker="." if len(trace) < 20 else "", **look)
    if np.isfinite(y).any():
        axes.set_yscale("log")


def _finish(trace: Trace, *panels: "Axes") -> None:
    """The iterations below the last panel, and in each a line where a finer scale begins."""
    panels[-1].set_xlabel("iteration")
    for axes in panels:
        if len(trace):
            axes.set_xlim(trace["iteration"][0] - 0.5, trace["iteration"][-1] + 0.5)
        for first in trace.starts():
            axes.axvline(trace["iteration"][first] - 0.5, color="black", linestyle=":", linewidth=1)
