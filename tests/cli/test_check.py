"""`check`: the table and its verdict."""

import json
import sys

import pytest

from nst_manual.cli.main import main
from nst_manual.engines.cuda import survey
from nst_manual.engines.cuda.verdicts import Verdict
from nst_manual.proof.checks import NARROW
from nst_manual.proof.report import Check
from nst_manual.vgg import steps_to


def test_check_prints_the_table_and_exits_by_its_verdict(monkeypatch, capsys):
    assert main(["check", "--engine", "reference", "--precision", "float64"]) == 0
    captured = capsys.readouterr().out
    assert captured.count("  ok") == len(captured.splitlines()) - 3 > 12  # but the heading, the limits, the sentence
    assert captured.endswith("every derivative is right\n")
    right = sys.modules["nst_manual.layers"].conv_backward
    monkeypatch.setattr("nst_manual.layers.conv_backward", lambda d_y, kernel: right(d_y, kernel) * 1.001)
    assert main(["check", "--json", "--engine", "reference", "--precision", "float64"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["name"] for line in lines if not line["passed"]} >= {"convolution", "objective, paper, avg pooling"}
    assert next(line for line in lines if line["name"] == "ReLU")["passed"]


@pytest.fixture
def gpu(cupy_without_kernels, monkeypatch):
    """A stand-in for a GPU whose fused path fails."""

    def judged(path, precision, cupy, anew=False):
        assert anew
        return Verdict(
            path, precision, ("a layer: up: 3 numbers are wrong (conv)",) if path == "fused" else (), 31, 2.5
        )

    monkeypatch.setattr(survey, "verdict_of", judged)
    return cupy_without_kernels


def test_with_a_gpu_the_paths_are_shown_with_their_verdicts(gpu, capsys):
    assert main(["check", "--engine", "cuda", "--precision", "float64"]) == 0
    captured = capsys.readouterr().out
    assert captured.startswith("float64, plain: passed, 31 trials in 2.5 s\n")
    assert captured.endswith("every derivative is right\n")


def test_a_report_has_all_about_a_gpu_in_one_file(gpu, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(survey, "milliseconds", lambda *given: 1.25)
    monkeypatch.setattr("nst_manual.cli.check.checks", lambda **options: [Check("a row", engine=0.0)])
    words = ["check", "--engine", "cuda", "--precision", "float64", "--report", str(tmp_path / "gpu.json")]
    assert main(words) == 1  # a path fails
    report = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert report["gpu"]["card"] == "a CPU"
    assert report["versions"].keys() >= {"nst_manual", "numpy", "python"}
    assert len(report["paths"]) == 3 * 3 + 1
    failed = [record for record in report["paths"] if not record["passed"]]
    assert {record["path"] for record in failed} == {"fused"}
    assert failed[0]["faults"] == ["a layer: up: 3 numbers are wrong (conv)"]
    assert all("ms of an evaluation at 512²" in record for record in report["paths"] if record["passed"])
    assert [check["name"] for check in report["checks"]] == ["a row"]
    assert "float16, fused: FAILED, a layer: up: 3 numbers are wrong (conv)" in capsys.readouterr().out
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_report_is_written_where_there_is_no_gpu_to_use(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("nst_manual.engines.cuda.probe.driver_version", lambda: None)
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert main(["check", "--engine", "cuda", "--report", str(tmp_path / "gpu.json")]) == 2
    report = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert "there is no NVIDIA driver" in report["gpu"]["trouble"]
    assert report["error"].startswith("NoGPU: --engine cuda: no GPU")
    assert main(["check", "--report", str(tmp_path / "other.json")]) == 2
    assert "--report is about a GPU: add --engine cuda" in capsys.readouterr().err


def test_an_evaluation_is_timed(cupy_without_kernels):
    assert survey.milliseconds("plain", "float64", cupy_without_kernels, 17, steps_to("conv2_1", NARROW)) > 0
