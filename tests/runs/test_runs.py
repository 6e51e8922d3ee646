"""A run is watched, ended, kept and resumed; and whatever happens, nothing that was there is lost."""

import contextlib
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from nst_manual import Interrupted, NSTError, transfer
from nst_manual.cli.main import main
from nst_manual.objective import Objective
from nst_manual.optimise import Ended
from nst_manual.options import parse_bytes, parse_duration
from nst_manual.pictures.alpha import resize
from nst_manual.pictures.demo import painting, scene
from nst_manual.pictures.reading import load_image
from nst_manual.proof.checks import random_filters
from nst_manual.runs.checkpoint import load_checkpoint
from nst_manual.runs.inputs import starting_image
from nst_manual.runs.scales import Scale, ladder
from nst_manual.settings import Run, Settings
from nst_manual.study.gradients import gradients
from nst_manual.vgg import Network, steps_to
from nst_manual.weights import Weights
from nst_manual.weights.formats.hdf5 import write_hdf5

QUICK = {"style_layers": "conv1_1,conv2_1", "content_layers": "conv2_2", "engine": "reference", "size": 24}
WORDS = [word for name, value in QUICK.items() for word in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two pictures and weights, as (content, style, weights)."""
    folder = tmp_path_factory.mktemp("inputs")
    scene(64, 48).save(folder / "content.png")
    painting(80, 64).save(folder / "style.png")
    filters = random_filters(steps_to("conv2_2"), 1)
    write_hdf5(folder / "weights.h5", Weights(filters, (120.0, 115.0, 100.0), "oxford", "made here", "none"))
    return tuple(str(folder / name) for name in ("content.png", "style.png", "weights.h5"))


class After:
    """A flag that is set once a record of this iteration has come."""

    def __init__(self, iteration):
        self.iteration, self.wanted = iteration, False

    def __call__(self, record):
        self.wanted = self.wanted or record.iteration >= self.iteration

    def is_set(self):
        return self.wanted


# ---- scales


@pytest.mark.parametrize(
    ("scales", "size", "least", "expected"),
    [
        ("auto", (384, 512), 0, [(384, 512, 100)]),
        ("auto", (800, 600), 0, [(400, 300, 100), (800, 600, 40)]),
        ("auto", (2048, 1024), 0, [(512, 256, 100), (1024, 512, 40), (2048, 1024, 40)]),
        ("auto", (2048, 20), 0.8, [(2048, 20, 100)]),
        ("off", (2048, 1024), 0, [(2048, 1024, 100)]),
        ("30,10,99", (60, 40), 0, [(10, 7, 100), (30, 20, 40), (60, 40, 40)]),
    ],
)
def test_the_ladder_leads_up_to_the_size(scales, size, least, expected):
    assert ladder(Settings(scales=scales, iterations=100, margin=3), *size, least) == [
        (*scale, 3) for scale in expected
    ]


def test_an_image_gets_a_margin_that_mirrors_it_and_keeps_it_from_scale_to_scale():
    small, large = Scale(20, 30, 1, 4), Scale(40, 60, 1, 4)
    y, x = np.mgrid[:20, :30]
    image = np.stack([3.0 * x + 40, 5.0 * y + 60, x + y + 50.0], axis=2)
    framed = small.framed(image)
    assert framed.shape == (28, 38, 3)
    np.testing.assert_array_equal(small.cut(framed.reshape(-1)), image)
    np.testing.assert_array_equal(framed[:4, 4:-4], image[4:0:-1])
    np.testing.assert_array_equal(framed[4:-4, -4:], image[:, -2:-6:-1])
    y, x = np.mgrid[-4:24, -4:34]
    around = np.stack([3.0 * x + 40, 5.0 * y + 60, x + y + 50.0], axis=2)  # the same slopes, in the margin, too
    larger = small.enlarged(around, large)
    assert larger.shape == (48, 68, 3)
    y, x = (np.mgrid[-4:44, -4:64] + 0.5) / 2 - 0.5
    expected = np.stack([3.0 * x + 40, 5.0 * y + 60, x + y + 50.0], axis=2)
    np.testing.assert_allclose(larger, expected, atol=0.3)
    bare = Scale(20, 30, 1), Scale(40, 60, 1)
    assert bare[0].framed(image) is image
    np.testing.assert_array_equal(bare[0].enlarged(image, bare[1]), resize(image, 40, 60))


@pytest.mark.parametrize("optimizer", ["l-bfgs-b", "lbfgs"])
def test_the_margin_is_painted_and_cut_off(files, tmp_path, monkeypatch, optimizer):
    content, style, weights = files
    seen, shown, on_device = [], [], Objective.on_device

    def counted(self, image):
        seen.append(image.shape[:2])
        return on_device(self, image)

    monkeypatch.setattr(Objective, "on_device", counted)
    region = np.zeros((18, 24, 3))
    region[:, :12] = 255
    options = {**QUICK, "weights": weights, "optimizer": optimizer, "scales": "12", "iterations": 4, "margin": 5}
    options |= {"content_mask": [region], "style_mask": [np.full_like(load_image(style), 255)]}
    result = transfer(content, style, callback=lambda record: shown.append(record.image().shape[:2]), **options)
    assert set(seen) == {(19, 22), (28, 34)}
    assert result.pixels.shape == (18, 24, 3)
    assert shown == [(9, 12)] * 4 + [(18, 24)] * 2
    kept = str(tmp_path / "kept")
    stop = {"checkpoint": kept, "checkpoint_every": 0.0, "cancel": SimpleNamespace(is_set=lambda: len(shown) == 5)}
    shown.clear()
    stopped = transfer(content, style, callback=shown.append, **options, **stop)
    assert (stopped.stopped, stopped.pixels.shape) == ("interrupted", (18, 24, 3))
    resumed = transfer(content, style, resume=kept, **options)
    assert resumed.pixels.shape == (18, 24, 3)
    if optimizer == "lbfgs":
        np.testing.assert_array_equal(resumed.pixels, result.pixels)


def test_each_scale_starts_with_the_result_of_the_one_before(files):
    content, style, weights = files
    records = []
    result = transfer(
        content, style, weights=weights, **QUICK, scales="12", iterations=5, callback=records.append, optimizer="lbfgs"
    )
    assert [(r.iteration, r.scale, r.width) for r in records] == [
        *((k, 1, 12) for k in range(1, 6)),
        *((k, 2, 24) for k in (6, 7)),
    ]
    assert {r.iterations for r in records} == {7}
    assert all(r.scales == 2 for r in records)
    assert [r.evaluations for r in records] == sorted({r.evaluations for r in records})
    assert [r.seconds for r in records] == sorted(r.seconds for r in records)
    assert result.image.size == (24, 18)
    assert result.message == "all 7 iterations done at 2 scales"
    alone = transfer(content, style, weights=weights, **QUICK, scales="off", iterations=2, optimizer="lbfgs")
    assert result.trace[5].loss < alone.trace[0].loss  # it began with a style that was there already


def test_the_coarse_look_is_kept_at_larger_sizes(files):
    """What a large result looks like from afar is nearer to the style if it was begun small."""
    content, style = files[:2]
    options = {"style_loss": "gram", "style_layers": "conv1_1,conv2_1,conv3_1", "content_layers": "conv3_2"}
    options |= {"engine": "cpu", "enlarge": True}
    distances = {}
    for scales in ("off", "40,80"):
        large = transfer(content, style, size=160, scales=scales, init="noise", iterations=10, **options)
        afar = large.image.resize((40, 30), Image.Resampling.LANCZOS)
        terms = gradients(afar, content, style, size=40, **options).terms
        distances[scales] = sum(term.loss for name, term in terms.items() if name.startswith("style"))
    assert distances["40,80"] < distances["off"] / 2


# ---- ended and resumed


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize("stop", [1, 4, 6, 8])
def test_a_resumed_run_makes_the_same_picture_bit_for_bit(tmp_path, files, optimizer, stop):
    content, style, weights = files
    options = {**QUICK, "weights": weights, "optimizer": optimizer, "scales": "12", "iterations": 6}
    once = transfer(content, style, **options)
    flag, kept = After(stop), tmp_path / "run.ckpt"
    stopped = transfer(content, style, **options, checkpoint=kept, callback=flag, cancel=flag)
    assert (stopped.stopped, stopped.image.size) == ("interrupted", once.image.size)
    again = transfer(content, style, **options, resume=kept)
    np.testing.assert_array_equal(again.pixels, once.pixels)
    assert [(r.iteration, r.scale, r.loss) for r in again.trace] == [(r.iteration, r.scale, r.loss) for r in once.trace]
    assert again.loss == once.loss


def test_a_run_that_is_complete_goes_on_with_more_iterations(tmp_path, files):
    content, style, weights = files
    options = {**QUICK, "weights": weights, "optimizer": "lbfgs"}
    transfer(content, style, **options, iterations=4, checkpoint=tmp_path / "run.ckpt")
    more = transfer(content, style, **options, iterations=9, resume=tmp_path / "run.ckpt")
    np.testing.assert_array_equal(more.pixels, transfer(content, style, **options, iterations=9).pixels)


def test_scipys_run_goes_on_with_a_new_memory_and_says_so(tmp_path, files, caplog):
    content, style, weights = files
    flag = After(3)
    options = {**QUICK, "weights": weights, "iterations": 8}
    stopped = transfer(content, style, **options, checkpoint=tmp_path / "c", callback=flag, cancel=flag)
    with caplog.at_level("INFO", "nst_manual"):
        result = transfer(content, style, **options, resume=tmp_path / "c")
    assert "restarts its estimate of the curvature" in caplog.text
    assert len(result.trace) == 8
    assert result.loss < stopped.loss


def test_checkpoints_are_kept_while_the_run_goes_on(tmp_path, files):
    content, style, weights = files
    kept, seen = tmp_path / "run.ckpt", []

    def callback(record):
        seen.append(len(load_checkpoint(kept).trace) if kept.exists() else None)

    options = {"checkpoint": kept, "checkpoint_every": 0, "callback": callback, "iterations": 5}
    transfer(content, style, weights=weights, **QUICK, **options)
    assert len(load_checkpoint(kept).trace) == 5
    assert any(count is not None for count in seen)


def test_a_checkpoint_of_another_run_is_refused_with_what_differs(tmp_path, files):
    content, style, weights = files
    kept = tmp_path / "run.ckpt"
    transfer(content, style, weights=weights, **QUICK, iterations=1, checkpoint=kept)
    with pytest.raises(NSTError, match="is of a run with --seed 0, not 3"):
        transfer(content, style, weights=weights, **QUICK, iterations=2, seed=3, resume=kept)
    with pytest.raises(NSTError, match="other pictures"):
        transfer(style, content, weights=weights, **QUICK, iterations=2, resume=kept)


def test_damaged_checkpoints_get_one_sentence(tmp_path, files):
    content, style, weights = files
    kept = tmp_path / "run.ckpt"
    options = {**QUICK, "weights": weights, "optimizer": "lbfgs"}

    def refusal(data):
        kept.write_bytes(data)
        try:
            return str(transfer(content, style, **options, iterations=2, resume=kept).loss)
        except NSTError as error:
            return str(error)

    transfer(content, style, **options, iterations=1, checkpoint=kept)
    whole = kept.read_bytes()
    for damaged in (b"", b"PK", whole[: len(whole) // 2], whole[:-1], whole[1:]):
        assert "can't be read as a checkpoint" in refusal(damaged)
    rng, loss = np.random.default_rng(0), refusal(whole)
    for _ in range(30):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 10):
            damaged[place] ^= rng.integers(1, 256)
        assert "checkpoint" in (said := refusal(bytes(damaged))) or said == loss  # where nothing is looked at


def test_checkpoints_whose_numbers_make_no_sense_get_one_sentence(tmp_path, files):
    content, style, weights = files
    kept = tmp_path / "run.ckpt"
    options = {**QUICK, "weights": weights, "optimizer": "lbfgs", "iterations": 2}
    transfer(content, style, **options, checkpoint=kept)
    good = load_checkpoint(kept)
    for name, value in {
        "image": np.zeros(7),
        "rows": np.zeros((3, 3)),
        "history": "many",
        "rule": "adam",
        "shape": [5, 5, 3],
        "table": [1],
        "best": None,
    }.items():
        search = {**good.search, name: value}
        replace(good, search={k: v for k, v in search.items() if v is not None}).save(kept)
        with pytest.raises(NSTError, match="checkpoint"):
            transfer(content, style, **options, resume=kept)


def test_a_time_limit_ends_with_the_best_so_far(files, monkeypatch):
    content, style, weights = files
    now = [0]  # seconds: one for each iteration
    monkeypatch.setattr("nst_manual.runs.watch.time", SimpleNamespace(monotonic=lambda: now[0]))
    options = {**QUICK, "weights": weights, "iterations": 1000, "time_limit": "3s"}
    result = transfer(content, style, **options, callback=lambda r: now.append(now.pop() + 1))
    assert result.stopped == "time limit"
    assert len(result.trace) == 3
    assert result.loss == min(record.loss for record in result.trace)


def test_the_time_left_counts_iterations_by_their_pixels_and_not_the_preparations(files, monkeypatch):
    content, style, weights = files
    now, on_device = [0.0], Objective.on_device
    monkeypatch.setattr("nst_manual.runs.watch.time", SimpleNamespace(monotonic=lambda: now[0]))

    def slow(self, image):
        now[0] += image.shape[0] * image.shape[1] + (5000 if now[0] == 0 else 0)  # loading, the first time
        return on_device(self, image)

    monkeypatch.setattr(Objective, "on_device", slow)
    options = {**QUICK, "weights": weights, "optimizer": "adam", "scales": "12", "iterations": 5}
    left = [record.left for record in transfer(content, style, **options).trace]
    small, large = (12 + 8) * (9 + 8), (24 + 8) * (18 + 8)  # with the default's margin
    assert np.isnan(left[0])
    np.testing.assert_allclose(
        left[1:], [3 * small + 2 * large, 2 * small + 2 * large, small + 2 * large, 2 * large, large, 0]
    )


def test_a_run_ended_at_a_coarse_scale_gives_a_picture_of_the_full_size(files):
    content, style, weights = files
    flag = After(2)
    result = transfer(content, style, weights=weights, **QUICK, scales="12", callback=flag, cancel=flag)
    assert result.image.size == (24, 18)
    assert "made at 12×9 pixels and enlarged" in result.message


def test_ctrl_c_between_two_scales_carries_the_picture_of_the_first(files, monkeypatch):
    content, style, weights = files
    calls, original = [], sys.modules["nst_manual.story"].make_objective

    def interrupted(*given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*given)

    monkeypatch.setattr("nst_manual.story.make_objective", interrupted)
    with pytest.raises(Interrupted) as interruption:
        transfer(content, style, weights=weights, **QUICK, scales="12", iterations=2)
    result = interruption.value.result
    assert (result.stopped, len(result.trace), result.image.size) == ("interrupted", 2, (24, 18))
    assert "the picture is that of the previous scale" in result.message


def test_no_room_for_a_later_scales_temporary_file_leaves_the_picture_of_the_one_before(files, monkeypatch):
    content, style, weights = files
    free = iter([10**9, 10**9])  # before the work, and at the first scale
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=next(free, 0)))
    call = {"weights": weights, **QUICK, "scales": "12", "iterations": 2, "optimizer": "lbfgs", "history_on": "disk"}
    result = transfer(content, style, **call)
    assert (result.stopped, len(result.trace), result.image.size) == ("disk full", 2, (24, 18))
    assert "is needed in" in result.message
    assert "the picture is that of the previous scale" in result.message
    with pytest.raises(NSTError, match=r"a temporary file of .* is needed in .*: make room"):
        transfer(content, style, callback=fail, **call)


def test_a_last_checkpoint_that_cannot_be_read_together_does_not_cost_the_picture(files, tmp_path, monkeypatch, caplog):
    content, style, weights = files

    def broken(self):
        raise Ended("disk failed", "a temporary file can't be read")

    monkeypatch.setattr("nst_manual.optimise.history.Rows.pieces", broken)
    call = {"weights": weights, **QUICK, "iterations": 2, "optimizer": "lbfgs", "history_on": "disk"}
    result = transfer(content, style, checkpoint=tmp_path / "run.ckpt", **call)
    assert result.stopped == "iterations"
    assert "the checkpoint was not updated: a temporary file can't be read" in caplog.text
    assert not list(tmp_path.iterdir())


def test_the_callback_can_look_at_the_picture_so_far(files):
    content, style, weights = files
    images = []
    result = transfer(
        content, style, weights=weights, **QUICK, iterations=3, callback=lambda r: images.append(r.image())
    )
    assert all(image.shape == (18, 24, 3) for image in images)
    np.testing.assert_array_equal(images[-1], result.pixels)
    with pytest.raises(NSTError, match="only there during the callback"):
        result.trace[0].image()
    shown = []
    transfer(content, style, weights=weights, **QUICK, iterations=1, callback=shown.append)
    with pytest.raises(NSTError, match="only there during the callback"):
        shown[0].image()


def fail(record):
    raise ValueError("the callback's own mistake")


def stop(record):
    raise KeyboardInterrupt


@pytest.mark.parametrize("optimizer", ["l-bfgs-b", "lbfgs", "adam"])
@pytest.mark.parametrize(("callback", "raised"), [(None, ()), (fail, ValueError), (stop, KeyboardInterrupt)])
def test_a_run_frees_its_network_and_engine_however_it_ends(files, monkeypatch, optimizer, callback, raised):
    content, style, weights = files
    freed, build = [], Network.build

    def watched(engine, *given):
        network = build(engine, *given)
        freed.extend([weakref.ref(network), weakref.ref(engine)])
        return network

    monkeypatch.setattr(Network, "build", watched)
    gc.disable()
    try:
        with contextlib.suppress(raised):
            transfer(content, style, **QUICK, weights=weights, iterations=2, optimizer=optimizer, callback=callback)
        assert [one() for one in freed] == [None, None]
    finally:
        gc.enable()


def test_two_runs_at_once_are_as_each_alone(files):
    content, style, weights = files
    options = {**QUICK, "weights": weights, "iterations": 6, "engine": "cpu"}
    alone = [transfer(content, style, **options, seed=seed, init="noise").pixels for seed in (1, 2)]
    together = [None, None]

    def run(k):
        together[k] = transfer(content, style, **options, seed=k + 1, init="noise").pixels

    threads = [threading.Thread(target=run, args=(k,)) for k in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("optimizer", ["l-bfgs-b", "lbfgs", "adam"])
@pytest.mark.parametrize("allowed", [3, 8])  # evaluations: at the first scale, or about its end
def test_memory_that_runs_out_leaves_the_picture_so_far(tmp_path, files, capsys, monkeypatch, optimizer, allowed):
    content, style, weights = files
    calls, on_device = [], Objective.on_device

    def short(self, image):
        calls.append(image.shape)
        if len(calls) > allowed:
            raise MemoryError("it needs 9 GB and has 8: --size 20 would fit")
        return on_device(self, image)

    monkeypatch.setattr(Objective, "on_device", short)
    out = tmp_path / "out.png"
    words = ["transfer", content, style, "-o", str(out), "--weights", weights, *WORDS, "--scales", "12"]
    assert main([*words, "--iterations", "5", "--optimizer", optimizer, "--json"]) == 1
    captured = capsys.readouterr()
    records = [json.loads(line) for line in captured.out.splitlines()]
    assert records[-1]["stopped"] == "out of memory"
    assert "--size 20 would fit" in captured.err
    assert load_image(out).shape == (18, 24, 3)


# ---- files


def test_what_is_there_is_not_written_over_unless_asked(tmp_path, files, capsys):
    content, style, weights = files
    out = tmp_path / "out.png"
    out.write_bytes(b"precious")
    words = ["transfer", content, style, "-o", str(out), "--weights", weights, "--iterations", "1", *WORDS]
    assert main(words) == 2
    assert "exists already: name another file, or add --overwrite" in capsys.readouterr().err
    assert out.read_bytes() == b"precious"
    assert main([*words, "--overwrite"]) == 0
    assert out.read_bytes() != b"precious"


def test_a_resumed_run_may_write_its_own_files_again(tmp_path, files):
    content, style, weights = files
    options = {**QUICK, "weights": weights, "output": tmp_path / "out.png"}
    transfer(content, style, **options, iterations=1, checkpoint=tmp_path / "c")
    assert transfer(content, style, **options, iterations=2, resume=tmp_path / "c").path == tmp_path / "out.png"


def test_a_picture_whose_folder_vanished_is_offered_elsewhere(tmp_path, files, capsys, monkeypatch):
    content, style, weights = files
    (tmp_path / "gone").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def vanishing(*arguments):
        shutil.rmtree(tmp_path / "gone")
        return starting_image(*arguments)

    monkeypatch.setattr(sys.modules["nst_manual.story"], "starting_image", vanishing)
    out = str(tmp_path / "gone" / "out.png")
    words = ["transfer", content, style, "-o", out, "--weights", weights, "--iterations", "1", *WORDS]
    assert main(words) == 1
    (offered,) = (tmp_path / "here").iterdir()
    assert load_image(offered).shape == (18, 24, 3)
    assert f"the picture was saved as {offered} instead" in capsys.readouterr().err


def test_a_trace_numbered_pictures_and_previews_lie_beside_the_result(tmp_path, files):
    content, style, weights = files
    options = {**QUICK, "weights": weights, "optimizer": "lbfgs", "scales": "12", "iterations": 5}
    names = {"output": tmp_path / "out.png", "trace": tmp_path / "t.jsonl"}
    result = transfer(content, style, **options, **names, save_every=2, preview_every=0)
    names_there = {path.name for path in tmp_path.iterdir()}
    assert names_there == {"out.png", "t.jsonl", *(f"out_00000{k}.png" for k in (2, 4, 6))}
    assert [load_image(tmp_path / f"out_00000{k}.png").shape for k in (2, 6)] == 2 * [(18, 24, 3)]
    lines = [json.loads(line) for line in names["trace"].read_text().splitlines()]
    assert [line.get("loss") for line in lines[:7]] == [record.loss for record in result.trace]
    assert result.unwritten == ()


def test_a_resumed_runs_trace_is_that_of_the_whole(tmp_path, files):
    content, style, weights = files
    options = {**QUICK, "weights": weights, "optimizer": "lbfgs", "iterations": 6, "trace": tmp_path / "t.csv"}
    flag, columns = After(3), {}
    transfer(content, style, **options, checkpoint=tmp_path / "c", callback=flag, cancel=flag)
    transfer(content, style, **options, resume=tmp_path / "c")
    columns["resumed"] = [line.split(",")[2] for line in (tmp_path / "t.csv").read_text().splitlines()]
    transfer(content, style, **options, overwrite=True)
    columns["whole"] = [line.split(",")[2] for line in (tmp_path / "t.csv").read_text().splitlines()]
    assert columns["resumed"] == columns["whole"]


# ---- signals, as a user sends them


def started(files, out, *more):
    content, style, weights = files
    words = ["transfer", content, style, "-o", str(out), "--weights", weights, *WORDS, "--iterations", "100000"]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "nst_manual", *words, "--json", "--optimizer", "lbfgs", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals between processes")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_saves_the_picture_and_the_checkpoint(tmp_path, files, name):
    process = started(files, tmp_path / "out.png", "--checkpoint", str(tmp_path / "c"))
    for _ in range(3):
        process.stdout.readline()
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; the picture is the best so far" in err
    assert json.loads(out.splitlines()[-1])["stopped"] == "interrupted"
    assert load_image(tmp_path / "out.png").shape == (18, 24, 3)
    assert len(load_checkpoint(tmp_path / "c").trace) >= 3


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals between processes")
def test_killed_at_any_moment_every_file_is_whole(tmp_path, files):
    rng = np.random.default_rng(3)
    kept = tmp_path / "c"
    more = ["--checkpoint", str(kept), "--checkpoint-every", "0", "--overwrite"]
    traces = []
    for _ in range(6):
        process = started(files, tmp_path / "out.png", *more)
        process.stdout.readline()
        while not kept.exists():
            process.stdout.readline()
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.communicate()
        traces.append(len(load_checkpoint(kept).trace))
    assert min(traces) >= 1
    assert not (tmp_path / "out.png").exists()


def test_a_reader_who_goes_away_does_not_spoil_the_run(tmp_path, files):
    process = started(files, tmp_path / "out.png", "--iterations", "3")
    process.stdout.close()
    with process.stderr:
        err = process.stderr.read()
    assert process.wait(timeout=60) == 0
    assert "Error" not in err
    assert load_image(tmp_path / "out.png").shape == (18, 24, 3)


# ---- words


def test_times_and_sizes_are_read_with_their_units():
    assert [parse_duration(text, "t") for text in ("90", "90s", "10m", "1.5h")] == [90, 90, 600, 5400]
    assert [parse_bytes(text, "m") for text in ("1024", "800M", "4G", "4gb", "1.5GiB")] == [
        1024,
        800 * 2**20,
        4 * 2**30,
        4 * 2**30,
        1.5 * 2**30,
    ]
    for make in (lambda: Run(time_limit="soon"), lambda: Run(max_memory="-1G"), lambda: Settings(scales="auto,2")):
        with pytest.raises(NSTError, match="must be"):
            make()
