"""The papers' figures: their pictures and numbers, and that no cell is made twice."""

import csv
import io
import itertools
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from nst_manual import NSTError, Settings, figure, transfer
from nst_manual.cli.main import main
from nst_manual.pictures.demo import painting, scene
from nst_manual.pictures.files import held
from nst_manual.pictures.reading import load_image
from nst_manual.runs.recipe import load_recipe
from nst_manual.study.figures import cells
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
    "looks": [f"stroke_{stroke}_strength_{strength}" for stroke in ("0.5", "1", "2") for strength in (20, 35, 50, 65)],
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
    no_such_option = {"content": "style_layers", "style": "content_layers"}.get(name)
    return {option: value for option, value in QUICK.items() if option != no_such_option}


def words_of(options):
    return [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def runs(monkeypatch):
    """The command of each cell's run, in order."""
    made, make = [], cells.make

    def counted(command, *given, **options):
        made.append(command)
        return make(command, *given, **options)

    monkeypatch.setattr(cells, "make", counted)
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
    assert f"{2 * len(CELLS[name])}/{2 * len(CELLS[name])} loss" in told  # progress over the whole figure
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


def test_a_look_is_what_a_transfer_with_its_strength_and_stroke_makes(tmp_path, files):
    given = {**options_of("looks"), "style_scale": "0.5,1.5"}
    figure("looks", *files.values(), output=tmp_path / "out.png", values="10,90", **given)
    for stroke, strength in itertools.product((0.5, 1.5), (10, 90)):
        cell = tmp_path / "out.png.cells" / f"stroke_{stroke}_strength_{strength}.png"
        options = {**given, "style_scale": stroke, "strength": strength, "quick": True}
        result = transfer(*files.values(), **options)
        np.testing.assert_array_equal(load_image(cell), np.rint(result.pixels))
        assert load_recipe(cell).settings == result.recipe.settings
    assert [float(row["iteration"]) for row in table(tmp_path / "out.csv")] == [2, 2, 2, 2]


def test_the_looks_are_drafts_of_our_own_and_not_the_papers():
    assert FIGURES["looks"].settings({}) == Settings(quick=True, style_scale="0.5,1,2")
    assert FIGURES["looks"].settings({"preset": "paper"}).style_loss == "gram"
    assert FIGURES["grid"].settings({}).style_loss == "gram"


def test_the_original_has_distance_0(tmp_path, files):
    figure("style", files["style"], output=tmp_path / "out.png", **options_of("style"), init="style")
    for row in table(tmp_path / "out.csv"):
        assert float(row["style:conv1_1"]) < 1e-5  # the stored picture is rounded
        assert row["iteration"] == ""  # the start could not be improved


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


def test_existing_files_are_replaced_only_with_overwrite(tmp_path, files):
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
        patch.setattr("nst_manual.cli.progress.Progress.__call__", interrupt)
        assert main(words) == 130
    assert "interrupted; the finished runs are kept in" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path / "out.png.cells")) == ["conv1_1.csv", "conv1_1.png"]
    assert not (tmp_path / "out.png").exists()
    runs.clear()
    assert main(words) == 0
    assert len(runs) == 1


def test_progress_counts_over_the_whole_figure(tmp_path, files):
    seen = []

    def callback(cell, record):
        seen.append((cell.name, record.iteration, record.iterations, record.seconds, record.left))

    def make(layers):
        options = {**options_of("content"), "content_layers": layers, "callback": callback}
        figure("content", files["content"], output=tmp_path / "out.png", **options)
        (tmp_path / "out.png").unlink()
        (tmp_path / "out.csv").unlink()
        names, iterations, totals, seconds, left = zip(*seen, strict=True)
        assert list(seconds) == sorted(seconds)
        assert min(left) >= 0
        assert left[-1] == 0
        seen.clear()
        return list(zip(names, iterations, totals, strict=True))

    assert make("conv1_1,conv1_2") == [("conv1_1", 1, 4), ("conv1_1", 2, 4), ("conv1_2", 3, 4), ("conv1_2", 4, 4)]
    assert make("conv2_1,conv1_1") == [("conv2_1", 3, 4), ("conv2_1", 4, 4)]  # one cell exists already


@pytest.mark.parametrize("engine", ["reference", "cpu"])
def test_a_figure_that_needs_too_much_memory_is_refused_before_the_work(tmp_path, files, runs, engine):
    options = {**options_of("content"), "engine": engine, "max_memory": "10M"}
    with pytest.raises(NSTError, match=r"more than the .* of --max-memory"):
        figure("content", files["content"], output=tmp_path / "out.png", **options)
    assert not runs


def test_an_error_in_a_cell_keeps_the_finished_cells(tmp_path, files, monkeypatch, capsys):
    make = cells.make

    def failing(command, options, *given, **more):
        if options["content_layers"] == "conv1_2":
            raise NSTError("this cell can't be made")
        return make(command, options, *given, **more)

    monkeypatch.setattr(cells, "make", failing)
    words = words_of(options_of("content"))
    assert main(["figure", "content", files["content"], "-o", str(tmp_path / "out.png"), *words]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nst_manual: ")]
    assert told == ["nst_manual: this cell can't be made"]
    assert sorted(os.listdir(tmp_path / "out.png.cells")) == ["conv1_1.csv", "conv1_1.png"]


def test_a_flag_ends_the_figure_and_the_finished_cells_stay(tmp_path, files, runs):
    cancel = threading.Event()

    def callback(cell, record):
        if cell.name == "conv1_2":
            cancel.set()

    options = options_of("content")
    with pytest.raises(KeyboardInterrupt):
        figure("content", files["content"], output=tmp_path / "out.png", callback=callback, cancel=cancel, **options)
    assert sorted(os.listdir(tmp_path / "out.png.cells")) == ["conv1_1.csv", "conv1_1.png"]
    assert not (tmp_path / "out.png").exists()
    runs.clear()
    figure("content", files["content"], output=tmp_path / "out.png", **options)
    assert len(runs) == 1


def test_a_picture_can_be_an_array_or_come_from_standard_input(tmp_path, files, monkeypatch):
    figure("content", load_image(files["content"]), output=tmp_path / "array.png", **options_of("content"))
    with open(files["content"], "rb") as stream:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream))
        figure("content", "-", output=tmp_path / "stdin.png", **options_of("content"))
    assert (tmp_path / "array.png").read_bytes() == (tmp_path / "stdin.png").read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals between processes")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_figure_at_once(tmp_path, files, name):
    words = words_of({**options_of("content"), "engine": "cpu", "iterations": 1_000_000, "optimizer": "lbfgs"})
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
    assert err.splitlines()[-1].startswith("nst_manual: interrupted; the finished runs are kept in")
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
        (["figure", "grid", "{content}", "{style}", "--style-layers", ""], "at least one layer"),
        (["figure", "grid", "{content}", "{style}", "--ratios", "many"], "--ratios must be numbers"),
        (["figure", "grid", "{content}", "{style}", "--stroke", "1,2"], "--style-scale must be one number, not '1,2'"),
        (["figure", "looks", "{content}", "{style}", "--strengths", "20,120"], "--strength must be a number from 0"),
        (["figure", "looks", "{content}", "{style}", "--stroke", "1,0"], "--style-scale must be a number above 0"),
        (["figure", "init", "{content}", "{style}", "--init", "noise"], "there is no option --init"),
        (["figure", "nonsense", "{content}"], "the name must be one of content, style"),
    ],
)
def test_a_mistake_gets_one_line_before_the_work(tmp_path, files, runs, capsys, words, told):
    out = tmp_path / "out.png"
    assert main([word.format(**files) for word in words] + ["-o", str(out), "--quiet"]) == 2
    captured = capsys.readouterr().err
    assert told in captured
    assert len(captured.splitlines()) == 1
    assert not runs
    assert os.listdir(tmp_path) == []


def test_python_refuses_unknown_figures_and_options(tmp_path, files):
    with pytest.raises(NSTError, match="choose one of content, style, grid"):
        figure("nonsense", files["content"], output=tmp_path / "out.png")
    with pytest.raises(TypeError, match="no option 'seed'"):
        make_figure(SEEDS["reconstruct"], [files["content"]], tmp_path / "out.png", seed=3)


def test_a_figure_is_made_by_one_at_a_time(tmp_path, files):
    with held(tmp_path / "out.png"), pytest.raises(NSTError, match="another run is writing"):
        figure("content", files["content"], output=tmp_path / "out.png", **options_of("content"))
