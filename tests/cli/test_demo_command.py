"""`demo`: pictures without files."""

import os
from pathlib import Path

from PIL import Image

from nst_manual.cli.main import main


def test_demo_draws_two_pictures_and_transfers_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--size", "64", "--iterations", "2", "--quiet"]) == 0
    assert sorted(os.listdir("nst_manual_demo")) == ["content.png", "result.png", "style.png"]


def test_demo_draws_the_two_pictures_alone_and_replaces_nothing_unasked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("scene", "painting"):
        monkeypatch.setattr(f"nst_manual.cli.demo.{name}", lambda *size: Image.new("RGB", size, "teal"))
    words = ["demo", "--size", "64", "--pictures"]
    assert main([*words, "drawn"]) == 0
    assert (
        capsys.readouterr().out == f"{Path('drawn/photo.jpg')} and {Path('drawn/painting.jpg')}, drawn by the program\n"
    )
    assert os.listdir() == ["drawn"]
    for name in ("photo.jpg", "painting.jpg"):
        with Image.open(f"drawn/{name}") as picture:
            assert (picture.format, picture.size) == ("JPEG", (64, 48))
    os.remove("drawn/photo.jpg")
    Path("drawn/painting.jpg").write_bytes(b"mine")
    for more, sentence in (
        (["drawn"], "exists already"),
        ([".", "-o", "x"], "leave one of them out"),
        (["none/x"], "can't be created"),
    ):
        assert main([*words, *more]) == 2
        assert sentence in capsys.readouterr().err
    assert os.listdir("drawn") == ["painting.jpg"]
    assert Path("drawn/painting.jpg").read_bytes() == b"mine"
    assert main([*words, "drawn", "--overwrite"]) == 0
    assert sorted(os.listdir("drawn")) == ["painting.jpg", "photo.jpg"]
