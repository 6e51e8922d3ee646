"""The files that a run writes: apart from each other and from the inputs, and held while it lasts."""

import os
import threading
from pathlib import Path

import pytest
from picture_files import grains

from nst_manual import NSTError, Run, Settings, transfer
from nst_manual.cli.main import main
from nst_manual.runs.outputs import check_outputs, claimed
from nst_manual.runs.pairs import Pair, check_pairs_apart

QUICK = {
    "style_layers": "conv1_1", "content_layers": "conv1_1", "engine": "reference", "size": 24, "iterations": 2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grains(24, 18).save("in.png")


TOGETHER = {
    "a plot and a picture": ({"output": "x.png", "plot": "x.png"}, "--output and --plot"),
    "one name in two ways": ({"output": "x.png", "plot": "./y/../X.PNG"}, "--output and --plot"),
    "a trace and a checkpoint": ({"trace": "x.csv", "checkpoint": "x.csv"}, "--trace and --checkpoint"),
    "a picture and a checkpoint": ({"output": "x.png", "checkpoint": "x.png"}, "--output and --checkpoint"),
    "a preview and a plot": (
        {"output": "x.png", "preview_every": 1, "plot": "x.preview.png"}, "--preview-every and --plot",
    ),
    "a numbered picture and a plot": (
        {"output": "x.png", "save_every": 5, "plot": "x_000010.png"}, "--save-every and --plot",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TOGETHER)
@pytest.mark.parametrize("overwrite", [False, True])
def test_two_files_of_one_name_are_refused(case, overwrite):
    Path("y").mkdir()
    options, told = TOGETHER[case]
    with pytest.raises(NSTError, match=f"{told} would both be written to .*: give each a name of its own"):
        check_outputs(Settings(), Run(**options, overwrite=overwrite))


def test_files_of_different_names_are_not():
    names = {"output": "x.png", "trace": "x.csv", "plot": "x_1.svg", "checkpoint": "x"}
    check_outputs(Settings(), Run(**names, save_every=5, preview_every=1))
    check_outputs(Settings(), Run(output="x.png", plot="x_000010.png"))


@pytest.mark.parametrize(
    "options",
    [
        {"output": "in.png"},
        {"output": "x.png", "plot": "in.png"},
        {"output": "x.png", "checkpoint": "in.png"},
        {"output": "y.png", "preview_every": 1},
        {"output": "z.png", "save_every": 1},
    ],
)
def test_no_file_is_one_of_the_inputs_even_if_files_may_be_replaced(options):
    for name in ("y.preview.png", "z_000001.png"):
        grains(24, 18).save(name)
    with pytest.raises(NSTError, match="is one of the inputs"):
        check_outputs(Settings(), Run(**options, overwrite=True), None, ["in.png", "y.preview.png", "z_000001.png"])


@pytest.mark.parametrize("more", [{"preview_every": 1}, {"save_every": 1}])
def test_a_name_that_is_too_long_is_told_before_the_work(more):
    output = Path("a" * 246 + ".png")  # without more, a name that every disk takes
    check_outputs(Settings(), Run(output=output))
    with pytest.raises(NSTError, match="can't be written"):
        check_outputs(Settings(), Run(output=output, **more))


PAIRS = {
    "one name": (["q.png", "q.png"], {}, "would both be written"),
    "upper and lower case": (["q.png", "Q.png"], {}, "would both be written"),
    "a preview": (["q.png", "q.preview.png"], {"preview_every": 1}, "the preview of .* would both be written"),
    "a numbered picture": (["q.png", "q_000001.png"], {"save_every": 1}, "--save-every and .* would both be written"),
    "a picture": (["in.png", "q.png"], {}, "is one of the pictures"),
    "a preview of a picture": (["q.png", "in.png"], {"preview_every": 1, "sources": "q.preview.png"}, "is one of the"),
}


@pytest.mark.parametrize("case", PAIRS)
def test_a_batchs_files_are_checked_together(case):
    names, options, told = PAIRS[case]
    options = dict(options)
    source = options.pop("sources", "in.png")
    pairs = [Pair(number, 2, source, "s", Path(name)) for number, name in enumerate(names, 1)]
    with pytest.raises(NSTError, match=told):
        check_pairs_apart(Run(**options), pairs)


def test_files_of_a_batch_that_only_look_alike_are_no_mistake():
    pairs = [Pair(n, 3, "c", "s", Path(name)) for n, name in enumerate(("q.png", "q.preview.png", "q_000001.png"), 1)]
    check_pairs_apart(Run(), pairs)


@pytest.mark.parametrize("name", ["output", "trace", "checkpoint"])
def test_two_runs_never_write_one_file(capsys, name):
    file = {"output": "x.png", "trace": "x.csv", "checkpoint": "x.npz"}[name]
    inside, words = [], [word for k, v in QUICK.items() for word in (f"--{k.replace('_', '-')}", str(v))]

    def callback(record):
        if record.iteration == 1:
            more = [] if name == "output" else ["-o", "other.png"]
            flag = "-o" if name == "output" else f"--{name}"
            code = []
            second = ["transfer", "in.png", "in.png", flag, file, *more, *words, "--overwrite", "--quiet"]
            thread = threading.Thread(target=lambda: code.append(main(second)))
            thread.start()
            thread.join()
            inside.append(code[0])

    transfer("in.png", "in.png", **QUICK, **{name: file}, callback=callback, init="noise")
    assert inside == [2]
    assert f"another run is writing {file}: wait until it has ended" in capsys.readouterr().err
    assert sorted(os.listdir()) == ["in.png", file]


def test_a_file_that_came_during_the_run_is_not_replaced(caplog):
    def callback(record):
        for name in ("x.png", "x.svg", "x.npz"):
            Path(name).write_bytes(b"somebody's")

    names = {"output": "x.png", "plot": "x.svg", "checkpoint": "x.npz"}
    result = transfer("in.png", "in.png", **QUICK, **names, init="noise", callback=callback)
    assert [Path(name).read_bytes() for name in names.values()] == [b"somebody's"] * 3
    assert result.path == Path(f"x.{os.getpid()}.png")
    assert result.path.exists()
    assert "the picture was saved as" in caplog.text
    transfer("in.png", "in.png", **QUICK, **names, init="noise", callback=callback, overwrite=True)
    assert all(Path(name).read_bytes() != b"somebody's" for name in names.values())


def test_a_file_is_looked_for_again_once_it_is_held(monkeypatch):
    """Another run may have written it between the check and the hold."""
    from nst_manual.runs import outputs

    def hold(path, held=outputs.held):
        path.touch()
        return held(path)

    monkeypatch.setattr(outputs, "held", hold)
    with pytest.raises(NSTError, match="exists already"), claimed(Settings(), Run(output="x.png")):
        pass
