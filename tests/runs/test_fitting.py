"""A run within --max-memory: made as asked if that fits, or else in tiles, with another optimiser, or on disk."""

import json
import logging
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nst_manual import transfer
from nst_manual.engines import open_engine
from nst_manual.engines.cuda.paths import PATHS
from nst_manual.errors import NSTError
from nst_manual.runs import fitting, memory
from nst_manual.runs.fitting import SPARE, fitted, ways
from nst_manual.runs.inputs import load_inputs
from nst_manual.runs.machine import Resident
from nst_manual.runs.memory import COSTS, Forecast
from nst_manual.settings import Run, Settings

TOOL = Path(__file__).parents[2] / "tools" / "memory.py"
SHALLOW = {"content_layers": "conv2_2", "style_layers": "conv1_1,conv2_1"}
LARGE = 6144, 8192  # height and width


@pytest.fixture
def settings():
    return Settings(engine="cpu", size=None, optimizer="l-bfgs-b")


@pytest.fixture
def forecast(settings, monkeypatch):
    """Of a large picture, whatever the machine has, without loading one."""
    cost = COSTS["cpu", "float32"]
    monkeypatch.setattr(fitting, "physical", lambda: None)
    monkeypatch.setattr(memory, "resident", lambda: Resident(100_000_000, 100_000_000))
    made = Forecast(settings, cost, LARGE, (LARGE,), (1.0,), now=800_000_000, peak=800_000_000)
    monkeypatch.setattr(fitting.Forecast, "of", lambda settings, *_: replace(made, settings=settings))
    return made


def choice(settings, limit, **run):
    own, made = fitted(settings, Run(max_memory=limit, **run), None, open_engine("reference", "float32"))
    return own.optimizer, own.history_bits, made.tile, made.history_on


def test_the_quickest_way_that_fits_is_chosen_and_keeps_to_the_limit(settings, forecast, caplog):
    assert choice(settings, "100G") == ("l-bfgs-b", 32, "auto", "memory")
    assert "--max-memory" not in caplog.text
    seen = []
    for limit in (60, 40, 20, 16, 12, 8):
        optimizer, bits, tile, history_on = choice(settings, f"{limit}G")
        tile = tile if isinstance(tile, int) else None
        chosen = replace(settings, optimizer=optimizer, history_bits=bits)
        found = replace(forecast, settings=chosen, tile=tile, on_disk=history_on == "disk")
        assert found.total <= limit << 30
        quicker = [way for way in ways(settings, Run(max_memory="1G"), LARGE, False) if way.forecast(forecast) != found]
        time = next(w.time for w in ways(settings, Run(max_memory="1G"), LARGE, False) if w.forecast(forecast) == found)
        assert all(w.time >= time or w.forecast(forecast).total * SPARE > limit << 30 for w in quicker)
        seen.append((optimizer, bits, tile, history_on))
    assert seen[-1][0] == "lbfgs"
    assert seen[-1][2] in fitting.TILES
    assert seen[-1][3] == "disk"


def test_the_log_says_what_was_chosen_and_what_it_costs(settings, forecast, caplog):
    with caplog.at_level(logging.INFO):
        choice(settings, "10G")
    way = "--tile 2048 --optimizer lbfgs --history-on disk (about 2.0 times the time)"
    assert f"memory: with {way}, for --max-memory" in caplog.text


def test_what_cannot_be_made_smaller_is_refused_with_the_size_that_would_fit(settings, forecast):
    with pytest.raises(
        NSTError, match=r"even with --tile 256 --optimizer lbfgs --history-on disk .*: --size \d+ would"
    ):
        choice(settings, "2G")
    with pytest.raises(NSTError, match="no size would fit"):
        choice(settings, "90M")


def test_a_given_tile_is_kept(settings, forecast):
    assert choice(settings, "20G", tile=300)[2] == 300
    assert choice(settings, "60G", tile="off")[2] == "off"
    with pytest.raises(NSTError, match="even with --optimizer lbfgs"):
        choice(settings, "8G", tile="off")


def test_without_a_limit_tiles_are_used_where_the_machine_has_too_little(settings, forecast, monkeypatch, caplog):
    monkeypatch.setattr(fitting, "physical", lambda: 90 << 30)
    assert choice(settings, None) == ("l-bfgs-b", 32, "auto", "memory")
    monkeypatch.setattr(fitting, "physical", lambda: 58 << 30)
    with caplog.at_level(logging.INFO):
        optimizer, bits, tile, history_on = choice(settings, None)
    assert (optimizer, bits, history_on) == ("l-bfgs-b", 32, "memory")
    assert tile in fitting.TILES
    assert "would be needed" in caplog.text


def test_a_card_with_little_free_memory_gets_tiles(cupy_without_kernels, caplog):
    engine = PATHS["plain"]("float32", cupy_without_kernels)
    pictures = [np.zeros((600, 800, 3), np.uint8)] * 2
    settings = Settings(size=None, **SHALLOW)
    inputs = load_inputs(settings, pictures[0], pictures[1:])
    whole = Forecast.of(settings, inputs, engine).total
    for share, expected in ((1.1, "auto"), (0.9, 512)):
        cupy_without_kernels.cards.free = [int(share * whole)]
        assert fitted(settings, Run(), inputs, engine)[1].tile == expected


@pytest.mark.parametrize("limit", [1.3, 1.12])
def test_a_run_that_was_fitted_is_resumed_bit_for_bit(rng, tmp_path, monkeypatch, limit):
    """With the optimiser that was chosen when it was started."""
    pictures = [rng.integers(0, 256, (48, 64, 3)).astype(np.uint8) for _ in range(2)]
    monkeypatch.setattr(memory, "resident", lambda: Resident(1000, 1000))
    for name in ("LIBRARIES", "MAKING", "SCIPY_ITSELF"):
        monkeypatch.setattr(memory, name, 0)
    options = {"engine": "reference", "weights": "calibrated", "scales": "off", "size": None, **SHALLOW}
    settings = Settings(**options)
    inputs = load_inputs(settings, pictures[0], pictures[1:])
    on_disk = replace(settings, optimizer="lbfgs")
    least = replace(Forecast.of(on_disk, inputs, open_engine("reference", "float32")), on_disk=True).total
    options["max_memory"] = math.ceil(least * limit)
    once = transfer(*pictures, iterations=9, **options)
    assert once.settings.optimizer == "lbfgs"
    kept = tmp_path / "run.ckpt"
    transfer(*pictures, iterations=5, checkpoint=kept, **options)
    resumed = transfer(*pictures, iterations=9, resume=kept, **options)
    np.testing.assert_array_equal(resumed.pixels, once.pixels)


def test_a_run_keeps_to_its_limit():
    """In a process of its own, which is measured."""
    options = ["--sizes=640", "--iterations=3", "engine=cpu", "max_memory=400M", "content_layers=conv3_1"]
    command = [sys.executable, TOOL, "--json", *options, "style_layers=conv1_1,conv2_1"]
    row = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert row["measured"] <= 400 << 20
