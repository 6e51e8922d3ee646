"""Plots of a run: all that they should show is in them, strange numbers do no harm, and the same is drawn again."""

import builtins
import dataclasses
import math
import os
import subprocess
import sys
import threading

import matplotlib
import pytest
from PIL import Image
from records import run

from nst_manual.errors import NSTError
from nst_manual.runs import plots
from nst_manual.runs.plots import check_plot, plot_losses, plot_trace
from nst_manual.runs.traces import Trace

PLOTS = [plot_losses, plot_trace]


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved."""
    from matplotlib.figure import Figure

    saved = []
    savefig = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (saved.append(self), savefig(self, *a, **k)))
    return saved


@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_plot_is_a_picture(tmp_path, plot, kind):
    path = tmp_path / f"plot.{kind}"
    plot(path, Trace.of(run()))
    if kind == "png":
        with Image.open(path) as picture:
            assert picture.width == 1080
    else:
        assert "<svg" in path.read_text(encoding="utf-8")
    assert os.listdir(tmp_path) == [path.name]


def test_every_term_and_the_total_are_drawn_and_scales_are_marked(tmp_path, figures):
    records = run()
    plot_losses(tmp_path / "plot.svg", Trace.of(records))
    (axes,) = figures[0].axes
    lines = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    assert set(lines) == {*records[0].terms, "total"}
    drawn = [y for y in lines["total"].get_ydata() if not math.isnan(y)]
    assert drawn == [record.loss for record in records]
    assert lines["total"].get_linewidth() > lines["tv"].get_linewidth()
    assert axes.get_yscale() == "log"
    assert [text.get_text() for text in axes.texts] == ["64×48", "128×96"]
    (mark,) = (line for line in axes.lines if line.get_linestyle() == ":")
    assert mark.get_xdata()[0] == 6.5


def test_the_three_panels_are_losses_gradients_and_steps(tmp_path, figures):
    records = run()
    plot_trace(tmp_path / "plot.svg", Trace.of(records))
    panels = figures[0].axes
    assert len(panels) == 3
    for panel, name in zip(panels[1:], ("gradient", "step"), strict=True):
        drawn = [y for y in panel.lines[0].get_ydata() if not math.isnan(y)]
        assert drawn == [getattr(record, name) for record in records]


@pytest.mark.parametrize("plot", PLOTS)
def test_strange_numbers_do_no_harm(tmp_path, plot):
    records = run()
    nothing = [dataclasses.replace(r, loss=math.nan, gradient=math.nan, step=0.0, terms={}) for r in records]
    infinite = [dataclasses.replace(r, loss=math.inf, terms=dict.fromkeys(r.terms, -1.0)) for r in records]
    many = [dataclasses.replace(r, terms={f"style:{'x' * 9 * k}": 1.0 + k for k in range(60)}) for r in records]
    odd = [
        dataclasses.replace(r, loss=1e300, terms={"$\\x$": 1e-300, "_x": 1.0, "": 2.0}, width=10**9) for r in records
    ]
    for trace in (odd, nothing, infinite, many, records[:1], []):
        plot(tmp_path / "plot.svg", Trace.of(trace))


def test_the_same_numbers_make_the_same_file_whatever_the_settings(tmp_path):
    before = matplotlib.rcParams.copy()
    plot_trace(tmp_path / "a.svg", Trace.of(run()))
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "lines.linestyle": ":"}):
        plot_trace(tmp_path / "b.svg", Trace.of(run()))
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert matplotlib.rcParams.copy() == before


def test_several_threads_can_plot_at_once(tmp_path):
    def draw(k):
        plot_losses(tmp_path / f"{k}.svg", Trace.of(run()))

    before = matplotlib.rcParams.copy()
    threads = [threading.Thread(target=draw, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({(tmp_path / f"{k}.svg").read_bytes() for k in range(3)}) == 1
    assert matplotlib.rcParams.copy() == before


def test_nothing_opens_a_window(tmp_path):
    program = """
import pathlib, sys
from nst_manual.runs.plots import plotted
with plotted(pathlib.Path("a.png"), 2, 2) as figure:
    figure.subplots()
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    assert (tmp_path / "a.png").exists()


def test_what_cannot_be_plotted_is_found_out_before(tmp_path, monkeypatch):
    for name, sentence in (("a.gif", r"ends in \.png or \.svg"), ("no/a.png", "does not exist")):
        with pytest.raises(NSTError, match=sentence):
            check_plot(tmp_path / name)
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    with pytest.raises(NSTError, match=r"pip install matplotlib"):
        check_plot(tmp_path / "a.png")


def test_without_matplotlib_everything_else_is_there(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "nst_manual.runs.plots")
    import nst_manual.runs.plots  # noqa: F401
