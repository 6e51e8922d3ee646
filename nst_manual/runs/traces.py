"""A run's numbers: as columns, and as a file with one line per iteration that grows with the run.

A CSV file has a column for each number, one named `loss:<term>` for each term, and on its last line why the run
stopped. JSON lines are those that `--json` prints. An unknown or infinite number is an empty cell, null or nan.
"""

import csv
import dataclasses
import io
import json
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array
from ..errors import NSTError
from ..optimise import Record
from ..pictures.files import check_folder, written

TERM = "loss:"  # before the name of a term's column
ENDING = ("stopped", "message")
LIMIT = 2**26  # bytes of a file that is read
LINE_LIMIT = 2**20  # characters
MOST_TERMS = 1000
MOST_SCALES = 100
MOST_ITERATIONS = 200_000

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

    @classmethod
    def of(cls, records: Sequence[Record], stopped: str = "", message: str = "") -> "Trace":
        names = records[0].terms if records else ()
        columns = {name: np.array([getattr(record, name) for record in records], float) for name in COLUMNS}
        terms = {name: np.array([record.terms.get(name, math.nan) for record in records], float) for name in names}
        return cls(columns, terms, stopped, message)


class TraceFile:
    """The file of a run in progress. However the program ends, it holds whole lines."""

    def __init__(self, path: Path) -> None:
        self.path, self.format = path, _format(path)
        check_folder(path)
        self.ends = [0]  # ends[k]: the file's size in bytes with k records in it

    def begin(self, records: Sequence[Record], ending: Mapping[str, str] | None = None) -> None:
        """Replace the file by one with these records, such as those of a run before it was resumed."""
        lines = self._lines(records, 0, ending)
        with written(self.path) as file:
            file.write(b"".join(lines))
        self._count(0, lines)

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
            self._count(kept, lines)

    def _lines(self, records: Sequence[Record], kept: int, ending: Mapping[str, str] | None) -> list[bytes]:
        """The lines of the records after the first `kept`; the heading is part of the first record's line."""
        columns = [*_columns(records[0].terms if records else ()), *ENDING]
        rows: list[Mapping[str, Any]] = [record.numbers() for record in records[kept:]]
        if ending:
            rows = [*rows[:-1], {**(rows[-1] if rows else {}), **ending}]
        lines = [self.format.line(row, columns).encode() for row in rows]
        if lines and not kept and self.format.line is _csv_line:
            lines[0] = _csv(columns).encode() + lines[0]
        return lines

    def _count(self, kept: int, lines: Sequence[bytes]) -> None:
        del self.ends[kept + 1 :]
        for line in lines:
            self.ends.append(self.ends[-1] + len(line))


def load_trace(path: Path) -> Trace:
    """Read a trace, complete or of a run that was killed. The file is not trusted."""
    form = _format(path)
    try:
        if path.exists() and not path.is_file():
            raise NSTError(f"{path} is not a regular file: name a trace that a run wrote")
        with open(path, "rb") as file:
            data = file.read(LIMIT + 1)
    except FileNotFoundError as error:
        raise NSTError(f"{path} does not exist: `transfer … --trace {path.name}` writes it") from error
    except OSError as error:
        raise NSTError(f"{path} can't be read: {error.strerror or error}") from error
    try:
        if len(data) > LIMIT:
            raise _BadError(f"it has more than {LIMIT >> 20} MiB")
        whole = data[: data.rfind(b"\n") + 1]  # without a last line that was cut off
        return _collected(form.rows(_lines(whole.decode("utf-8-sig"))))
    except UnicodeDecodeError as error:
        raise NSTError(f"{path} is not the trace of a run: it is not text") from error
    except _BadError as error:
        raise NSTError(f"{path} is not the trace of a run: {error}") from error


class _BadError(Exception):
    """What is wrong with a file."""


def _collected(rows: Iterator[Mapping[str, Any]]) -> Trace:
    columns = {name: array("d") for name in COLUMNS}
    terms: dict[str, array[float]] = {}
    ending = dict.fromkeys(ENDING, "")
    for row in rows:
        ending |= {name: _plain(str(row[name])) for name in ENDING if row.get(name)}
        if row.get("iteration") in ("", None):  # a line that only tells the end
            continue
        numbers = {name: _number(name, row.get(name, default)) for name, default in COLUMNS.items()}
        found = {_plain(name): _number(name, value) for name, value in row.get("terms", {}).items()}
        before = columns["iteration"][-1] if columns["iteration"] else 0
        if not before < numbers["iteration"] <= 1e9:
            raise _BadError(f"iteration {numbers['iteration']:g} comes after {before:g}")
        if not columns["iteration"]:
            terms = {name: array("d") for name in found}
        scale = numbers["scale"]
        if not (columns["scale"][-1] if columns["scale"] else 0) <= scale <= MOST_SCALES or scale % 1:
            raise _BadError(f"iteration {numbers['iteration']:g} is at scale {scale:g}")
        if found.keys() != terms.keys():
            raise _BadError(f"iteration {numbers['iteration']:g} has other terms than the first")
        if len(terms) > MOST_TERMS or len(columns["iteration"]) == MOST_ITERATIONS:
            raise _BadError(f"it has more than {MOST_TERMS} terms or {MOST_ITERATIONS} iterations")
        for name, number in numbers.items():
            columns[name].append(number)
        for name, number in found.items():
            terms[name].append(number)
    if not columns["iteration"]:
        raise _BadError("it holds no iteration")
    return Trace(
        {name: np.array(numbers) for name, numbers in columns.items()},
        {name: np.array(numbers) for name, numbers in terms.items()},
        **ending,
    )


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


def _columns(terms: Iterable[str]) -> list[str]:
    """The CSV columns: a Record's fields in their order, and the terms after the loss."""
    return [column for name in COLUMNS for column in (name, *(TERM + t for t in terms if name == "loss"))]


def _csv_line(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    cells = {**row, **{TERM + name: value for name, value in row.get("terms", {}).items()}}
    return _csv([cells.get(column) for column in columns])


def _csv(cells: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
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
            row: dict[str, Any] = dict(zip(columns, cells, strict=True))
            row["terms"] = {name.removeprefix(TERM): row[name] for name in columns if name.startswith(TERM)}
            yield row
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
        yield row


class _Format(NamedTuple):
    line: Callable[[Mapping[str, Any], Sequence[str]], str]
    rows: Callable[[Iterator[str]], Iterator[Mapping[str, Any]]]


FORMATS = {".csv": _Format(_csv_line, _csv_rows), ".jsonl": _Format(_json_line, _json_rows)}


def _format(path: Path) -> _Format:
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise NSTError(f"{path}: a trace's name ends in {' or '.join(FORMATS)}") from None
