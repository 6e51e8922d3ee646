"""A GPU that fails in the middle of a run: the best picture so far is saved, and one sentence says what to do."""

import numpy as np
import pytest
from device_stand_in import CompileException, CUBLASError, CUDADriverError, CUDARuntimeError, OnDevice
from PIL import Image

from nst_manual import transfer
from nst_manual.batch import transfer_many
from nst_manual.cli.main import main
from nst_manual.pictures.demo import painting, scene
from nst_manual.proof.checks import random_filters
from nst_manual.runs import watch
from nst_manual.vgg import steps_to
from nst_manual.weights import Weights
from nst_manual.weights.formats.hdf5 import write_hdf5

QUICK = {
    "engine": "cuda",
    "precision": "float64",
    "size": 32,
    "iterations": 6,
    "style_layers": "conv1_1",
    "content_layers": "conv1_2",
    "optimizer": "lbfgs",
}
ERRORS = [
    CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered"),
    CUDADriverError("CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure"),
    CUBLASError("CUBLAS_STATUS_EXECUTION_FAILED"),
    CompileException("kern.cu(1): error: expected a ';'"),
]


@pytest.fixture(scope="module")
def pictures():
    return scene(64, 48), painting(64, 48)


@pytest.fixture
def quick(tmp_path):
    weights = Weights(random_filters(steps_to("conv1_2"), 1), (120.0, 115.0, 100.0), "oxford", "made here", "none")
    write_hdf5(tmp_path / "weights.h5", weights)
    return QUICK | {"weights": str(tmp_path / "weights.h5")}


def command(pictures, options, folder):
    """A transfer's arguments, with a result in out.png."""
    files = [folder / name for name in ("c.png", "s.png")]
    for file, picture in zip(files, pictures, strict=True):
        Image.fromarray(np.asarray(picture)).save(file)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    return ["transfer", *map(str, files), "-o", str(folder / "out.png"), "--quiet", *words]


@pytest.mark.parametrize(("engine", "expected"), [("cuda", "lbfgs"), ("cpu", "l-bfgs-b")])
def test_where_nobody_chooses_the_optimiser_suits_the_engine(cupy_without_kernels, pictures, quick, engine, expected):
    options = {name: value for name, value in quick.items() if name not in ("optimizer", "engine")}
    result = transfer(*pictures, engine=engine, **options)
    assert result.recipe.settings.optimizer == expected


def test_a_run_goes_on_with_the_optimiser_that_it_was_begun_with(cupy_without_kernels, pictures, quick, tmp_path):
    options = {name: value for name, value in quick.items() if name not in ("optimizer", "engine", "iterations")}
    checkpoint = tmp_path / "run.ckpt"
    transfer(*pictures, engine="cuda", iterations=2, checkpoint=checkpoint, **options)
    result = transfer(*pictures, engine="cuda", iterations=4, resume=checkpoint, **options)
    assert (result.recipe.settings.optimizer, result.trace[-1].iteration) == ("lbfgs", 4)


@pytest.mark.parametrize("optimizer", ["lbfgs", "l-bfgs-b"])
@pytest.mark.parametrize("answers", [True, False], ids=["the device answers", "the device is lost"])
def test_the_best_picture_so_far_is_kept(cupy_without_kernels, pictures, quick, tmp_path, optimizer, answers):
    def callback(record):
        if record.iteration == 4:
            if answers:
                raise ERRORS[0]
            OnDevice.broken = ERRORS[0]  # from now on nothing can be fetched

    output = tmp_path / "out.png"
    result = transfer(*pictures, callback=callback, output=output, **(quick | {"optimizer": optimizer}))
    assert result.stopped == "device failed"
    assert result.message.startswith("the GPU failed (CUDARuntimeError: cudaErrorIllegalAddress: ")
    assert "run it again, with --engine cpu if it fails again; the picture is that of iteration" in result.message
    assert result.path == output
    with Image.open(output) as picture:
        assert picture.size == (32, 24)
    first = result.trace[0].loss
    assert result.loss < first if answers or optimizer == "l-bfgs-b" else result.loss <= first


def test_what_cupy_raises_is_not_looked_up_in_every_iteration(cupy_without_kernels, pictures, quick, monkeypatch):
    """Where one of CUDA's libraries is missing, CuPy looks for it each time."""
    asked = []
    monkeypatch.setattr(watch, "device_errors", lambda: asked.append(1) or (CUDARuntimeError,))
    monkeypatch.setattr(watch, "COPY_EVERY", 1e6)
    assert len(transfer(*pictures, **quick).trace) == 6
    assert len(asked) == 1


def test_a_failure_at_a_later_scale_leaves_the_picture_of_the_one_before(cupy_without_kernels, pictures, quick):
    def callback(record):
        if record.scale == 1 and record.iteration == 6:
            cupy_without_kernels.empty = broken
            cupy_without_kernels.asarray = broken

    def broken(*arguments, **options):
        raise ERRORS[1]

    result = transfer(*pictures, callback=callback, scales="16,32", **quick)
    assert result.stopped == "device failed"
    assert "the picture is that of the previous scale" in result.message
    assert np.isfinite(result.pixels).all()


def test_the_command_ends_with_1_and_the_picture_so_far(
    cupy_without_kernels, pictures, quick, tmp_path, capsys, monkeypatch
):
    record = watch.Watch.record

    def recorded(self, of_search):
        record(self, of_search)
        if of_search.iteration == 4:
            OnDevice.broken = ERRORS[0]

    monkeypatch.setattr(watch.Watch, "record", recorded)
    assert main(command(pictures, quick, tmp_path)) == 1
    said = capsys.readouterr().err
    assert "the GPU failed (CUDARuntimeError: " in said
    assert "the picture is that of iteration" in said
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (32, 24)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_without_a_picture_yet_one_sentence_says_what_to_do(
    cupy_without_kernels, pictures, quick, tmp_path, capsys, error
):
    def broken(*arguments, **options):
        raise error

    cupy_without_kernels.asarray = broken
    assert main(command(pictures, quick, tmp_path)) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"the GPU failed ({type(error).__name__}: {error}): run it again, with --engine cpu" in said
    assert not (tmp_path / "out.png").exists()


def test_a_device_whose_memory_is_full_is_told_so(cupy_without_kernels, pictures, quick, tmp_path):
    def callback(record):
        if record.iteration == 3:
            cupy_without_kernels.memory.left = 150  # so within an evaluation

    result = transfer(*pictures, callback=callback, output=tmp_path / "out.png", **quick)
    assert result.stopped in ("out of memory", "device failed")
    assert "out of memory" in result.message
    assert "should fit" in result.message
    assert (tmp_path / "out.png").exists()


def test_a_batch_says_it_of_each_picture(cupy_without_kernels, pictures, quick):
    def callback(pair, record):
        if record.iteration == 3:
            OnDevice.broken = ERRORS[0]

    first, second = transfer_many(list(pictures), [pictures[1]], callback=callback, **quick)
    assert first.result.stopped == "device failed"
    assert "the GPU failed (CUDARuntimeError" in str(second.result)
