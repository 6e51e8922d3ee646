"""Which program, and which settings, make the better picture? Runs them over pairs, measures and shows the results.

    python tools/looks.py FOLDER OUT --weights vgg19.h5 --ours "default:" --ours "gram: --style-loss gram" \
        --peer neural-style-pt --peer style-transfer-pytorch

FOLDER has content pictures, whose names begin with "content", and style pictures, with "style". Every content is
transferred to every style by each program: ours as `python -m nst_manual transfer` with the given options, and, with
PyTorch, two others with their defaults (tools/peers.py). All use a GPU if there is one. Results stay in OUT, each
beside a .json with its seconds, and are not made again. Then a table is printed (`evaluate`'s four numbers, the
seconds by the clock, and those of all processor cores together, which other programs disturb less) and written to
OUT/looks.json, with a labelled sheet of all pictures in OUT/looks.png.

To try it: --size 128 --fraction 0.05 takes small pictures and a twentieth of everybody's iterations.
"""

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from nst_manual.cli.main import build_parser
from nst_manual.cli.options import given
from nst_manual.pictures.reading import load_image
from nst_manual.pictures.sheets import Tile, sheet
from nst_manual.pictures.writing import to_picture
from nst_manual.settings import split_options
from nst_manual.study.looks import Looks, Measure, judge
from nst_manual.vgg import convolutions, steps_to
from nst_manual.weights import load_weights

NUMBERS = ("style", "content", "grain", "border")
SECONDS = ("seconds", "of CPU")
LINE = "{:<34}" + "{:>9.3f}" * len(NUMBERS) + "{:>9.1f}" * len(SECONDS)


class Pair(NamedTuple):
    """A content and a style picture, both as every program gets them: the content no larger than --size."""

    name: str
    content: Path
    style: Path


class Program(NamedTuple):
    """make(pair, output) writes a picture; `about` is what it depends on."""

    name: str
    about: dict[str, Any]
    make: Callable[[Pair, Path], None]


def ours(text: str, options: argparse.Namespace) -> Program:
    """From "name: --option value …"."""
    name, _, words = text.partition(":")
    extra = [*shlex.split(words), "--weights", str(options.weights)]
    asked = build_parser().parse_args(["transfer", "content", "style", "-o", "out.png", *extra])
    if options.fraction != 1:
        settings, _ = split_options(given(asked, "transfer"))
        extra += ["--iterations", str(max(1, round(settings.iterations * options.fraction)))]

    def make(pair: Pair, output: Path) -> None:
        words = ["transfer", str(pair.content), str(pair.style), "-o", str(output), "--size", str(options.size)]
        subprocess.run([sys.executable, "-m", "nst_manual", *words, *extra, "--overwrite", "--quiet"], check=True)

    return Program(name.strip(), {"options": extra}, make)


def peer(name: str, options: argparse.Namespace) -> Program:
    """Another program's defaults."""
    import torch
    from peers import PEERS

    torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")
    weights = load_weights(options.weights, convolutions(steps_to("conv5_1")))

    def make(pair: Pair, output: Path) -> None:
        with Image.open(pair.content) as content, Image.open(pair.style) as style:
            side = max(content.size)  # a smaller photograph is not enlarged by anybody
            report = reported(f"{name}, {pair.name}")
            PEERS[name](content, style, weights, side, options.fraction, report).save(output)

    return Program(name, {"fraction": options.fraction}, make)


def reported(what: str) -> Callable[[str, int, float], None]:
    """Says now and then how far a search is."""

    def report(stage: str, iteration: int, loss: float) -> None:
        if iteration == 1 or math.log2(iteration).is_integer() or iteration % 250 == 0:
            print(f"  {what} {stage} {iteration}: loss {loss:.6g}", file=sys.stderr, flush=True)

    return report


def find_pairs(folder: Path, out: Path, size: int, only: Sequence[str]) -> list[Pair]:
    """Every content with every style."""
    contents, styles = (sorted(folder.glob(f"{kind}*.*")) for kind in ("content", "style"))
    if not contents or not styles:
        raise SystemExit(f"{folder} has no pictures whose names begin with content and style")
    (out / "inputs").mkdir(parents=True, exist_ok=True)
    pairs = []
    for content in contents:
        small = out / "inputs" / f"{content.stem}_{size}.png"
        if not small.exists():
            to_picture(load_image(content, size)).save(small)
        for style in styles:
            named = (content.stem.removeprefix("content"), style.stem.removeprefix("style"))
            name = " × ".join(stem.strip("_-") for stem in named)
            if not only or any(text in name for text in only):
                pairs.append(Pair(name, small, style))
    return pairs


def made(program: Program, pair: Pair, options: argparse.Namespace) -> tuple[Path, list[float]]:
    """The result and its SECONDS, made now or before."""
    output = options.out / program.name.replace(" ", "_") / f"{pair.name.replace(' × ', '_')}_{options.size}.png"
    record = output.with_suffix(".json")
    about = program.about | {"size": options.size}
    if output.exists() and record.exists():
        before = json.loads(record.read_text(encoding="utf-8"))
        if before["about"] != about:
            raise SystemExit(f"{output} was made with {before['about']}, not {about}: take another name, or remove it")
        return output, [before[name] for name in SECONDS]
    output.parent.mkdir(parents=True, exist_ok=True)
    began = clocks()
    program.make(pair, output)
    seconds = [now - then for now, then in zip(clocks(), began, strict=True)]
    measured = dict(zip(SECONDS, seconds, strict=True))
    record.write_text(json.dumps(measured | {"about": about, "cores": os.cpu_count()}), encoding="utf-8")
    return output, seconds


def clocks() -> tuple[float, float]:
    """Of the wall, and of the processor, for this process and those that it has waited for (on Windows, only this)."""
    own = os.times()
    return time.perf_counter(), own.user + own.system + own.children_user + own.children_system


def row(name: str, looks: Looks, seconds: list[float]) -> list[Any]:
    return [name, *(getattr(looks, number) for number in NUMBERS), *seconds]


def main() -> None:
    options = parse()
    programs = [ours(text, options) for text in options.ours] + [peer(name, options) for name in options.peer]
    pairs = find_pairs(options.folder, options.out, options.size, options.only)
    network = judge(weights=str(options.weights))
    table, tiles = [], []
    for pair in pairs:
        content = load_image(pair.content)
        style = load_image(pair.style, max(content.shape))
        tiles.append([Tile(to_picture(content), "content"), Tile(to_picture(style), "style")])
        measure = Measure(network, content, style)
        for program in programs:
            output, seconds = made(program, pair, options)
            result = load_image(output)
            looks = measure(result)
            table.append([program.name, *row(pair.name, looks, seconds)])
            shown = [f"{number} {getattr(looks, number):.2f}" for number in NUMBERS]
            caption = f"{program.name}, {seconds[0]:.0f} s\n{', '.join(shown[:2])}\n{', '.join(shown[2:])}"
            tiles[-1].append(Tile(Image.open(output), caption))
            print(f"{program.name}, {LINE.format(*table[-1][1:])}", file=sys.stderr, flush=True)
    print(f"{'':<34}" + "".join(f"{name:>9}" for name in (*NUMBERS, *SECONDS)))
    for program in programs:
        own = [line[1:] for line in table if line[0] == program.name]
        print(program.name)
        for line in own:
            print(LINE.format(f"  {line[0]}", *line[1:]))
        print(LINE.format("  mean", *np.mean([line[1:] for line in own], axis=0)))
    records = [dict(zip(("program", "pair", *NUMBERS, *SECONDS), line, strict=True)) for line in table]
    (options.out / "looks.json").write_text(json.dumps(records, indent=1), encoding="utf-8")
    sheet("", tiles).save(options.out / "looks.png")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", type=Path, required=True, help="VGG-19's own weights, for everybody")
    parser.add_argument("--ours", action="append", default=[], metavar='"NAME: OPTIONS"', help="may be repeated")
    parser.add_argument("--peer", action="append", default=[], choices=("neural-style-pt", "style-transfer-pytorch"))
    parser.add_argument("--size", type=int, default=512, help="longer side of the results (default %(default)s)")
    parser.add_argument("--fraction", type=float, default=1.0, help="of everybody's iterations (default %(default)s)")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="only pairs with this in them")
    options = parser.parse_args()
    if not options.ours and not options.peer:
        parser.error("name a program: --ours or --peer")
    return options


if __name__ == "__main__":
    main()
