"""The papers' figures: what they draw and tell, and that no cell is made twice."""

import csv
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from nst_manual import NSTError, figure
from nst_manual.cli.main import main
from nst_manual.engines import open_engine
from nst_manual.pictures.demo import painting, scene
from nst_manual.pictures.reading import load_image
from nst_manual.runs.inputs import load_inputs
from nst_manual.runs.machine import Resident
from nst_manual.runs.memory import Forecast, shown
from nst_manual.settings import Settings
from nst_manual.study.figures import figures
from nst_manual.study.figures.figures import FIGURES, SEEDS, make_figure

QUICK = {
    "engine": "reference",
    "iterations": 2,
    "size": 24,
    "content_layers": "conv1_1,conv1_2",
    "style_layers": "conv1_1,conv1_2",
}
CELLS = {
    "content": ["conv1_1", "conv1_2"],
    "style": ["to_conv1_1", "to_conv1_2"],
    "grid": [f"to_conv1_{k}_{ratio}" for k in (1, 2) for ratio in ("1e-05", "0.0001", "0.001", "0.01")],
    "init": ["content", "style", "noise", "pink", "noise_1"],
    "layers": ["conv1_1", "conv1_2"],
    "optimizers": ["l-bfgs-b", "lbfgs", "adam"],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    scene(40, 30).save(folder / "content.png")
    painting(40, 32).save(folder / "style.png")
    return {"content": str(folder / "content.png"), "style": str(folder / "style.png")}


def pictures_of(name, files):
    return {"content": [files["content"]], "style": [files["style"]]}.get(name, list(files.values()))


def options_of(name):
    left_out = FIGURES[name].left_out()
    return {option: value for option, value in QUICK.items() if option not in left_out}


def words_of(options):
    return [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def runs(monkeypatch):
    """The cells' runs, counted: the name of the command for each."""
    made, make = [], figures.make

    def counted(command, *given, **options):
        made.append(command)
        return make(command, *given, **options)

    monkeypatch.setattr(figures, "make", counted)
    return made


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_one_labelled_picture_and_its_numbers(tmp_path, files, capsys, name):
    out = tmp_path / "out.png"
    assert main(["figure", name, *pictures_of(name, files), "-o", str(out), *words_of(options_of(name))]) == 0
    with Image.open(out) as picture:
        assert min(picture.size) > 200
        assert len(picture.getcolors(2**24)) > 100
    rows = [row["cell"] for row in table(tmp_path / "out.csv") if not row["cell"].startswith("start")]
    assert list(dict.fromkeys(rows)) == CELLS[name]
    assert sorted(os.listdir(tmp_path)) == ["out.csv", "out.png", "out.png.cells"]
    assert {path.stem for path in (tmp_path / "out.png.cells").iterdir()} == set(CELLS[name])
    told = capsys.readouterr().err
    assert f"{2 * len(CELLS[name])}/{2 * len(CELLS[name])} loss" in told  # progress over the whole
    assert told.count("weights: ") == 1


def test_the_numbers_are_those_of_the_pictures(tmp_path, files):
    figure("content", files["content"], output=tmp_path / "out.png", **options_of("content"))
    start, first, second = table(tmp_path / "out.csv")
    cell, original = load_image(tmp_path / "out.png.cells" / "conv1_1.png"), load_image(files["content"], 24)
    psnr = 20 * np.log10(255) - 10 * np.log10(np.mean((cell - original) ** 2))
    assert float(first["psnr"]) == pytest.approx(psnr, rel=1e-5)
    assert float(first["content:conv1_1"]) < float(start["content:conv1_1"])
    assert [row["iteration"] for row in (start, first, second)] == ["", "2", "2"]
    assert set(first) == {
        *("cell", "psnr", "content:conv1_1", "content:conv1_2", "loss", "iteration", "evaluations", "seconds")
    }


def test_the_original_itself_is_at_no_distance(tmp_path, files):
    figure("style", files["style"], output=tmp_path / "out.png", **options_of("style"), init="style")
    for row in table(tmp_path / "out.csv"):
        assert float(row["style:conv1_1"]) < 1e-5  # but for the rounding of the stored picture
        assert row["iteration"] == ""  # there was nothing to do


def test_finished_cells_are_not_made_again(tmp_path, files, runs):
    def make(**changes):
        runs.clear()
        for file in ("out.png", "out.csv"):
            (tmp_path / file).unlink(missing_ok=True)
        options = {**options_of("content"), **changes}
        figure("content", files["content"], output=tmp_path / "out.png", **options)
        return len(runs)

    assert make() == 2
    first = (tmp_path / "out.png.cells" / "conv1_1.png").read_bytes()
    assert make() == 0
    assert make(content_layers="conv1_1,conv2_1") == 1
    assert make(iterations=3) == 2
    assert make() == 2
    assert (tmp_path / "out.png.cells" / "conv1_1.png").read_bytes() == first
    (tmp_path / "out.png.cells" / "conv1_1.png").write_bytes(first[:200])
    (tmp_path / "out.png.cells" / "conv1_2.csv").write_text("nothing")
    assert make() == 2
    assert make(overwrite=True) == 2


def test_cells_of_another_picture_are_made_again(tmp_path, files, runs):
    picture = tmp_path / "picture.png"
    for colour in ("red", "blue"):
        Image.new("RGB", (24, 24), colour).save(picture)
        for file in ("out.png", "out.csv"):
            (tmp_path / file).unlink(missing_ok=True)
        figure("content", picture, output=tmp_path / "out.png", **options_of("content"))
    assert len(runs) == 4


def test_what_is_there_is_only_replaced_when_asked_for(tmp_path, files):
    (tmp_path / "out.csv").write_text("mine")
    with pytest.raises(NSTError, match=r"out\.csv exists already"):
        figure("content", files["content"], output=tmp_path / "out.png", **options_of("content"))
    figure("content", files["content"], output=tmp_path / "out.png", overwrite=True, **options_of("content"))
    assert len(table(tmp_path / "out.csv")) == 3


def test_ctrl_c_keeps_the_finished_cells(tmp_path, files, runs, capsys, monkeypatch):
    words = ["figure", "content", files["content"], "-o", str(tmp_path / "out.png"), *words_of(options_of("content"))]

    def interrupt(self, record):
        if record.iteration == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nst_manual.cli.main.Progress.__call__", interrupt)
        assert main(words) == 130
    assert "interrupted; what is finished is kept in" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path / "out.png.cells")) == ["conv1_1.csv", "conv1_1.png"]
    assert not (tmp_path / "out.png").exists()
    runs.clear()
    assert main(words) == 0
    assert len(runs) == 1


def test_progress_counts_over_the_whole_figure(tmp_path, files):
    seen = []

    def callback(cell, record):
        seen.append((cell.name, record.iteration, record.iterations))

    figure("content", files["content"], output=tmp_path / "out.png", callback=callback, **options_of("content"))
    assert seen == [("conv1_1", 1, 4), ("conv1_1", 2, 4), ("conv1_2", 3, 4), ("conv1_2", 4, 4)]


# ---- cells side by side


THREE = {"content_layers": "conv1_1,conv1_2,conv2_1", "style_layers": "conv1_1,conv1_2,conv2_1"}
SIDE_BY_SIDE = {**QUICK, **THREE, "engine": "cpu", "iterations": 4, "threads": 2}


def options_side_by_side(name):
    return {option: value for option, value in SIDE_BY_SIDE.items() if option not in FIGURES[name].left_out()}


class Crowd:
    """The layers of cells in the order in which they begin, and how many of them are under way at once, at most. The
    first ones wait for each other: however busy the machine, as many as are expected at once are under way at once."""

    def __init__(self, monkeypatch, expected):
        self.begun, self.now, self.most = [], 0, 0
        self.lock, self.together, self.make = threading.Lock(), threading.Barrier(expected), figures.make
        monkeypatch.setattr(figures, "make", self)

    def __call__(self, command, options, *given, **more):
        with self.lock:
            self.begun.append(options.get("content_layers"))
            self.now += 1
            self.most = max(self.most, self.now)
            first = len(self.begun) <= self.together.parties
        if first:
            self.together.wait(60)
        time.sleep(0.02)  # so that one too many would be seen
        try:
            return self.make(command, options, *given, **more)
        finally:
            with self.lock:
                self.now -= 1


@pytest.mark.parametrize("name", ["content", "style", "grid", "init"])
def test_cells_side_by_side_are_those_made_one_after_the_other(tmp_path, files, monkeypatch, name):
    made, interval = {}, sys.getswitchinterval()
    for threads in (1, 2, 3):
        with monkeypatch.context() as patch:
            crowd, out = Crowd(patch, threads), tmp_path / "out.png"
            options = {**options_side_by_side(name), "threads": threads, "iterations": 3, "overwrite": True}
            figure(name, *pictures_of(name, files), output=out, **options)
        assert crowd.most == threads
        cells = {path.name: path.read_bytes() for path in tmp_path.glob("out.png.cells/*.png")}
        made[threads] = cells, out.read_bytes(), [{**row, "seconds": ""} for row in table(tmp_path / "out.csv")]
    assert made[1] == made[2] == made[3]
    assert sys.getswitchinterval() == interval


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 2),
        ({"threads": 1}, 1),
        ({"threads": 9}, 3),
        ({"engine": "reference"}, 1),
        ({"precision": "float64"}, 1),
        ({"size": 25}, 1),
    ],
)
def test_small_cells_are_made_side_by_side_by_an_engine_with_threads(tmp_path, files, monkeypatch, changes, expected):
    crowd = Crowd(monkeypatch, expected)
    monkeypatch.setattr(figures, "SMALL", 24 * 18)
    options = {**options_side_by_side("content"), "iterations": 1, **changes}
    figure("content", files["content"], output=tmp_path / "out.png", **options)
    assert crowd.most == expected


def test_seconds_that_are_compared_are_of_cells_alone(tmp_path, files, monkeypatch):
    crowd = Crowd(monkeypatch, 1)
    options = {**options_side_by_side("optimizers"), "iterations": 1}
    figure("optimizers", *files.values(), output=tmp_path / "out.png", **options)
    assert crowd.most == 1


def test_as_many_cells_at_once_as_there_is_memory_for(tmp_path, files, monkeypatch, caplog):
    monkeypatch.setattr("nst_manual.runs.memory.resident", lambda: Resident(100_000_000, 100_000_000))
    settings = Settings(init="noise", style_layers="", **{k: SIDE_BY_SIDE[k] for k in ("engine", "iterations", "size")})
    inputs = load_inputs(settings, files["content"], [])
    one = replace(settings, content_layers="conv2_1")
    forecast = Forecast.of(one, inputs, open_engine("cpu", threads=3))
    assert forecast.side_by_side(1) == forecast.total
    for limit, expected in ((2, 2), (1, 1), (3, 3)):
        with monkeypatch.context() as patch, caplog.at_level(logging.INFO, "nst_manual"):
            crowd, options = Crowd(patch, expected), {**options_side_by_side("content"), "threads": 3}
            options |= {"max_memory": forecast.side_by_side(limit), "overwrite": True}
            figure("content", files["content"], output=tmp_path / "out.png", **options)
        assert crowd.most == expected
        assert f"memory: about {shown(forecast.side_by_side(limit))}" in caplog.messages
    options["max_memory"] = "101M"
    with pytest.raises(NSTError, match=r"more than the .* of --max-memory"):
        figure("content", files["content"], output=tmp_path / "out.png", **options)


def test_progress_only_grows_while_several_cells_tell_of_theirs(tmp_path, files, monkeypatch):
    crowd, seen, inside = Crowd(monkeypatch, 2), [], []

    def callback(cell, record):
        inside.append(cell)
        assert len(inside) == 1  # one after the other
        seen.append((record.iteration, record.iterations, record.seconds, record.left))
        inside.remove(cell)

    options = {**options_side_by_side("content"), "iterations": 12}
    figure("content", files["content"], output=tmp_path / "out.png", callback=callback, **options)
    iterations, totals, seconds, left = zip(*seen, strict=True)
    assert set(totals) == {36}
    assert list(iterations) == sorted(iterations)
    assert iterations[0] == 1
    assert iterations[-1] == 36
    assert list(seconds) == sorted(seconds)
    assert all(value >= 0 for value in left)
    assert left[-1] == 0
    assert crowd.begun[2:] == ["conv1_1"]  # the shortest is the last to begin


def test_an_error_in_one_cell_ends_the_others_and_is_the_one_told(tmp_path, files, monkeypatch, capsys):
    ended, make, first = [], figures.make, threading.Event()

    def failing(command, options, *given, **more):
        if options["content_layers"] == "conv1_2":
            assert first.wait(20)
            raise NSTError("this cell can't be made")

        def told(record, callback=more["callback"]):
            first.set()
            callback(record)

        try:
            return make(command, options, *given, **{**more, "callback": told})
        except KeyboardInterrupt as interruption:
            ended.append(interruption.result.stopped)
            raise

    monkeypatch.setattr(figures, "make", failing)
    words = words_of({**options_side_by_side("content"), "iterations": 1_000_000, "optimizer": "lbfgs"})
    assert main(["figure", "content", files["content"], "-o", str(tmp_path / "out.png"), *words]) == 2
    assert set(ended) == {"interrupted"}
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nst_manual: ")]
    assert told == ["nst_manual: this cell can't be made"]
    assert os.listdir(tmp_path / "out.png.cells") == []


def test_a_flag_ends_all_cells_and_the_finished_ones_stay(tmp_path, files, runs):
    cancel, done = threading.Event(), set()

    def callback(cell, record):
        done.add(cell.name)
        if len(done) == 3:  # two are under way at once, so one is finished
            cancel.set()

    options = {**options_side_by_side("content"), "iterations": 30}
    with pytest.raises(KeyboardInterrupt):
        figure("content", files["content"], output=tmp_path / "out.png", callback=callback, cancel=cancel, **options)
    kept = {path.stem: path.read_bytes() for path in (tmp_path / "out.png.cells").glob("*.png")}
    assert 1 <= len(kept) < 3
    assert not (tmp_path / "out.png").exists()
    runs.clear()
    figure("content", files["content"], output=tmp_path / "out.png", **options)
    assert len(runs) == 3 - len(kept)
    assert all((tmp_path / "out.png.cells" / f"{name}.png").read_bytes() == data for name, data in kept.items())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals between processes")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_all_cells_at_once(tmp_path, files, name):
    words = words_of({**options_side_by_side("content"), "iterations": 1_000_000, "optimizer": "lbfgs"})
    command = [sys.executable, "-m", "nst_manual", "figure", "content", files["content"], *words]
    process = subprocess.Popen(
        [*command, "-o", str(tmp_path / "out.png"), "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if '"iteration"' in line:
            break
    process.send_signal(getattr(signal, name))
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("nst_manual: interrupted; what is finished is kept in")
    assert "Traceback" not in err
    assert os.listdir(tmp_path / "out.png.cells") == []


def test_two_seeds_agree_on_content_and_differ_in_texture(tmp_path, files):
    rms = {}
    for command, picture in (("reconstruct", files["content"]), ("texture", files["style"])):
        out, layers = tmp_path / f"{command}.png", "--layer" if command == "reconstruct" else "--layers"
        words = [command, picture, layers, "conv1_1", "--size", "24", "--iterations", "30", "--engine", "reference"]
        assert main([*words, "--compare-seeds", "1,2", "-o", str(out), "--quiet"]) == 0
        rows = table(tmp_path / f"{command}.csv")
        assert [row["cell"] for row in rows] == ["start: noise", "seed_1", "seed_2", "difference"]
        rms[command] = float(rows[-1]["rms"])
        one, two = (load_image(tmp_path / f"{command}.png.cells" / f"seed_{k}.png") for k in (1, 2))
        assert rms[command] == pytest.approx(np.sqrt(np.mean((one - two) ** 2)), rel=1e-4)
        assert 0 < float(rows[-1]["rms of 8x8 means"]) < rms[command]
    assert rms["reconstruct"] < 5
    assert rms["texture"] > 30


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["reconstruct", "{content}", "--compare-seeds", "1"], "two different whole numbers"),
        (["reconstruct", "{content}", "--compare-seeds", "1,1"], "two different whole numbers"),
        (["reconstruct", "{content}", "--compare-seeds", "1,2.5"], "two different whole numbers"),
        (["reconstruct", "{content}", "--compare-seeds", "1,2", "--checkpoint", "a.npz"], "--checkpoint and --comp"),
        (["texture", "{style}", "--compare-seeds", "1,2", "--style-mask", "{style}"], "--style-mask and --compare"),
        (["figure", "content", "-"], "instead of standard input"),
        (["figure", "grid", "{content}", "{style}", "--style-layers", ""], "at least one layer"),
        (["figure", "grid", "{content}", "{style}", "--ratios", "many"], "--ratios must be numbers"),
        (["figure", "init", "{content}", "{style}", "--init", "noise"], "unrecognized arguments: --init"),
        (["figure", "nonsense", "{content}"], "invalid choice: 'nonsense'"),
    ],
)
def test_mistakes_are_told_in_one_line_before_the_work(tmp_path, files, runs, capsys, words, told):
    out = tmp_path / "out.png"
    assert main([word.format(**files) for word in words] + ["-o", str(out), "--quiet"]) == 2
    captured = capsys.readouterr().err
    assert told in captured
    assert len(captured.splitlines()) == 1
    assert not runs
    assert os.listdir(tmp_path) in ([], ["out.png.cells"])


def test_python_is_told_of_unknown_figures_and_options(tmp_path, files):
    with pytest.raises(NSTError, match="there are content, style, grid"):
        figure("nonsense", files["content"], output=tmp_path / "out.png")
    with pytest.raises(TypeError, match="no option 'seed'"):
        make_figure(SEEDS["reconstruct"], [files["content"]], tmp_path / "out.png", seed=3)
