"""Many pictures in one call: which are meant, what is shared, and what becomes of failures."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from batches import QUICK, WORDS, written_weights
from picture_files import grains
from PIL import Image

from nst_manual import NSTError, Result, Settings, transfer, transfer_many
from nst_manual.cli.main import main
from nst_manual.pictures.files import held
from nst_manual.runs.pairs import found_pictures, planned
from nst_manual.runs.recipe import load_recipe


@pytest.fixture
def weights(tmp_path):
    return written_weights(tmp_path)


@pytest.fixture
def folders(tmp_path):
    """Three photographs and two paintings, each in a folder with other things."""
    photos, paintings = tmp_path / "photos", tmp_path / "paintings"
    for folder in (photos, paintings, photos / "more"):
        folder.mkdir()
    for number, name in enumerate(("b.png", "a.jpg", "more/B.png")):
        grains(32 + number, 24).save(photos / name)
    for number, name in enumerate(("x.png", "y.png")):
        grains(30 + number, 32).save(paintings / name)
    (photos / "notes.txt").write_text("no picture")
    (photos / ".hidden.png").write_text("no picture")
    return photos, paintings


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files_folders_and_patterns_are_found_sorted_and_once(folders):
    photos, _ = folders

    def found(*sources):
        return [os.path.relpath(path, photos).replace(os.sep, "/") for path in found_pictures([*sources])]

    assert found(photos / "b.png") == ["b.png"]
    assert found(photos) == found(str(photos / "*")) == ["a.jpg", "b.png"]
    assert found(str(photos / "*.png"), photos) == ["b.png", "a.jpg"]
    assert found(str(photos / "**" / "*.png")) == ["b.png", "more/B.png"]
    assert found(str(photos / "[ac].*")) == ["a.jpg"]
    picture = grains(8, 8)
    assert found_pictures(picture) == [picture]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    grains(8, 8).save(tmp_path / "a[1].png")
    assert found_pictures(tmp_path / "a[1].png") == [str(tmp_path / "a[1].png")]


def test_every_content_is_made_in_every_style_just_as_alone(tmp_path, folders, weights):
    photos, paintings = folders
    pairs = list(transfer_many(photos, paintings, out_dir=tmp_path / "out", weights=weights, **QUICK))
    assert [pair.path.name for pair in pairs] == ["a_x.png", "a_y.png", "b_x.png", "b_y.png"]
    assert [(pair.number, pair.count) for pair in pairs] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert names(tmp_path / "out") == ["a_x.png", "a_y.png", "b_x.png", "b_y.png"]
    for pair in pairs:
        alone = transfer(pair.content, pair.style, weights=weights, **QUICK)
        np.testing.assert_array_equal(pair.result.pixels, alone.pixels)
        with Image.open(pair.path) as saved:
            np.testing.assert_array_equal(np.asarray(saved), np.asarray(alone.image))
        assert load_recipe(pair.path).styles[0].name == Path(pair.style).name


@pytest.mark.parametrize("colors", ["match", "content"])
def test_colours_of_each_pair_are_its_own(folders, weights, colors):
    photos, paintings = folders
    options = {**QUICK, "weights": weights, "colors": colors, "iterations": 1}
    for pair in transfer_many(photos, paintings, **options):
        np.testing.assert_array_equal(pair.result.pixels, transfer(pair.content, pair.style, **options).pixels)


def counted(monkeypatch, place):
    """Lets a function be counted: the list grows by one with each call."""
    room, name = place.rsplit(".", 1)
    calls, original = [], getattr(sys.modules[room], name)

    def function(*arguments, **options):
        calls.append(arguments)
        return original(*arguments, **options)

    monkeypatch.setattr(sys.modules[room], name, function)
    return calls


def test_weights_contents_and_styles_are_loaded_once_and_targets_computed_once_for_each_size(
    folders, weights, monkeypatch
):
    photos, paintings = folders
    grains(32, 24).save(photos / "d.png")  # of b's size
    networks = counted(monkeypatch, "nst_manual.problem.load_weights")
    pictures = counted(monkeypatch, "nst_manual.runs.inputs.load_picture")
    targets = counted(monkeypatch, "nst_manual.objective.style_targets")
    options = {**QUICK, "scales": "12,24", "iterations": 1}
    pairs = list(transfer_many(photos, paintings, weights=weights, **options))
    assert len(pairs) == 6
    assert [len(pair.result.trace) for pair in pairs] == [2] * 6
    assert len(networks) == 1
    assert len(pictures) == 3 + 2
    assert len(targets) == 2 * 2  # styles × scales


def test_calibrated_filters_are_each_pairs_own(folders):
    photos, paintings = folders
    for pair in transfer_many(photos / "a.jpg", paintings, weights="calibrated", **QUICK):
        alone = transfer(pair.content, pair.style, weights="calibrated", **QUICK)
        np.testing.assert_array_equal(pair.result.pixels, alone.pixels)


def test_pictures_from_python_need_no_files(tmp_path, weights):
    contents, styles = [grains(24, 18), np.asarray(grains(24, 20))], grains(20, 24)
    options = {**QUICK, "weights": weights}
    assert [pair.result.image.size for pair in transfer_many(contents, styles, **options)] == [(24, 18), (24, 20)]
    list(transfer_many(contents, styles, out_dir=tmp_path / "out", **options))
    assert names(tmp_path / "out") == ["content1_style1.png", "content2_style1.png"]


def test_one_failure_does_not_stop_the_rest(tmp_path, folders, weights):
    photos, paintings = folders
    (photos / "aa.png").write_bytes(b"junk")
    Image.new("RGB", (40, 1)).save(paintings / "xx.png")
    pairs = list(transfer_many(photos, paintings, out_dir=tmp_path / "out", weights=weights, **QUICK))
    made = {pair.path.name for pair in pairs if isinstance(pair.result, Result)}
    failed = {pair.path.name: str(pair.result) for pair in pairs if isinstance(pair.result, NSTError)}
    assert made == {"a_x.png", "a_y.png", "b_x.png", "b_y.png"} == set(names(tmp_path / "out"))
    assert failed.keys() == {"aa_x.png", "aa_xx.png", "aa_y.png", "a_xx.png", "b_xx.png"}
    assert "aa.png can't be read" in failed["aa_y.png"]
    assert len({id(pair.result) for pair in pairs if pair.path.stem in ("aa_x", "aa_y")}) == 1  # read only once
    assert "style picture is 24×1" in failed["a_xx.png"]


def test_too_little_memory_for_one_is_its_own_failure(folders, weights, monkeypatch):
    photos, paintings = folders

    def describe(settings, inputs, weights, original=sys.modules["nst_manual.batch"].describe):
        if inputs.pictures[0].name.endswith("a.jpg"):
            raise MemoryError("Unable to allocate 5 GiB")
        return original(settings, inputs, weights)

    monkeypatch.setattr("nst_manual.batch.describe", describe)
    first, second = transfer_many(photos, paintings / "x.png", weights=weights, **QUICK)
    assert "out of memory" in str(first.result)
    assert isinstance(second.result, Result)


def test_the_callback_gets_each_record_with_its_pair_and_may_end_one_run(folders, weights):
    photos, paintings = folders
    seen = []

    def callback(pair, record):
        seen.append((pair.number, record.iteration))
        if pair.number == 1:
            raise StopIteration

    one, two = transfer_many(photos, paintings / "x.png", weights=weights, callback=callback, **QUICK)
    assert seen == [(1, 1), (2, 1), (2, 2)]
    assert (one.result.stopped, two.result.stopped) == ("callback", "iterations")


def test_names_are_made_of_fields(folders):
    photos, paintings = folders
    contents, styles = found_pictures(photos / "a.jpg"), found_pictures(paintings / "x.png")

    def made(name, **options):
        [pair] = planned(Settings(**options), contents, styles, photos, name)
        return pair.path.name

    assert made("{style}-{content}.jpg") == "x-a.jpg"
    assert made("{number:03}_{size}_{seed}_{preset}.png", seed=7) == "001_512_7_default.png"
    assert made("{size}.tif", size=None) == "original.tif"


MISTAKES = {
    "no such content": ({"contents": "missing.png"}, "missing.png does not exist"),
    "a pattern that finds nothing": ({"contents": "photos/*.gif"}, "there are no pictures"),
    "a folder without pictures": ({"styles": "empty"}, "there are no pictures"),
    "no contents": ({"contents": []}, "there are no pictures"),
    "standard input": ({"contents": "-"}, "standard input is a single picture"),
    "an unknown field": (
        {"name": "{colour}.png"},
        r"there is no field \{colour\}: choose from content, style, number, size",
    ),
    "a field's attribute": ({"name": "{content.__class__}.png"}, "there is no field {content.__class__}"),
    "an open brace": ({"name": "{content.png"}, "can't be used as a pattern"),
    "a format of gigabytes": ({"name": "{number:9999999999}.png"}, "must be one digit"),
    "a format within a format": ({"name": "{number:{seed}}.png"}, "must be one digit"),
    "a wrong format": ({"name": "{content:d}.png"}, "can't be used as a pattern"),
    "a name with a folder": ({"name": "{style}/{content}.png"}, "not a file name"),
    "names that are the same": ({"name": "{style}.png"}, "would both be written"),
    "names that differ in case alone": ({"contents": ["photos/b.png", "photos/more/B.png"]}, "would both be written"),
    "a name of no format": ({"name": "{content}_{style}"}, "^out.[ab]_[xy]: its name has no ending"),
    "bits that a format lacks": ({"name": "{content}_{style}.jpg", "bits": 16}, "can't hold 16 bits"),
    "a folder within no folder": ({"out_dir": "no/out"}, "the folder no does not exist"),
    "a folder that is a file": ({"out_dir": "photos/b.png"}, "photos.b.png can't be created"),
    "results among the contents": ({"out_dir": "photos"}, "choose another --out-dir"),
    "a result that is a content": (
        {"contents": "photos/b.png", "out_dir": "photos", "name": "{content}.png", "overwrite": True},
        "is one of the pictures",
    ),
    "a blend": ({"style_blend": "2,1"}, "each style makes its own"),
    "a scale for each style": ({"style_scale": "1,0.5"}, "style_scale must be one number, not '1,0.5'"),
    "one run's checkpoint": ({"checkpoint": "c.npz"}, "--checkpoint is for a single run"),
    "one run's trace": ({"trace": "t.csv"}, "--trace is for a single run"),
    "one run's output": ({"output": "o.png"}, "--output is for a single run"),
    "missing weights": ({"weights": "missing.h5"}, "the file does not exist"),
    "an unknown layer": ({"style_layers": "conv9_9"}, "there is no layer"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_that_concerns_all_is_told_before_the_work_and_leaves_nothing(
    tmp_path, folders, weights, monkeypatch, mistake
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    options, sentence = MISTAKES[mistake]
    call = {"contents": "photos", "styles": "paintings", "out_dir": "out", "weights": weights, **QUICK, **options}
    with pytest.raises(NSTError, match=sentence):
        transfer_many(**call)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_there_is_refused_skipped_or_written_over(tmp_path, folders, weights):
    photos, paintings = folders
    call = {"contents": photos, "styles": paintings, "out_dir": tmp_path / "out", "weights": weights, **QUICK}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a_y.png").write_bytes(b"somebody's")
    with pytest.raises(NSTError, match=r"1 of 4 results exist already, such as .*a_y\.png: add --overwrite, or --skip"):
        transfer_many(**call)
    results = [pair.result for pair in transfer_many(**call, skip_existing=True)]
    assert [isinstance(result, Result) for result in results] == [True, False, True, True]
    assert results[1] is None
    assert (tmp_path / "out" / "a_y.png").read_bytes() == b"somebody's"
    assert all(pair.result is None for pair in transfer_many(**call, skip_existing=True))
    list(transfer_many(**call, overwrite=True))
    assert load_recipe(tmp_path / "out" / "a_y.png").settings.size == 24


def test_an_interrupted_batch_keeps_what_it_has_and_goes_on_with_the_unfinished_picture(tmp_path, folders, weights):
    photos, paintings = folders
    call = {"contents": photos, "styles": paintings, "out_dir": tmp_path / "out", "weights": weights, **QUICK}
    cancel = threading.Event()

    def callback(pair, record):
        if pair.number == 2:
            cancel.set()

    pairs = transfer_many(**call, callback=callback, cancel=cancel)
    assert [(pair.path.name, pair.result.stopped) for pair in pairs] == [
        ("a_x.png", "iterations"),
        ("a_y.png", "interrupted"),
    ]
    assert names(tmp_path / "out") == ["a_x.png", "a_y.png"]
    assert list(transfer_many(**call, skip_existing=True, cancel=cancel)) == []
    results = [pair.result for pair in transfer_many(**call, skip_existing=True)]
    assert [result is None for result in results] == [True, False, False, False]
    assert load_recipe(tmp_path / "out" / "a_y.png").result["stopped"] == "iterations"


def command(photos, paintings, out, weights, *more):
    return ["transfer", str(photos), str(paintings), "--out-dir", str(out), "--weights", weights, *WORDS, *more]


def test_the_command_tells_of_each_picture_and_of_all(tmp_path, folders, weights, capsys):
    photos, paintings = folders
    (photos / "aa.png").write_bytes(b"junk")
    words = command(photos / "*", paintings / "x.png", tmp_path / "out", weights, "--name", "{style}_{content}.jpg")
    assert main(words) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert "1 of 3: " in captured.err
    assert any(line.startswith("nst_manual: ") and "aa.png can't be read" in line for line in lines)
    assert lines[-1].startswith("2 of 3 pictures done; 1 failed: ")
    assert lines[-1].endswith("x.png")
    assert names(tmp_path / "out") == ["x_a.jpg", "x_b.jpg"]
    (photos / "aa.png").unlink()
    assert main([*words, "--skip-existing", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert main(words) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_command_reports_a_broken_picture_once(tmp_path, folders, weights, capsys):
    photos, paintings = folders
    (photos / "aa.png").write_bytes(b"junk")
    assert main(command(photos / "aa.png", paintings, tmp_path / "out", weights, "--quiet")) == 1
    *lines, summary = capsys.readouterr().err.splitlines()
    assert ["aa.png can't be read" in line for line in lines] == [True]
    assert summary.startswith("0 of 2 pictures done; 2 failed: ")


def test_the_command_in_json(tmp_path, folders, weights, capsys):
    photos, paintings = folders
    (photos / "aa.png").write_bytes(b"junk")
    assert main(command(photos, paintings / "x.png", tmp_path / "out", weights, "--json")) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("picture") for line in lines if "pictures" in line] == [1, 3, None]
    assert [line["iteration"] for line in lines if "iteration" in line] == [1, 2, 1, 2]
    assert [line["content"] for line in lines if "error" in line] == [str(photos / "aa.png")]
    assert lines[-1] == {"pictures": 3, "done": 2, "there": 0, "failed": 1, "interrupted": False}


def test_the_command_in_json_names_a_picture_whose_time_was_up_before_its_first_iteration(
    tmp_path, folders, weights, capsys
):
    photos, paintings = folders
    words = command(photos / "b.png", paintings, tmp_path / "out", weights, "--json", "--time-limit", "0.000001s")
    assert main(words) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = [(line.get("picture"), line.get("stopped")) for line in lines[:-1]]
    assert told == [(1, None), (None, "time limit"), (2, None), (None, "time limit")]


def test_the_command_refuses_what_is_for_one_picture_only(tmp_path, folders, weights, capsys):
    photos, paintings = folders
    for more in (["--content-mask", "m.png"], ["--plot", "p.png"], ["-o", "x.png"]):
        assert main(command(photos, paintings, tmp_path / "out", weights, *more)) == 2
    assert main(["transfer", str(photos / "b.png"), str(paintings / "x.png"), "-o", "x.png", "--skip-existing"]) == 2
    assert main(["transfer", str(photos / "b.png"), str(paintings / "x.png")]) == 2
    assert all(line.startswith("nst_manual: ") for line in capsys.readouterr().err.splitlines())
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one other process")
def test_ctrl_c_ends_the_command_with_130_and_all_finished_pictures(tmp_path, folders, weights):
    photos, paintings = folders
    (photos / "a.jpg").unlink()
    (photos / "a.png").write_bytes((paintings / "x.png").read_bytes())  # in its own style there is nothing to do
    words = command(photos, paintings, tmp_path / "out", weights, "--json", "--iterations", "100000")
    words += ["--style-loss", "gram", "--optimizer", "lbfgs", "--time-limit", "60s"]
    process = subprocess.Popen(
        [sys.executable, "-m", "nst_manual", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if json.loads(line).get("picture") == 2:
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(out.splitlines()[-1])["interrupted"] is True
    assert "1 of 4 pictures done; interrupted: --skip-existing makes the rest" in err
    assert names(tmp_path / "out") == ["a_x.png", "a_y.png"]


def test_one_name_that_is_too_long_is_its_own_failure(tmp_path, folders, weights):
    photos, paintings = folders
    (photos / "a.jpg").rename(photos / f"{'a' * 250}.jpg")
    call = {"out_dir": tmp_path / "out", "weights": weights, **QUICK}
    for skip in (False, True):
        long, short = transfer_many(photos, paintings / "x.png", skip_existing=skip, **call)
        assert "can't be written" in str(long.result)
        assert (short.result is None) if skip else isinstance(short.result, Result)
    assert names(tmp_path / "out") == ["b_x.png"]
    with pytest.raises(NSTError, match="can't be written"):
        transfer_many(photos / f"{'a' * 250}.jpg", paintings, **call)


@pytest.mark.parametrize("place", ["contents", "out_dir"])
def test_a_name_that_the_system_refuses_is_told(tmp_path, folders, weights, place):
    photos, paintings = folders
    call = {"contents": photos, "styles": paintings, "out_dir": tmp_path / "out", "weights": weights, **QUICK}
    with pytest.raises(NSTError, match=r"can't be (read|created|written)"):
        transfer_many(**{**call, place: str(tmp_path / ("a" * 300))})


def test_a_folder_that_takes_no_files_is_told(tmp_path, folders, weights, monkeypatch):
    """As for anyone but an administrator, whom no permission holds back."""

    def refused(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    photos, paintings = folders
    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    for out in ("out", "photos"):
        with pytest.raises(NSTError, match=r"can't be written \(Permission denied\)"):
            transfer_many(photos / "b.png", paintings / "x.png", out_dir=tmp_path / out, weights=weights, **QUICK)


def test_each_picture_but_the_first_begins_with_the_time_left_for_all(folders, weights, caplog):
    with caplog.at_level("INFO", "nst_manual"):
        list(transfer_many(*folders, weights=weights, **QUICK))
    first, *others = [line for line in caplog.messages if " in the style of " in line]
    assert first.startswith("1 of 4: ")
    assert "left" not in first
    assert all(re.search(r"; about 0:00:\d\d left for all$", line) for line in others)


def test_a_picture_that_another_batch_is_making_is_a_failure(tmp_path, folders, weights):
    photos, paintings = folders
    call = {"contents": photos / "b.png", "styles": paintings, "out_dir": tmp_path / "out", "weights": weights, **QUICK}
    pairs = transfer_many(**call)
    with held(tmp_path / "out" / "b_x.png"):
        first = next(pairs)
    assert "another run is writing" in str(first.result)
    assert isinstance(next(pairs).result, Result)


def test_with_skip_existing_a_picture_that_another_batch_has_just_made_is_there(tmp_path, folders, weights):
    photos, paintings = folders
    call = {"contents": photos / "b.png", "styles": paintings, "out_dir": tmp_path / "out", "weights": weights, **QUICK}
    for skip in (True, False):
        pairs = transfer_many(**call, skip_existing=skip)
        made = tmp_path / "out" / "b_x.png"
        made.write_bytes(b"the other's")
        found = next(pairs).result
        assert found is None if skip else "exists already" in str(found)
        assert made.read_bytes() == b"the other's"
        made.unlink()


def test_a_failure_does_not_count_in_the_time_left(tmp_path, folders, weights, caplog):
    photos, paintings = folders
    (photos / "0.png").write_bytes(b"broken")
    with caplog.at_level("INFO", "nst_manual"):
        list(transfer_many(photos, paintings, weights=weights, **QUICK))
    begun = [line for line in caplog.messages if " in the style of " in line]
    assert ["left for all" in line for line in begun] == [False] * 3 + [True] * (len(begun) - 3)


def test_a_pattern_that_the_shell_has_expanded_is_asked_about(tmp_path, folders, weights, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rest = ["--out-dir", "out", "--weights", weights, *WORDS]
    for last in ("paintings", "paintings/x.png"):
        assert main(["transfer", "photos/a.jpg", "photos/b.png", last, *rest]) == 2
        assert f"photos/b.png would be styles of photos/a.jpg: to make them in the style of {last}" in (
            capsys.readouterr().err
        )
    assert main(["transfer", "photos/a.jpg", "paintings/x.png", "photos/b.png", *rest, "--quiet"]) == 0
    assert main(["transfer", "photos/a.jpg", "photos/b.png", *rest, "--quiet", "--overwrite"]) == 0
    assert names(tmp_path / "out") == ["a_b.png", "a_x.png"]
