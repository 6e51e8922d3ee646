"""`demo`: pictures without files."""

import os

from nst_manual.cli.main import main


def test_demo_draws_two_pictures_and_transfers_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--size", "64", "--iterations", "2", "--quiet"]) == 0
    assert sorted(os.listdir("nst_manual_demo")) == ["content.png", "result.png", "style.png"]
