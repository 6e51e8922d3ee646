"""The CUDA engine: whether it is right, then how fast it is, next to PyTorch on the same card if that is installed.

    python tools/bench_cuda.py                      everything, in some minutes
    python tools/bench_cuda.py --out FOLDER         where its tables go, cuda.md and cuda.json (default: cuda-report)
    python tools/bench_cuda.py --weights FILE       with real weights instead of random ones in VGG-19's shapes
    python tools/bench_cuda.py --check              only whether it is right
    python tools/bench_cuda.py --parts layers       only that part: "evaluations", "whole runs", "memory", …

Each row is printed as soon as it is there, with the seconds since the start; every two minutes, the log shows where the
tool is. A row above its limit is marked; everything is timed all the same, and the exit code is 1. One evaluation is
the loss of five style layers and conv4_2 and its gradient in the pixels. Times are medians of device-synchronised runs
after warm-up, in milliseconds. PyTorch uses channels_last and cudnn.benchmark, with TF32 off for float32, its defaults
for tf32, and autocast with Gram matrices in float32 for float16. Memory is how much less of the device's is free at the
end of a separate process than at its start, in MB (10⁶ bytes).
"""

import argparse
import faulthandler
import importlib
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from bench import STEPS, Filters, TorchObjective, filters, have_torch, our_objective, pictures, rectified

from nst_manual.engines import open_engine
from nst_manual.engines.cuda.device import TILES
from nst_manual.engines.cuda.engine import BYTES_PER_PIXEL
from nst_manual.engines.cuda.paths import PATHS, paths
from nst_manual.engines.cuda.survey import survey
from nst_manual.objective import Objective
from nst_manual.optimise import Lbfgs
from nst_manual.proof.checks import checks
from nst_manual.proof.differences import relative_error
from nst_manual.vgg import Conv, Pool

PAIRS = 10  # how many pairs `lbfgs` remembers
PRECISIONS = ("float32", "tf32", "float16")
# Relative errors of one convolution with VGG-19's channels, up and down.
LAYER_LIMITS = {"float32": (5e-6, 5e-6), "tf32": (1e-3, 1e-3), "float16": (1e-3, 5e-3)}
LONGEST = 2.0  # seconds of measuring one time
STALL = 120  # seconds after which it is shown where the tool is
Report = dict[str, Any]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("cuda-report"), metavar="FOLDER")
    parser.add_argument("--weights", type=Path, help="a file with real VGG-19 weights")
    parser.add_argument("--check", action="store_true", help="only whether it is right")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS], help="only these, and no check")
    parser.add_argument("--path", nargs="+", choices=PATHS, default=[*PATHS], help="of evaluations")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--check-size", type=int, default=96, help="of the evaluation that is checked")
    parser.add_argument("--size", type=int, nargs="+", default=[256, 512, 1024, 2048], help="of whole evaluations")
    parser.add_argument("--layer-size", type=int, default=1024, help="picture's side for the table of layers")
    parser.add_argument("--run-size", type=int, default=512, help="picture's side for a whole run")
    parser.add_argument("--iterations", type=int, default=500, help="of a whole run")
    parser.add_argument("--memory-size", type=int, default=2048)
    parser.add_argument("--large", type=int, default=8192, help="side of one large evaluation")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--ours", action="store_true", help="leave PyTorch out")
    parser.add_argument("--contender", nargs=2, metavar=("WHO", "PRECISION"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.contender:
        print(json.dumps(memory_of_this_process(options, *options.contender)))
        return 0
    faulthandler.dump_traceback_later(STALL, repeat=True, file=sys.__stderr__)
    try:
        report = measured(options)
    finally:
        faulthandler.cancel_dump_traceback_later()
    print((options.out / "cuda.md").read_text(encoding="utf-8"))
    return 0 if all(row.get("right") for row in report.get("checks", ())) else 1


def measured(options: argparse.Namespace) -> Report:
    """Every part's rows, each printed and written at once: a machine may be taken away."""
    began = time.perf_counter()
    report: Report = {"machine": machine(options)}

    def add(name: str, row: Report) -> None:
        print(json.dumps({"part": name, "at s": round(time.perf_counter() - began, 1), **row}), flush=True)
        report[name].append(row)
        write(report, options.out)

    parts = {} if options.check else {name: PARTS[name] for name in options.parts}
    if options.check or len(options.parts) == len(PARTS):
        parts = {"checks": correctness, **parts}
    for name, part in parts.items():
        report[name] = []
        try:
            for row in part(options):
                add(name, row)
        except Exception as error:  # a failure on this card must not hide what the other parts find
            add(name, {"failed": f"{type(error).__name__}: {error}"})
    return report


# ---- Right?


def correctness(options: argparse.Namespace) -> Iterator[Report]:
    for precision in options.precision:
        for what, error, limit in errors(precision, options.check_size):
            right = bool(error <= limit)  # NaN is not
            yield {"check": f"{precision}: {what}", "error": error, "limit": limit, "right": right}


def errors(precision: str, size: int) -> Iterator[tuple[str, float, float]]:
    """Each path's self-test, `check`'s rows of the whole objective, every shape of layer, and recorded evaluations
    against one by steps."""
    for verdict, _ in survey([precision], None, timed=False):
        yield str(verdict), len(verdict.faults), 0
    for check in checks("cuda", precision):
        if check.engine is not None:
            yield check.name, check.engine, check.engine_limit
    engine, exact = open_engine("cuda", precision), open_engine("reference", "float64")
    rng = np.random.default_rng(0)
    for c_in, c_out in sorted({(step.c_in, step.c_out) for step in STEPS if isinstance(step, Conv)}):
        x, d = np.maximum(rng.standard_normal((19, 35, c_in)), 0), rng.standard_normal((19, 35, c_out))
        kernel, bias = rng.standard_normal((3, 3, c_in, c_out)) * np.sqrt(2 / (9 * c_in)), rng.standard_normal(c_out)
        step, given = Conv("conv", c_in, c_out), {"conv": (kernel, bias)}
        (there,), (plain,) = (e.operations((step,), given, {step.name}, "avg") for e in (engine, exact))
        y, saved = there.up(engine.to_device(x))
        found = (
            relative_error(engine.to_host(y), plain.up(x)[0]),
            relative_error(engine.to_host(there.down(engine.to_device(d), saved)), plain.down(d, None)),
        )
        for way, error, limit in zip(("up", "down"), found, LAYER_LIMITS[precision], strict=True):
            yield f"{c_in} → {c_out} channels, {way}", error, limit
    objective, image = our_function(precision, size, None)
    repeated = objective.fetched(objective.repeated())
    by_steps = objective.fetched(objective.on_device)(image)
    for number in range(3):
        error = relative_error(repeated(image).gradient, by_steps.gradient)
        yield f"evaluation {number + 1} when recorded", error, 0.0


# ---- Fast?


def evaluations(options: argparse.Namespace) -> Iterator[Report]:
    """Whole evaluations by each path: step by step and repeated (as a graph where that works); then PyTorch's."""
    repeated: dict[tuple[str, int], float] = {}
    for precision in options.precision:
        own = [path for path in paths(precision, cupy()) if path in options.path]
        own = [path for path in own if path != "plain" or precision == options.precision[0]]  # always in float32
        for path, size in [(path, size) for path in own for size in options.size]:
            row: Report = {"precision": precision, "path": path, "size": size}
            try:
                time_evaluation(row, options)
            except Exception as error:  # such as too little memory for one path
                row["failed"] = f"{type(error).__name__}: {error}"
            yield row
            free_memory()
            if path == "fused":
                repeated[precision, size] = row.get("repeated", np.nan)
    for (precision, size), ours in repeated.items() if with_torch(options) else ():
        row = {"precision": precision, "path": "PyTorch", "size": size}
        try:
            image, function = pictures(size, size)[0], torch_function(precision, size, options.weights)
            row["repeated"] = milliseconds(partial(function.gradient, function.tensor(image)), options.repeats)
            row["of the fused path's"] = row["repeated"] / ours
        except Exception as error:
            row["failed"] = f"{type(error).__name__}: {error}"
        yield row
        free_memory()


def time_evaluation(row: Report, options: argparse.Namespace) -> None:
    precision, path, size = row["precision"], row["path"], row["size"]
    objective, image = our_function(precision, size, options.weights, path)
    on_device = engine_of(objective).to_device(image)
    row["by steps"] = milliseconds(partial(objective.on_device, on_device), options.repeats)
    repeated = objective.repeated()
    row["repeated"] = milliseconds(partial(repeated, on_device), options.repeats)
    row["iteration"] = iteration_time(objective, repeated, on_device, options.repeats)
    row["iteration/repeated"] = row["iteration"] / row["repeated"]
    del objective, repeated
    free_memory()
    objective, _ = our_function(precision, size, options.weights, path, "transport")
    row["with transport"] = milliseconds(partial(objective.repeated(), on_device), options.repeats)
    del objective, on_device
    free_memory()


def iteration_time(objective: Objective, repeated: Any, image: Any, repeats: int) -> float:
    """One iteration of `lbfgs` with bounds, evaluation included, once it remembers all of its pairs."""
    search = Lbfgs(repeated, image, history=PAIRS, bounds=True, vectors=engine_of(objective).vectors)
    search.run(iterations=PAIRS)
    return milliseconds(search.step, repeats)


def whole_runs(options: argparse.Namespace) -> Iterator[Report]:
    """`lbfgs`, then torch.optim.LBFGS (history 10, strong Wolfe) until it has the same loss, both warmed up."""
    rows, content = [], pictures(options.run_size, options.run_size)[1]
    for precision in options.precision:
        objective, _ = our_function(precision, options.run_size, options.weights)
        engine, repeated = engine_of(objective), objective.repeated()
        row: Report = {"precision": precision, "who": "ours", "size": options.run_size}
        for warm in (False, True):
            search = Lbfgs(repeated, engine.to_device(content), bounds=False, vectors=engine.vectors)
            began = time.perf_counter()
            outcome = search.run(iterations=options.iterations if warm else 3)
            row |= {"s": time.perf_counter() - began, "evaluations": outcome.evaluations, "loss": outcome.loss}
        del search, outcome, repeated, objective
        free_memory()
        rows.append(row)
        yield row
    for row in rows if with_torch(options) else ():
        theirs = torch_run(row["precision"], options, content, row["loss"])
        yield {**row, "who": "PyTorch", **theirs, "ours / PyTorch": row["s"] / theirs["s"]}


def memory(options: argparse.Namespace) -> Iterator[Report]:
    """Three iterations of `lbfgs` with all its vectors, in a separate process."""
    rows = []
    for precision in options.precision:
        row: Report = {"precision": precision, "who": "ours", "size": options.memory_size}
        row["MB"] = process_memory(options, "ours", precision, options.memory_size)["MB"]
        row["bytes per pixel"] = row["MB"] * 1e6 / options.memory_size**2
        row["as estimated"] = BYTES_PER_PIXEL[precision]
        rows.append(row)
        yield row
    for row in rows if with_torch(options) else ():
        theirs = process_memory(options, "torch", row["precision"], options.memory_size)["MB"]
        same = {"precision": row["precision"], "who": "PyTorch", "size": row["size"]}
        yield {**same, "MB": theirs, "ours / PyTorch": row["MB"] / theirs}


def large_evaluation(options: argparse.Namespace) -> Iterator[Report]:
    for precision in options.precision:
        measured = process_memory(options, "large", precision, options.large)
        yield {"precision": precision, "size": options.large, **measured}


def layers(options: argparse.Namespace) -> Iterator[Report]:
    """Each shape of layer with every way to cut it: the reasons for engines/cuda/device.py's TILES and workspace."""
    side = options.layer_size
    shapes = {}
    for step in STEPS:
        side = side // 2 if isinstance(step, Pool) else side
        if isinstance(step, Conv):
            shapes.setdefault((side, step.c_in, step.c_out), step)
    for precision in options.precision:
        engine = open_engine("cuda", precision)
        for (side, c_in, c_out), step in shapes.items():
            rng = np.random.default_rng(0)
            there = engine.to_device(rng.random((side, side, c_in), np.float32))
            there = there if c_in == 3 else engine._features(there)
            kernel = (rng.standard_normal((3, 3, c_in, c_out)) * np.sqrt(2 / (9 * c_in))).astype(np.float32)
            up, down = rectified(engine, step, (kernel, np.zeros(c_out, np.float32)))
            for name, setting in ways(precision, c_in, c_out):
                for key, value in setting.items():
                    setattr(engine.device, key, value)
                y, saved = up(there)
                d = engine.pool_backward(*engine.pool(y, "avg")) if min(y.shape[:2]) > 1 else y
                ms_up = milliseconds(partial(up, there), options.repeats)
                ms_down = milliseconds(partial(down, d, saved), options.repeats)
                rate = 2e-9 * side * side * 9 * c_in * c_out
                row = {"precision": precision, "layer": f"{side}² {c_in} → {c_out}", "way": name}
                row |= {"up": ms_up, "down": ms_down, "TFLOP/s up": rate / ms_up, "TFLOP/s down": rate / ms_down}
                yield row


def ways(precision: str, c_in: int, c_out: int) -> list[tuple[str, dict[str, Any]]]:
    if c_in == 3:
        return [("first", {})]
    if precision == "float32":
        return [(f"strips of {mb} MB", {"workspace": mb << 20}) for mb in (24, 48, 128, 512)]
    tiles = [(rows, channels) for rows, channels in TILES if min(c_in, c_out) % channels == 0]
    return [(f"{rows} × 16 pixels, {channels} channels", {"tiles": ((rows, channels),)}) for rows, channels in tiles]


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Report]]] = {
    "evaluations": evaluations,
    "whole runs": whole_runs,
    "memory": memory,
    "one large evaluation": large_evaluation,
    "layers": layers,
}


# ---- Ours and PyTorch's


def our_function(
    precision: str, size: int, weights: Path | None, path: str = "", loss: str = "gram"
) -> tuple[Objective, Any]:
    """By that path, or by the best that passes."""
    given, mean = filters(weights)
    image, content, style = pictures(size, size)
    engine = PATHS[path](precision, cupy()) if path else open_engine("cuda", precision)
    return our_objective(engine, dict(given), mean, "avg", content, style, loss), image


def engine_of(objective: Objective) -> Any:
    return objective.network.engine


class TorchFunction(TorchObjective):
    """PyTorch in the nearest precision, on the device."""

    def __init__(self, precision: str, given: Filters, mean: Any, content: Any, style: Any) -> None:
        import torch

        self.autocast = precision == "float16"
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = precision != "float32"
        super().__init__(given, mean, "avg", content, style, "channels_last", device="cuda")

    def gram(self, features: Any) -> Any:
        with self.torch.autocast("cuda", enabled=False):
            return super().gram(features.float())

    def gradient(self, x: Any) -> Any:
        x = x.detach().requires_grad_()
        with self.torch.autocast("cuda", dtype=self.torch.float16, enabled=self.autocast):
            loss = self.loss(x)
        loss.backward()
        return loss, x.grad


def torch_function(precision: str, size: int, weights: Path | None) -> TorchFunction:
    given, mean = filters(weights)
    _, content, style = pictures(size, size)
    return TorchFunction(precision, dict(given), mean, content, style)


def torch_run(precision: str, options: argparse.Namespace, content: Any, goal: float) -> Report:
    import torch

    function = torch_function(precision, options.run_size, options.weights)
    result: Report = {}
    for most in (5, 4 * options.iterations):
        x = function.tensor(content).contiguous().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [x], max_iter=1, history_size=10, line_search_fn="strong_wolfe", tolerance_grad=0, tolerance_change=0
        )
        count, loss = 0, np.inf

        def closure(x: Any = x) -> Any:
            nonlocal count
            count += 1
            value, gradient = function.gradient(x.contiguous(memory_format=function.format))
            x.grad = gradient.contiguous()
            return value.detach()

        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(most):
            loss = float(optimizer.step(closure))
            if loss <= goal:
                break
        torch.cuda.synchronize()
        result = {"s": time.perf_counter() - began, "evaluations": count, "loss": loss}
    return result


# ---- Time and memory


def milliseconds(function: Callable[[], Any], repeats: int) -> float:
    """The median, after three warm-up runs: of so many, or of at least three that take LONGEST together."""
    times: list[float] = []
    for number in range(repeats + 3):
        synchronize()
        began = time.perf_counter()
        function()
        synchronize()
        if number >= 3:
            times.append(time.perf_counter() - began)
        if len(times) >= 3 and sum(times) > LONGEST:
            break
    return statistics.median(times) * 1e3


def synchronize() -> None:
    cupy().cuda.Device().synchronize()  # all of the device's streams, PyTorch's too


def free_memory() -> None:
    cupy().get_default_memory_pool().free_all_blocks()
    if "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()


def process_memory(options: argparse.Namespace, who: str, precision: str, size: int) -> Report:
    command = [sys.executable, __file__, "--contender", who, precision, "--memory-size", str(size)]
    command += ["--repeats", str(options.repeats)]
    command += ["--weights", str(options.weights)] if options.weights else []
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    report: Report = json.loads(result.stdout) if result.returncode == 0 else {"MB": float("nan"), "ms": float("nan")}
    return report


def memory_of_this_process(options: argparse.Namespace, who: str, precision: str) -> Report:
    size = options.memory_size
    info = cupy().cuda.runtime.memGetInfo
    tile = pictures(min(size, 512), min(size, 512))
    count = -(-size // len(tile[0]))
    image, content, style = (np.tile(picture.astype(np.float32), (count, count, 1))[:size, :size] for picture in tile)
    given, mean = filters(options.weights)
    synchronize()
    free, _ = info()
    report: Report = {}
    if who == "torch":
        import torch

        function = TorchFunction(precision, given, mean, content, style)
        x = function.tensor(image).contiguous().requires_grad_()
        optimizer = torch.optim.LBFGS([x], max_iter=12, history_size=10, tolerance_grad=0, tolerance_change=0)

        def closure() -> Any:
            value, gradient = function.gradient(x.contiguous(memory_format=function.format))
            x.grad = gradient.contiguous()
            return value.detach()

        optimizer.step(closure)
    else:
        objective = our_objective(open_engine("cuda", precision), given, mean, "avg", content, tile[2])
        engine, repeated = engine_of(objective), objective.repeated()
        if who == "large":
            on_device = engine.to_device(image)
            report["ms"] = milliseconds(lambda: repeated(on_device), 3)
        else:
            Lbfgs(repeated, engine.to_device(image), bounds=True, vectors=engine.vectors).run(iterations=3)
    synchronize()
    report["MB"] = (free - info()[0]) / 1e6
    return report


# ---- The machine, and the report


def cupy() -> Any:
    return importlib.import_module("cupy")


def machine(options: argparse.Namespace) -> Report:
    device, runtime = cupy().cuda.Device(), cupy().cuda.runtime
    found: Report = {
        "card": runtime.getDeviceProperties(device.id)["name"].decode(),
        "memory GB": runtime.memGetInfo()[1] / 1e9,
        "driver": runtime.driverGetVersion(),
        "CuPy": cupy().__version__,
        "Python": platform.python_version(),
        "weights": options.weights.name if options.weights else "random",
        "command": " ".join(["python tools/bench_cuda.py", *map(str, sys.argv[1:])]),
    }
    if not options.ours:
        with suppress(PackageNotFoundError):
            found["PyTorch"] = version("torch")
    return found


@cache
def torch_has_a_card() -> bool:
    return have_torch() and bool(importlib.import_module("torch").cuda.is_available())


def with_torch(options: argparse.Namespace) -> bool:
    """Asked once a part's own rows are there: PyTorch may take a minute to load."""
    return not options.ours and torch_has_a_card()


def write(report: Report, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cuda.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    lines = ["# The CUDA engine, measured", "", *(f"- {name}: {value}" for name, value in report["machine"].items())]
    for name, rows in report.items():
        if name != "machine":
            lines += ["", f"## {name.capitalize()}", "", *table(rows)]
    (folder / "cuda.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def table(rows: list[Report]) -> list[str]:
    columns = list(dict.fromkeys(key for row in rows for key in row))

    def cell(value: Any) -> str:
        if isinstance(value, bool):
            return "yes" if value else "NO"
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    lines = [columns, ["---"] * len(columns), *([cell(row.get(column, "–")) for column in columns] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


if __name__ == "__main__":
    sys.exit(main())
