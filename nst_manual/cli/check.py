"""`check`: proves every derivative on this machine and prints a table of the errors."""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from ..engines import PRECISIONS
from ..engines.cuda.survey import card_facts, survey
from ..errors import NSTError
from ..pictures.files import check_folder, written
from ..proof.checks import checks
from ..proof.full_width import SIDE, DeepProof, plot_errors
from ..proof.report import ENGINE_LIMITS, LIMITS, Check
from ..runs.plots import FORMATS, check_plot
from ..runs.recipe import versions
from ..vgg import PADDINGS, POOLINGS
from .options import add_command, add_options, given
from .report import DONE, FAILED, say, say_json

COLUMNS = {"adjoint": "dot test", "numeric": "differences", "pytorch": "PyTorch", "engine": "engine"}
DEEP = ("picture", "size", "weights", "pooling", "padding")  # options of --deep


def add_parser(commands: Any) -> None:
    add = add_command(commands, "check", "[--deep] [options]", run)
    add_options(add, "check")
    text = "check VGG-19 itself on a picture: every step, every term and their sum"
    add("run", "--deep", action="store_true", help=text)
    for flag, kind, metavar, text in (
        ("--picture", str, "FILE", "with --deep: the picture (default: the demo's)"),
        ("--size", int, "N", f"with --deep: longer side of the picture (default: {SIDE})"),
        ("--weights", str, "WEIGHTS", "with --deep: auto, vgg19, calibrated, or a weights file (default: auto)"),
        ("--pooling", str, "POOLING", f"with --deep: {', '.join(POOLINGS)} (default: avg)"),
        ("--padding", str, "PADDING", f"with --deep: {' or '.join(PADDINGS)} (default: zero)"),
        ("--plot", Path, "FILE", f"with --deep: draw the error against the step, as {' or '.join(FORMATS)}"),
        (
            "--report",
            Path,
            "FILE",
            "with --engine cuda: write all about the GPU, to attach to a bug report",
        ),
    ):
        add("run", flag, type=kind, metavar=metavar, help=text)


def run(arguments: argparse.Namespace) -> int:
    """Prove every derivative, the engine's too, by finite differences, and against PyTorch if it is installed.

    check
    check --deep --picture photo.jpg --plot errors.svg
    check --engine cuda --report gpu.json
    """
    deep, options = _deep_proof(arguments), given(arguments, "check")
    report = _report(arguments.report, options)
    try:
        if options.get("engine") == "cuda":
            _show_paths(arguments, options, report)
        passed = all(record["passed"] for record in report.get("paths", ()))
        return max(_prove(arguments, deep, options, report), DONE if passed else FAILED)
    except Exception as error:
        report["error"] = " ".join(f"{type(error).__name__}: {error}".split())
        raise
    finally:
        if arguments.report:
            with written(arguments.report, "w") as file:
                json.dump(report, file, indent=1)


def _report(path: Path | None, options: dict[str, Any]) -> dict[str, Any]:
    """What is known before the work."""
    if path is None:
        return {}
    if options.get("engine") != "cuda":
        raise NSTError("--report is about a GPU: add --engine cuda")
    check_folder(path)
    if path.exists():
        raise NSTError(f"{path} exists already: name another file")
    return {"versions": versions(), "gpu": card_facts(options.get("device")), "options": options}


def _show_paths(arguments: argparse.Namespace, options: dict[str, Any], report: dict[str, Any]) -> None:
    """Each path's verdict as it is found; with a report, in every precision and with its time."""
    precisions = PRECISIONS if arguments.report else (options.get("precision", "float32"),)
    report["paths"] = []
    for verdict, record in survey(precisions, options.get("device"), timed=bool(arguments.report)):
        report["paths"].append(record)
        if arguments.json:
            say_json(record)
        elif not arguments.quiet:
            say(f"{verdict.precision}, {verdict}")


def _prove(
    arguments: argparse.Namespace, deep: DeepProof | None, options: dict[str, Any], report: dict[str, Any]
) -> int:
    """The rows and their verdict."""
    rows = (deep.checks if deep else checks)(**options)
    table = not (arguments.json or arguments.quiet)
    report["checks"] = []
    if table:
        say(f"{'relative error against':<41}" + "".join(f"{title:>13}" for title in COLUMNS.values()) + "  verdict")
    explanations = []
    for check in rows:
        explanations += [] if check.passed else [check.explanation()]
        record = {"name": check.name, **_finite(check.errors()), "passed": check.passed}
        record |= {"explanation": check.explanation() or None}
        report["checks"].append(record)
        if arguments.json:
            say_json(record)
        elif table:
            say(_row(check))
    if table:
        engine_limit = ENGINE_LIMITS[options.get("precision", "float32")]
        limits = "".join(f"{LIMITS.get(column, engine_limit):>13.0e}" for column in COLUMNS)
        wrong = f"{len(explanations)} of the derivatives above are wrong"
        verdict = wrong if explanations else "every derivative is right"
        say(f"{'tolerance':<41}{limits}", *explanations, verdict)
    if deep and arguments.plot:
        plot_errors(deep.curves(), arguments.plot)
    return FAILED if explanations else DONE


def _deep_proof(arguments: argparse.Namespace) -> DeepProof | None:
    """What --deep checks; None without it."""
    options = {name: value for name in DEEP if (value := getattr(arguments, name)) is not None}
    if not arguments.deep:
        if options or arguments.plot:
            raise NSTError(f"--{next(iter(options), 'plot')} belongs to `check --deep`: add --deep")
        return None
    if arguments.plot:
        check_plot(arguments.plot)
    return DeepProof.of(**options)


def _finite(errors: dict[str, float | None]) -> dict[str, float | None]:
    """JSON has no infinity and no NaN: they become null."""
    return {name: error if error is not None and math.isfinite(error) else None for name, error in errors.items()}


def _row(check: Check) -> str:
    errors = check.errors()
    cells = ("—" if errors[column] is None else f"{errors[column]:.1e}" for column in COLUMNS)
    return f"{check.name:<41}" + "".join(f"{cell:>13}" for cell in cells) + f"  {'ok' if check.passed else 'WRONG'}"
