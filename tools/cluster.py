"""Measures what one picture costs on a cluster, and computes from that what larger clusters would do.

    python tools/cluster.py measure [--size 1024] [--workers 2] [--rounds 3] [--weights FILE]
    python tools/cluster.py scaling [--weights FILE] [--workers 8 64 512] [--gigapixels 1 16 256] [--gbit 10]

`measure` evaluates the default objective and moves the picture by L-BFGS: in this process, with as many threads as
there are workers, and on a local cluster, one thread a worker, in turns. `ratio` is that of the medians of the seconds
of an evaluation, and `of CPU` that of the processor's seconds, which other programs disturb less.

`scaling` measures on this machine: the products that a core makes in a second of its own time, what L-BFGS takes for a
million pixels, the comparison of the largest layer's moments, a message between two workers, and a call of the client.
It then adds up what the slowest worker does in an evaluation. docs/cluster-scaling.md has its assumptions. Without
--weights, filters are random: that takes the same time.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from distributed import get_worker

from nst_manual.arrays import Array
from nst_manual.cluster.board import Board, Peer, Peers
from nst_manual.cluster.connection import opened, workers_of
from nst_manual.cluster.grid import Grid, Rectangle, tiles_at
from nst_manual.cluster.pixels import MARGIN
from nst_manual.cluster.team import Team
from nst_manual.engines import open_engine
from nst_manual.losses import transport_loss
from nst_manual.objective import Style, targets_of
from nst_manual.optimise import Vectors
from nst_manual.problem import build_network, make_objective, new_search
from nst_manual.proof.checks import random_filters
from nst_manual.settings import Run, Settings
from nst_manual.tiles.plan import Tile, grouped, tiles_between
from nst_manual.vgg import Conv, Network, convolutions, smallest_side
from nst_manual.weights import Weights, load_weights
from nst_manual.weights.fingerprint import OXFORD_MEAN_RGB

STYLE = 512  # pixels: the longer side of the style picture
LARGEST_TILE = 2048  # a part that is larger on a side is walked in tiles
VECTORS = {"lbfgs": 27, "adam": 7}  # as long as the picture, of 12 bytes a pixel
FEATURES, WINDOW = 32, 24  # bytes a pixel: conv4_2's targets; the window and its gradient
EVALUATION = 330  # bytes for each pixel of a tile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "scaling"))
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--workers", type=int, nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gigapixels", type=float, nargs="+", default=[1, 16, 256])
    parser.add_argument("--gbit", type=float, default=10.0)
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args()
    settings = Settings(optimizer="lbfgs", engine="cpu", weights=str(options.weights or "calibrated"))
    weights = weights_of(options.weights, settings)
    if options.what == "measure":
        for workers in options.workers or [2]:
            measure(settings, weights, options.size, workers, options.rounds)
    else:
        scaling(settings, weights, options)


def weights_of(path: Path | None, settings: Settings) -> Weights:
    if path is not None:
        return load_weights(path, convolutions(settings.steps()))
    return Weights(random_filters(settings.steps(), 0), OXFORD_MEAN_RGB, "oxford", "random")


def pictures(size: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    return (rng.uniform(0, 255, (side, side, 3)).astype(np.float32) for side in (size, min(size, STYLE)))


def measure(settings: Settings, weights: Weights, size: int, workers: int, rounds: int) -> None:
    content, style = pictures(size)
    run = Run(cluster=f"local:{workers}", threads=1)
    with opened(settings, run) as client:
        team = Team(client, settings, run, weights)
        spread = team.search(content, [Style(style)], lambda: content, None, lambda function: function)
        network = build_network(settings, weights, open_engine("cpu", "float32", workers))
        alone = new_search(settings, make_objective(settings, network, content, [Style(style)]), content)

        def of_workers() -> float:
            return float(sum(client.run(time.process_time).values()))

        found: dict[str, list[tuple[float, float]]] = {"alone": [], "team": []}
        for number in range(rounds + 1):  # the first is for all that is done once
            for name, search, clock in (("alone", alone, time.process_time), ("team", spread, of_workers)):
                found[name].append(of_an_evaluation(search, number + 1, clock))
        (seconds, cpu), (spread_seconds, spread_cpu) = (
            tuple(statistics.median(one[k] for one in found[name][1:]) for k in range(2)) for name in found
        )
        moved = ", ".join(f"{count / 1e6:.2f} MB of {kind}" for kind, count in spread.moved_bytes.items())
        print(f"{size}×{size}, {workers} workers of a thread against a process of {workers} threads, {rounds} rounds:")
        ratio = seconds / spread_seconds
        print(f"  seconds of an evaluation {seconds:.2f} alone, {spread_seconds:.2f} spread: ratio {ratio:.2f}")
        print(f"  of CPU {cpu:.2f} alone, {spread_cpu:.2f} spread: ratio {cpu / spread_cpu:.2f}")
        print(f"  an evaluation moves {moved}; the picture has {12 * size * size / 1e6:.2f} MB")
        print(
            f"  loss {alone.loss:.6g} alone, {spread.loss:.6g} spread, after {alone.iteration} iterations", flush=True
        )


def of_an_evaluation(search: Any, iterations: int, clock: Callable[[], float]) -> tuple[float, float]:
    before, began, cpu = search.evaluations, time.perf_counter(), clock()
    search.run(iterations=iterations)
    count = search.evaluations - before
    return (time.perf_counter() - began) / count, (clock() - cpu) / count


@dataclass(frozen=True)
class Machine:
    """What was measured: seconds, unless said otherwise."""

    products: float  # of numbers, in a second of a core
    vectors: float  # L-BFGS's, of a million pixels
    compared: float  # the largest layer's moments
    message: float  # between two workers, without its bytes
    call: float  # of one member by the client
    bandwidth: float  # bytes a second between two workers of this machine

    def __str__(self) -> str:
        return (
            f"a core: {self.products / 1e9:.1f} · 10⁹ products a second; L-BFGS: {self.vectors:.2f} s for a million "
            f"pixels; the comparison of 512 filters: {self.compared:.3f} s; a message: {self.message * 1e3:.1f} ms; a "
            f"call: {self.call * 1e3:.1f} ms; between two processes of this machine: {self.bandwidth / 1e9:.1f} GB/s"
        )


def scaling(settings: Settings, weights: Weights, options: argparse.Namespace) -> None:
    network = build_network(settings, weights, open_engine("cpu", "float32", 1))
    machine = measured(settings, weights, network)
    print(machine, flush=True)
    speed = options.gbit * 1e9 / 8
    columns = ("gigapixels", "workers", "part", "seconds", "of it halos", "moments", "messages and calls")
    print("\n| " + " | ".join((*columns, "efficiency", "moved by all, GB", "GB a worker, lbfgs", "adam")) + " |")
    print("|" + "---|" * (len(columns) + 4))
    for gigapixels in options.gigapixels:
        side = round(math.sqrt(gigapixels * 1e9) / 64) * 64
        for workers in options.workers or [8, 64, 512]:
            print(row(settings, network, machine, (side, side), workers, speed), flush=True)
    size = (1024, 1024)
    print("\nFor comparison with `measure`:\n" + row(settings, network, machine, size, 2, machine.bandwidth))


def row(
    settings: Settings, network: Network, machine: Machine, size: tuple[int, int], workers: int, speed: float
) -> str:
    """What the slowest worker does in an evaluation; a worker has one core."""
    grid = Grid.of(size, workers, settings.steps())
    taps, count = [*settings.taps()], len(grid.parts)
    part = max(grid.parts, key=lambda part: products_of(network, [whole_tile(network, grid, part, taps)]))
    tiles = tiles_of_part(network, grid, part, taps)
    walks = 2.0 if len(tiles) == 1 else 3.0
    pixels = part.rows.size * part.columns.size
    work = walks * products_of(network, tiles) / machine.products + machine.vectors * pixels / 1e6
    seen = window_of(network, grid, part, taps)
    strips = (seen.rows.size * seen.columns.size - pixels) * 12
    neighbours = sum(not other.common(seen).empty for other in grid.parts) - 1
    halos = 2 * (strips / speed + neighbours * machine.message)
    layers = [settings_channels(layer) for layer in settings.style_layer_weights()]
    numbers = [8 * (n + n * (n + 1) // 2) for n in layers]
    levels = math.ceil(math.log2(count + 1)) - 1
    # Up, a member waits for two below it; down, for one above, which serves two. Layers follow each other closely.
    moments = machine.compared + levels * (3 * sum(numbers) / speed + 2 * len(layers) * machine.message)
    calls = 2 * 2 * levels * machine.message + count * machine.call
    ideal = 2 * products_of(network, [whole_tile(network, Grid(size, (0, size[0]), (0, size[1])), None, taps)])
    ideal = ideal / machine.products + machine.vectors * math.prod(size) / 1e6 + machine.compared
    seconds = work + halos + moments + calls
    moved = count * 2 * strips + 2 * (count - 1) * sum(numbers)
    tile = max(tile.pixels for tile in tiles) * EVALUATION
    memory = [(pixels * (12 * VECTORS[name] + FEATURES + WINDOW) + tile) / 1e9 for name in VECTORS]
    return (
        f"| {math.prod(size) / 1e9:.3g} | {count} | {part.columns.size}×{part.rows.size} | {seconds:.3g} | {halos:.2g} "
        f"| {moments:.2g} | {calls:.2g} | {ideal / seconds / count:.0%} | {moved / 1e9:.2g} "
        f"| {memory[0]:.3g} | {memory[1]:.3g} |"
    )


def settings_channels(layer: str) -> int:
    return {"1": 64, "2": 128, "3": 256}.get(layer[len("conv")], 512)


def products_of(network: Network, tiles: list[Tile]) -> float:
    """Multiplications of one walk, as if each convolution were computed plainly."""
    total = 0.0
    for tile in tiles:
        for (_, steps), cut in zip(grouped(network), tile.cuts, strict=False):
            for step in steps:
                if isinstance(step, Conv):
                    total += 9.0 * step.c_in * step.c_out * cut.rows.taken.size * cut.columns.taken.size
    return total


def whole_tile(network: Network, grid: Grid, part: Rectangle | None, taps: list[str]) -> Tile:
    rows, columns = (part.rows, part.columns) if part else (grid.rows, grid.columns)
    [tile] = tiles_between(network, taps, grid.size, list(rows), list(columns))
    return tile


def tiles_of_part(network: Network, grid: Grid, part: Rectangle, taps: list[str]) -> list[Tile]:
    unit = smallest_side(network.steps)
    rows, columns = (tiles_at(stretch, LARGEST_TILE, unit) for stretch in (part.rows, part.columns))
    return tiles_between(network, taps, grid.size, rows, columns)


def window_of(network: Network, grid: Grid, part: Rectangle, taps: list[str]) -> Rectangle:
    tile = whole_tile(network, grid, part, taps)
    behind = (
        stretch._replace(stop=min(stretch.stop + MARGIN, length))
        for stretch, length in zip((part.rows, part.columns), grid.size, strict=True)
    )
    return Rectangle(*behind).around(Rectangle(tile.rows, tile.columns))


def measured(settings: Settings, weights: Weights, network: Network) -> Machine:
    content, style = pictures(512)
    gram = replace(settings, style_loss="gram")  # next to nothing is compared
    plain = make_objective(gram, network, content, [Style(style)])
    cpu = least(lambda: plain.on_device(content))
    tile = whole_tile(network, Grid((512, 512), (0, 512), (0, 512)), None, [*settings.taps()])
    rows, image = np.ones((20, 3 << 18), np.float32), np.ones(3 << 18, np.float32)
    vectors = Vectors(image, 10)
    weights_of_rows = np.ones(21)

    def moved() -> None:
        vectors.products(rows, (image, image), (image, image), None)
        vectors.combine(weights_of_rows, rows, image, None, None, image.copy())

    layer = "conv5_1"
    [found] = [targets_of(network, Style(style), [layer])[layer]]
    [target] = [targets_of(network, Style(style[::-1] / 2), [layer])[layer]]
    transport_loss(found, target)  # with the target's own root, which is computed once
    compared = least(lambda: transport_loss(found, target))
    message, bandwidth, call = between_workers(settings)
    return Machine(2 * products_of(network, [tile]) / cpu, 4 * least(moved), compared, message, call, bandwidth)


def least(function: Callable[[], Any], times: int = 5) -> float:
    """Seconds of the processor: the least of several, after one for all that is done once."""
    found = []
    for _ in range(times + 1):
        began = time.process_time()
        function()
        found.append(time.process_time() - began)
    return min(found[1:])


class Timed:
    """Two of these do nothing but add numbers up."""

    def __init__(self) -> None:
        self.board = Board()

    def join(self, index: int, peers: list[Peer]) -> None:
        self.peers = Peers(get_worker(), self.board, index, peers)

    async def read(self, name: Any) -> list[Array]:
        return list(await self.board.read(name, list))

    def sums(self, count: int, times: int) -> float:
        began = time.perf_counter()
        for _ in range(times):
            self.peers.summed("numbers", np.zeros(count))
        return (time.perf_counter() - began) / max(times, 1)


def between_workers(settings: Settings) -> tuple[float, float, float]:
    """Seconds of a message, bytes a second, and seconds of a call of the client. A sum is a message each way."""
    many = 2 << 20
    with opened(settings, Run(cluster="local:2", threads=1)) as client, client.as_current():
        places = sorted(workers_of(client))
        futures = [client.submit(Timed, actor=True, workers=[place], pure=False) for place in places]
        actors = [future.result() for future in futures]
        peers = [Peer(place, actor.key) for place, actor in zip(places, actors, strict=True)]

        def called(method: str, *given: Any) -> list[Any]:
            return [one.result() for one in [getattr(actor, method)(*given) for actor in actors]]

        for index, actor in enumerate(actors):
            actor.join(index, peers).result()
        called("sums", 1, 10)
        small = min(min(called("sums", 1, 100)) for _ in range(3))
        large = min(min(called("sums", many, 3)) for _ in range(3))
        call = []
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(20):
                called("sums", 1, 0)
            call.append((time.perf_counter() - began) / 20 / 2)
    return small / 2, 2 * 8 * many / max(large - small, 1e-9), min(call)


if __name__ == "__main__":
    main()
