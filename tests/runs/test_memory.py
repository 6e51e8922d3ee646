"""The memory that a run will need: added up, measured, said and limited."""

import json
import logging
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nst_manual import transfer
from nst_manual.engines import open_engine
from nst_manual.engines.cpu import threads
from nst_manual.engines.cpu.memory import Memory
from nst_manual.errors import NSTError
from nst_manual.objective import Style
from nst_manual.problem import make_objective
from nst_manual.runs import memory as forecast
from nst_manual.runs.inputs import load_inputs
from nst_manual.runs.machine import Resident, physical, resident
from nst_manual.runs.memory import CHANNELS, Forecast, Size, check_memory, shown, walk
from nst_manual.settings import Run, Settings
from nst_manual.vgg import Network, joined

TOOL = Path(__file__).parents[2] / "tools" / "forecast.py"
SHALLOW = {"content_layers": "conv2_2", "style_layers": "conv1_1,conv2_1"}
DEEPER = {"content_layers": "conv3_1", "style_layers": "conv1_1,conv2_1"}
LAYERS = [f"{name}={value}" for name, value in SHALLOW.items()]


@pytest.fixture
def pictures(rng):
    return [rng.integers(0, 256, shape).astype(np.uint8) for shape in ((96, 128, 3), (80, 100, 3))]


@pytest.mark.parametrize(
    ("engine", "precision", "pooling", "regions", "layers"),
    [
        ("cpu", "float32", "avg", 0, DEEPER),
        ("cpu", "float32", "max", 2, DEEPER),
        ("cpu", "float32", "avg", 0, {"content_layers": "pre:conv2_2", "style_layers": "pre:conv1_1"}),
        ("reference", "float32", "avg", 0, SHALLOW),
        ("reference", "float64", "max", 2, SHALLOW),
    ],
)
def test_an_evaluation_needs_what_the_walk_adds_up(rng, monkeypatch, engine, precision, pooling, regions, layers):
    settings = Settings(engine=engine, precision=precision, pooling=pooling, **layers)
    size, filters, channels = Size(120, 136) if engine == "cpu" else Size(66, 77), {}, 3
    for name, count in CHANNELS.items():
        filters[name] = (rng.standard_normal((3, 3, channels, count), np.float32), np.zeros(count, np.float32))
        channels = count
        if name == "conv3_1":
            break
    monkeypatch.setattr(threads, "available_threads", lambda: 1)  # a second one may take its buffers at any time
    monkeypatch.setattr(
        Memory, "empty", lambda memory, shape: np.empty(shape, np.float32)
    )  # that keeps them: test_memory.py
    engine = open_engine(engine, precision)
    network = Network.build(engine, filters, (1, 2, 3), settings.steps(), pooling)
    image = rng.uniform(0, 255, (*size, 3))
    region = rng.uniform(0, 1, size) if regions else None
    styles = [Style(rng.uniform(0, 255, (*size, 3)), region=region) for _ in range(max(1, regions))]
    objective = make_objective(settings, network, image, styles)
    objective(image)  # takes the buffers that stay
    tracemalloc.start()
    try:
        objective(image)
        measured = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    taps = {layer: ["content"] for layer in settings.content_layer_weights()}
    for layer in settings.style_layer_weights():
        taps.setdefault(layer, []).extend(["guided"] * regions or ["style"])
    needed = walk(engine.needs(), joined(settings.steps(), taps), pooling, taps, size)
    assert needed == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(
    "options",
    [
        ["--sizes=384", "--iterations=4", "engine=cpu", "content_layers=conv3_1", "style_layers=conv1_1,conv2_1"],
        ["--sizes=256", "--iterations=2", "engine=reference", "optimizer=adam", "pooling=max", *LAYERS],
    ],
    ids=["cpu", "reference"],
)
def test_the_forecast_is_within_15_percent_of_the_measured_peak(options):
    done = subprocess.run([sys.executable, TOOL, "--json", *options], capture_output=True, text=True, check=True)
    row = json.loads(done.stdout)
    assert row["forecast"] == pytest.approx(row["measured"], rel=0.15)


@pytest.fixture
def hundred_megabytes(monkeypatch):
    """Of a process, whatever this one has."""
    monkeypatch.setattr(forecast, "resident", lambda: Resident(100_000_000, 100_000_000))


def test_a_run_that_needs_too_much_is_refused_with_the_size_that_would_fit(pictures, hundred_megabytes):
    settings, inputs, engine = opened(pictures)
    whole = Forecast.of(settings, inputs, engine)
    limit = (whole.total + whole.at(64)) // 2
    fits = whole.fitting(limit)
    assert fits in range(64, 128, 8)
    assert whole.at(fits) <= limit < whole.at(fits + 8)
    with pytest.raises(NSTError) as refused:
        check_memory(settings, Run(max_memory=f"{limit}"), inputs, engine)
    sentence = f"the run would need about {shown(whole.total)} of memory, more than the {shown(limit)} of --max-memory"
    assert str(refused.value) == f"{sentence}: --size {fits} would fit"
    check_memory(settings, Run(max_memory=f"{whole.total}"), inputs, engine)


def test_a_limit_below_the_process_itself_leaves_no_size(pictures, hundred_megabytes):
    settings, inputs, engine = opened(pictures)
    with pytest.raises(NSTError, match="no size would fit"):
        check_memory(settings, Run(max_memory="90M"), inputs, engine)


def test_a_refused_run_has_not_begun(pictures, tmp_path):
    with pytest.raises(NSTError, match="--max-memory"):
        transfer(*pictures, engine="reference", max_memory="1M", output=tmp_path / "out.png", weights=str(TOOL))
    assert not list(tmp_path.iterdir())


def test_the_forecast_is_said_and_a_machine_with_less_is_warned_of(pictures, hundred_megabytes, monkeypatch, caplog):
    settings, inputs, engine = opened(pictures)
    monkeypatch.setattr(forecast, "physical", lambda: 50_000_000)
    with caplog.at_level(logging.INFO):
        check_memory(settings, Run(), inputs, engine)
    said, warned = (record.getMessage() for record in caplog.records[-2:])
    assert said == f"memory: about {shown(Forecast.of(settings, inputs, engine).total)}"
    assert "50 MB" in warned


def test_a_peak_that_was_reached_before_is_part_of_the_forecast(pictures, monkeypatch):
    """As that of a large picture that was made smaller."""
    monkeypatch.setattr(forecast, "resident", lambda: Resident(100_000_000, 3_000_000_000))
    assert Forecast.of(*opened(pictures)).total == 3_000_000_000


def test_scipy_itself_counts_once_where_it_will_be_loaded(pictures, monkeypatch):
    monkeypatch.setattr(forecast, "resident", lambda: Resident(100_000_000, 100_000_000))
    settings, inputs, engine = opened(pictures)

    def totals(optimizer):
        found = Forecast.of(replace(settings, optimizer=optimizer), inputs, engine, loaded=True)
        return np.array([found.total, found.side_by_side(3)])

    optimizers = ("l-bfgs-b", "adam")
    monkeypatch.setitem(sys.modules, "scipy.optimize", object())
    loaded = [totals(optimizer) for optimizer in optimizers]
    monkeypatch.delitem(sys.modules, "scipy.optimize")
    more = [totals(optimizer) - before for optimizer, before in zip(optimizers, loaded, strict=True)]
    np.testing.assert_array_equal(more, [[forecast.SCIPY_ITSELF] * 2, [0, 0]])


def test_a_gpu_is_asked_for_what_was_measured(pictures):
    settings, *_ = opened(pictures)
    content, style = (Size(*picture.shape[:2]) for picture in pictures)
    whole = Forecast(settings, 800, content, (style,), 0, 10**9, 10**9)
    assert whole.total == 800 * 96 * 128
    assert whole.fitting(800 * 48 * 64) == 64


def test_the_process_tells_how_much_memory_it_has():
    before = resident()
    taken = np.ones(1 << 28, np.uint8)  # more than may be free already
    after = resident()
    assert 0 < before.now <= after.now <= after.peak < physical()
    assert sys.platform == "darwin" or after.now >= before.now + taken.size * 0.9


def opened(pictures):
    settings = Settings(engine="reference", size=None, **SHALLOW)
    return settings, load_inputs(settings, pictures[0], pictures[1:]), open_engine("reference", "float32")
