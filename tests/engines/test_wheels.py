"""CuPy's own wheels, as far as they go without a card: names, types of errors, kernels compiled by NVRTC and kept on
disk. Skipped where CuPy is not installed: `pip install cupy-cuda12x nvidia-cuda-nvrtc-cu12` is enough."""

import ctypes
import importlib
import inspect
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import device_stand_in
import numpy as np
import pytest

import nst_manual
from nst_manual.engines.cuda.device import ERRORS, device_errors, source, specialised

CARD = "80"  # the compute capability that is compiled for
FEW = ("conv<Half, Bfloat, 8, 64>", "winograd_in<1>", "pool_backward<Bfloat, Half>", "products<float>", "gram_sum")
# Whose functions of NumPy are called on CuPy's arrays, but for those that only count on the host.
FILES = ("layers.py", "losses.py", "roots.py", "engines/cuda/plain.py")
ON_HOST = {"ndindex"}
OWN = ("asarray", "ascontiguousarray", "asnumpy", "empty", "full", "ones", "zeros")  # called by CuPy's name
METHODS = ("astype", "copy", "data", "mean", "reshape", "set", "sum", "swapaxes", "tolist", "transpose", "view")


@pytest.fixture(scope="module")
def cupy():
    folders = [Path(folder) / "nvidia" for folder in sys.path]
    for name in ("libnvrtc.so*", "libcublasLt.so*", "libcublas.so*"):  # CuPy 13 does not look for them there
        for library in (file for folder in folders for file in folder.glob(f"*/lib/{name}")):
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    return pytest.importorskip("cupy", reason="needs CuPy")


def test_the_names_that_the_engine_uses_are_there(cupy):
    texts = [Path(nst_manual.__file__).parent / name for name in FILES]
    used = {name for text in texts for name in re.findall(r"np\.([a-z_]+)\(", text.read_text(encoding="utf-8"))}
    assert len(used) > 10
    assert [name for name in {*used, *OWN} - ON_HOST if not hasattr(cupy, name)] == []
    assert [name for name in METHODS if not hasattr(cupy.ndarray, name)] == []
    assert "shape" in inspect.signature(cupy.zeros_like).parameters
    assert {"code", "options"} <= set(re.findall(r"\w+", cupy.RawModule.__doc__))
    cuda = cupy.cuda
    for place, names in (
        (cuda, ("Device", "Memory", "MemoryPointer", "MemoryPool", "Stream", "get_current_stream", "using_allocator")),
        (cuda.Device, ("attributes", "compute_capability", "synchronize", "use")),
        (cuda.MemoryPool, ("free_all_blocks", "malloc")),
        (cuda.Stream, ("begin_capture", "end_capture", "synchronize")),
        (cuda.Graph, ("launch",)),
        (cuda.nvrtc, ("getVersion",)),
        (cuda.device, ("get_cublas_handle",)),
        (
            cuda.runtime,
            ("deviceGetPCIBusId", "driverGetVersion", "getDeviceCount", "getDeviceProperties", "is_hip", "memGetInfo"),
        ),
    ):
        assert [name for name in names if not hasattr(place, name)] == [], place


def test_errors_are_of_the_types_that_the_stand_in_has(cupy, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    found = {error.__name__: error for error in device_errors()}
    names = {name for place, name in ERRORS if place not in ("cublas", "cusolver")}  # libraries of their own
    assert names <= found.keys() <= {name for _, name in ERRORS}
    for name, error in found.items():
        stand_in = getattr(device_stand_in, name)
        assert error.__bases__[0] == stand_in.__bases__[0]
    assert issubclass(cupy.cuda.memory.OutOfMemoryError, MemoryError)


def test_calls_of_cublas_take_these_arguments(cupy):
    try:
        cublas = cupy.cuda.cublas
    except ImportError as error:
        pytest.skip(f"needs cuBLAS: {error}")
    for name, count in (("sgemmStridedBatched", 18), ("setMathMode", 2), ("getVersion", 1)):
        heading = getattr(cublas, name).__doc__ or ""
        given = re.search(r"\((.*?)\)", heading)
        assert given is None or len(given[1].split(",")) == count, heading


@pytest.mark.parametrize("name", FEW)
def test_nvrtc_compiles_a_kernel_under_its_plain_name(cupy, name):
    nvrtc = cupy.cuda.nvrtc
    program = nvrtc.createProgram(specialised(source(), name), "kernels.cu", (), ())
    nvrtc.compileProgram(program, ("-std=c++17", f"-arch=compute_{CARD}"))
    text = nvrtc.getPTX(program)
    text = text if isinstance(text, str) else text.decode()
    assert name.partition("<")[0] in re.findall(r"\.entry (\w+)", text)


def test_a_compiled_kernel_is_kept_on_disk(cupy, tmp_path, monkeypatch):
    """The second start compiles nothing."""
    compiler = importlib.import_module("cupy.cuda.compiler")
    loaded, compiled = [], []

    def compile_nothing_new(*given, **options):
        compiled.append(given)
        return original(*given, **options)

    names = ("_compile_using_nvrtc_no_warning", "compile_using_nvrtc")  # of CuPy 14 and 13
    name = next(name for name in names if hasattr(compiler, name))
    original = getattr(compiler, name)
    module = SimpleNamespace(load=loaded.append, _set_mapping=lambda mapping: None)
    monkeypatch.setattr(compiler, name, compile_nothing_new)
    monkeypatch.setattr(compiler.function, "Module", lambda: module)
    monkeypatch.setattr(compiler, "_get_arch_for_options_for_nvrtc", lambda arch=None: (f"-arch=sm_{CARD}", "cubin"))
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("CUPY_CACHE_IN_MEMORY", "0")
    arguments = [f"{specialised(source(), 'gram_sum')}\n// {tmp_path}", ("-std=c++17",), CARD]
    if "cache_dir" in inspect.signature(compiler._compile_with_cache_cuda).parameters:
        arguments.append(str(tmp_path))
    for _ in range(2):
        compiler._compile_with_cache_cuda(*arguments)
    assert len(loaded) == 2
    assert len([given for given in compiled if "gram_sum" in str(given[0])]) == 1


def test_numpys_functions_reach_cupys_arrays(cupy):
    assert hasattr(cupy.ndarray, "__array_function__")
    assert hasattr(cupy.ndarray, "__array_ufunc__")
    assert np.dtype(np.float32) == cupy.float32


def test_every_path_runs_on_cupy_itself_and_the_second_start_compiles_nothing(cupy, tmp_path):
    """With its own arrays, pools, captures and packing of arguments, though no kernel runs."""
    if sys.platform != "linux" or platform.machine() != "x86_64" or not all(map(shutil.which, ("cc", "nm"))):
        pytest.skip("needs Linux, a C compiler and nm")
    script = Path(__file__).parents[1] / "cupy_without_card.py"
    paths = [str(Path(nst_manual.__file__).parents[1]), str(script.parent)]
    given = {"PYTHONPATH": os.pathsep.join(paths), "CUPY_CACHE_DIR": str(tmp_path / "cache"), "CUPY_ACCELERATORS": ""}
    records = []
    for _ in range(2):
        command = [sys.executable, script, tmp_path]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **given})
        assert done.returncode == 0, done.stderr[-2000:]
        records.append(json.loads(done.stdout))
    assert records[0]["errors"] == []
    assert records[0]["graph"] == {"recorded": True, "stays": True, "left": 0}
    assert "without a CUDA graph (too little memory to record" in records[0]["too little memory"]
    assert records[1]["seconds"] < records[0]["seconds"] / 4
