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
from .signals import signals_caught

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
    iterations = split_options(options)[0].iterations
    numbers, failed, code = {"pictures": 0, "done": 0, "there": 0, "failed": 0}, [], DONE
    errors: list[NSTError] = []
    several = "cluster" in options  # in progress at a time
    with contextlib.ExitStack() as shown, signals_caught() as cancel:
        bars: dict[int, Progress] = {}
        if several and sys.stderr.isatty():
            shown.enter_context(log_above())

        def bar(pair: Pair) -> Progress:
            if pair.number not in bars:
                if arguments.json:
                    say_json({"picture": pair.number, "pictures": pair.count, **_names(pair)})
                number = pair.number if several else None
                progress = Progress(iterations, arguments.json, arguments.quiet, picture=number)
                bars[pair.number] = shown.enter_context(progress)
            return bars[pair.number]

        def callback(pair: Pair, record: Record) -> None:
            cancel.begun, numbers["pictures"] = True, pair.count
            bar(pair)(record)

        pairs = transfer_many(arguments.content, arguments.style, callback=callback, cancel=cancel, **own, **options)
        try:
            for pair in pairs:
                if isinstance(pair.result, Result):
                    bar(pair)  # it has one already, unless its run made no iteration
                if pair.number in bars:
                    bars[pair.number].__exit__()
                cancel.begun = several and cancel.begun
                numbers["pictures"] = pair.count
                if pair.result is None:
                    numbers["there"] += 1
                elif (ending := _ending(pair, pair.result, arguments, errors)) == DONE:
                    numbers["done"] += 1
                elif ending == FAILED:
                    numbers["failed"] += 1
                    failed.append(str(pair))
        except Interrupted as interruption:
            shown.close()
            report(interruption.result, arguments)
            code = INTERRUPTED
        except KeyboardInterrupt:
            if not numbers["pictures"]:
                raise
            code = INTERRUPTED
        except NSTError as error:  # the cluster is gone
            if not numbers["pictures"]:
                raise
            code = fail(sentence(error), FAILED, arguments.json)
    if cancel.wanted:
        code = INTERRUPTED
    if arguments.json:
        say_json({**numbers, "interrupted": code == INTERRUPTED})
    if failed or code or not arguments.quiet:
        say(_summary(numbers, failed, code == INTERRUPTED), to=sys.stderr)
    return code or (FAILED if failed else DONE)


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
