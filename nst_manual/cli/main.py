"""The table of commands, the parser and the end of every command: one sentence for a mistake, and the exit code."""

import argparse
import itertools
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from .. import __version__
from ..engines import device_errors, what_failed
from ..errors import Failure, NSTError
from ..options import did_you_mean
from ..runs.recipe import PROGRAM
from . import check, demo, evaluate, explain, figure, gradient, repeat, serve, styles, transfer, weights
from .options import add_subcommands
from .report import DONE, EXIT_CODES, FAILED, INTERRUPTED, MISTAKE, fail, log_shown, make_printable, one_line, sentence
from .signals import signals_caught

# Each file adds its commands.
COMMANDS = (transfer, figure, gradient, check, evaluate, explain, repeat, styles, weights, demo, serve)

NO_MEMORY = ("failed to map segment", "can't start new thread")  # said of a library and of a thread


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    make_printable(sys.stdout, sys.stderr)
    with signals_caught():
        return _run(sys.argv[1:] if argv is None else list(argv))


def _run(words: Sequence[str]) -> int:
    as_json = "--json" in words
    try:
        arguments = build_parser().parse_args(words)
        with log_shown(quiet=getattr(arguments, "quiet", False)):
            code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except NSTError as error:
        return fail(sentence(error), FAILED if isinstance(error, Failure) else MISTAKE, as_json)
    except BrokenPipeError:  # nobody reads on, as with `| head`; the files are written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own last flush
        return DONE
    except device_errors() as error:
        return fail(what_failed(error), FAILED, as_json)
    except (MemoryError, ImportError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in NO_MEMORY):
            raise
        why = f" ({one_line(str(error))})" if str(error) else ""
        return fail(f"out of memory{why}: choose a smaller --size or --history", FAILED, as_json)
    except KeyboardInterrupt:
        return fail("interrupted before there was a result", INTERRUPTED, as_json)


def build_parser() -> argparse.ArgumentParser:
    codes = "\n".join(f"  {code:<4}{meaning}" for code, meaning in EXIT_CODES.items())
    parser = Parser(
        prog=PROGRAM,
        usage="%(prog)s COMMAND …",
        description="Neural style transfer with every gradient written by hand.",
        epilog=f"`{PROGRAM} COMMAND --help` shows a command's options and examples.\n\nexit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = add_subcommands(parser, "COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    parser.set_defaults(parse=parser.parse_args)  # for `repeat`, which runs another command
    return parser


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake is one sentence, with what was probably meant."""

    def error(self, message: str) -> NoReturn:
        raise NSTError(f"{message} (`{self.prog} --help` shows what there is)")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        flags = self._option_string_actions
        if self._subparsers is None:  # before argparse complains about what is missing instead
            for word in itertools.takewhile(lambda word: word != "--", args):
                flag = word.partition("=")[0]
                if flag.startswith("--") and not any(known.startswith(flag) for known in flags):
                    self.error(f"there is no option {flag}{did_you_mean(flag, flags)}")
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unexpected: {' '.join(unknown)}")
        return known, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            what, near = str(action.metavar).lower(), did_you_mean(value, list(action.choices))
            self.error(f"the {what} must be one of {', '.join(action.choices)}, not {value!r}{near}")
