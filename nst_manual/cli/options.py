"""From the tables of options to argparse: commands with headings and examples, and the options that apply to them."""

import argparse
import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..options import Field, kind_of, read
from ..runs.recipe import PROGRAM
from ..settings import DEFAULTS, help_text, options_of
from .report import MISTAKE

HEADINGS = ("pictures", "files", "sizes", "look", "network", "search", "run", "output", "general")
METAVARS = {int: "N", float: "X", Path: "FILE", str: "TEXT"}

Command = Callable[[argparse.Namespace], int]
Add = Callable[..., None]  # (heading, *names, **what add_argument takes)


def add_command(commands: Any, name: str, usage: str, run: Command, text: str | None = None) -> Add:
    """A command with --help, --json and --quiet. Returns the function that adds its other arguments.

    `text`, or else the docstring of `run`, is a sentence for --help and, below it, examples, one a line.
    """
    sentence, *examples = inspect.cleandoc(text or run.__doc__ or f"{name}.").splitlines()
    parser = commands.add_parser(
        name,
        help=sentence.removesuffix("."),
        usage=f"%(prog)s {usage}",
        description=sentence,
        epilog="\n".join(["examples:", *(f"  {PROGRAM} {example}" for example in filter(None, examples))]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    parser.set_defaults(run=run)
    groups = {heading: parser.add_argument_group(heading) for heading in HEADINGS}

    def add(heading: str, *names: str, **about: Any) -> None:
        if not names[0].startswith("-"):
            about.setdefault("metavar", names[0].upper())
        groups[heading].add_argument(*names, **about)

    add("general", "-h", "--help", action="help", help="show this text and exit")
    add("general", "--json", action="store_true", help="print one JSON object per line")
    add("general", "--quiet", action="store_true", help="print nothing but errors")
    return add


def add_commands(commands: Any, name: str, help: str, metavar: str) -> Any:
    """A command that has commands of its own."""
    parser = commands.add_parser(name, help=help, description=f"{help}.")
    return add_subcommands(parser, metavar)


def add_subcommands(parser: argparse.ArgumentParser, metavar: str) -> Any:
    """Room for commands; where none is given, the parser's help shows what there is."""

    def show_help(arguments: argparse.Namespace) -> int:
        parser.print_help(sys.stderr)
        return MISTAKE

    parser.set_defaults(run=show_help)
    return parser.add_subparsers(title="commands", metavar=metavar, prog=parser.prog)


def add_output(add: Add, metavar: str, text: str, **more: Any) -> None:
    add("output", "-o", "--output", type=Path, metavar=metavar, help=text, **more)


def add_options(
    add: Add, *commands: str, defaults: Mapping[str, Any] | None = None, leave_out: Collection[str] = ()
) -> None:
    """Every option that applies to all of these commands; --help shows the first one's defaults.

    --output is each command's own. Options that are not given don't appear in the parsed arguments: the library knows
    their defaults.
    """
    command = commands[0]
    own = {**DEFAULTS.get(command, {}), **(defaults or {})}
    for name, field in options_of(*commands).items():
        if name not in ("output", *leave_out):
            about = field.metadata
            flags = [f"--{word.replace('_', '-')}" for word in (name, *about["also"].get(command, ()))]
            text = help_text(field, own).replace("%", "%%")
            add(about["group"], *flags, default=argparse.SUPPRESS, help=text, **_reading(field))


def _reading(field: Field) -> dict[str, Any]:
    """How argparse reads this option and shows its value."""
    about, (kind, _) = field.metadata, kind_of(field)
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    metavar = about["metavar"] or METAVARS[kind]
    if about["choices"]:
        metavar = f"{{{','.join(about['choices'])}}}"
    elif about["word"]:
        metavar = f"N|{about['word']}"
    return {"type": partial(read, field), "metavar": metavar}


def given(arguments: argparse.Namespace, *commands: str) -> dict[str, Any]:
    """The options of these commands that were given, as keyword arguments."""
    return {name: getattr(arguments, name) for name in options_of(*commands) if hasattr(arguments, name)}
