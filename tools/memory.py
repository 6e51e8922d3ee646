"""Measures the peak memory of runs, each in a process of its own, beside their forecasts.

    python tools/memory.py [NAME=VALUE …] [--sizes 256 512 1024] [--iterations 14] [--json]

NAME=VALUE are options of `transfer`; without any, VARIANTS are measured. regions=2 gives each of two styles a half of
the picture. Pictures are noise of 4 : 3. 14 iterations are a few more than L-BFGS remembers: all its memory is taken.

MB are 10⁶ bytes; `ratio` is forecast / measured. `bytes per pixel` is how much the peak, without the loaded pictures,
grows from one size to the next, for each pixel of the content. The numbers of nst_manual/runs/memory.py follow from it:
- Cost.pixel is that of adam without the 84 bytes of adam's own vectors and `content` times the bytes of the content's
  features; `content` is found with other content layers, and `before` likewise.
- Cost.style is a quarter of that of style_scale=2, without the content's features; `regions` is what regions=2 adds to
  that of adam.
- An optimiser's bytes per number are a third of its bytes per pixel beyond adam's without its vectors.
- Cost.thread is the difference between threads=1 and threads=2; `fixed` is what is left.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np

VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"bounds": False},
    {"optimizer": "lbfgs", "pooling": "max"},
    {"optimizer": "adam"},
    {"optimizer": "adam", "style_scale": 2.0},
    {"optimizer": "adam", "regions": 2},
)
COLUMNS = ("options", "size", "forecast MB", "measured MB", "ratio", "bytes per pixel")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("options", nargs="*", metavar="NAME=VALUE")
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512, 1024])
    parser.add_argument("--iterations", type=int, default=14)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(json.loads(arguments.child))))
        return
    given = {name: value_of(text) for name, text in (option.split("=", 1) for option in arguments.options)}
    if not arguments.json:
        print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for options in [given] if given else VARIANTS:
        before: tuple[int, int] | None = None
        for size in arguments.sizes:
            row = measured({"size": size, "iterations": arguments.iterations, **options})
            if arguments.json:
                print(json.dumps(row), flush=True)
                continue
            taken, pixels = row["measured"] - row["start"], size * (size * 3 // 4)
            text = " ".join(f"{name}={value}" for name, value in options.items()) or "defaults"
            numbers = f"{row['forecast'] / 1e6:.0f} | {row['measured'] / 1e6:.0f}"
            slope = f"{(taken - before[0]) / (pixels - before[1]):.0f}" if before else ""
            print(f"| {text} | {size} | {numbers} | {row['forecast'] / row['measured']:.2f} | {slope} |", flush=True)
            before = taken, pixels


def value_of(text: str) -> Any:
    """2, 0.5 or false; all else is a text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def measured(options: dict[str, Any]) -> dict[str, int]:
    """In bytes: what a new process had before its run, what the run was forecast to need, and the process's peak."""
    command = [sys.executable, __file__, "--child", json.dumps(options)]
    row: dict[str, int] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return row


def child(options: dict[str, Any]) -> dict[str, int]:
    """The run, in this process."""
    from nst_manual import transfer
    from nst_manual.engines import open_engine
    from nst_manual.problem import settled
    from nst_manual.runs.fitting import fitted
    from nst_manual.runs.inputs import load_inputs
    from nst_manual.runs.machine import resident
    from nst_manual.runs.memory import Forecast
    from nst_manual.settings import split_options

    regions = int(options.pop("regions", 0))
    options = {"scales": "off", "weights": "calibrated", **options}
    rng, size = np.random.default_rng(0), int(options["size"])
    sides = [size, *[round(size * float(options.get("style_scale", 1)))] * (regions or 1)]
    content, *styles = (rng.integers(0, 256, (side * 3 // 4, side, 3)).astype(np.uint8) for side in sides)
    masks = [np.zeros_like(content) for _ in range(regions)]
    for number, mask in enumerate(masks):
        mask[:, size * number // regions : size * (number + 1) // regions] = 255
    settings, run = split_options(options)
    inputs = load_inputs(settings, content, styles, masks)
    engine = open_engine(settings.engine, settings.precision, run.threads)
    settings, run = fitted(settled(settings, engine), run, inputs, engine)
    options |= {"tile": run.tile, "history_on": run.history_on}
    options |= {"optimizer": settings.optimizer, "history_bits": settings.history_bits}
    tile, on_disk = run.tile if isinstance(run.tile, int) else None, run.history_on == "disk"
    forecast = replace(Forecast.of(settings, inputs, engine, threads=run.threads), tile=tile, on_disk=on_disk)
    start, total = forecast.now, forecast.total
    del inputs, forecast, engine
    transfer(content, styles, content_mask=masks, **options)
    known = resident()
    assert known is not None
    return {"start": start, "forecast": total, "measured": known.peak}


if __name__ == "__main__":
    main()
