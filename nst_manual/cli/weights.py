"""The commands `weights list|get|convert|inspect|normalise`: arguments in, text or JSON out. Only this file prints."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..arrays import Array
from ..engines import ENGINES, open_engine
from ..pictures.reading import load_image
from ..vgg import POOLINGS
from ..weights import INSTALLED_NAME, commands
from ..weights.bounded_file import plain
from ..weights.fingerprint import FAMILIES
from ..weights.registry import published


def add_parser(subparsers: Any) -> None:
    """Adds `weights` with its subcommands; each sets `run`, which takes the arguments and returns the exit code."""
    weights = subparsers.add_parser("weights", help="VGG-19's filters: what is known, get, convert, inspect, normalise")
    actions = weights.add_subparsers(required=True, metavar="ACTION")

    command = actions.add_parser("list", help="the published files, their licences, and what is installed")
    _add_common(command, run_list)

    command = actions.add_parser("get", help="download with checksum, and convert to our format")
    names = ", ".join(known.name for known in published() if known.downloadable)
    command.add_argument("name", nargs="?", default="vgg19", metavar="NAME", help=f"{names} (default: vgg19, 80 MB)")
    command.add_argument("--to", type=Path, metavar="FOLDER", help="instead of the user's cache or $NST_MANUAL_CACHE")
    command.add_argument("--half", action="store_true", help="store float16: half the size")
    command.add_argument("--keep", action="store_true", help="keep the downloaded original beside it")
    command.add_argument("--force", action="store_true", help="download again what is installed")
    command.add_argument("--offline", action="store_true", help="never use the network: say what to fetch instead")
    _add_common(command, run_get)

    command = actions.add_parser("convert", help="any known format to ours")
    _add_files(command)
    command.add_argument("--half", action="store_true", help="store float16: half the size")
    _add_common(command, run_convert)

    command = actions.add_parser("inspect", help="what a file is, and what would be used of it")
    command.add_argument("file", type=Path, metavar="FILE")
    _add_family(command)
    _add_common(command, run_inspect)

    command = actions.add_parser("normalise", help="scale each filter to the mean activation 1, as the paper assumes")
    _add_files(command)
    command.add_argument("--images", type=Path, nargs="+", required=True, metavar="PICTURE", help="to average over")
    command.add_argument(
        "--size", type=int, default=512, metavar="N", help="longer side of the pictures (default: 512)"
    )
    command.add_argument("--pooling", choices=POOLINGS, default="avg", help="that the network will be used with")
    command.add_argument("--engine", choices=("auto", *ENGINES), default="auto", help="what computes")
    command.add_argument("--threads", type=int, metavar="N", help="of the CPU's engine (default: one for each core)")
    command.add_argument("--half", action="store_true", help="store float16: half the size")
    _add_common(command, run_normalise)


def _add_files(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", type=Path, metavar="IN", help="a weights file of any known format")
    command.add_argument("target", type=Path, metavar="OUT", help=f"the file to write, such as {INSTALLED_NAME}")
    command.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    _add_family(command)


def _add_family(command: argparse.ArgumentParser) -> None:
    command.add_argument("--family", choices=FAMILIES, help="of a network that is not known by its numbers")


def _add_common(command: argparse.ArgumentParser, run: Any) -> None:
    command.add_argument("--json", action="store_true", help="JSON on standard output")
    command.add_argument("--quiet", action="store_true", help="say nothing but errors")
    command.set_defaults(run=run)


def run_list(arguments: argparse.Namespace) -> int:
    entries = commands.listed()
    if arguments.json:
        for entry in entries:
            print(json.dumps(entry, ensure_ascii=False))
        return 0
    for entry in entries:
        size = f"{entry['bytes'] / 1e6:.0f} MB" if entry["bytes"] else "size unknown"
        state = f"installed: {entry['installed']}" if entry["installed"] else "not installed"
        how = "" if entry["get"] else " (not by `get`: nothing published to verify it by; `convert` takes it)"
        print(f"{entry['name']}: {entry['what']}; {size}; {state}{how}")
        print(f"    family {entry['family']}; {entry['file']}{' from ' + entry['urls'][0] if entry['urls'] else ''}")
        print(f"    {entry['licence']}")
    return 0


def run_get(arguments: argparse.Namespace) -> int:
    with _Bar(quiet=arguments.quiet) as progress:
        result = commands.get(
            arguments.name,
            arguments.to,
            half=arguments.half,
            keep=arguments.keep,
            offline=arguments.offline,
            force=arguments.force,
            progress=progress,
        )
    done = "installed" if result["fetched"] else "already there"
    _say(arguments, result, f"{result['file']}: {done}; {result['what']}; {result['licence']}")
    return 0


def run_convert(arguments: argparse.Namespace) -> int:
    result = commands.convert(arguments.source, arguments.target, arguments.family, arguments.half, arguments.overwrite)
    _say(arguments, result, _written(result))
    return 0


def run_normalise(arguments: argparse.Namespace) -> int:
    def images() -> Iterator[Array]:
        for path in arguments.images:
            yield load_image(path, arguments.size)

    result = commands.normalise(
        arguments.source,
        arguments.target,
        images(),
        open_engine(arguments.engine, threads=arguments.threads),
        pooling=arguments.pooling,
        family=arguments.family,
        half=arguments.half,
        overwrite=arguments.overwrite,
    )
    _say(arguments, result, _written(result))
    return 0


def _written(result: dict[str, Any]) -> str:
    return (
        f"{result['file']}: {result['layers']}, {result['numbers']} numbers, {result['bytes'] / 1e6:.1f} MB; "
        f"family {result['family']}, from {result['source']}; {result['licence']}"
    )


def run_inspect(arguments: argparse.Namespace) -> int:
    """Exit code 1 where the file could not be used as it is."""
    report = commands.inspect(arguments.file, arguments.family)
    code = 1 if report.get("problem") else 0
    if arguments.json:
        print(json.dumps(report))  # in ASCII: names in a file may hold anything
    elif not arguments.quiet:
        _print_report(report)
    return code


def _print_report(report: dict[str, Any]) -> None:
    print(f"{report['file']}: {report['container']}, {report['bytes']} bytes")
    print(f"    sha256 {report['sha256']}")
    if report["published"]:
        print(f"    byte for byte the published file {report['published']!r} of `weights list`")
    if report["family"]:
        extras = [
            text
            for key, text in (("transposed", "width before height"), ("rescaled", "filters rescaled"))
            if report[key]
        ]
        mean = ", ".join(f"{value:g}" for value in report["mean_rgb_255"])
        print(f"    family {report['family']}: {'; '.join([report['channel_order'], report['scale'], *extras])}")
        print(f"    mean (R, G, B; of 255): {mean}")
    for entry in report["layers"]:
        ranges = "" if "kernel" not in entry else f"kernel {_range(entry['kernel'])}, bias {_range(entry['bias'])}"
        original = ", Oxford's bit for bit" if entry.get("original") else ""
        shape = "×".join(map(str, entry["shape"]))
        print(f"    {entry['layer']}  {shape} {entry['dtype']}  {ranges}{original}  ({plain(entry['name'][:80])})")
    print(f"    used: {report['used'] or 'nothing'}; {report['unused_arrays']} other arrays, never read")
    if report["missing"]:
        print(f"    missing: {', '.join(report['missing'])}")
    if report.get("problem"):
        print(f"    problem: {report['problem']}")


def _range(numbers: list[float]) -> str:
    low, high, mean = numbers
    return f"{low:.3g} … {high:.3g} (mean size {mean:.3g})"


def _say(arguments: argparse.Namespace, result: dict[str, Any], sentence: str) -> None:
    if arguments.json:
        print(json.dumps(result, ensure_ascii=False))
    elif not arguments.quiet:
        print(sentence)


class _Bar:
    """A progress bar on standard error, if that is a terminal."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.bar: Any = None

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, done: int, total: int) -> None:
        if self.bar is None:
            from tqdm import tqdm

            off = True if self.quiet else None  # None: shown on a terminal only
            self.bar = tqdm(total=total, unit="B", unit_scale=True, file=sys.stderr, disable=off)
        self.bar.update(done - self.bar.n)
