"""All files that a run writes: checked before the long work, apart from each other, and held against other runs."""

import contextlib
import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import NSTError
from ..pictures.files import check_folder, check_new, check_not_inputs, held
from ..pictures.writing import check_output, is_standard_output
from ..settings import Run, Settings
from .checkpoint import Checkpoint
from .journal import Journal, numbered_of, preview_of

NUMBERED = re.compile(r"(.*)_\d{6,}", re.DOTALL)  # the stem of a picture of --save-every


@contextlib.contextmanager
def claimed(
    settings: Settings, run: Run, checkpoint: Checkpoint | None = None, inputs: Iterable[Any] = ()
) -> Iterator[Run]:
    """Check that all files can be written, and hold them until the end of the block.

    Yields the run, whose `overwrite` says whether it may replace what is there: a resumed one may replace its own.
    """
    check_outputs(settings, run, checkpoint, inputs)
    with contextlib.ExitStack() as claims:
        for _, path in files_of(run):
            claims.enter_context(held(path))
        check_outputs(settings, run, checkpoint, inputs)  # another run may just have ended
        yield replace(run, overwrite=run.overwrite or _is_own(run, checkpoint))


def check_outputs(
    settings: Settings, run: Run, checkpoint: Checkpoint | None = None, inputs: Iterable[Any] = ()
) -> None:
    """Check before the long work that all files can be written, and that nothing is lost by it."""
    if run.output:
        check_output(run.output, settings.bits)
    own = run.overwrite or _is_own(run, checkpoint)
    journal, files = Journal(run, lambda pixels, path: None), files_of(run)
    check_apart(files, [run.output] if run.output and run.save_every else [], "give each a name of its own")
    for _, path in files:
        check_folder(path)
        check_new(path, own or path == run.resume)
    if run.output and run.save_every:
        check_folder(numbered_of(run.output, 0))  # its name is longer
    journal.check_new(own)
    written = [path for _, path in files if path != run.resume]
    check_not_inputs((*written, *journal.numbered()), (*inputs, run.resume))


def files_of(run: Run) -> list[tuple[str, Path]]:
    """The files that a run names, each with the option that asks for it."""
    preview = preview_of(run.output) if run.output and run.preview_every is not None else None
    options = [("--output", run.output), ("--preview-every", preview), ("--trace", run.trace), ("--plot", run.plot)]
    options += [("--animation", run.animation)]
    options += [("--checkpoint", run.checkpoint or run.resume)]
    return [(flag, path) for flag, path in options if path is not None and not is_standard_output(path)]


def check_apart(files: Iterable[tuple[str, Path]], numbered: Collection[Path], advice: str) -> None:
    """Refuse two files of one name, also where one is a picture that --save-every will number.

    Upper and lower case count as the same, as on some disks.
    """
    series = {_key(output) for output in numbered}
    known: dict[str, str] = {}
    for what, path in files:
        stem = NUMBERED.fullmatch(path.stem)
        if stem is not None and _key(path.with_name(stem[1] + path.suffix)) in series:
            raise NSTError(f"--save-every and {what} would both be written to {path}: {advice}")
        if (other := known.setdefault(_key(path), what)) is not what:
            raise NSTError(f"{other} and {what} would both be written to {path}: {advice}")


def own_files(run: Run) -> list[str]:
    """The files of a run that it may replace when it is resumed, as its checkpoint names them."""
    return [str(path.resolve()) for path in (run.output, run.trace, run.plot, run.animation) if path is not None]


def _is_own(run: Run, checkpoint: Checkpoint | None) -> bool:
    return checkpoint is not None and set(checkpoint.outputs) >= set(own_files(run))


def _key(path: Path) -> str:
    return os.path.realpath(path).casefold()
