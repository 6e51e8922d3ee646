"""What a run's numbers say, in words."""

import dataclasses
import json
import math
import re

import pytest
from records import run

from nst_manual.cli.main import main
from nst_manual.runs.explain import explained, sentences
from nst_manual.runs.traces import Trace, TraceFile


def words(records, stopped="iterations", message="all done"):
    return sentences(explained(Trace.of(records, stopped, message)))


@pytest.fixture
def trace(tmp_path):
    file = TraceFile(tmp_path / "trace.csv")
    file.begin(run())
    file.update(run(), {"stopped": "iterations", "message": "all 12 iterations done"})
    return file.path


def test_a_run_at_one_scale_is_told_in_full():
    assert words(run(iterations=10, scales=((64, 48),))) == [
        "10 iterations in 5.0 s",
        "64×48, iterations 1 to 10: the loss fell from 1.11e+06 to 1.12e+05, by a factor of 9.91, "
        "90 % of the fall by iteration 6, 99 % of the fall by iteration 10",
        "the terms:",
        "  content:conv4_2  rose from 1.01e+03 to 1.1e+03, by a factor of 1.09 (1% of the loss)",
        "  style:conv1_1    fell from 1e+06 to 1e+05, by a factor of 10 (89% of the loss)",
        "  style:conv2_1    fell from 1e+05 to 1e+04, by a factor of 10 (9% of the loss)",
        "  style:conv3_1    fell from 1e+04 to 1e+03, by a factor of 10 (1% of the loss)",
        "  tv               stayed at 50 (0% of the loss)",
        "the largest term at the end is style:conv1_1",
        "the gradient's norm fell from 1e+04 to 1e+03, by a factor of 10",
        "the change per pixel in an iteration (root mean square, 0 … 255) fell from 16 to 1.6, by a factor of 10",
        "12 evaluations, 1.2 per iteration, at most 2: line searches were cheap",
        "in the last tenth of these iterations the loss fell by 9.90%: it was still falling",
        "it stopped: iterations: all done",
    ]


def test_each_scale_is_told_and_terms_are_the_finest_ones():
    about = explained(Trace.of(run()))
    assert [(s["width"], s["first_iteration"], s["last_iteration"]) for s in about["scales"]] == [
        (64, 1, 6),
        (128, 7, 12),
    ]
    assert about["terms"]["style:conv1_1"]["first"] == 1e6  # at the beginning of the second scale
    assert about["terms"]["style:conv1_1"]["factor"] == pytest.approx(6)
    assert any("(at the finest scale)" in line for line in sentences(about))


def test_how_soon_the_loss_fell_is_counted_of_its_whole_fall():
    losses = [1000.0, 200.0, 101.0, 100.5, 9.0, 0.0]
    records = [dataclasses.replace(r, loss=loss) for r, loss in zip(run(6, ((8, 8),)), losses, strict=True)]
    (scale,) = explained(Trace.of(records))["scales"]
    assert (scale["fell_90"], scale["fell_99"]) == (5, 5)


def test_costly_line_searches_and_a_run_that_ended_early_are_told():
    records = [dataclasses.replace(r, evaluations=3 * r.iteration, iterations=300) for r in run()]
    told = "\n".join(words(records, "", ""))
    assert "12 iterations of 300" in told
    assert "36 evaluations, 3 per iteration, at most 3: line searches were costly" in told
    assert "it was killed, or is still running" in told


def test_a_loss_that_stands_still_is_told():
    records = [dataclasses.replace(r, loss=100.0 - r.iteration / 1000) for r in run(12, ((8, 8),))]
    assert any("more iterations would hardly help" in line for line in words(records))


def test_strange_numbers_are_told_without_nonsense():
    records = run()
    changes = [
        {"loss": math.nan, "terms": dict.fromkeys(records[0].terms, math.nan), "gradient": math.nan, "step": math.nan},
        {"loss": 0.0, "terms": {}, "step": 0.0, "width": 0, "evaluations": 0},
        {"loss": -1.0, "terms": {"tv": -1.0}, "seconds": math.nan},
    ]
    for change in changes:
        odd = [dataclasses.replace(record, **change) for record in records]
        for some in (odd, odd[:1], [*records[:-1], odd[-1]]):
            about = explained(Trace.of(some))
            json.dumps(about, allow_nan=False)
            assert not re.search(r"\b(nan|inf|None)\b", "\n".join(sentences(about)))


def test_the_command_tells_plots_and_gives_json(tmp_path, trace, capsys):
    assert main(["explain", str(trace), "-o", str(tmp_path / "plot.svg")]) == 0
    captured = capsys.readouterr()
    assert captured.out.endswith("it stopped: iterations: all 12 iterations done\n")
    assert captured.err == ""
    assert (tmp_path / "plot.svg").exists()
    assert main(["explain", str(trace), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["largest"] == "style:conv1_1"


def test_mistakes_are_told_in_a_sentence(tmp_path, trace, capsys):
    (tmp_path / "bad.csv").write_text("1,2,3\n")
    (tmp_path / "there.png").touch()
    for arguments, sentence in (
        (["bad.csv"], "names no column"),
        (["missing.csv"], "does not exist"),
        (["trace.csv", "-o", "there.png"], "exists already"),
        (["trace.csv", "-o", "plot.gif"], "ends in .png or .svg"),
    ):
        assert main(["explain", *(str(tmp_path / a) if "." in a else a for a in arguments)]) == 2
        captured = capsys.readouterr()
        assert sentence in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""
