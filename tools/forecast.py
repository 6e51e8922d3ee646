"""The forecast of a run's memory next to what the run takes, each in a process of its own.

    python tools/forecast.py [--sizes 256 512 1024] [--iterations 14] [--weights FILE] [--json] [NAME=VALUE …]

Pictures are noise of 4 : 3, drawn at each size. NAME=VALUE are options of the transfer; without any, those of VARIANTS
are gone through. Iterations are a few more than the history, by which an optimiser has all of its memory. MB are
10⁶ bytes; `ratio` is forecast by measured.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

import numpy as np

VARIANTS = (
    {},
    {"bounds": "no"},
    {"optimizer": "lbfgs", "pooling": "max"},
    {"optimizer": "adam"},
)
COLUMNS = ("size", "options", "forecast MB", "measured MB", "ratio")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("options", nargs="*", metavar="NAME=VALUE")
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512, 1024])
    parser.add_argument("--iterations", type=int, default=14)
    parser.add_argument("--weights", default="calibrated")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(json.loads(arguments.child))))
        return
    given = dict(option.split("=", 1) for option in arguments.options)
    if not arguments.json:
        print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for size in arguments.sizes:
        for options in [given] if given else VARIANTS:
            row = measured({"size": size, "iterations": arguments.iterations, "weights": arguments.weights, **options})
            if arguments.json:
                print(json.dumps({"size": size, "options": options, **row}), flush=True)
                continue
            text = " ".join(f"{name}={value}" for name, value in options.items()) or "as by default"
            numbers = (f"{row[name] / 1e6:.0f}" for name in ("forecast", "measured"))
            print(f"| {size} | {text} | {' | '.join(numbers)} | {row['forecast'] / row['measured']:.2f} |", flush=True)


def measured(options: dict[str, Any]) -> dict[str, int]:
    """Forecast and peak of a run with these options, in bytes."""
    command = [sys.executable, __file__, "--child", json.dumps(options)]
    row: dict[str, int] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return row


def child(options: dict[str, Any]) -> dict[str, int]:
    """The run, in this process."""
    from nst_manual import transfer
    from nst_manual.engines import open_engine
    from nst_manual.runs.inputs import load_inputs
    from nst_manual.runs.machine import resident
    from nst_manual.runs.memory import Forecast
    from nst_manual.settings import split_options

    words: dict[str, Any] = {"no": False, "yes": True}
    options = {"scales": "off", **{name: words.get(value, value) for name, value in options.items()}}
    rng, size = np.random.default_rng(0), int(options["size"])
    pictures = [rng.integers(0, 256, (size * 3 // 4, size, 3)).astype(np.uint8) for _ in range(2)]
    settings, _ = split_options(options)
    inputs = load_inputs(settings, pictures[0], pictures[1:])
    forecast = Forecast.of(settings, inputs, open_engine(settings.engine, settings.precision)).total
    del inputs
    transfer(*pictures, **options)
    known = resident()
    assert known is not None
    return {"forecast": forecast, "measured": known.peak}


if __name__ == "__main__":
    main()
