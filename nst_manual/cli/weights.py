"""`weights list`, `get`, `convert`, `inspect` and `normalise`."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..engines import open_engine
from ..options import at_least
from ..pictures.files import check_not_inputs
from ..pictures.reading import load_image
from ..weights import INSTALLED_NAME, commands
from ..weights.registry import published
from .options import Add, add_command, add_commands, add_options, given
from .report import DONE, FAILED, say, say_json, tell


def add_parser(subparsers: Any) -> None:
    actions = add_commands(
        subparsers, "weights", "List, get, convert, inspect and normalise weights files of VGG-19", "ACTION"
    )
    add_command(actions, "list", "[options]", run_list)

    add = add_command(actions, "get", "[NAME] [options]", run_get)
    names = ", ".join(known.name for known in published() if known.downloadable)
    add("files", "name", nargs="?", default="vgg19", help=f"{names} (default: vgg19, 80 MB)")
    add("run", "--force", action="store_true", help="download again what is already installed")
    add("run", "--offline", action="store_true", help="don't use the network: say what to fetch instead")
    text = "where to install (default: $NST_MANUAL_CACHE or the user's cache)"
    add("output", "--to", type=Path, metavar="FOLDER", help=text)
    add("output", "--keep", action="store_true", help="keep the downloaded original beside the result")
    _add_half(add)

    add = add_command(actions, "convert", "IN OUT [options]", run_convert)
    _add_files(add)
    add_options(add, "convert")

    add = add_command(actions, "inspect", "FILE [options]", run_inspect)
    add("files", "file", type=Path, help="a weights file of any known format")
    add_options(add, "inspect")

    add = add_command(actions, "normalise", "IN OUT --images PICTURE [PICTURE …] [options]", run_normalise)
    _add_files(add)
    text = "the pictures to average over"
    add("pictures", "--images", type=Path, nargs="+", required=True, metavar="PICTURE", help=text)
    add("pictures", "--size", type=int, default=512, metavar="N", help="longer side of the pictures (default: 512)")
    add_options(add, "normalise")


def _add_files(add: Add) -> None:
    add("files", "source", type=Path, metavar="IN", help="a weights file of any known format")
    add("files", "target", type=Path, metavar="OUT", help=f"the file to write, such as {INSTALLED_NAME}")
    _add_half(add)


def _add_half(add: Add) -> None:
    add("output", "--half", action="store_true", help="store float16, which halves the size")


def run_list(arguments: argparse.Namespace) -> int:
    """List the published files, their licences, and what is installed.

    weights list
    weights list --json
    """
    entries = commands.listed()
    if arguments.json:
        for entry in entries:
            say_json(entry)
        return DONE
    for entry in entries:
        size = f"{entry['bytes'] / 1e6:.0f} MB" if entry["bytes"] else "size unknown"
        state = f"installed: {entry['installed']}" if entry["installed"] else "not installed"
        how = "" if entry["get"] else " (not by `get`: nothing published to verify it by; `convert` takes it)"
        place = f" from {entry['urls'][0]}" if entry["urls"] else ""
        say(
            f"{entry['name']}: {entry['what']}; {size}; {state}{how}",
            f"    family {entry['family']}; {entry['file']}{place}",
            f"    {entry['licence']}",
        )
    return DONE


def run_get(arguments: argparse.Namespace) -> int:
    """Download weights, verify them, and convert them to our format.

    weights get
    weights get vgg19 --to weights --half
    """
    options = {name: getattr(arguments, name) for name in ("half", "keep", "offline", "force")}
    # Drawn on a terminal only, and once there is something to show.
    with tqdm(unit="B", unit_scale=True, delay=1e-9, disable=arguments.quiet or None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        result = commands.get(arguments.name, arguments.to, progress=progress, **options)
    done = "installed" if result["fetched"] else "already there"
    tell(arguments, result, f"{result['file']}: {done}; {result['what']}; {result['licence']}")
    return DONE


def run_convert(arguments: argparse.Namespace) -> int:
    """Convert a file of any known format to ours.

    weights convert vgg19.pth vgg19.h5
    weights convert vgg19.mat vgg19.h5 --half
    """
    options = given(arguments, "convert")
    result = commands.convert(arguments.source, arguments.target, half=arguments.half, **options)
    tell(arguments, result, _written(result))
    return DONE


def run_normalise(arguments: argparse.Namespace) -> int:
    """Scale each filter to a mean activation of 1, as the paper assumes.

    weights normalise vgg19.h5 normalised.h5 --images a.jpg b.jpg
    weights normalise vgg19.h5 normalised.h5 --images a.jpg b.jpg --pooling max --size 256
    """
    options = given(arguments, "normalise")
    at_least(1)(arguments.size, "size")
    check_not_inputs([arguments.target], arguments.images)
    images = (load_image(path, arguments.size) for path in arguments.images)
    chosen = {name: options.pop(name, None) for name in ("threads", "device")}
    engine = open_engine(options.pop("engine", "auto"), **chosen)
    result = commands.normalise(arguments.source, arguments.target, images, engine, half=arguments.half, **options)
    tell(arguments, result, _written(result))
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
    report = commands.inspect(arguments.file, **given(arguments, "inspect"))
    first, *more = _lines(report)
    tell(arguments, report, first, *(f"    {line}" for line in more))
    return FAILED if report.get("problem") else DONE


def _lines(report: dict[str, Any]) -> Iterator[str]:
    yield f"{report['file']}: {report['container']}, {report['bytes']} bytes"
    yield f"sha256 {report['sha256']}" if report["sha256"] else "too large to be a published file, so not hashed"
    if report["published"]:
        yield f"byte for byte the published file {report['published']!r} of `weights list`"
    if report["family"]:
        transposed = "; width before height" if report["transposed"] else ""
        rescaled = "; filters rescaled" if report["rescaled"] else ""
        yield f"family {report['family']}: {report['channel_order']}; {report['scale']}{transposed}{rescaled}"
        yield f"mean (R, G, B; of 255): {', '.join(f'{value:g}' for value in report['mean_rgb_255'])}"
    for entry in report["layers"]:
        ranges = "" if "kernel" not in entry else f"kernel {_range(entry['kernel'])}, bias {_range(entry['bias'])}"
        original = ", Oxford's bit for bit" if entry.get("original") else ""
        shape = "×".join(map(str, entry["shape"]))
        yield f"{entry['layer']}  {shape} {entry['dtype']}  {ranges}{original}  ({entry['name'][:80]})"
    yield f"used: {report['used'] or 'nothing'}; {report['unused_arrays']} other arrays, never read"
    if report["missing"]:
        yield f"missing: {', '.join(report['missing'])}"
    if report.get("problem"):
        yield f"problem: {report['problem']}"


def _range(numbers: list[float]) -> str:
    low, high, mean = numbers
    return f"{low:.3g} … {high:.3g} (mean size {mean:.3g})"
