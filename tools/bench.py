"""The CPU engine against PyTorch's CPU convolutions: time, memory and rounding, side by side in one run.

    python tools/bench.py                                whole evaluations at 256², 512² and 1024², and every layer
    python tools/bench.py --size 512 --json              one whole evaluation as one JSON object
    python tools/bench.py --size 2048 --ours             without PyTorch
    python tools/bench.py --avx2                         both without AVX-512, as on a processor that lacks it
    python tools/bench.py --run                          a whole run, 512 × 384, 100 iterations of L-BFGS-B

One evaluation is the loss of five style layers and conv4_2 and its gradient in the pixels, in float32 with VGG-19's
shapes. The filters come from --weights FILE or are random, and PyTorch's require no gradient. PyTorch runs in both
layouts, channels_last and NCHW: the faster one counts for time, the smaller one for memory. All contenders are warmed
up and then take turns; times are medians. Peak memory is that of a separate process, from its start, in MB (10⁶ bytes).
`gradient_error` is relative to the plain engine in float64 (at 512² for larger sizes), next to PyTorch's own error.
"""

import argparse
import contextlib
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# This comes before NumPy and PyTorch load their libraries, so that both use all that the processor has or, with --avx2,
# both AVX2. Variables that choose OpenBLAS's kernels would slow down NumPy alone, so they are removed.
LEFT_ASIDE: dict[str, str] = {}
if __name__ == "__main__":
    names = [name for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE") if name in os.environ]
    LEFT_ASIDE |= {name: os.environ.pop(name) for name in names}
    if "--avx2" in sys.argv:
        os.environ |= {"OPENBLAS_CORETYPE": "Haswell", "ONEDNN_MAX_CPU_ISA": "AVX2"}

# isort: split
# ruff: noqa: E402
import numpy as np
from threadpoolctl import threadpool_info

from nst_manual.engines.cpu.engine import CpuEngine
from nst_manual.engines.cpu.threads import available_threads
from nst_manual.engines.reference import ReferenceEngine
from nst_manual.losses import STYLE_LOSSES
from nst_manual.objective import Evaluation, Objective, Style, content_terms, style_terms
from nst_manual.optimise import Lbfgs, Lbfgsb, Record
from nst_manual.presets import PRESETS, Formula
from nst_manual.runs.machine import resident
from nst_manual.vgg import Conv, Network, Pool, Relu, convolutions, steps_to
from nst_manual.weights import load_weights

STYLE = dict.fromkeys(("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"), 0.2)
CONTENT = {"conv4_2": 1.0}
STEPS = steps_to("conv5_1")
FORMULA = Formula(PRESETS["gatys"])
FORMATS = ("channels_last", "NCHW")
MOST = 512  # the largest side for the plain engine in float64, which takes half a minute and 3 GB
CALLS = 5  # of a layer in a row
Filters = dict[str, tuple[np.ndarray, np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs="+", default=[256, 512, 1024], help="side of the square, in pixels")
    parser.add_argument("--threads", type=int, default=available_threads())
    parser.add_argument("--repeats", type=int, help="evaluations of each contender (default: 5, more below 512²)")
    parser.add_argument("--pooling", choices=("avg", "max"), default="avg")
    parser.add_argument("--weights", type=Path, help="a file with real VGG-19 weights")
    parser.add_argument("--json", action="store_true", help="one JSON object per size, nothing else")
    parser.add_argument("--ours", action="store_true", help="leave PyTorch out")
    parser.add_argument("--style-loss", choices=STYLE_LOSSES, default="gram", help="ours; PyTorch's is always gram")
    parser.add_argument("--layers", action="store_true", help="only the layers, at the first size")
    parser.add_argument("--run", action="store_true", help="a whole run instead")
    parser.add_argument("--avx2", action="store_true", help="both without AVX-512")
    parser.add_argument("--iterations", type=int, default=100, help="iterations of --run (default: 100)")
    parser.add_argument("--contender", choices=("ours", *FORMATS), help=argparse.SUPPRESS)  # in a process of its own
    options = parser.parse_args()
    if options.contender:
        print(json.dumps(peak_of_this_process(options)))
        return
    with_torch = not options.ours and have_torch()
    if not options.json:
        print(machine(options, with_torch))
    if options.run:
        print(json.dumps(whole_run(options)) if options.json else run_table(whole_run(options)))
        return
    if not options.layers:
        for number, size in enumerate(options.size):
            row = whole_evaluation(options, size, with_torch)
            print(json.dumps(row) if options.json else evaluation_line(row, header=number == 0), flush=True)
    if options.layers or not options.json:
        print(layer_table(options, options.size[0] if options.layers else 512, with_torch))


# ---- What is computed


def filters(path: Path | None) -> tuple[Filters, tuple[float, float, float]]:
    """Real ones, or random ones in VGG-19's shapes that keep the size of the features (He)."""
    if path is not None:
        weights = load_weights(path, convolutions(STEPS))
        return dict(weights.filters), weights.mean
    rng = np.random.default_rng(0)
    made = {}
    for step in STEPS:
        if isinstance(step, Conv):
            kernel = rng.standard_normal((3, 3, step.c_in, step.c_out), np.float32)
            kernel *= np.float32(math.sqrt(2 / (9 * step.c_in)))
            made[step.layer] = kernel, rng.standard_normal(step.c_out, np.float32)
    return made, (123.68, 116.779, 103.939)


def pictures(height: int, width: int) -> list[np.ndarray]:
    """Image, content and style: seeded noise, coarse and fine, as in real pictures."""
    rng = np.random.default_rng(1)
    made = []
    for _ in range(3):
        picture = rng.normal(0, 12, (height, width, 3))
        for cell in (4, 16, 64):
            coarse = rng.normal(0, 35, (-(-height // cell), -(-width // cell), 3))
            picture += np.kron(coarse, np.ones((cell, cell, 1)))[:height, :width]
        made.append(np.clip(picture + 120, 0, 255))
    return made


def our_objective(
    engine: Any, given: Filters, mean: Any, pooling: str, content: Any, style: Any, loss: str = "gram"
) -> Objective:
    network = Network.build(engine, given, mean, STEPS, pooling, {*CONTENT, *STYLE})
    given.clear()  # as in a run, only the engine's own form of the filters stays in memory
    terms = content_terms(network, content, CONTENT, FORMULA)
    terms += style_terms(network, [Style(style)], STYLE, FORMULA, content.shape[:2], STYLE_LOSSES[loss])
    return Objective(network, terms)


def our_function(options: argparse.Namespace, given: Filters, mean: Any, content: Any, style: Any) -> Any:
    """image → evaluation, on the CPU engine as a run calls it."""
    engine = CpuEngine(threads=options.threads)
    objective = our_objective(engine, given, mean, options.pooling, content, style, options.style_loss)
    return objective.fetched(objective.repeated())


class TorchObjective:
    """The same function by PyTorch, as an impatient but fair programmer would write it."""

    def __init__(
        self,
        given: Filters,
        mean: Any,
        pooling: str,
        content: Any,
        style: Any,
        memory_format: str,
        device: str = "cpu",
    ) -> None:
        import torch

        self.torch, self.pooling, self.device = torch, pooling, device
        self.format = torch.channels_last if memory_format == "channels_last" else torch.contiguous_format
        self.mean = torch.tensor(mean, dtype=torch.float32, device=device)[None, :, None, None]
        self.filters = {}
        for name in list(given):
            kernel, bias = given.pop(name)  # one copy of the filters in memory, not two
            weight = torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1), np.float32))
            weight = weight.to(device).contiguous(memory_format=self.format)
            self.filters[name] = weight, torch.from_numpy(np.float32(bias)).to(device)
        self.targets: dict[str, Any] = {}
        with torch.no_grad():
            for name, features in self.features(self.tensor(content)):
                if name in CONTENT:
                    self.targets["content:" + name] = features
            for name, features in self.features(self.tensor(style)):
                if name in STYLE:
                    self.targets["style:" + name] = self.gram(features)

    def tensor(self, image: np.ndarray) -> Any:
        pixels = self.torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32))
        return pixels.to(self.device).contiguous(memory_format=self.format)

    def features(self, x: Any) -> Any:
        functional = self.torch.nn.functional
        x = x - self.mean
        for step in STEPS:
            if isinstance(step, Conv):
                weight, bias = self.filters[step.layer]
                x = functional.relu(functional.conv2d(x, weight, bias, padding=1), inplace=True)
                yield step.layer, x
            elif isinstance(step, Pool):
                x = functional.avg_pool2d(x, 2) if self.pooling == "avg" else functional.max_pool2d(x, 2)

    def gram(self, features: Any) -> Any:
        if self.format == self.torch.channels_last:
            rows = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])
            return rows.T @ rows / len(rows)
        rows = features.flatten(2)[0]
        return rows @ rows.T / rows.shape[1]

    def loss(self, x: Any) -> Any:
        total: Any = 0.0
        for name, f in self.features(x):
            n, m = f.shape[1], f.shape[2] * f.shape[3]
            if name in CONTENT:
                difference = f - self.targets["content:" + name]
                total = total + FORMULA.content(CONTENT[name], n, m) / 2 * (difference * difference).sum()
            if name in STYLE:
                difference = self.gram(f) - self.targets["style:" + name]
                of_pixels = m / (x.shape[2] * x.shape[3])
                weight = FORMULA.style(STYLE[name], n, of_pixels) / (4 * n * n)
                total = total + weight * (difference * difference).sum()
        return total

    def __call__(self, image: np.ndarray) -> tuple[float, np.ndarray]:
        x = self.tensor(image).requires_grad_()
        loss = self.loss(x)
        loss.backward()
        return loss.item(), x.grad[0].permute(1, 2, 0).numpy()


# ---- Whole evaluations


def whole_evaluation(options: argparse.Namespace, size: int, with_torch: bool) -> dict[str, Any]:
    given, mean = filters(options.weights)
    image, content, style = pictures(size, size)
    contenders: dict[str, Callable[[Any], Any]] = {"ours": our_function(options, dict(given), mean, content, style)}
    if with_torch:
        import torch

        torch.set_num_threads(options.threads)
        for name in FORMATS:
            contenders[name] = TorchObjective(dict(given), mean, options.pooling, content, style, name)
    seconds = take_turns({name: lambda f=f: f(image) for name, f in contenders.items()}, repeats_at(options, size))
    row: dict[str, Any] = {"size": size, "threads": options.threads, "pooling": options.pooling}
    row["blas"] = ", ".join(blas_libraries())
    row["weights"] = str(options.weights.name) if options.weights else "random"
    row["ours_s"] = seconds["ours"]
    if with_torch:
        row["torch_s"] = min(seconds[name] for name in FORMATS)
        row["ratio"] = row["torch_s"] / row["ours_s"]
        row |= {f"torch_{name}_s": seconds[name] for name in FORMATS}
    row["ours_peak_mb"] = peak_memory(options, size, "ours")
    if with_torch:
        peaks = {name: peak_memory(options, size, name) for name in FORMATS}
        row["torch_peak_mb"] = min(peaks.values())
        row["memory_ratio"] = row["ours_peak_mb"] / row["torch_peak_mb"]
        row |= {f"torch_{name}_peak_mb": peak for name, peak in peaks.items()}
    row |= gradient_errors(options, min(size, MOST), with_torch)
    return row


def repeats_at(options: argparse.Namespace, size: int) -> int:
    """As asked for, or as many as take the time of five at 512²: disturbances last for seconds."""
    return options.repeats or min(25, max(5, 5 * MOST**2 // size**2))


def take_turns(contenders: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each, after one warm-up. A pause before each lets the other contenders' threads fall asleep."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(repeats + 1):
        for name, function in contenders.items():
            time.sleep(0.05)
            began = time.perf_counter()
            function()
            if repeat:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def gradient_errors(options: argparse.Namespace, size: int, with_torch: bool) -> dict[str, Any]:
    """Relative to the plain engine in float64. In any float32 program, a ReLU whose input is within rounding of 0 may
    open or close wrongly, which changes more than all other rounding: so PyTorch's error is shown next to ours.
    """
    given, mean = filters(options.weights)
    image, content, style = pictures(size, size)
    exact, loss = ReferenceEngine("float64"), options.style_loss
    true = our_objective(exact, dict(given), mean, options.pooling, content, style, loss)(image)
    ours = our_function(options, dict(given), mean, content, style)(image)
    row = {
        "gradient_error": relative(ours.gradient, true.gradient),
        "loss_error": abs(ours.loss / true.loss - 1),
        "error_size": size,
    }
    if with_torch:
        other = TorchObjective(given, mean, options.pooling, content, style, FORMATS[0])(image)
        row["torch_gradient_error"] = relative(other[1], true.gradient)
    return row


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def evaluation_line(row: dict[str, Any], header: bool) -> str:
    columns = {
        "size": f"{row['size']}²",
        "ours s": f"{row['ours_s']:.3f}",
        "PyTorch s": f"{row['torch_s']:.3f}" if "torch_s" in row else "–",
        "ratio": f"{row['ratio']:.2f}" if "ratio" in row else "–",
        "ours MB": f"{row['ours_peak_mb']:.0f}",
        "PyTorch MB": f"{row['torch_peak_mb']:.0f}" if "torch_s" in row else "–",
        "of it": f"{row['memory_ratio']:.2f}" if "torch_s" in row else "–",
        "gradient error": f"{row['gradient_error']:.1e}",
        "PyTorch's": f"{row['torch_gradient_error']:.1e}" if "torch_s" in row else "–",
    }
    line = "  ".join(value.rjust(max(len(name), 6)) for name, value in columns.items())
    return "  ".join(name.rjust(max(len(name), 6)) for name in columns) + "\n" + line if header else line


# ---- Memory


def peak_memory(options: argparse.Namespace, size: int, contender: str) -> float:
    command = [sys.executable, __file__, "--contender", contender, "--size", str(size)]
    command += ["--threads", str(options.threads), "--pooling", options.pooling, "--style-loss", options.style_loss]
    command += ["--weights", str(options.weights)] if options.weights else []
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(result.stdout)["peak_mb"])


def peak_of_this_process(options: argparse.Namespace) -> dict[str, float]:
    """After three evaluations, as in a run, together with the filters and pictures that they need."""
    given, mean = filters(options.weights)
    image, content, style = pictures(options.size[0], options.size[0])
    function: Callable[[Any], Any]
    if options.contender == "ours":
        function = our_function(options, given, mean, content, style)
    else:
        import torch

        torch.set_num_threads(options.threads)
        function = TorchObjective(given, mean, options.pooling, content, style, options.contender)
    del content, style
    for _ in range(3):
        function(image)
    taken = resident()
    return {"peak_mb": taken.peak / 1e6 if taken else math.nan}


# ---- Layers


def layer_table(options: argparse.Namespace, size: int, with_torch: bool) -> str:
    given, _ = filters(options.weights)
    engine = CpuEngine(threads=options.threads)
    head = (
        f"\nLayer by layer at {size}², milliseconds up and down, with ReLU; per layer the relative error in float32\n"
    )
    lines = [
        head + f"{'layer':<9}{'ours':>8}{'':>8}{'PyTorch':>10}{'':>8}{'ratio':>8}{'':>6}{'error up':>11}{'down':>9}"
    ]
    side, seen = size, set()
    for step in STEPS:
        if isinstance(step, Pool):
            side //= 2
        elif isinstance(step, Conv) and (side, step.c_in, step.c_out) not in seen:
            seen.add((side, step.c_in, step.c_out))
            lines.append(layer_line(options, engine, step, side, given[step.layer], with_torch))
    return "\n".join(lines)


def layer_line(options: argparse.Namespace, engine: Any, step: Conv, side: int, given: Any, with_torch: bool) -> str:
    rng = np.random.default_rng(2)
    x = np.maximum(rng.standard_normal((side, side, step.c_in), np.float32), 0)
    d = rng.standard_normal((side, side, step.c_out), np.float32)
    up, down = rectified(engine, step, given)
    _, saved = up(x)
    contenders = {
        "up": as_in_a_run(engine, in_a_row(lambda: up(x))),
        "down": as_in_a_run(engine, in_a_row(lambda: down(d, saved))),
    }
    if with_torch:
        contenders |= {name: in_a_row(function) for name, function in torch_layer(options, x, d, *given).items()}
    seconds = {name: time / CALLS for name, time in take_turns(contenders, repeats_at(options, MOST)).items()}
    line = f"{step.layer:<9}{seconds['up'] * 1e3:8.1f}{seconds['down'] * 1e3:8.1f}"
    if with_torch:
        theirs = {way: min(seconds[f"{way} {layout}"] for layout in FORMATS) for way in ("up", "down")}
        line += f"{theirs['up'] * 1e3:10.1f}{theirs['down'] * 1e3:8.1f}"
        line += f"{theirs['up'] / seconds['up']:8.2f}{theirs['down'] / seconds['down']:6.2f}"
    else:
        line += " " * 32
    part = slice(0, 32)
    exact_up, exact_down = rectified(ReferenceEngine("float64"), step, given)
    true_y, true_saved = exact_up(x[part, part].astype(np.float64))
    true_d = exact_down(d[part, part].astype(np.float64), true_saved)
    y, saved = up(np.ascontiguousarray(x[part, part]))
    d_x = down(np.ascontiguousarray(d[part, part]), saved)
    return line + f"{relative(y, true_y):11.1e}{relative(d_x, true_d):9.1e}"


def rectified(engine: Any, step: Conv, given: Any) -> tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]:
    """A convolution with its ReLU: x → (y, saved), and (d_y, saved) → d_x."""
    operations = engine.operations((step, Relu(step.layer)), {step.layer: given}, {step.layer}, "avg")

    def up(x: Any) -> Any:
        saved = []
        for operation in operations:
            x, own = operation.up(x)
            saved.append(own)
        return x, saved

    def down(d: Any, saved: Any) -> Any:
        for operation, own in zip(reversed(operations), reversed(saved), strict=True):
            d = operation.down(d, own)
        return d

    return up, down


def as_in_a_run(engine: Any, function: Callable[[], Any]) -> Callable[[], Any]:
    """The function in the engine's setting for repeated evaluations."""
    return partial(engine.repeated(lambda _: function()), None)


def in_a_row(function: Callable[[], Any]) -> Callable[[], None]:
    """Several calls, because a single one after a pause would start with empty caches."""

    def calls() -> None:
        for _ in range(CALLS):
            function()

    return calls


def torch_layer(options: argparse.Namespace, x: Any, d: Any, kernel: Any, bias: Any) -> dict[str, Callable[[], Any]]:
    import torch

    torch.set_num_threads(options.threads)
    functional, backward = torch.nn.functional, torch.ops.aten.convolution_backward
    contenders: dict[str, Callable[[], Any]] = {}
    for name, memory_format in zip(FORMATS, (torch.channels_last, torch.contiguous_format), strict=True):

        def laid_out(array: Any, *axes: int, memory_format: Any = memory_format) -> Any:
            tensor = torch.from_numpy(np.ascontiguousarray(array.transpose(*axes), np.float32))
            return tensor.contiguous(memory_format=memory_format)

        inputs, gradient = laid_out(x[None], 0, 3, 1, 2), laid_out(d[None], 0, 3, 1, 2)
        weight, offset = laid_out(kernel, 3, 2, 0, 1), torch.from_numpy(np.float32(bias))
        outputs = functional.relu_(functional.conv2d(inputs, weight, offset, padding=1))

        def up(inputs: Any = inputs, weight: Any = weight, offset: Any = offset) -> Any:
            return functional.relu_(functional.conv2d(inputs, weight, offset, padding=1))

        def down(inputs: Any = inputs, weight: Any = weight, gradient: Any = gradient, outputs: Any = outputs) -> Any:
            masked = torch.ops.aten.threshold_backward(gradient, outputs, 0)  # ReLU's own derivative
            one, none = [1, 1], [0, 0]
            wanted = [True, False, False]
            return backward(masked, inputs, weight, [weight.shape[0]], one, one, one, False, none, 1, wanted)

        contenders |= {f"up {name}": torch.no_grad()(up), f"down {name}": torch.no_grad()(down)}
    return contenders


# ---- A whole run


def whole_run(options: argparse.Namespace, height: int = 384, width: int = 512) -> Any:
    """L-BFGS-B on our objective, then torch.optim.LBFGS on PyTorch's and our own lbfgs until they reach the same loss.

    PyTorch uses the layout in which its evaluations are faster.
    """
    import torch

    torch.set_num_threads(options.threads)
    given, mean = filters(options.weights)
    _, content, style = pictures(height, width)
    theirs = {name: TorchObjective(dict(given), mean, options.pooling, content, style, name) for name in FORMATS}
    seconds = take_turns({name: lambda f=f: f(content) for name, f in theirs.items()}, 2)
    layout = min(seconds, key=lambda name: seconds[name])
    function = our_function(options, given, mean, content, style)
    function(content)
    spent = 0.0

    def timed(image: np.ndarray) -> Evaluation:
        nonlocal spent
        began = time.perf_counter()
        result = function(image)
        spent += time.perf_counter() - began
        return result

    began = time.perf_counter()
    goal = Lbfgsb(timed, content, history=10).run(iterations=options.iterations)
    row: dict[str, Any] = {"size": f"{width}x{height}", "threads": options.threads, "iterations": goal.iterations}
    row |= {"ours_s": time.perf_counter() - began, "ours_evaluations": goal.evaluations, "loss": goal.loss}
    row["ours_optimiser_ms"] = (row["ours_s"] - spent) / goal.evaluations * 1e3
    result = torch_run(theirs[layout], content, goal)
    row |= {"torch_layout": layout} | {f"torch_{key}": value for key, value in result.items()}
    row["ratio"] = row["torch_s"] / row["ours_s"] if result["loss"] <= goal.loss else None

    def reached(record: Record) -> None:
        if record.loss <= goal.loss:
            raise StopIteration

    began, spent = time.perf_counter(), 0.0
    start = content.astype(np.float32)
    outcome = Lbfgs(timed, start, history=10).run(iterations=2 * options.iterations, callback=reached)
    row |= {"lbfgs_s": time.perf_counter() - began, "lbfgs_evaluations": outcome.evaluations}
    row |= {"lbfgs_loss": outcome.loss, "lbfgs_optimiser_ms": (row["lbfgs_s"] - spent) / outcome.evaluations * 1e3}
    return row


def torch_run(objective: TorchObjective, content: np.ndarray, goal: Any) -> dict[str, Any]:
    torch = objective.torch

    class Reached(Exception):
        pass

    x = objective.tensor(content).contiguous().requires_grad_()  # torch.optim.LBFGS wants a contiguous gradient
    objective(content)
    most = 4 * goal.evaluations
    optimizer = torch.optim.LBFGS(
        [x], max_iter=most, max_eval=most, history_size=10, line_search_fn="strong_wolfe",
        tolerance_grad=0, tolerance_change=0,
    )  # fmt: skip
    evaluations, best = 0, math.inf

    def closure() -> Any:
        nonlocal evaluations, best
        optimizer.zero_grad()
        loss = objective.loss(x.contiguous(memory_format=objective.format))
        loss.backward()
        evaluations += 1
        best = min(best, loss.item())
        if best <= goal.loss:
            raise Reached
        return loss

    began = time.perf_counter()
    with contextlib.suppress(Reached):
        optimizer.step(closure)
    return {"s": time.perf_counter() - began, "evaluations": evaluations, "loss": best}


def run_table(row: dict[str, Any]) -> str:
    return "\n".join(
        f"{name:<34} {value:.4g}" if isinstance(value, float) else f"{name:<34} {value}" for name, value in row.items()
    )


# ---- The machine


def have_torch() -> bool:
    try:
        import torch  # noqa: F401
    except ImportError:
        return False
    return True


def machine(options: argparse.Namespace, with_torch: bool) -> str:
    model, cpuinfo = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    parts = [
        f"{model}, {os.cpu_count()} cores, {options.threads} threads",
        f"{platform.system()}, Python {platform.python_version()}, NumPy {np.__version__}, "
        + ", ".join(blas_libraries()),
        f"weights: {options.weights.name if options.weights else 'random'}; {options.pooling} pooling",
    ]
    if with_torch:
        import torch

        parts.insert(2, f"PyTorch {torch.__version__}{', without AVX-512' * options.avx2}")
    parts += [f"left aside: {name}={value}" for name, value in LEFT_ASIDE.items()]
    return "\n".join(parts) + "\n"


def blas_libraries() -> list[str]:
    """NumPy's and SciPy's BLAS, with the kernels that they chose."""
    keys = ("internal_api", "version", "architecture")
    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    return sorted({" ".join(str(library.get(key)) for key in keys) for library in libraries})


if __name__ == "__main__":
    main()
