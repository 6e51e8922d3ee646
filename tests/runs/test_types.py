"""A file whose values have other types than ours is read or refused in one sentence: every value is replaced by every
kind of JSON value, in recipes, checkpoints, traces and kept styles."""

import copy
import io
import json
import zipfile
from functools import partial
from itertools import islice

import numpy as np
import pytest
from picture_files import grains
from PIL import Image, PngImagePlugin

from nst_manual import NSTError, compute_targets, transfer
from nst_manual.proof.checks import random_filters
from nst_manual.runs.checkpoint import load_checkpoint
from nst_manual.runs.explain import explained, sentences
from nst_manual.runs.recipe import load_recipe
from nst_manual.runs.repeating import Search, Work
from nst_manual.runs.style_files import StyleTargets
from nst_manual.runs.traces import load_trace
from nst_manual.vgg import steps_to
from nst_manual.weights import Weights
from nst_manual.weights.formats.hdf5 import write_hdf5

VALUES = [None, True, -1, 0, 3, 0.5, 1e308, float("nan"), 10**30, "", "x", [], {}, [[1]], {"a": {"b": [None]}}]
# Only every so many are tried. They have no divisor in common with the 16 kinds of values, so that all kinds occur.
RECIPES, CHECKPOINTS = 5, 27
QUICK = {"style_layers": "conv1_1", "content_layers": "conv1_1", "iterations": 2, "size": 16, "engine": "reference"}


def variants(record):
    """The record with each value, however deep, replaced by each of VALUES, or left out. Long lists change at their
    ends."""
    for path in places(record):
        for value in [*VALUES, KeyError]:
            changed = copy.deepcopy(record)
            inner = changed
            for key in path[:-1]:
                inner = inner[key]
            if value is KeyError:
                del inner[path[-1]]
            else:
                inner[path[-1]] = value
            yield path, value, changed


def places(value, path=()):
    keys = list(value) if isinstance(value, dict) else []
    if isinstance(value, list) and value:
        keys = sorted({0, len(value) - 1})
    for key in keys:
        yield (*path, key)
        yield from places(value[key], (*path, key))


def outcome(path, value, act):
    """What became of a file: True if it was of use. Any error but a short NSTError is a failure of ours."""
    try:
        act()
    except Exception as error:
        if not isinstance(error, NSTError) or not 0 < len(str(error)) < 1000:
            raise AssertionError(f"{path} = {value!r}: {type(error).__name__}: {error}") from error
        return False
    return True


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with pictures, weights, and the result, checkpoint and trace of a run for each optimiser."""
    folder = tmp_path_factory.mktemp("made")
    grains(24, 18).save(folder / "content.png")
    grains(24, 24).save(folder / "style.png")
    filters = random_filters(steps_to("conv1_1"), 1)
    write_hdf5(folder / "w.h5", Weights(filters, (120.0, 115.0, 100.0), "oxford", "made here", "none"))
    for optimizer in ("l-bfgs-b", "lbfgs", "adam"):
        names = {"output": f"{optimizer}.png", "checkpoint": f"{optimizer}.ckpt", "trace": f"{optimizer}.jsonl"}
        run(folder, optimizer, **{kind: folder / name for kind, name in names.items()})
    return folder


def run(folder, optimizer, **options):
    files = [str(folder / name) for name in ("content.png", "style.png")]
    more = {"weights": str(folder / "w.h5"), "optimizer": optimizer, "history": 2}
    return transfer(*files, **{**QUICK, **more, **options})


def test_recipes(made, tmp_path):
    with Image.open(made / "lbfgs.png") as opened:
        record = json.loads(opened.info["nst_manual"])
    read, total = 0, 0
    for path, value, changed in islice(variants(record), 0, None, RECIPES):
        info = PngImagePlugin.PngInfo()
        info.add_itxt("nst_manual", json.dumps(changed))
        Image.new("RGB", (2, 2)).save(tmp_path / "a.png", pnginfo=info)

        def act():
            recipe = Search([made]).located(load_recipe(tmp_path / "a.png"))
            recipe.command("out.png")
            recipe.to_json("out.png")
            list(recipe.changes())
            str(Work.of(recipe))

        read, total = read + outcome(path, value, act), total + 1
    assert 0.1 < read / total < 0.9


@pytest.mark.parametrize("optimizer", ["l-bfgs-b", "lbfgs", "adam"])
def test_checkpoints(made, tmp_path, optimizer):
    with zipfile.ZipFile(made / f"{optimizer}.ckpt") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    record = json.loads(np.load(io.BytesIO(entries["about.npy"])).tobytes())
    read, total = 0, 0
    for path, value, changed in islice(variants(record), 0, None, CHECKPOINTS):
        if path[0] == "settings" and len(path) == 2 and path[1] not in ("seed", "size", "history"):
            continue  # these are all compared alike
        text = io.BytesIO()
        np.save(text, np.frombuffer(json.dumps(changed).encode(), np.uint8))
        with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as archive:
            for name, data in {**entries, "about.npy": text.getvalue()}.items():
                archive.writestr(name, data)
        options = {"resume": tmp_path / "a.ckpt", "iterations": 3, "trace": tmp_path / "a.csv", "overwrite": True}
        read, total = read + outcome(path, value, partial(run, made, optimizer, **options)), total + 1
    assert 0.05 < read / total < 0.9


def test_arrays_of_checkpoints(made, tmp_path):
    kept = load_checkpoint(made / "lbfgs.ckpt")
    arrays = {name: value for name, value in kept.search.items() if isinstance(value, np.ndarray)}
    for name, array in arrays.items():
        for changed in (
            array.astype(complex), array.astype("S4"), array[:-1], array[None], array * np.nan, array.astype(int),
            np.zeros(()), np.zeros((0, 3)), array.astype(">f8"), np.array("x"),
        ):  # fmt: skip
            search = kept.search | {name: changed}
            type(kept)(**vars(kept) | {"search": search}).save(tmp_path / "a.ckpt")
            options = {"resume": tmp_path / "a.ckpt", "iterations": 3}
            outcome(name, changed.dtype, partial(run, made, "lbfgs", **options))


def test_traces(made, tmp_path):
    lines = (made / "lbfgs.jsonl").read_text(encoding="utf-8").splitlines()
    path = tmp_path / "a.jsonl"
    read, total = 0, 0
    for where, value, changed in variants([json.loads(line) for line in lines]):
        path.write_text("".join(f"{json.dumps(line)}\n" for line in changed), encoding="utf-8")
        read, total = read + outcome(where, value, lambda: sentences(explained(load_trace(path)))), total + 1
    assert 0.05 < read / total < 0.95


def test_cells_of_traces(made, tmp_path):
    run(made, "lbfgs", trace=tmp_path / "ours.csv")
    rows = [line.split(",") for line in (tmp_path / "ours.csv").read_text(encoding="utf-8").splitlines()]
    read, total = 0, 0
    for row, column in np.ndindex(len(rows), len(rows[0])):
        for value in VALUES:
            changed = [list(cells) for cells in rows]
            changed[row][column] = str(value).replace(",", ";")
            path = tmp_path / "a.csv"
            path.write_text("".join(f"{','.join(cells)}\n" for cells in changed), encoding="utf-8")
            read += outcome((row, column), value, lambda path=path: sentences(explained(load_trace(path))))
            total += 1
    assert 0.05 < read / total < 0.95


def test_kept_styles(made, tmp_path):
    options = {"size": 16, "engine": "reference", "style_layers": "conv1_1", "weights": str(made / "w.h5")}
    compute_targets(str(made / "style.png"), **options).save(tmp_path / "kept.npz")
    with zipfile.ZipFile(tmp_path / "kept.npz") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    read, total = 0, 0
    for path, value, changed in variants(json.loads(entries["about.json"])):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            for name, data in {**entries, "about.json": json.dumps(changed).encode()}.items():
                archive.writestr(name, data)

        def act():
            targets = StyleTargets.load(tmp_path / "a.npz")
            targets.about()
            transfer(grains(20, 20), tmp_path / "a.npz", **QUICK, weights=options["weights"])

        read, total = read + outcome(path, value, act), total + 1
    assert 0.05 < read / total < 0.9
