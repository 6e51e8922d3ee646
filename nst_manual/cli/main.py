"""The commands and their arguments, one-line errors and exit codes: 0 done, 1 failed, 2 the user's mistake, 130
interrupted with the picture so far saved. Only here, in progress.py and in the weights' own commands, anything is
printed."""

import argparse
import contextlib
import dataclasses
import json
import logging
import math
import os
import signal
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from .. import __version__
from ..batch import NAME, Pair, transfer_many
from ..engines import ENGINES, PRECISIONS
from ..errors import NSTError
from ..optimise import Record
from ..pictures.demo import painting, scene
from ..pictures.files import check_folder, check_new, make_folder
from ..pictures.writing import save_image
from ..proof.checks import ENGINE_LIMITS, LIMITS, Check, checks
from ..proof.full_width import SIDE, DeepProof, plot_errors
from ..runs.explain import explained, sentences
from ..runs.plots import FORMATS, check_plot, plot_trace
from ..runs.recipe import load_recipe, shown
from ..runs.results import Interrupted, Result
from ..runs.style_files import StyleTargets
from ..runs.traces import load_trace
from ..settings import COMMANDS, Run, Settings, default_text
from ..story import reconstruct, texture, transfer
from ..study.figures.figures import FIGURES, SEEDS, Cell, Figure, folder_of, make_figure
from ..study.gradients import Gradients, gradients
from ..styles import compute_targets
from ..vgg import POOLINGS
from .progress import Progress
from .weights import add_parser as add_weights

log = logging.getLogger(__name__)

DONE, FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130
BAD_ENDINGS = ("not finite", "out of memory")  # the picture before it is saved all the same
NAMED = 5  # failures in a summary
OF_STYLE = (  # settings that a style's targets depend on
    *("size", "style_size", "style_scale", "enlarge", "scales", "weights", "family", "engine", "precision"),
    *("pooling", "preset", "style_layers"),
)
SEARCH_OPTIONS = (  # those of a whole run
    "iterations",
    "optimizer",
    "history",
    "learning_rate",
    "averaging",
    "tolerance",
    "bounds",
    "init",
    "bits",
    "scales",
    "style_blend",
    "width",
    "height",
)


OF_FIGURES = ("overwrite", "threads", "max_memory")  # of Run
NOT_OF_FIGURES = tuple(field.name for field in dataclasses.fields(Run) if field.name not in OF_FIGURES)
PICTURES = {"transfer": ("content", "style"), "reconstruct": ("image",), "texture": ("style",)}  # of each figure
ALSO = {"reconstruct": {"content_layers": "--layer --layers"}, "texture": {"style_layers": "--layers"}}  # second names


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    try:
        arguments = build_parser().parse_args(argv)
        with log_shown(quiet=getattr(arguments, "quiet", False)):
            code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except NSTError as error:
        print(f"nst_manual: {' '.join(str(error).split())}", file=sys.stderr)
        return MISTAKE
    except BrokenPipeError:  # nobody reads on, as with `| head`: what was to be written to files is there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own last flush
        return DONE
    except MemoryError as error:
        print(f"nst_manual: out of memory ({error}): choose a smaller --size", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("nst_manual: interrupted before there was a picture", file=sys.stderr)
        return INTERRUPTED


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake is told in one line."""

    def error(self, message: str) -> NoReturn:
        raise NSTError(f"{message} (`{self.prog} --help` lists what there is)")


def build_parser() -> Parser:
    parser = Parser(prog="python -m nst_manual", description="Neural style transfer with every gradient by hand.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    _add_transfer(commands.add_parser("transfer", help="recompose a photograph in the style of a painting"))

    command = commands.add_parser("reconstruct", help="what content layers know of a picture: another, from noise")
    command.add_argument("image", metavar="IMAGE", help="the picture")
    _add_run(command, "reconstruct")
    command.set_defaults(run=run_reconstruct)

    command = commands.add_parser(
        "texture", help="what style layers know of a picture: another, from noise, of any size"
    )
    command.add_argument("style", nargs="+", metavar="STYLE", help="the picture, or several for a blend of them")
    _add_masks(command)
    _add_run(command, "texture")
    command.set_defaults(run=run_texture)

    _add_figures(commands)

    command = commands.add_parser("repeat", help="the command that made a picture, from what is stored in it")
    command.add_argument("picture", type=Path, metavar="OUT", help="a picture that a run wrote")
    command.add_argument("--run", dest="again", action="store_true", help="run the command too")
    command.add_argument(
        "-o", "--output", type=Path, metavar="NEW", help="the picture to write (default with --run: OUT.repeated.png)"
    )
    _add_threads(command)
    _add_output_options(command)
    command.set_defaults(run=run_repeat)

    _add_style_targets(commands.add_parser("style-targets", help="keep a style as a small file, and look into one"))

    command = commands.add_parser("demo", help="draw two pictures and transfer one onto the other: no files needed")
    command.add_argument(
        "-o", "--output", type=Path, default=Path("nst_manual_demo"), metavar="FOLDER", help="default: nst_manual_demo"
    )
    _add_settings(command, {"size": 384, "iterations": 60})
    _add_options(command, Run, leave_out=("output", "overwrite", "resume"))
    command.set_defaults(run=run_demo)

    command = commands.add_parser("gradient", help="every term's value and gradient at IMAGE, without optimisation")
    for name in ("image", "content", "style"):
        command.add_argument(name, metavar=name.upper())
    command.add_argument("-o", "--output", type=Path, metavar="OUT.h5", help="the HDF5 file to write")
    command.add_argument(
        "--maps", type=Path, metavar="FOLDER", help="a picture of each term's gradient, in this folder"
    )
    _add_settings(command, {"size": None}, leave_out=SEARCH_OPTIONS)
    _add_threads(command)
    command.set_defaults(run=run_gradient)

    command = commands.add_parser(
        "check", help="prove every derivative by finite differences, and PyTorch if installed"
    )
    command.add_argument("--engine", choices=("auto", *ENGINES), default="auto", help="the engine to prove as well")
    command.add_argument("--precision", choices=PRECISIONS, default="float32", help="of that engine")
    _add_threads(command)
    command.add_argument(
        "--deep", action="store_true", help="VGG-19 itself on a picture: every step, term and the total"
    )
    for flag, of, metavar, text in (
        ("--picture", str, "PHOTO", "with --deep: the picture (default: the demo's)"),
        ("--size", int, "N", f"with --deep: longer side of the picture (default: {SIDE})"),
        ("--weights", str, "TEXT", "with --deep: auto, vgg19, calibrated, or a weights file (default: auto)"),
        ("--pooling", str, "TEXT", f"with --deep: {' or '.join(POOLINGS)} (default: avg)"),
        ("--plot", Path, "OUT", f"with --deep: the error against the step, as {', '.join(FORMATS)}"),
    ):
        command.add_argument(flag, type=of, metavar=metavar, help=text)
    _add_output_options(command)
    command.set_defaults(run=run_check)

    command = commands.add_parser("explain", help="what the trace of a run says, in words and as a plot")
    command.add_argument("trace", type=Path, metavar="TRACE", help="a .csv or .jsonl file that a run wrote")
    command.add_argument("-o", "--output", type=Path, metavar="PLOT", help="a .png or .svg file to draw it in")
    command.add_argument("--overwrite", action="store_true", help="replace PLOT if it exists already")
    _add_output_options(command)
    command.set_defaults(run=run_explain)

    add_weights(commands)
    return parser


def _add_figures(commands: Any) -> None:
    command = commands.add_parser("figure", help="one of the papers' figures: a labelled picture of many runs, and CSV")
    names = command.add_subparsers(required=True, metavar="NAME")
    for name, figure in FIGURES.items():
        command = names.add_parser(name, help=figure.title, description=figure.title)
        for picture in PICTURES[figure.command]:
            command.add_argument(picture, metavar=picture.upper())
        if figure.values:
            told = f"the columns' values (default: {figure.values_default})"
            command.add_argument(f"--{figure.values}", dest="values", default="", metavar="TEXT", help=told)
        defaults = {**COMMANDS[figure.command].defaults, **figure.defaults}
        _add_settings(command, defaults, figure.left_out(), ALSO.get(figure.command))
        command.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="the picture to write")
        _add_options(command, Run, leave_out=NOT_OF_FIGURES)
        command.set_defaults(run=run_figure, figure=figure)


def _add_run(command: argparse.ArgumentParser, name: str, outputs: Any = None) -> None:
    """Every option of a run by that command; `outputs` is a group of which one is needed, where there are others."""
    output: dict[str, Any] = {"type": Path, "metavar": "OUT", "help": "the picture to write"}
    if outputs is None:
        command.add_argument("-o", "--output", required=True, **output)
    else:
        outputs.add_argument("-o", "--output", **output)
    _add_settings(command, COMMANDS[name].defaults, COMMANDS[name].without, ALSO.get(name))
    _add_options(command, Run, leave_out=("output",))
    if name in SEEDS:
        command.add_argument(
            "--compare-seeds",
            dest="values",
            metavar="A,B",
            help="two results of two seeds, and their difference, in OUT",
        )


def _add_masks(command: argparse.ArgumentParser) -> None:
    for kind, text in (
        ("content", "where each style goes"),
        ("style", "which part of each style picture is the style"),
    ):
        command.add_argument(
            f"--{kind}-mask",
            nargs="+",
            default=(),
            metavar="MASK",
            help=f"{text}: gray pictures, white inside, one for each style (default: everywhere)",
        )


def _add_transfer(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "content", metavar="CONTENT", help="the photograph; with --out-dir, also a folder, or a pattern in quotes"
    )
    command.add_argument(
        "style",
        nargs="+",
        metavar="STYLE",
        help="the painting, or several for a blend of them; with --out-dir, each makes pictures of its own",
    )
    _add_masks(command)
    outputs = command.add_mutually_exclusive_group(required=True)
    outputs.add_argument(
        "--out-dir", type=Path, metavar="FOLDER", help="every content in every style, in this folder (made if need be)"
    )
    command.add_argument(
        "--name",
        metavar="PATTERN",
        help=f"of the files in --out-dir: content, style, number or an option in braces (default: {NAME})",
    )
    command.add_argument(
        "--skip-existing", action="store_true", help="make only those that are not in --out-dir: go on where it stopped"
    )
    _add_run(command, "transfer", outputs=outputs)
    command.set_defaults(run=run_transfer)


def _add_style_targets(command: argparse.ArgumentParser) -> None:
    actions = command.add_subparsers(required=True, metavar="ACTION")
    command = actions.add_parser("save", help="compute a style's Gram matrices, for `transfer` to take as a style")
    command.add_argument("style", metavar="STYLE", help="the painting")
    command.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.npz", help="the file to write")
    command.add_argument("--overwrite", action="store_true", help="replace a file that exists already")
    command.add_argument(
        "--style-mask", metavar="MASK", help="the part of the painting that is the style, white inside"
    )
    given = {field.name for field in dataclasses.fields(Settings)} - {*OF_STYLE}
    _add_settings(command, leave_out=tuple(given))
    _add_threads(command)
    command.set_defaults(run=run_save_style)

    command = actions.add_parser("load", help="check such a file and tell what is in it")
    command.add_argument("file", type=Path, metavar="FILE")
    _add_output_options(command)
    command.set_defaults(run=run_load_style)


def _add_settings(
    command: argparse.ArgumentParser,
    defaults: Mapping[str, Any] | None = None,
    leave_out: tuple[str, ...] = COMMANDS["transfer"].without,
    also: Mapping[str, str] | None = None,
) -> None:
    """Every option of Settings, and those that all commands have."""
    _add_options(command, Settings, defaults, leave_out, also)
    _add_output_options(command)


def _add_options(
    command: argparse.ArgumentParser,
    table: type[Settings] | type[Run],
    defaults: Mapping[str, Any] | None = None,
    leave_out: tuple[str, ...] = (),
    also: Mapping[str, str] | None = None,
) -> None:
    """Every option of a table of settings.py; `also` gives some a second name."""
    for field in dataclasses.fields(table):
        if field.name in leave_out:
            continue
        default = (defaults or {}).get(field.name, field.default)
        flags = [f"--{field.name.replace('_', '-')}", *((also or {}).get(field.name, "").split())]
        text = f"{field.metadata['help']} (default: {default_text(field, default)})"
        if (word := field.metadata["word"]) is not None:
            command.add_argument(*flags, type=_number_or(word), default=default, metavar=f"N|{word}", help=text)
            continue
        if field.type is bool:
            command.add_argument(*flags, action=argparse.BooleanOptionalAction, default=default, help=text)
            continue
        kind: Any = field.type
        if isinstance(kind, types.UnionType):  # int | None
            kind = kind.__args__[0]
        choices = field.metadata["choices"]
        if field.metadata["parse"] is not None:  # by the table, with its sentence
            kind = str
        metavar = None if choices else {int: "N", float: "X", Path: "FILE"}.get(kind, "TEXT")
        command.add_argument(*flags, type=kind, default=default, choices=choices, metavar=metavar, help=text)


def _add_threads(command: argparse.ArgumentParser) -> None:
    """The one option of Run that is for all that computes."""
    _add_options(
        command, Run, leave_out=tuple(field.name for field in dataclasses.fields(Run) if field.name != "threads")
    )


def _number_or(word: str) -> Callable[[str], int | None]:
    def number(text: str) -> int | None:
        return None if text == word else int(text)

    number.__name__ = f"number or {word!r}"  # for argparse's message
    return number


def _add_output_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="one JSON object per line on standard output")
    command.add_argument("--quiet", action="store_true", help="say nothing but errors")


def _options(arguments: argparse.Namespace, *tables: type[Settings] | type[Run]) -> dict[str, Any]:
    names = {field.name for table in tables for field in dataclasses.fields(table)}
    return {name: value for name, value in vars(arguments).items() if name in names}


def run_transfer(arguments: argparse.Namespace) -> int:
    if arguments.out_dir is not None:
        if any(_masks(arguments).values()):
            raise NSTError("a mask is one picture's, and --out-dir is for several: leave it out, or take -o")
        return _transfer_many(arguments)
    if arguments.name is not None or arguments.skip_existing:
        raise NSTError("--name and --skip-existing are for several pictures: give --out-dir instead of -o")
    return _run(partial(transfer, arguments.content, arguments.style, **_masks(arguments)), arguments)


def run_reconstruct(arguments: argparse.Namespace) -> int:
    if arguments.values:
        return _seeds(arguments, "reconstruct", [arguments.image])
    return _run(partial(reconstruct, arguments.image), arguments)


def run_texture(arguments: argparse.Namespace) -> int:
    if arguments.values:
        return _seeds(arguments, "texture", arguments.style)
    return _run(partial(texture, arguments.style, **_masks(arguments)), arguments)


def _masks(arguments: argparse.Namespace) -> dict[str, Any]:
    return {"content_mask": arguments.content_mask, "style_mask": arguments.style_mask}


def run_repeat(arguments: argparse.Namespace) -> int:
    picture: Path = arguments.picture
    recipe = load_recipe(picture)
    beside = picture.with_name(f"{picture.stem}.repeated{picture.suffix}")  # not over the picture that it is to match
    words = recipe.command(str(arguments.output or (beside if arguments.again else picture)))
    for change in recipe.changes():
        log.warning("%s: the result may differ: %s", picture, change)
    if arguments.json and not arguments.again:
        print(recipe.to_json(str(picture)))
    elif not (arguments.again and (arguments.json or arguments.quiet)):
        print(shown(words), flush=True)
    if not arguments.again:
        return DONE
    words += [f"--{name}" for name in ("json", "quiet") if getattr(arguments, name)]
    words += [] if arguments.threads is None else [f"--threads={arguments.threads}"]
    again = build_parser().parse_args(words)
    code: int = again.run(again)
    return code


def run_save_style(arguments: argparse.Namespace) -> int:
    output: Path = arguments.output
    if output.suffix.lower() != ".npz":
        raise NSTError(f"{output}: a kept style's name ends in .npz")
    check_folder(output)
    check_new(output, arguments.overwrite)
    options = _options(arguments, Settings)
    computed = compute_targets(arguments.style, style_mask=arguments.style_mask, threads=arguments.threads, **options)
    computed.save(output)
    arguments.file = output
    return run_load_style(arguments)


def run_load_style(arguments: argparse.Namespace) -> int:
    about = StyleTargets.load(arguments.file).about()
    if arguments.json:
        print(json.dumps(about))
    elif not arguments.quiet:
        sizes = ", ".join(f"{width}×{height}" for width, height in about["sizes"])
        print(f"{about['file']}: the style of {about['picture'] or 'a picture from Python'} at {sizes}")
        print(f"    {', '.join(about['layers'])}; {about['pooling']} pooling; weights: {about['weights']}")
    return DONE


def run_demo(arguments: argparse.Namespace) -> int:
    folder: Path = arguments.output
    settings = Settings(**_options(arguments, Settings))
    make_folder(folder, "-o")
    check_folder(folder / "result.png")
    width = settings.size or 512
    paths = folder / "content.png", folder / "style.png"
    for draw, path in zip((scene, painting), paths, strict=True):
        save_image(draw(width, width * 3 // 4), path)
    arguments.output = folder / "result.png"
    return _run(partial(transfer, *paths), arguments, overwrite=True)  # all three pictures are the demo's own


def _run(make: Callable[..., Result], arguments: argparse.Namespace, **more: Any) -> int:
    """One of transfer.py's functions, given its pictures: run with progress and Ctrl-C, and reported."""
    options = {**_options(arguments, Settings, Run), **more}
    code = DONE
    settings = Settings(**_options(arguments, Settings))
    with Progress(settings.iterations, arguments.json, arguments.quiet) as progress, signals_caught() as cancel:

        def callback(record: Record) -> None:
            cancel.begun = True
            progress(record)

        try:
            result = make(callback=callback, cancel=cancel, **options)
        except Interrupted as interruption:
            result, code = interruption.result, INTERRUPTED
    if result.stopped in BAD_ENDINGS or result.path != arguments.output or result.unwritten:
        code = FAILED
    _report(result, arguments)
    return code


def _transfer_many(arguments: argparse.Namespace) -> int:
    """Each picture is told of when it is done or has failed, and all of them at the end."""
    options = _options(arguments, Settings, Run)
    iterations = Settings(**_options(arguments, Settings)).iterations
    numbers, failed, code = {"pictures": 0, "done": 0, "there": 0, "failed": 0}, [], DONE
    with contextlib.ExitStack() as shown, signals_caught() as cancel:
        bars: dict[int, Progress] = {}

        def bar(pair: Pair) -> Progress:
            if pair.number not in bars:
                if arguments.json:
                    print(json.dumps({"picture": pair.number, "pictures": pair.count, **_names(pair)}), flush=True)
                bars[pair.number] = shown.enter_context(Progress(iterations, arguments.json, arguments.quiet))
            return bars[pair.number]

        def callback(pair: Pair, record: Record) -> None:
            cancel.begun, numbers["pictures"] = True, pair.count
            bar(pair)(record)

        pairs = transfer_many(
            arguments.content,
            arguments.style,
            out_dir=arguments.out_dir,
            name=NAME if arguments.name is None else arguments.name,
            skip_existing=arguments.skip_existing,
            callback=callback,
            cancel=cancel,
            **options,
        )
        try:
            for pair in pairs:
                if isinstance(pair.result, Result):
                    bar(pair)  # which it has already, unless it came to no iteration
                shown.close()
                cancel.begun = False
                numbers["pictures"] = pair.count
                if pair.result is None:
                    numbers["there"] += 1
                elif _told(pair, pair.result, arguments):
                    numbers["done"] += 1
                else:
                    numbers["failed"] += 1
                    failed.append(str(pair))
        except Interrupted as interruption:
            shown.close()
            _report(interruption.result, arguments)
            code = INTERRUPTED
        except KeyboardInterrupt:
            if not numbers["pictures"]:
                raise
            code = INTERRUPTED
    if arguments.json:
        print(json.dumps({**numbers, "interrupted": code == INTERRUPTED}))
    if failed or code or not arguments.quiet:
        print(_summary(numbers, failed, code == INTERRUPTED), file=sys.stderr)
    return code or (FAILED if failed else DONE)


def _told(pair: Pair, result: Result | NSTError, arguments: argparse.Namespace) -> bool:
    """Whether the picture is there as it should be; either way it is said."""
    if isinstance(result, NSTError):
        reason = " ".join(str(result).split())
        if arguments.json:
            print(json.dumps({**_names(pair), "error": reason}), flush=True)
        print(f"nst_manual: {pair}: {reason}", file=sys.stderr)
        return False
    _report(result, arguments)
    return result.stopped not in BAD_ENDINGS and result.path == pair.path and not result.unwritten


def _names(pair: Pair) -> dict[str, str]:
    return {"content": str(pair.content), "style": str(pair.style), "output": str(pair.path)}


def _summary(numbers: dict[str, int], failed: list[str], interrupted: bool) -> str:
    parts = [f"{numbers['done']} of {numbers['pictures']} pictures done"]
    if numbers["there"]:
        parts.append(f"{numbers['there']} there already")
    if failed:
        more = f"; and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
        parts.append(f"{len(failed)} failed: {'; '.join(failed[:NAMED])}{more}")
    if interrupted:
        parts.append("interrupted: --skip-existing goes on with the others")
    return "; ".join(parts)


def _report(result: Result, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json.dumps({"output": str(result.path), "loss": result.loss, "stopped": result.stopped}))
    if result.stopped in BAD_ENDINGS or not arguments.quiet:
        seconds = f" in {result.trace[-1].seconds:.1f} s" if result.trace else ""
        print(f"{result.path}: {result.image.width}×{result.image.height}, {result.message}{seconds}", file=sys.stderr)


def run_figure(arguments: argparse.Namespace) -> int:
    pictures = [getattr(arguments, name) for name in PICTURES[arguments.figure.command]]
    return _figure(arguments.figure, pictures, arguments)


def _figure(figure: Figure, pictures: Sequence[str], arguments: argparse.Namespace) -> int:
    """A figure, with progress over all of its cells."""
    options = {k: v for k, v in _options(arguments, Settings).items() if k not in figure.left_out()}
    options |= {"values": getattr(arguments, "values", ""), **{name: getattr(arguments, name) for name in OF_FIGURES}}
    latest = None
    with Progress(0, arguments.json, arguments.quiet) as progress, signals_caught() as cancel:

        def callback(cell: Cell, record: Record) -> None:
            nonlocal latest
            if arguments.json and cell is not latest:
                print(json.dumps({"cell": cell.name}), flush=True)
            latest, cancel.begun = cell, True
            progress(record)

        try:
            path = make_figure(figure, pictures, arguments.output, callback=callback, cancel=cancel, **options)
        except KeyboardInterrupt:
            kept = folder_of(arguments.output)
            told = f"interrupted; what is finished is kept in {kept}, and the same command makes the rest"
            print(f"nst_manual: {told}", file=sys.stderr)
            return INTERRUPTED
    if arguments.json:
        print(json.dumps({"output": str(path), "numbers": str(path.with_suffix(".csv"))}))
    elif not arguments.quiet:
        print(f"{path}, and its numbers in {path.with_suffix('.csv')}", file=sys.stderr)
    return DONE


def _seeds(arguments: argparse.Namespace, command: str, pictures: Sequence[str]) -> int:
    """--compare-seeds: a figure, which has fewer options than a run."""
    given = [field.name for field in dataclasses.fields(Run) if getattr(arguments, field.name) != field.default]
    masks = [name for name in ("content_mask", "style_mask") if getattr(arguments, name, ())]
    if no := sorted({*given, *masks} - {"output", *OF_FIGURES}):
        raise NSTError(f"--{no[0].replace('_', '-')} and --compare-seeds don't go together: leave one of them out")
    return _figure(SEEDS[command], pictures, arguments)


class Cancel:
    """What signals set. Before the first record there is no picture to save: then the run is stopped at once."""

    def __init__(self) -> None:
        self.begun, self.wanted = False, False

    def is_set(self) -> bool:
        return self.wanted

    def __call__(self, *signal: object) -> None:
        again, self.wanted = self.wanted, True
        if again or not self.begun:
            raise KeyboardInterrupt


@contextlib.contextmanager
def signals_caught() -> Iterator[Cancel]:
    """Ctrl-C, SIGTERM and a closed terminal end a run after its evaluation; a second one at once.

    Where signals can't be handled, as in a thread, they do what they always do.
    """
    cancel, before = Cancel(), {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):  # not every system has all
        number = getattr(signal, name, None)
        with contextlib.suppress(ValueError):
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, cancel)
    try:
        yield cancel
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_gradient(arguments: argparse.Namespace) -> int:
    output, maps = arguments.output, arguments.maps
    if output is None and maps is None:
        raise NSTError("give -o OUT.h5 for the numbers, --maps FOLDER for pictures of them, or both")
    if output is not None:
        check_folder(output)
    if maps is not None:
        make_folder(maps, "--maps")
    options = {**_options(arguments, Settings), "threads": arguments.threads}
    result = gradients(arguments.image, arguments.content, arguments.style, **options)
    if output is not None:
        result.save(output)
    pictures = [] if maps is None else result.save_maps(maps)
    if arguments.json:
        losses = {"total": result.total.loss, **{name: term.loss for name, term in result.terms.items()}}
        record = {
            "output": None if output is None else str(output),
            "maps": [str(path) for path in pictures],
            "loss": losses,
            "norm": result.norms(),
            "share": result.shares(),
            "cosine": result.cosines(),
            "layers": [layer._asdict() for layer in result.layers],
        }
        print(json.dumps(record))
    elif not arguments.quiet:
        print("\n".join(_gradient_table(result)))
    return DONE


def _gradient_table(result: Gradients) -> Iterator[str]:
    shares, norms, cosines = {**result.shares(), "total": 1.0}, result.norms(), result.cosines()
    wide = max(len(name) for name in norms) + 1
    yield f"{'term':<{wide}}{'loss':>16}{'|gradient|':>14}{'share':>9}  cosine with those above, in their order"
    for number, (name, norm) in enumerate(norms.items()):
        loss = result.total.loss if name == "total" else result.terms[name].loss
        angles = "".join("     —" if c is None else f"{c:6.2f}" for c in list(cosines[name].values())[:number])
        yield f"{name:<{wide}}{loss:>16.9g}{norm:>14.4g}{shares[name]:>9.1%}{angles}"
    yield ""
    yield f"{'on the way down':<{wide}}{'|gradient|':>16}{'ReLUs open':>14}"
    for layer in result.layers:
        yield f"{layer.name:<{wide}}{layer.norm:>16.4g}{'' if layer.open is None else f'{layer.open:.1%}':>14}"


def run_explain(arguments: argparse.Namespace) -> int:
    if arguments.output is not None:
        check_plot(arguments.output)
        check_new(arguments.output, arguments.overwrite)
    trace = load_trace(arguments.trace)
    about = explained(trace)
    if arguments.output is not None:
        plot_trace(arguments.output, trace)
    if arguments.json:
        print(json.dumps(about))
    elif not arguments.quiet:
        print("\n".join(sentences(about)))
    return DONE


COLUMNS = {"adjoint": "dot test", "numeric": "differences", "pytorch": "PyTorch", "engine": "engine"}


def run_check(arguments: argparse.Namespace) -> int:
    deep = _deep_proof(arguments)
    threads = Run(threads=arguments.threads).threads  # checked before there is half a table
    rows = (deep.checks if deep else checks)(arguments.engine, arguments.precision, threads)
    table = not (arguments.json or arguments.quiet)
    if table:
        print(f"{'relative error against':<41}" + "".join(f"{title:>13}" for title in COLUMNS.values()) + "  verdict")
    explanations = []
    for check in rows:
        explanations += [] if check.passed else [check.explanation()]
        if arguments.json:
            record = {"name": check.name, **_finite(check.errors()), "passed": check.passed}
            print(json.dumps(record | {"explanation": check.explanation() or None}), flush=True)
        elif table:
            print(_row(check), flush=True)
    if table:
        limits = "".join(f"{LIMITS.get(column, ENGINE_LIMITS[arguments.precision]):>13.0e}" for column in COLUMNS)
        print(f"{'largest that passes':<41}{limits}")
        for explanation in explanations:
            print(explanation)
        print(
            f"{len(explanations)} of the derivatives above are wrong" if explanations else "every derivative is right"
        )
    if deep and arguments.plot:
        plot_errors(deep.curves(), arguments.plot)
    return FAILED if explanations else DONE


def _deep_proof(arguments: argparse.Namespace) -> DeepProof | None:
    """What --deep proves; None without it."""
    options = {name: getattr(arguments, name) for name in ("picture", "size", "weights", "pooling")}
    given = {name: value for name, value in options.items() if value is not None}
    if not arguments.deep:
        if given or arguments.plot:
            raise NSTError(f"--{next(iter(given), 'plot')} belongs to `check --deep`: add --deep")
        return None
    if arguments.plot:
        check_plot(arguments.plot)
    return DeepProof.of(**given)


def _finite(errors: dict[str, float | None]) -> dict[str, float | None]:
    """JSON has no infinity: what is not a number is null."""
    return {name: error if error is not None and math.isfinite(error) else None for name, error in errors.items()}


def _row(check: Check) -> str:
    errors = check.errors()
    cells = ("—" if errors[column] is None else f"{errors[column]:.1e}" for column in COLUMNS)
    return f"{check.name:<41}" + "".join(f"{cell:>13}" for cell in cells) + f"  {'ok' if check.passed else 'WRONG'}"


class Once(logging.Filter):
    """A command of several runs says but once which weights and engine they have."""

    def __init__(self) -> None:
        super().__init__()
        self.said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        new = record.levelno > logging.INFO or record.getMessage() not in self.said
        self.said.add(record.getMessage())
        return new


@contextlib.contextmanager
def log_shown(quiet: bool) -> Iterator[None]:
    """What the library has to say goes to standard error while a command runs."""
    ours, pillows = logging.getLogger("nst_manual"), logging.getLogger("PIL")
    shown = logging.StreamHandler()
    shown.addFilter(Once())
    silent = logging.NullHandler()  # what Pillow finds wrong with a file, our sentence says
    ours.setLevel(logging.WARNING if quiet else logging.INFO)
    ours.addHandler(shown)
    pillows.addHandler(silent)
    ours.propagate = False
    try:
        yield
    finally:
        ours.removeHandler(shown)
        pillows.removeHandler(silent)
        ours.setLevel(logging.NOTSET)
        ours.propagate = True
