"""`gradient`: numbers, pictures, a table and JSON."""

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from nst_manual.cli.main import main
from nst_manual.errors import NSTError
from nst_manual.objective import Evaluation
from nst_manual.pictures.files import held
from nst_manual.study.gradients import Gradients


def test_gradient_writes_every_term(tmp_path, pictures, capsys):
    content, style = pictures
    options = ["--style-layers", "conv1_1,conv2_1", "--content-layers", "conv2_2", "--tv-weight", "0.1"]
    assert main(["gradient", content, content, style, "-o", str(tmp_path / "g.h5"), *options]) == 0
    with h5py.File(tmp_path / "g.h5") as file:
        assert set(file["gradient"]) == {"content:conv2_2", "style:conv1_1", "style:conv2_1", "tv", "total"}
        assert file["gradient/total"].shape == (48, 64, 3)
    assert "total" in capsys.readouterr().out


def test_gradient_writes_over_nothing_unasked_and_never_over_an_input(tmp_path, pictures, capsys):
    content, style = pictures
    words = ["gradient", content, content, style, "--style-layers", "conv1_1", "--content-layers", "conv1_2"]
    before = Path(content).read_bytes()
    for output, sentence in (
        (content, "is one of the inputs"),
        (str(tmp_path / "g.png"), "must end in .h5"),
        (str(tmp_path / "g.h5"), ""),
    ):
        assert main([*words, "-o", output]) == (2 if sentence else 0)
        assert sentence in capsys.readouterr().err
    assert main([*words, "-o", str(tmp_path / "g.h5")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*words, "-o", str(tmp_path / "g.h5"), "--overwrite"]) == 0
    assert Path(content).read_bytes() == before


def test_gradient_without_a_file_shows_the_table(pictures, capsys):
    content, style = pictures
    assert main(["gradient", content, content, style, "--style-layers", "conv1_1", "--content-layers", "conv1_2"]) == 0
    assert "ReLUs open" in capsys.readouterr().out


def test_gradient_maps_are_pictures_a_table_and_json(tmp_path, pictures, capsys):
    content, style = pictures
    options = ["--style-layers", "conv1_1,conv2_1", "--content-layers", "pre:relu2_2", "--size", "40"]
    words = ["gradient", content, content, style, "--maps", str(tmp_path / "maps"), *options]
    assert main(words) == 0
    names = ["content_pre_conv2_2.png", "style_conv1_1.png", "style_conv2_1.png", "total.png", "tv.png"]
    assert sorted(os.listdir(tmp_path / "maps")) == names
    table = capsys.readouterr().out
    assert "cosine" in table
    assert "ReLUs open" in table
    assert main(words) == 2
    assert "maps has pictures in it already" in capsys.readouterr().err
    assert main([*words, "--json", "--overwrite"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert set(record["norm"]) == set(record["cosine"]) == set(record["share"]) | {"total"}
    assert record["layers"][0] == {"name": "pre:conv2_2", "norm": record["layers"][0]["norm"], "open": None}
    assert len(record["maps"]) == 5


def test_gradient_never_writes_over_its_weights_nor_draws_over_an_input(tmp_path, pictures, capsys):
    content, style = pictures
    weights, maps = tmp_path / "w.h5", tmp_path / "maps"
    weights.write_bytes(b"weights")
    words = ["gradient", content, content, style, "--overwrite"]
    assert main([*words, "--weights", str(weights), "-o", str(weights)]) == 2
    assert weights.read_bytes() == b"weights"
    maps.mkdir()
    drawn, before = maps / "total.png", Path(style).read_bytes()
    drawn.write_bytes(before)
    words = ["gradient", content, content, str(drawn), "--style-layers", "conv1_1", "--content-layers", "conv1_2"]
    assert main([*words, "--maps", str(maps), "--overwrite"]) == 2
    assert capsys.readouterr().err.count("is one of the inputs") == 2
    assert os.listdir(maps) == ["total.png"]
    assert drawn.read_bytes() == before


def test_gradient_replaces_nothing_that_came_meanwhile_and_waits_for_no_other_run(tmp_path, pictures, capsys):
    content, style = pictures
    words = ["gradient", content, content, style, "-o", str(tmp_path / "g.h5"), "--maps", str(tmp_path / "maps")]
    for name in ("g.h5", "maps"):
        with held(tmp_path / name):
            assert main(words) == 2
        assert "another run is writing" in capsys.readouterr().err
    (tmp_path / "g.h5").write_bytes(b"of another program")
    total = Evaluation(0.0, np.zeros((2, 2, 3)), {})
    with pytest.raises(NSTError, match="exists"):
        Gradients(total, {}, {}, ()).save(tmp_path / "g.h5", new=True)
    assert (tmp_path / "g.h5").read_bytes() == b"of another program"
