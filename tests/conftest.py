"""What several rooms' tests share."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from device_stand_in import KERNELS, OPTIONS, SHIM, Cupy, HostKernels
from threadpoolctl import threadpool_info, threadpool_limits

from nst_manual.engines.cuda.device import source
from nst_manual.engines.cuda.verdicts import Verdict


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(1234)


@pytest.fixture(scope="session", autouse=True)
def one_blas_thread():
    """The tests' products are tiny: on a busy machine, sharing them among BLAS's threads takes ten times as long."""
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture
def blas_threads() -> Callable[[], set[int]]:
    """How many each BLAS of this process uses now."""

    def threads() -> set[int]:
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    return threads


@pytest.fixture
def known_blas(blas_threads: Callable[[], set[int]]) -> None:
    if not blas_threads():
        pytest.skip("threadpoolctl does not know NumPy's BLAS here, and cannot set its threads")


@pytest.fixture(scope="session", autouse=True)
def no_ignored_signals() -> None:
    """Tests in the background ignore Ctrl-C, those under nohup SIGHUP, and so would the programs that they start."""
    for name, usual in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


@pytest.fixture(autouse=True)
def no_installed_weights(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the person who runs the tests has installed must not change what they test."""
    monkeypatch.setenv("NST_MANUAL_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def verdicts_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("verdicts")


@pytest.fixture
def kept_verdicts(verdicts_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, each path tests itself once for all tests."""
    monkeypatch.setattr("nst_manual.engines.cuda.verdicts.folder", lambda: verdicts_folder)


@pytest.fixture(scope="session")
def vgg19(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with VGG-19's own weights."""
    spec = importlib.util.spec_from_file_location("make_vgg19", real_data / "make_vgg19.py")
    assert spec
    assert spec.loader
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    path = tmp_path_factory.mktemp("weights") / "vgg19.h5"
    maker.write_keras(path)
    return path


@pytest.fixture(scope="session")
def real_data() -> Path:
    """A folder with real pictures and weights, which are too large or not ours to ship."""
    folder = os.environ.get("NST_MANUAL_TEST_DATA")
    if not folder:
        pytest.skip("NST_MANUAL_TEST_DATA names no folder with real pictures and weights")
    return Path(folder)


@pytest.fixture(scope="session")
def host_kernels(tmp_path_factory: pytest.TempPathFactory) -> HostKernels:
    """The CUDA engine's kernels, compiled for the CPU."""
    compiler = next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
    if compiler is None:
        pytest.skip("needs a C++ compiler: g++, clang++ or c++")
    probe = subprocess.run([compiler, *OPTIONS, "-fsyntax-only", "-x", "c++", SHIM], check=False, capture_output=True)
    if probe.returncode:
        pytest.skip(f"needs a C++ compiler that knows _Float16 and ucontext: {probe.stderr.decode().splitlines()[0]}")
    return HostKernels(source(), KERNELS, tmp_path_factory.mktemp("kernels"), compiler)


@pytest.fixture
def cupy_on_host(host_kernels: HostKernels, monkeypatch: pytest.MonkeyPatch) -> Cupy:
    """A stand-in for CuPy and its GPU, on which the CUDA engine opens, without a self-test."""
    return installed(Cupy(host_kernels), monkeypatch)


@pytest.fixture
def cupy_without_kernels(monkeypatch: pytest.MonkeyPatch) -> Cupy:
    """The same for the paths that need no kernels of ours."""
    return installed(Cupy(None), monkeypatch)


def installed(cupy: Cupy, monkeypatch: pytest.MonkeyPatch) -> Cupy:
    def passed(path: str, precision: str, cupy: Cupy, anew: bool = False) -> Verdict:
        return Verdict(path, precision, (), 1)

    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr("nst_manual.engines.cuda.paths.why_no_gpu", lambda number=None: None)
    monkeypatch.setattr("nst_manual.engines.cuda.paths.verdict_of", passed)
    return cupy
