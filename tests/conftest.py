"""What several rooms' tests share."""

import os
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(1234)


@pytest.fixture(scope="session", autouse=True)
def one_blas_thread():
    """The tests' products are tiny: on a busy machine, sharing them among BLAS's threads takes ten times as long."""
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture(autouse=True)
def no_installed_weights(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the person who runs the tests has installed must not change what they test."""
    monkeypatch.setenv("NST_MANUAL_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """A folder with real pictures and weights, which are too large or not ours to ship."""
    folder = os.environ.get("NST_MANUAL_TEST_DATA")
    if not folder:
        pytest.skip("NST_MANUAL_TEST_DATA names no folder with real pictures and weights")
    return Path(folder)
