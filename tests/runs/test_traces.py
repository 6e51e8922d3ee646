"""A run's numbers in a file: what is written is read again, a killed run leaves whole lines, and bad files are told."""

import csv
import dataclasses
import json
import math
import os

import numpy as np
import pytest
from records import run

from nst_manual.errors import NSTError
from nst_manual.optimise import Record
from nst_manual.runs.traces import LIMIT, LINE_LIMIT, Trace, TraceFile, load_trace

ENDING = {"stopped": "converged", "message": "no more progress, at last: „ende“"}
KINDS = ["csv", "jsonl"]


def write(path, records, ending=None):
    file = TraceFile(path)
    file.begin([])
    for k in range(1, len(records) + 1):
        file.update(records[:k])
    if ending:
        file.update(records, ending)
    return path


def same(a, b):
    assert a.columns.keys() == b.columns.keys()
    assert list(a.terms) == list(b.terms)
    for mine, other in ((a.columns, b.columns), (a.terms, b.terms)):
        assert all(np.array_equal(mine[name], other[name], equal_nan=True) for name in mine)
    assert (a.stopped, a.message) == (b.stopped, b.message)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read_again_to_the_last_digit(tmp_path, kind):
    records = run()
    records[3] = dataclasses.replace(records[3], loss=math.inf, terms={**records[3].terms, "tv": math.nan})
    records[5] = dataclasses.replace(records[5], loss=1 / 3)
    path = write(tmp_path / f"trace.{kind}", records, ENDING)
    finite = [dataclasses.replace(r, loss=r.loss if math.isfinite(r.loss) else math.nan) for r in records]
    same(load_trace(path), Trace.of(finite, **ENDING))
    assert os.listdir(tmp_path) == [path.name]


def test_csv_is_a_table_that_any_program_reads(tmp_path):
    path = write(tmp_path / "trace.csv", run(), ENDING)
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert all(None not in row and None not in row.values() for row in rows)  # as many cells as columns
    assert float(rows[0]["loss:style:conv1_1"]) == 1e6
    assert rows[0]["iteration"] == "1"
    assert [row["stopped"] for row in rows] == [""] * 11 + ["converged"]
    assert rows[-1]["message"] == ENDING["message"]
    assert list(rows[0])[:4] == ["iteration", "evaluations", "loss", "loss:content:conv4_2"]


def test_json_lines_are_those_of_the_command_line(tmp_path):
    records = run()
    path = write(tmp_path / "trace.jsonl", records, ENDING)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines[:-1] == [record.numbers() for record in records[:-1]]
    assert lines[-1] == records[-1].numbers() | ENDING


@pytest.mark.parametrize("kind", KINDS)
def test_at_any_moment_the_file_holds_the_whole_lines_of_all_records_so_far(tmp_path, kind):
    records = run()
    file = TraceFile(tmp_path / f"trace.{kind}")
    file.begin(records[:5])  # an earlier part of the run
    same(load_trace(file.path), Trace.of(records[:5]))
    for k in range(6, 13):
        file.update(records[:k])
        assert file.path.read_bytes().endswith(b"\n")
        same(load_trace(file.path), Trace.of(records[:k]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_without_iterations_tells_why_it_ended(tmp_path, kind):
    path = write(tmp_path / f"trace.{kind}", [], ENDING)
    assert "converged" in path.read_text(encoding="utf-8")
    with pytest.raises(NSTError, match="holds no iteration"):
        load_trace(path)


@pytest.mark.parametrize("kind", KINDS)
def test_an_old_file_is_begun_afresh(tmp_path, kind):
    path = tmp_path / f"trace.{kind}"
    write(path, run(8))
    write(path, run(4))
    same(load_trace(path), Trace.of(run(4)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_was_taken_away_or_cut_off_is_written_again(tmp_path, kind):
    records = run()
    file = TraceFile(tmp_path / f"trace.{kind}")
    file.begin(records[:4])
    file.path.unlink()
    file.update(records[:5])
    same(load_trace(file.path), Trace.of(records[:5]))
    os.truncate(file.path, 40)
    file.update(records[:6])
    same(load_trace(file.path), Trace.of(records[:6]))


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_failure_in_the_middle_of_a_line_the_file_is_mended(tmp_path, kind):
    records = run()
    file = TraceFile(tmp_path / f"trace.{kind}")
    file.begin(records[:4])
    with open(file.path, "ab") as other:
        other.write(b'{"iterat' * 200)  # all that the disk took
    file.update(records[:6], ENDING)
    same(load_trace(file.path), Trace.of(records[:6], **ENDING))


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_vanished_is_told_and_forgiven(tmp_path, kind):
    records = run()
    folder = tmp_path / "folder"
    folder.mkdir()
    file = TraceFile(folder / f"trace.{kind}")
    file.begin([])
    file.update(records[:2])
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(NSTError, match="can't be written"):
        file.update(records[:3])
    folder.mkdir()
    file.update(records[:4])
    same(load_trace(file.path), Trace.of(records[:4]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_last_line_that_was_cut_off_is_left_out(tmp_path, kind):
    path = write(tmp_path / f"trace.{kind}", run())
    whole = path.read_bytes()
    start = whole[:-1].rfind(b"\n") + 1
    for end in (start, start + 1, start + 20, len(whole) - 1):
        path.write_bytes(whole[:end])
        same(load_trace(path), Trace.of(run()[:11]))


def test_what_json_printed_is_a_trace_too(tmp_path):
    lines = [json.dumps(record.numbers()) for record in run()]
    lines.append(json.dumps({"output": "out.png", "loss": 3.0, "stopped": "iterations"}))
    (tmp_path / "trace.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    same(load_trace(tmp_path / "trace.jsonl"), Trace.of(run(), "iterations"))


def test_a_table_of_few_columns_is_enough(tmp_path):
    (tmp_path / "trace.csv").write_bytes(b"\xef\xbb\xbfiteration,loss,mood\r\n1,4,good\r\n3,2,bad\r\n")
    trace = load_trace(tmp_path / "trace.csv")
    assert trace["iteration"].tolist() == [1, 3]
    assert trace["loss"].tolist() == [4, 2]
    assert trace["scale"].tolist() == [1, 1]
    assert np.isnan(trace["gradient"]).all()
    assert len(trace) == 2
    assert trace.terms == {}


def test_words_from_a_file_are_fit_for_a_terminal(tmp_path):
    lines = [Record(1, 1, 1.0, {"\x1b[31mred\n": 1.0}, 1.0).numbers() | {"stopped": "\x1b[2J" + "x" * 9999}]
    (tmp_path / "trace.jsonl").write_text(json.dumps(lines[0]) + "\n", encoding="utf-8")
    trace = load_trace(tmp_path / "trace.jsonl")
    assert list(trace.terms) == ["[31mred"]
    assert trace.stopped.isprintable()
    assert len(trace.stopped) < 600


BAD = {
    "empty.csv": (b"", "names no column"),
    "empty.jsonl": (b"", "holds no iteration"),
    "heading.csv": (b"iteration,loss\n", "holds no iteration"),
    "columns.csv": (b"a,b\n1,2\n", "names no column iteration and no loss"),
    "semicolons.csv": (b"iteration;loss\n1;2\n", "names no column"),
    "ragged.csv": (b"iteration,loss\n1,2\n2\n3,4\n", "line 3 has 1 cells instead of 2"),
    "word.csv": (b"iteration,loss\n1,red\n", "loss should be a number, not 'red'"),
    "backwards.csv": (b"iteration,loss\n2,1\n1,1\n", "iteration 1 comes after 2"),
    "nan.csv": (b"iteration,loss\nnan,1\n", "iteration nan comes after 0"),
    "far.csv": (b"iteration,loss\n1,1\n1e300,1\n", "after 1"),
    "scales.csv": (b"iteration,loss,scale\n1,1,1\n2,1,1e9\n", "iteration 2 is at scale 1e"),
    "fractions.csv": (b"iteration,loss,scale\n1,1,1.5\n", "iteration 1 is at scale 1.5"),
    "binary.csv": (b"\xff\xfe\x00\x01\n", "not text"),
    "quote.csv": (b'iteration,loss\n"' + b"1,2\n" * 50000, "line"),
    "long line.csv": (b"iteration,loss" + b",a" * LINE_LIMIT, "line of more than"),
    "junk.jsonl": (b"junk\n", "line 1 is not a JSON object"),
    "list.jsonl": (b"[1, 2]\n", "line 1 is not a JSON object"),
    "terms.jsonl": (b'{"iteration": 1, "loss": 1, "terms": [3]}\n', "line 1 is not a JSON object"),
    "loss.jsonl": (b'{"iteration": 1, "loss": {"a": 1}}\n', "loss should be a number"),
    "huge.jsonl": (b'{"iteration": 1, "loss": 1' + b"0" * 400 + b"}\n", "loss should be a number"),
    "other terms.jsonl": (
        b'{"iteration": 1, "terms": {"tv": 1}}\n{"iteration": 2, "terms": {"TV": 1}}\n',
        "iteration 2 has other terms",
    ),
    "deep.jsonl": (b"[" * 100000 + b"\n", "line 1 is not a JSON object"),
    "digits.jsonl": (b'{"iteration": ' + b"9" * 5000 + b"}\n", "line 1 is not a JSON object"),
    "name.txt": (b"iteration,loss\n1,2\n", r"ends in \.csv or \.jsonl"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_told_in_one_sentence(tmp_path, name):
    data, sentence = BAD[name]
    (tmp_path / name).write_bytes(data + b"\n" * (name == "long line.csv"))
    with pytest.raises(NSTError, match=sentence) as raised:
        load_trace(tmp_path / name)
    assert name in str(raised.value)
    assert len(str(raised.value)) < 300 + len(str(tmp_path))


def test_a_file_that_is_too_large_or_none_is_refused(tmp_path):
    with open(tmp_path / "large.csv", "wb") as file:
        file.truncate(LIMIT + 1)
    (tmp_path / "folder.csv").mkdir()
    for name, sentence in (("large", "64 MiB"), ("folder", "not a regular file"), ("missing", "does not exist")):
        with pytest.raises(NSTError, match=sentence):
            load_trace(tmp_path / f"{name}.csv")


def test_more_iterations_and_terms_than_a_run_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("nst_manual.runs.traces.MOST_ITERATIONS", 11)
    with pytest.raises(NSTError, match="11 iterations"):
        load_trace(write(tmp_path / "trace.csv", run()))
    monkeypatch.setattr("nst_manual.runs.traces.MOST_TERMS", 4)
    with pytest.raises(NSTError, match="more than 4 terms"):
        load_trace(write(tmp_path / "trace.jsonl", run()))


def test_a_trace_that_cannot_be_written_is_found_out_before(tmp_path):
    for name, sentence in (("a.txt", "ends in"), ("no/a.csv", "does not exist")):
        with pytest.raises(NSTError, match=sentence):
            TraceFile(tmp_path / name)
