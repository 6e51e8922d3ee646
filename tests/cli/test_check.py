"""`check`: the table and its verdict."""

import json
import sys

from nst_manual.cli.main import main


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
