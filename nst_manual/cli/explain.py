"""`explain`: what the trace of a run says, in words and as a plot."""

import argparse
from pathlib import Path
from typing import Any

from ..pictures.files import check_new
from ..runs.explain import explained, sentences
from ..runs.plots import check_plot, plot_trace
from ..runs.traces import load_trace
from .options import add_command, add_options, add_output
from .report import DONE, tell


def add_parser(commands: Any) -> None:
    add = add_command(commands, "explain", "TRACE [-o PLOT] [options]", run)
    add("files", "trace", type=Path, help="a .csv or .jsonl file written by --trace")
    add_output(add, "PLOT", "the .png or .svg file to draw")
    add_options(add, "explain")


def run(arguments: argparse.Namespace) -> int:
    """Say what the trace of a run shows, in words and as a plot.

    explain run.csv
    explain run.csv -o curves.svg --overwrite
    """
    if arguments.output is not None:
        check_plot(arguments.output)
        check_new(arguments.output, getattr(arguments, "overwrite", False))
    trace = load_trace(arguments.trace)
    about = explained(trace)
    if arguments.output is not None:
        plot_trace(arguments.output, trace)
    tell(arguments, about, *sentences(about))
    return DONE
