"""Measures what tiles cost, and whether runs keep to --max-memory.

    python tools/tiles.py work [--sizes 3072] [--tiles 1024 2048] [--repeats 3] [--weights FILE]
    python tools/tiles.py memory [--sizes 512 1024 2048 4096 8192] [--limits 1G 2G 4G 8G] [--iterations 1]

`work` evaluates the default objective and its gradient at once and in tiles, in turns, on pictures of 4 : 3 whose
longer side is given: `ratio` is that of the medians of the seconds, `of CPU` that of the processor's seconds, which
other programs disturb less, `products` that of the multiplications of all walks, and `error` the largest difference of
the gradient in units of its largest value.

`memory` makes a run in a process of its own for each size and limit, and compares its peak with the limit and with the
forecast. MB are 10⁶ bytes. The style picture has 1024 pixels at most. Sizes above 2048 take long.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nst_manual import transfer
from nst_manual.arrays import Array
from nst_manual.engines import open_engine
from nst_manual.errors import NSTError
from nst_manual.objective import Style
from nst_manual.options import parse_bytes
from nst_manual.problem import build_network, make_objective
from nst_manual.proof.checks import random_filters
from nst_manual.runs.machine import resident
from nst_manual.settings import Settings
from nst_manual.tiles.objective import TiledObjective
from nst_manual.vgg import Conv, convolutions
from nst_manual.weights import Weights, load_weights
from nst_manual.weights.fingerprint import OXFORD_MEAN_RGB

LARGEST_STYLE = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("work", "memory", "child"))
    parser.add_argument("--sizes", nargs="+", type=int)
    parser.add_argument("--tiles", nargs="+", type=int, default=[1024, 2048])
    parser.add_argument("--limits", nargs="+", default=["1G", "2G", "4G", "8G"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=1)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args()
    if options.what == "child":
        print(json.dumps(child(options)))
    elif options.what == "work":
        print("| size | tile | seconds whole | in tiles | ratio | of CPU | products | error |\n|" + "---|" * 8)
        for size in options.sizes or [3072]:
            for line in work(options, size):
                print(line, flush=True)
    else:
        print("| size | limit | made with | forecast MB | measured MB | of the limit |\n|" + "---|" * 6)
        for size in options.sizes or [512, 1024, 2048, 4096, 8192]:
            for limit in options.limits:
                print(memory_line(options, size, limit), flush=True)


def pictures(size: int) -> tuple[Array, Array]:
    """Noise with long waves, of 4 : 3."""
    rng = np.random.default_rng(0)
    side = min(size, LARGEST_STYLE)
    made = []
    for width in (size, side):
        coarse = rng.uniform(0, 255, (width * 3 // 4 // 16 + 1, width // 16 + 1, 3)).astype(np.float32)
        fine = coarse.repeat(16, 0).repeat(16, 1)[: width * 3 // 4, :width]
        fine += rng.standard_normal(fine.shape, np.float32) * 20
        made.append(np.clip(fine, 0, 255))
    return made[0], made[1]


def work(options: argparse.Namespace, size: int) -> Any:
    """A line for each tile."""
    settings = Settings(engine="cpu")
    if options.weights:
        weights = load_weights(options.weights, convolutions(settings.steps()), None)
    else:
        weights = Weights(random_filters(settings.steps(), 0), OXFORD_MEAN_RGB, "oxford", "random")
    engine = open_engine("cpu", "float32", options.threads)
    content, style = pictures(size)
    whole = make_objective(settings, build_network(settings, weights, engine), content, [Style(style)])
    image = np.clip(content + np.random.default_rng(1).normal(0, 20, content.shape), 0, 255).astype(np.float32)
    tiled = {tile: TiledObjective(whole.network, whole.terms, tile) for tile in options.tiles}
    functions = {None: whole.repeated(), **{tile: objective.repeated() for tile, objective in tiled.items()}}
    times: dict[int | None, list[tuple[float, float]]] = {tile: [] for tile in functions}
    gradients: dict[int | None, Array] = {}
    for number in range(options.repeats + 1):
        for tile, function in functions.items():
            clock, processor = time.perf_counter(), time.process_time()
            _, gradients[tile], _ = function(image)
            if number:  # the first one takes memory
                times[tile].append((time.perf_counter() - clock, time.process_time() - processor))
    seconds = {tile: [statistics.median(column) for column in zip(*rows, strict=True)] for tile, rows in times.items()}
    for tile, objective in tiled.items():
        (one, one_cpu), (other, other_cpu) = seconds[None], seconds[tile]
        error = np.abs(gradients[tile] - gradients[None]).max() / np.abs(gradients[None]).max()
        yield (
            f"| {size} × {size * 3 // 4} | {tile} | {one:.1f} | {other:.1f} | {other / one:.2f} | "
            f"{other_cpu / one_cpu:.2f} | {products(objective, image):.2f} | {error:.0e} |"
        )


def products(tiled: TiledObjective, image: Array) -> float:
    """Multiplications of the convolutions in all walks up and down, in units of those of the whole picture."""
    steps = {step.layer: step.c_in * step.c_out for step in tiled.network.steps if isinstance(step, Conv)}

    def of(objective: TiledObjective) -> list[int]:
        per = []
        for tile in objective.tiles(image):
            names = iter(steps.values())
            per.append(sum(next(names) * cut.rows.taken.size * cut.columns.taken.size for cut in tile.cuts))
        return per

    parts, (whole,) = of(tiled), of(replace(tiled, side=max(image.shape)))
    return (3 * sum(parts) - parts[-1]) / (2 * whole) if len(parts) > 1 else 1.0


def memory_line(options: argparse.Namespace, size: int, limit: str) -> str:
    command = [sys.executable, __file__, "child", "--sizes", str(size), "--limits", limit]
    command += ["--iterations", str(options.iterations), *(["--threads", str(options.threads)] * bool(options.threads))]
    command += ["--weights", str(options.weights)] * bool(options.weights)
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        return f"| {size} | {limit} | failed: {done.stderr.strip().splitlines()[-1]} | | | |"
    row = json.loads(done.stdout)
    if row["refused"]:
        return f"| {size} | {limit} | refused: {row['refused']} | | | |"
    share = row["measured"] / parse_bytes(limit, "limits")
    said = [line for line in row["said"] if line.startswith("memory: ")]
    way = said[1].removeprefix("memory: with ").removesuffix(", for --max-memory") if len(said) > 1 else "as asked"
    forecast = said[0].removeprefix("memory: about ")
    return f"| {size} | {limit} | {way} | {forecast} | {row['measured'] / 1e6:.0f} | {share:.0%} |"


def child(options: argparse.Namespace) -> dict[str, Any]:
    """One run in this process."""
    import logging

    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("nst_manual").addHandler(handler)
    logging.getLogger("nst_manual").setLevel(logging.INFO)
    (size,), (limit,) = options.sizes, options.limits
    content, style = (picture.astype(np.uint8) for picture in pictures(size))
    weights = str(options.weights) if options.weights else "calibrated"
    try:
        transfer(
            content,
            style,
            size=None,
            scales="off",
            engine="cpu",
            iterations=options.iterations,
            weights=weights,
            max_memory=limit,
            threads=options.threads,
        )
        refused = ""
    except NSTError as error:
        refused = str(error)
    known = resident()
    assert known is not None
    return {"measured": known.peak, "said": said, "refused": refused}


if __name__ == "__main__":
    main()
