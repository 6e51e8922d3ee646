"""A run's numbers: as columns, and as a file with one line per iteration that grows with the run.

A CSV file has a column for each number, one named `loss:<term>` for each term, and on its last line why the run
stopped. JSON lines are those that `--json` prints. An unknown or infinite number is an empty cell, null or nan.
"""

import csv
import dataclasses
import io
import json
import math
import os
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Array
from ..errors import NSTError
from ..optimise import Record
from ..pictures.files import check_folder, reason, written

TERM = "loss:"  # before the name of a term's column
ENDING = ("stopped", "message")
LIMIT = 2**26  # bytes of a file that is read
LINE_LIMIT = 2**20  # characters
MOST_TERMS = 1000
MOST_SCALES = 100
MOST_ITERATIONS = 200_000

Line = Callable[[Mapping[str, Any], Sequence[str]], str]  # from a row and all columns
Rows = Callable[[Iterator[str]], Iterator[Mapping[str, Any]]]  # from a file's lines

# Every number of a Record except its terms, with its value where a file has no such column.
COLUMNS = {
    field.name: math.nan if field.default is dataclasses.MISSING else float(field.default)
    for field in dataclasses.fields(Record)
    if field.name not in ("terms", "image")
}


@dataclass(frozen=True)
class Trace:
    """A run's numbers as arrays: `trace["loss"]` and so on, `terms` by name; and, if known, why the run stopped."""

    columns: Mapping[str, Array]
    terms: Mapping[str, Array]
    stopped: str = ""
    message: str = ""

    def __getitem__(self, column: str) -> Array:
        return self.columns[column]

    def __len__(self) -> int:
        return len(self.columns["iteration"])

    def starts(self) -> list[int]:
        """The index at which each scale but the first begins."""
        return [int(k) + 1 for k in np.flatnonzero(np.diff(self["scale"]))]

    @classmethod
    def of(cls, records: Sequence[Record], stopped: str = "", message: str = "") -> "Trace":
        names = records[0].terms if records else ()
        columns = {name: np.array([getattr(record, name) for record in records], float) for name in COLUMNS}
        terms = {name: np.array([record.terms.get(name, math.nan) for record in records], float) for name in names}
        return cls(columns, terms, stopped, message)


class TraceFile:
    """The file of a run in progress. However the program ends, it holds whole lines."""

    def __init__(self, path: Path) -> None:
        self.path, (self.line, _) = path, _format(path)
        check_folder(path)
        self.ends = [0]  # ends[k]: the file's size in bytes with k records in it

    def begin(self, records: Sequence[Record], ending: Mapping[str, str] | None = None) -> None:
        """Replace the file by one with these records, such as those of a run before it was resumed."""
        lines = self._lines(records, 0, ending)
        with written(self.path) as file:
            file.write(b"".join(lines))
        self.ends = [*accumulate(map(len, lines), initial=0)]

    def update(self, records: Sequence[Record], ending: Mapping[str, str] | None = None) -> None:
        """Add the records that are not in the file yet; `ending` goes to the last one's line. Raises NSTError.

        The file is opened by name each time, so that a deleted file is noticed and earlier failures are made good.
        """
        kept = min(len(self.ends) - 1, max(len(records) - bool(ending), 0))  # the last line is rewritten, longer
        lines = self._lines(records, kept, ending)
        try:
            if self.path.stat().st_size < self.ends[kept]:
                raise FileNotFoundError
            with open(self.path, "rb+") as file:
                file.seek(self.ends[kept])
                file.write(b"".join(lines))
                file.truncate()  # remove what a failed write left
        except FileNotFoundError:
            self.begin(records, ending)
        except OSError as error:
            raise NSTError(f"{self.path} can't be written: {error.strerror or error}") from error
        else:
            self.ends[kept:] = accumulate(map(len, lines), initial=self.ends[kept])

    def _lines(self, records: Sequence[Record], kept: int, ending: Mapping[str, str] | None) -> list[bytes]:
        """The lines of the records after the first `kept`; the heading is part of the first record's line."""
        columns = [*(_flat(records[0].numbers()) if records else COLUMNS), *ENDING]
        rows = [record.numbers() for record in records[kept:]]
        if ending:
            rows[-1:] = [{**(rows[-1] if rows else {}), **ending}]
        lines = [self.line(row, columns).encode() for row in rows]
        if lines and not kept and self.line is _csv_line:
            lines[0] = _csv_line({name: name for name in columns}, columns).encode() + lines[0]
        return lines


def load_trace(path: Path) -> Trace:
    """Read a trace, complete or of a run that was killed. The file is not trusted."""
    _, rows = _format(path)
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise NSTError(f"{path} is not a regular file: name a trace that a run wrote")
        with open(path, "rb") as file:
            data = file.read(LIMIT + 1)
    except FileNotFoundError as error:
        raise NSTError(f"{path} does not exist: `transfer … --trace {path.name}` writes it") from error
    except (OSError, ValueError) as error:
        raise NSTError(f"{path} can't be read: {reason(error)}") from error
    try:
        if len(data) > LIMIT:
            raise _BadError(f"it has more than {LIMIT >> 20} MiB")
        whole = data[: data.rfind(b"\n") + 1]  # without a last line that was cut off
        return _collected(rows(_lines(whole.decode("utf-8-sig"))))
    except UnicodeDecodeError as error:
        raise NSTError(f"{path} is not the trace of a run: it is not text") from error
    except _BadError as error:
        raise NSTError(f"{path} is not the trace of a run: {error}") from error


class _BadError(Exception):
    """What is wrong with a file."""


def _collected(rows: Iterator[Mapping[str, Any]]) -> Trace:
    columns: dict[str, array[float]] = {}
    ending = dict.fromkeys(ENDING, "")
    for row in rows:
        ending |= {name: _plain(str(row[name])) for name in ENDING if row.get(name)}
        if row.get("iteration") in ("", None):  # a line that only tells the end
            continue
        numbers = {name: _number(name, row.get(name, default)) for name, default in COLUMNS.items()}
        for name, value in row.items():
            if name.startswith(TERM):
                numbers[TERM + _plain(name.removeprefix(TERM))] = _number(name, value)
        iteration, scale = numbers["iteration"], numbers["scale"]
        last, coarser = (columns[name][-1] if columns else 0 for name in ("iteration", "scale"))
        if not last < iteration <= 1e9:
            raise _BadError(f"iteration {iteration:g} comes after {last:g}")
        if not coarser <= scale <= MOST_SCALES or scale % 1:
            raise _BadError(f"iteration {iteration:g} is at scale {scale:g}")
        columns = columns or {name: array("d") for name in numbers}
        if numbers.keys() != columns.keys():
            raise _BadError(f"iteration {iteration:g} has other terms than the first")
        if len(columns) > len(COLUMNS) + MOST_TERMS or len(columns["iteration"]) == MOST_ITERATIONS:
            raise _BadError(f"it has more than {MOST_TERMS} terms or {MOST_ITERATIONS} iterations")
        for name, number in numbers.items():
            columns[name].append(number)
    if not columns:
        raise _BadError("it holds no iteration")
    arrays = {name: np.array(numbers) for name, numbers in columns.items()}
    terms = {name.removeprefix(TERM): arrays.pop(name) for name in columns if name.startswith(TERM)}
    return Trace(arrays, terms, **ending)


def _number(name: str, value: Any) -> float:
    try:
        number = math.nan if value in ("", None) else float(value)
    except (TypeError, ValueError, OverflowError):
        raise _BadError(f"{_plain(name)} should be a number, not {str(value)[:40]!r}") from None
    return number if math.isfinite(number) else math.nan


def _plain(text: str) -> str:
    """Safe to print on one line of a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text[:500]).split())


def _lines(text: str) -> Iterator[str]:
    lines = io.StringIO(text, newline="")
    while line := lines.readline(LINE_LIMIT + 1):
        if len(line) > LINE_LIMIT:
            raise _BadError(f"it has a line of more than {LINE_LIMIT} characters")
        yield line


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as CSV has it: each term is a column."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        flat |= {TERM + term: number for term, number in value.items()} if name == "terms" else {name: value}
    return flat


def _csv_line(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    line = io.StringIO()
    csv.DictWriter(line, columns, extrasaction="ignore", lineterminator="\n").writerow(_flat(row))
    return line.getvalue()


def _csv_rows(lines: Iterator[str]) -> Iterator[Mapping[str, Any]]:
    reader = csv.reader(lines)
    try:
        columns = next(reader, [])
        if missing := {"iteration", "loss"} - set(columns):
            raise _BadError(f"its first line names no column {' and no '.join(sorted(missing))}")
        for cells in reader:
            if len(cells) != len(columns):
                raise _BadError(f"line {reader.line_num} has {len(cells)} cells instead of {len(columns)}")
            yield dict(zip(columns, cells, strict=True))
    except csv.Error as error:
        raise _BadError(f"line {reader.line_num}: {error}") from error


def _json_line(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _json_rows(lines: Iterator[str]) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("terms", {}), dict):
            raise _BadError(f"line {number} is not a JSON object with the numbers of an iteration")
        yield _flat(row)


FORMATS = {".csv": (_csv_line, _csv_rows), ".jsonl": (_json_line, _json_rows)}


def _format(path: Path) -> tuple[Line, Rows]:
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise NSTError(f"{path}: a trace's name ends in {' or '.join(FORMATS)}") from None
