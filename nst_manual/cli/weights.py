"""`weights list`, `get`, `convert`, `inspect` and `normalise`."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..arrays import Array
from ..engines import ENGINES, open_engine
from ..pictures.reading import load_image
from ..vgg import POOLINGS
from ..weights import INSTALLED_NAME, commands
from ..weights.bounded_file import plain
from ..weights.fingerprint import FAMILIES
from ..weights.registry import published
from .options import Groups, add_command, add_commands
from .report import DONE, FAILED


def add_parser(subparsers: Any) -> None:
    actions = add_commands(
        subparsers, "weights", "List, get, convert, inspect and normalise weights files of VGG-19", "ACTION"
    )
    add_command(actions, "list", "[options]", run_list)

    groups = add_command(actions, "get", "[NAME] [options]", run_get)
    names = ", ".join(known.name for known in published() if known.downloadable)
    groups["files"].add_argument(
        "name", nargs="?", default="vgg19", metavar="NAME", help=f"{names} (default: vgg19, 80 MB)"
    )
    groups["run"].add_argument("--force", action="store_true", help="download again what is already installed")
    groups["run"].add_argument(
        "--offline", action="store_true", help="don't use the network: say what to fetch instead"
    )
    groups["output"].add_argument(
        "--to", type=Path, metavar="FOLDER", help="where to install (default: $NST_MANUAL_CACHE or the user's cache)"
    )
    groups["output"].add_argument("--keep", action="store_true", help="keep the downloaded original beside the result")
    _add_half(groups)

    groups = add_command(actions, "convert", "IN OUT [options]", run_convert)
    _add_files(groups)

    groups = add_command(actions, "inspect", "FILE [options]", run_inspect)
    groups["files"].add_argument("file", type=Path, metavar="FILE", help="a weights file of any known format")
    _add_family_option(groups)

    groups = add_command(actions, "normalise", "IN OUT --images PICTURE [PICTURE …] [options]", run_normalise)
    _add_files(groups)
    groups["pictures"].add_argument(
        "--images", type=Path, nargs="+", required=True, metavar="PICTURE", help="the pictures to average over"
    )
    groups["pictures"].add_argument(
        "--size", type=int, default=512, metavar="N", help="longer side of the pictures (default: 512)"
    )
    groups["network"].add_argument(
        "--pooling", choices=POOLINGS, default="avg", help="pooling that the network will be used with (default: avg)"
    )
    groups["network"].add_argument(
        "--engine", choices=("auto", *ENGINES), default="auto", help="what computes (default: auto)"
    )
    groups["network"].add_argument(
        "--threads", type=int, metavar="N", help="CPU threads (default: all available cores)"
    )


def _add_files(groups: Groups) -> None:
    groups["files"].add_argument("source", type=Path, metavar="IN", help="a weights file of any known format")
    groups["files"].add_argument(
        "target", type=Path, metavar="OUT", help=f"the file to write, such as {INSTALLED_NAME}"
    )
    groups["output"].add_argument("--overwrite", action="store_true", help="replace OUT if it already exists")
    _add_family_option(groups)
    _add_half(groups)


def _add_family_option(groups: Groups) -> None:
    groups["network"].add_argument(
        "--family", choices=FAMILIES, help="input convention of a network that is not recognised by its numbers"
    )


def _add_half(groups: Groups) -> None:
    groups["output"].add_argument("--half", action="store_true", help="store float16, which halves the size")


def run_list(arguments: argparse.Namespace) -> int:
    """List the published files, their licences, and what is installed.

    weights list
    weights list --json
    """
    entries = commands.listed()
    if arguments.json:
        for entry in entries:
            print(json.dumps(entry, ensure_ascii=False))
        return DONE
    for entry in entries:
        size = f"{entry['bytes'] / 1e6:.0f} MB" if entry["bytes"] else "size unknown"
        state = f"installed: {entry['installed']}" if entry["installed"] else "not installed"
        how = "" if entry["get"] else " (not by `get`: nothing published to verify it by; `convert` takes it)"
        print(f"{entry['name']}: {entry['what']}; {size}; {state}{how}")
        print(f"    family {entry['family']}; {entry['file']}{' from ' + entry['urls'][0] if entry['urls'] else ''}")
        print(f"    {entry['licence']}")
    return DONE


def run_get(arguments: argparse.Namespace) -> int:
    """Download weights, verify them, and convert them to our format.

    weights get
    weights get vgg19 --to weights --half
    """
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
    return DONE


def run_convert(arguments: argparse.Namespace) -> int:
    """Convert a file of any known format to ours.

    weights convert vgg19.pth vgg19.h5
    weights convert vgg19.mat vgg19.h5 --half
    """
    result = commands.convert(arguments.source, arguments.target, arguments.family, arguments.half, arguments.overwrite)
    _say(arguments, result, _written(result))
    return DONE


def run_normalise(arguments: argparse.Namespace) -> int:
    """Scale each filter to a mean activation of 1, as the paper assumes.

    weights normalise vgg19.h5 normalised.h5 --images a.jpg b.jpg
    weights normalise vgg19.h5 normalised.h5 --images a.jpg b.jpg --pooling max --size 256
    """

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
    return DONE


def _written(result: dict[str, Any]) -> str:
    return (
        f"{result['file']}: {result['layers']}, {result['numbers']} numbers, {result['bytes'] / 1e6:.1f} MB; "
        f"family {result['family']}, from {result['source']}; {result['licence']}"
    )


def run_inspect(arguments: argparse.Namespace) -> int:
    """Say what a weights file is, and what would be used of it.

    weights inspect vgg19.pth
    weights inspect vgg19.pth --json
    """
    report = commands.inspect(arguments.file, arguments.family)
    code = FAILED if report.get("problem") else DONE
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
    """A progress bar on standard error, if that is a terminal. It is drawn once there is something to show."""

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
            off = True if self.quiet else None  # None: shown on a terminal only
            self.bar = tqdm(total=total, unit="B", unit_scale=True, file=sys.stderr, disable=off)
        self.bar.update(done - self.bar.n)
