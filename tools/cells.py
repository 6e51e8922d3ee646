"""A figure's cells made side by side next to one after the other: seconds and memory, each in a process of its own.

    python tools/cells.py NAME PICTURE [PICTURE] [--sizes 128 256 512] [--iterations 20] [--turns 2] [OPTION=VALUE …]

NAME is a figure's, or reconstruct or texture for --compare-seeds; OPTION=VALUE are options of the figure. They take
turns, and the shorter time of each counts. Seconds are those of the whole figure, drawn and measured; MB are 10⁶ bytes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

COLUMNS = ("figure", "size", "one after the other", "side by side", "ratio", "memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("given", nargs="+", metavar="PICTURE|OPTION=VALUE")
    parser.add_argument("--sizes", nargs="+", type=int, default=[128, 256, 512])
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_intermixed_args()
    pictures = [word for word in arguments.given if "=" not in word]
    options: dict[str, Any] = dict(word.split("=", 1) for word in arguments.given if "=" in word)
    if arguments.child:
        options |= {"size": arguments.sizes[0], "iterations": arguments.iterations}
        print(json.dumps(child(arguments.name, pictures, options, arguments.child == "together")))
        return
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for size in arguments.sizes:
        command = [sys.executable, __file__, arguments.name, *arguments.given, "--sizes", str(size)]
        command += ["--iterations", str(arguments.iterations), "--child"]
        best = {}
        for way in ("alone", "together") * arguments.turns:
            found = json.loads(subprocess.run([*command, way], check=True, capture_output=True, text=True).stdout)
            best[way] = min(found, best.get(way, found))
        (alone, before), (together, after) = best["alone"], best["together"]
        row = f"| {arguments.name} | {size} | {alone:.1f} s | {together:.1f} s | {together / alone:.2f}"
        print(f"{row} | {before / 1e6:.0f} MB, {after / 1e6:.0f} MB |", flush=True)


def child(name: str, pictures: list[str], options: dict[str, Any], together: bool) -> tuple[float, int]:
    """Seconds and peak memory of the figure, in this process."""
    from nst_manual.runs.machine import resident
    from nst_manual.study.figures import figures

    if not together:
        figures.SMALL = 0
    chosen = {**figures.FIGURES, **figures.SEEDS}[name]
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        figures.make_figure(chosen, pictures, Path(folder) / "out.png", **options)
        seconds = time.perf_counter() - began
    known = resident()
    assert known is not None
    return seconds, known.peak


if __name__ == "__main__":
    main()
