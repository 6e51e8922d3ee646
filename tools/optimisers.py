"""Compares the optimisers on one transfer: evaluations, seconds, and the loss of the saved picture.

    python tools/optimisers.py CONTENT STYLE [--weights FILE] [--size 160] [--iterations 200] [--init content|noise]
    python tools/optimisers.py --overhead [--size 512]

For each optimiser it prints iterations; evaluations; evaluations until its loss was as low as that of SciPy's L-BFGS-B
without bounds after half and after all of its iterations (lbfgs may run a quarter longer; "–": never); seconds; the
optimiser's own milliseconds per iteration; its loss; and the loss of the saved picture (clipped to 0 … 255 and rounded:
the one that counts). With --overhead, a cheap function replaces the network, so that only the optimiser is timed:
median and minimum of wall time and processor time per iteration, in float32 where the optimiser allows it.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from nst_manual.optimise import OPTIMIZERS, Outcome, Record
from nst_manual.pictures.reading import load_image
from nst_manual.pictures.writing import to_picture
from nst_manual.problem import build_network, choose_weights, make_objective, new_search
from nst_manual.runs.inputs import load_inputs, starting_image
from nst_manual.settings import Settings

VARIANTS: dict[str, dict[str, Any]] = {
    "l-bfgs-b": {"optimizer": "l-bfgs-b", "bounds": False},
    "lbfgs": {"optimizer": "lbfgs", "bounds": False},
    "l-bfgs-b --bounds": {"optimizer": "l-bfgs-b", "bounds": True},
    "lbfgs --bounds": {"optimizer": "lbfgs", "bounds": True},
    "adam": {"optimizer": "adam", "bounds": False},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("content", nargs="?")
    parser.add_argument("style", nargs="?")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--size", type=int)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--init", default="content")
    parser.add_argument("--learning-rate", type=float, default=10.0)
    parser.add_argument(
        "--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="after the first, only these"
    )
    parser.add_argument("--overhead", action="store_true")
    arguments = parser.parse_args()
    if arguments.overhead:
        overheads(arguments.size or 512)
    elif arguments.style is None:
        parser.error("CONTENT and STYLE are needed")
    else:
        transfers(arguments)


class Timed:
    """A function, and the time spent in it."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function, self.seconds, self.cpu = function, 0.0, 0.0

    def __call__(self, image: Any) -> Any:
        began, cpu = time.perf_counter(), time.process_time()
        result = self.function(image)
        self.seconds += time.perf_counter() - began
        self.cpu += time.process_time() - cpu
        return result


def transfers(arguments: argparse.Namespace) -> None:
    settings = Settings(
        style_loss="gram",
        size=arguments.size or 160, weights=arguments.weights, engine=arguments.engine, init=arguments.init,
        iterations=arguments.iterations, learning_rate=arguments.learning_rate,
    )  # fmt: skip
    inputs = load_inputs(settings, arguments.content, [arguments.style])
    network = build_network(settings, choose_weights(settings, inputs))
    objective = make_objective(settings, network, inputs.content, inputs.styles)
    start = starting_image(settings, inputs.content, inputs.styles)
    print(f"{start.shape[1]} × {start.shape[0]}, from {arguments.init}, {arguments.iterations} iterations")
    print(f"loss at the start {objective(start).loss:.4g}\n")
    titles = ("its", "evals", "to half", "to all", "seconds", "own ms", "its loss", "saved loss")
    print(f"{'optimiser':<22}" + "".join(f"{title:>11}" for title in titles))
    goals: list[float] = []
    for name, options in VARIANTS.items():
        if goals and name not in arguments.only:
            continue
        records: list[Record] = []
        began = time.perf_counter()
        search = new_search(dataclasses.replace(settings, **options), objective, start)
        search.function = timed = Timed(search.function)
        outcome = search.run(iterations=arguments.iterations, callback=records.append)
        seconds = time.perf_counter() - began
        if not goals:
            goals = [records[len(records) // 2 - 1].loss, records[-1].loss]
        if options["optimizer"] == "lbfgs" and outcome.loss > goals[1]:  # again, but longer
            records = []
            search = new_search(dataclasses.replace(settings, **options), objective, start)
            search.run(iterations=arguments.iterations * 5 // 4, callback=records.append)
        own = seconds - timed.seconds
        print(f"{name:<22}{row(outcome, records, goals, seconds, own)}", end="")
        print(f"{objective(load_image(to_picture(network.engine.to_host(outcome.image)))).loss:>11.5g}", flush=True)


def row(outcome: Outcome, records: list[Record], goals: list[float], seconds: float, own: float) -> str:
    reached = [next((record.evaluations for record in records if record.loss <= goal), None) for goal in goals]
    cells = [str(outcome.iterations), str(outcome.evaluations)]
    cells += ["–" if count is None else str(count) for count in reached]
    cells += [f"{seconds:.1f}", f"{own / max(outcome.iterations, 1) * 1e3:.1f}", f"{outcome.loss:.5g}"]
    return "".join(f"{cell:>11}" for cell in cells)


def overheads(size: int, iterations: int = 40) -> None:
    rng = np.random.default_rng(0)
    shape = (size, size, 3)
    centre = rng.uniform(-50, 305, shape).astype(np.float32)
    steep = rng.uniform(1, 50, shape).astype(np.float32)
    start = rng.uniform(0, 255, shape).astype(np.float32)

    def function(image: Any) -> Any:
        difference = np.asarray(image, np.float32) - centre
        gradient = steep * difference
        return float(np.einsum("i,i->", gradient.ravel(), difference.ravel(), dtype=np.float64)) / 2, gradient, {}

    print(
        f"{size} × {size}, history 10, ms per iteration: wall median, wall least, processor median, processor least\n"
    )
    for name, options in VARIANTS.items():
        search = OPTIMIZERS[options["optimizer"]].search
        given = {key: value for key, value in options.items() if key != "optimizer"}
        timed = Timed(function)
        marks: list[tuple[float, float]] = []

        def mark(record: Record, timed: Timed = timed, marks: list[tuple[float, float]] = marks) -> None:
            marks.append((time.perf_counter() - timed.seconds, time.process_time() - timed.cpu))

        search(timed, start, **given).run(iterations=iterations, callback=mark)
        own = np.diff(np.array(marks), axis=0)[12:] * 1e3  # once the history is full
        figures = [f(column) for column in own.T for f in (statistics.median, min)]
        print(f"{name:<22}" + "".join(f"{figure:>9.1f}" for figure in figures), flush=True)


if __name__ == "__main__":
    main()
