"""`transfer --out-dir`: each picture is reported when it is done or has failed, and all of them at the end."""

import argparse
import contextlib
import os
import sys
from pathlib import Path

from ..batch import transfer_many
from ..errors import NSTError
from ..optimise import Record
from ..runs.pairs import NAME, Pair
from ..runs.results import Interrupted, Result
from ..settings import split_options
from .options import Add, given
from .progress import Progress, log_above
from .report import DONE, FAILED, INTERRUPTED, exit_code, fail, report, say, say_json, sentence
from .signals import Cancel, signals_caught

NAMED = 5  # failures in a summary


def add_arguments(add: Add) -> None:
    text = "make every content picture in every style, in this folder, which is created if necessary"
    add("output", "--out-dir", type=Path, metavar="FOLDER", help=text)
    text = f"file names in --out-dir, with content, style, number or an option's name in braces (default: {NAME})"
    add("output", "--name", metavar="PATTERN", help=text)
    text = "make only the pictures that are not in --out-dir yet"
    add("output", "--skip-existing", action="store_true", help=text)


def run(arguments: argparse.Namespace) -> int:
    _check_expanded(arguments.content, arguments.style)
    options = given(arguments, "transfer")
    own = {name: getattr(arguments, name) for name in ("out_dir", "skip_existing")}
    own |= {} if arguments.name is None else {"name": arguments.name}
    told = _Told(arguments, split_options(options)[0].iterations, several="cluster" in options)
    with contextlib.ExitStack() as shown, signals_caught() as cancel:
        told.shown, told.cancel = shown, cancel
        if told.several and sys.stderr.isatty():
            shown.enter_context(log_above())
        pairs = transfer_many(arguments.content, arguments.style, callback=told, cancel=cancel, **own, **options)
        try:
            for pair in pairs:
                told.of(pair)
        except Interrupted as interruption:
            shown.close()
            report(interruption.result, arguments)
            told.code = INTERRUPTED
        except KeyboardInterrupt:
            if not told.numbers["pictures"]:
                raise
            told.code = INTERRUPTED
        except NSTError as error:  # the cluster is gone
            if not told.numbers["pictures"]:
                raise
            shown.close()
            told.code = fail(sentence(error), FAILED, arguments.json)
    return told.end(interrupted=cancel.wanted)


class _Told:
    """What is said of the pictures, and counted. `several` may be in progress at a time."""

    shown: contextlib.ExitStack
    cancel: Cancel

    def __init__(self, arguments: argparse.Namespace, iterations: int, several: bool) -> None:
        self.arguments, self.iterations, self.several = arguments, iterations, several
        self.numbers = {"pictures": 0, "done": 0, "there": 0, "failed": 0}
        self.failed: list[str] = []
        self.errors: list[NSTError] = []  # those already reported
        self.bars: dict[int, Progress] = {}
        self.code = DONE

    def __call__(self, pair: Pair, record: Record) -> None:
        self.cancel.begun, self.numbers["pictures"] = True, pair.count
        self._bar(pair)(record)

    def of(self, pair: Pair) -> None:
        """A pair that is done, has failed, or is there already."""
        if isinstance(pair.result, Result):
            self._bar(pair)  # it has one already, unless its run made no iteration
        if pair.number in self.bars:
            self.bars[pair.number].__exit__()
        self.cancel.begun = self.several and self.cancel.begun
        self.numbers["pictures"] = pair.count
        if pair.result is None:
            self.numbers["there"] += 1
        elif (ending := _ending(pair, pair.result, self.arguments, self.errors)) == DONE:
            self.numbers["done"] += 1
        elif ending == FAILED:
            self.numbers["failed"] += 1
            self.failed.append(str(pair))

    def end(self, interrupted: bool) -> int:
        """The summary; the exit code of all."""
        code = INTERRUPTED if interrupted else self.code
        if self.arguments.json:
            say_json({**self.numbers, "interrupted": code == INTERRUPTED})
        if self.failed or code or not self.arguments.quiet:
            say(_summary(self.numbers, self.failed, code == INTERRUPTED), to=sys.stderr)
        return code or (FAILED if self.failed else DONE)

    def _bar(self, pair: Pair) -> Progress:
        if pair.number not in self.bars:
            if self.arguments.json:
                say_json({"picture": pair.number, "pictures": pair.count, **_names(pair)})
            number = pair.number if self.several else None
            progress = Progress(self.iterations, self.arguments.json, self.arguments.quiet, picture=number)
            self.bars[pair.number] = self.shown.enter_context(progress)
        return self.bars[pair.number]


def _check_expanded(content: str, styles: list[str]) -> None:
    """Refuse what looks like a pattern that the shell has expanded: only its first file would be a content picture."""
    *first, last = styles
    folder = os.path.dirname(content)
    beside = [style for style in first if os.path.isfile(style) and os.path.dirname(style) == folder]
    if os.path.isfile(content) and first == beside != [] and (os.path.isdir(last) or os.path.dirname(last) != folder):
        others = f"{beside[0]} and {len(beside) - 1} more" if len(beside) > 1 else beside[0]
        raise NSTError(
            f"{others} would be styles of {content}: to make them in the style of {last} instead, put the pattern in "
            f"quotes; if they are meant as styles, name {last} before them"
        )


def _ending(pair: Pair, result: Result | NSTError, arguments: argparse.Namespace, errors: list[NSTError]) -> int:
    """Reports this picture; returns the exit code that it would have alone. `errors` are those already reported."""
    if isinstance(result, Result):
        report(result, arguments)
        return exit_code(result, pair.path)
    reason = sentence(result)
    if arguments.json:
        say_json({**_names(pair), "error": reason})
    if result not in errors:  # a broken picture has the same error in all its pairs
        say(f"nst_manual: {pair}: {reason}", to=sys.stderr)
        errors.append(result)
    return FAILED


def _names(pair: Pair) -> dict[str, str]:
    return {"content": str(pair.content), "style": str(pair.style), "output": str(pair.path)}


def _summary(numbers: dict[str, int], failed: list[str], interrupted: bool) -> str:
    parts = [f"{numbers['done']} of {numbers['pictures']} pictures done"]
    if numbers["there"]:
        parts.append(f"{numbers['there']} already there")
    if failed:
        more = f"; and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
        parts.append(f"{len(failed)} failed: {'; '.join(failed[:NAMED])}{more}")
    if interrupted:
        parts.append("interrupted: --skip-existing makes the rest")
    return "; ".join(parts)
