"""The memory that a run will need: forecast, measured, logged and limited."""

import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nst_manual import transfer
from nst_manual.engines import open_engine
from nst_manual.errors import NSTError
from nst_manual.pictures.budget import shown
from nst_manual.runs import fitting, memory
from nst_manual.runs.fitting import SPARE, fitted
from nst_manual.runs.inputs import load_inputs
from nst_manual.runs.machine import Resident, physical, resident
from nst_manual.runs.memory import COSTS, Forecast
from nst_manual.settings import Run, Settings

TOOL = Path(__file__).parents[2] / "tools" / "memory.py"
SHALLOW = {"content_layers": "conv2_2", "style_layers": "conv1_1,conv2_1"}
LAYERS = [f"{name}={value}" for name, value in SHALLOW.items()]
DEEPER = ["content_layers=conv3_1", "style_layers=conv1_1,conv2_1"]


@pytest.fixture
def pictures(rng):
    return [rng.integers(0, 256, shape).astype(np.uint8) for shape in ((96, 128, 3), (80, 100, 3))]


@pytest.fixture
def hundred_megabytes(monkeypatch):
    """What the process has, whatever this one has."""
    monkeypatch.setattr(memory, "resident", lambda: Resident(100_000_000, 100_000_000))


@pytest.mark.parametrize(
    "options",
    [
        ["--sizes=388", "--iterations=4", "engine=cpu", *DEEPER],  # odd behind the second pooling
        ["--sizes=256", "--iterations=2", "engine=cpu", "optimizer=adam", "regions=2", *DEEPER],
        ["--sizes=256", "--iterations=2", "engine=reference", "optimizer=adam", "pooling=max", *LAYERS],
    ],
    ids=["cpu", "regions", "reference"],
)
def test_the_forecast_is_within_15_percent_of_the_measured_peak(options):
    done = subprocess.run([sys.executable, TOOL, "--json", *options], capture_output=True, text=True, check=True)
    row = json.loads(done.stdout)
    assert row["forecast"] == pytest.approx(row["measured"], rel=0.15)


def test_a_run_that_no_way_makes_small_enough_is_refused_with_the_size_that_would_fit(pictures, hundred_megabytes):
    settings, inputs, engine = opened(pictures)
    settings = replace(settings, optimizer="adam")  # which has no history to be spared
    whole = Forecast.of(settings, inputs, engine)
    limit = (whole.total + whole.at(64)) // 2
    fits = whole.fitting(limit)
    assert fits in range(64, 128, 8)
    assert whole.at(fits) <= limit < whole.at(fits + 8)
    with pytest.raises(NSTError) as refused:
        fitted(settings, Run(max_memory=f"{limit * SPARE + 1}"), inputs, engine)
    sentence = f"the run would need about {shown(whole.total)} of memory, even with --optimizer adam"
    assert str(refused.value).startswith(f"{sentence}, more than the {shown(limit * SPARE)} of --max-memory")
    assert str(refused.value).endswith(f": --size {fits} would fit")
    fitted(settings, Run(max_memory=f"{whole.total * SPARE + 1}"), inputs, engine)


@pytest.mark.parametrize("share", [0, 0.3, 0.6, 0.9, 1])
def test_the_size_that_would_fit_is_large_enough_for_a_style_of_another_shape(rng, hundred_megabytes, share):
    pictures = [rng.integers(0, 256, shape).astype(np.uint8) for shape in ((96, 128, 3), (20, 110, 3))]
    settings = Settings(engine="reference", size=None)
    inputs = load_inputs(settings, pictures[0], pictures[1:])
    whole = Forecast.of(settings, inputs, open_engine("reference", "float32"), loaded=True)
    fits = whole.fitting(whole.at(8) + share * (whole.total - whole.at(8)))
    assert fits == {0.6: 96, 0.9: 120, 1: 128}.get(share)  # below 88, the style is too low for conv5_1
    if fits:
        load_inputs(replace(settings, size=fits), pictures[0], pictures[1:])


def test_each_style_shrinks_with_its_own_scale(pictures, hundred_megabytes):
    settings = Settings(engine="reference", size=128, style_scale="0.5,8", enlarge=True, **SHALLOW)

    def forecast(settings):
        inputs = load_inputs(settings, pictures[0], pictures[1:] * 2)
        return Forecast.of(settings, inputs, open_engine("reference", "float32"), loaded=True)

    whole, half = forecast(settings), forecast(replace(settings, size=64))
    assert whole.at(64) == pytest.approx(half.total, rel=0.05)
    assert replace(whole, scales=(0.5, 0.5)).at(64) < 0.8 * half.total


def test_a_limit_below_the_process_itself_leaves_no_size(pictures, hundred_megabytes):
    settings, inputs, engine = opened(pictures)
    with pytest.raises(NSTError, match="no size would fit"):
        fitted(settings, Run(max_memory="90M"), inputs, engine)


def test_a_refused_run_has_not_begun(pictures, tmp_path):
    with pytest.raises(NSTError, match="--max-memory"):
        transfer(*pictures, engine="reference", max_memory="1M", output=tmp_path / "out.png", weights=str(TOOL))
    assert not list(tmp_path.iterdir())


def test_the_forecast_is_logged_and_a_machine_with_less_is_warned_about(
    pictures, hundred_megabytes, monkeypatch, caplog
):
    settings, inputs, engine = opened(pictures)
    monkeypatch.setattr(fitting, "physical", lambda: 50_000_000)
    with caplog.at_level(logging.INFO):
        fitted(settings, Run(), inputs, engine)
    warned, said = (record.getMessage() for record in caplog.records[-2:])
    assert said == f"memory: about {shown(Forecast.of(settings, inputs, engine).total)}"
    assert "50 MB" in warned


def test_a_long_history_is_part_of_the_forecast(pictures, hundred_megabytes):
    settings, inputs, engine = opened(pictures)
    for optimizer, steps in (("l-bfgs-b", 50), ("lbfgs", 100_000)):  # SciPy takes memory for no more than it makes
        long = replace(settings, optimizer=optimizer, history=100_000, iterations=50)
        forecast = Forecast.of(long, inputs, engine, loaded=True).total
        without = Forecast.of(replace(long, history=1), inputs, engine, loaded=True).total
        assert forecast - without > 8 * steps * 3 * 96 * 128 + 16 * steps**2 - 10**6


def test_a_peak_that_was_reached_before_is_part_of_the_forecast(pictures, monkeypatch):
    """For instance by a large picture that was made smaller."""
    monkeypatch.setattr(memory, "resident", lambda: Resident(100_000_000, 3_000_000_000))
    assert Forecast.of(*opened(pictures)).total == 3_000_000_000


def test_scipy_counts_only_where_it_is_still_to_be_loaded(pictures, hundred_megabytes, monkeypatch):
    settings, inputs, engine = opened(pictures)

    def totals():
        optimizers = ("l-bfgs-b", "adam")
        return [Forecast.of(replace(settings, optimizer=one), inputs, engine, loaded=True).total for one in optimizers]

    monkeypatch.setitem(sys.modules, "scipy.optimize", object())
    loaded = totals()
    monkeypatch.delitem(sys.modules, "scipy.optimize")
    assert np.subtract(totals(), loaded).tolist() == [memory.SCIPY_ITSELF, 0]


def test_on_a_gpu_the_card_s_memory_counts(pictures):
    settings = Settings()
    cost = COSTS["cuda", "float32"]
    pixel = cost.pixel + 2 * 4 * (256 / 16 + 128 / 4)  # of conv3_1 and conv2_1, twice: measured were those of conv4_2
    whole = Forecast(settings, cost, pictures[0].shape[:2], now=10**9, peak=10**9)
    margin = 2 * settings.margin
    assert whole.total == pixel * (96 + margin) * (128 + margin)
    assert whole.fitting(pixel * (48 + margin) * (64 + margin)) == 64
    assert replace(whole, settings=Settings(content_layers="conv5_2")).total == whole.total / pixel * cost.pixel


def test_the_process_tells_how_much_memory_it_has():
    before = resident()
    taken = np.ones(1 << 28, np.uint8)  # more than may be free already
    after = resident()
    assert 0 < before.now <= after.now <= after.peak < physical()
    assert sys.platform == "darwin" or after.now >= before.now + taken.size * 0.9


def opened(pictures):
    settings = Settings(engine="reference", size=None, **SHALLOW)
    return settings, load_inputs(settings, pictures[0], pictures[1:]), open_engine("reference", "float32")
