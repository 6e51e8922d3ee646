"""The self-test of the GPU's paths, on a stand-in whose kernels are broken one by one: the verdict names each, and the
next path is taken."""

import json
import logging
import re
import shutil
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from device_stand_in import KERNELS, SABOTAGE, Graph, HostKernels
from small_trials import NETWORK, TABLES

from nst_manual.engines import open_engine
from nst_manual.engines.cuda import paths, self_test, trials, verdicts
from nst_manual.engines.cuda.device import source
from nst_manual.engines.cuda.graph import Repeated
from nst_manual.engines.cuda.paths import PATHS
from nst_manual.engines.cuda.probe import NoGPU
from nst_manual.engines.cuda.self_test import Guarded, faults, report
from nst_manual.engines.cuda.survey import survey
from nst_manual.engines.cuda.verdicts import Verdict, judged, verdict_of
from nst_manual.settings import Settings

WAYS = [(path, precision) for path, engine in PATHS.items() for precision in engine.precisions]
ANY = r"\bfloat|matrix_product"
KINDS = {"float32": rf"Single|winograd|{ANY}", "tf32": rf"Tf32|{ANY}", "float16": rf"Half|Bfloat|{ANY}"}


@pytest.fixture
def small(monkeypatch):
    """The same trials with smaller numbers."""
    for name, value in TABLES.items():
        monkeypatch.setattr(trials, name, value)
    return partial(trials.trials, **NETWORK)


def said(cupy, path, precision, chosen):
    records = list(report(PATHS[path], precision, cupy, chosen))
    return judged(path, precision, records, "its process ended", 1.0)


@pytest.mark.parametrize(("path", "precision"), WAYS)
def test_every_path_passes_and_every_kernel_has_its_trial(cupy_on_host, small, path, precision):
    verdict = said(cupy_on_host, path, precision, small)
    assert verdict.faults == ()
    assert str(verdict).startswith(f"{path}: passed, {verdict.tried} trials in ")
    if path == "fused":
        needed = {name for name in KERNELS if "<" not in name or re.search(KINDS[precision], name)}
        assert needed == set(cupy_on_host.launched)
    else:
        assert not cupy_on_host.launched  # they need none of our kernels


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_whatever_a_kernel_does_wrong_is_seen_and_the_kernel_is_named(cupy_on_host, small, precision):
    make = PATHS["fused"]
    engine = make(precision, cupy_on_host, Guarded)
    users = {}  # kernel → the trials that launch it, and how long they take
    for trial in small(engine, lambda: make(precision, cupy_on_host)):
        began = time.process_time()
        assert not list(faults(trial, engine.device))
        for kernel in dict.fromkeys(engine.device.launched):
            users.setdefault(kernel, []).append((time.process_time() - began, trial))
    missed = []
    for number, (kernel, those) in enumerate(users.items()):
        every = list(SABOTAGE) if precision == "float32" or "8, 64" in kernel else [list(SABOTAGE)[number % 4]]
        for how in every:
            if (kernel, how) in HARMLESS:
                continue
            cupy_on_host.sabotage = {kernel: how}
            with np.errstate(all="ignore"):
                found = (
                    f for _, trial in sorted(those, key=lambda pair: pair[0]) for f in faults(trial, engine.device)
                )
                if not any(kernel in fault for fault in found):
                    missed.append((kernel, how))
    assert not missed


HARMLESS = {("add_up", "in a wrong layout")}  # a single number


@pytest.fixture(scope="module")
def without_barriers(host_kernels, tmp_path_factory):
    """Kernels whose threads do not wait for each other."""
    names, text = ["first<Single>", "gram_sum", "add_up", "conv<Half, Half, 8, 64>"], source()
    for place in ("pixels[k / 390][k % 390] =", "sums[threadIdx.y][threadIdx.x] = sum;", "this stage's filters"):
        at = text.index(place)
        at = text.rindex("__syncthreads();", 0, at) if "stage" in place else text.index("__syncthreads();", at)
        text = text[:at] + text[at:].replace("__syncthreads();", "", 1)
    at = text.index("for (int half = 128")
    text = text[:at] + text[at:].replace("__syncthreads();", "", 1)
    compiler = next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))))
    return HostKernels(text, names, tmp_path_factory.mktemp("broken"), compiler)


def test_threads_that_do_not_wait_for_each_other_are_seen(cupy_on_host, small, without_barriers):
    for precision, kernels in (
        ("float32", ("first<Single>", "add_up")),
        ("float16", ("gram_sum", "conv<Half, Half, 8, 64>")),
    ):
        make = PATHS["fused"]
        engine = make(precision, cupy_on_host, Guarded)
        for kernel in kernels:
            cupy_on_host.broken_kernels = {kernel: without_barriers}
            found = (
                fault
                for trial in small(engine, partial(make, precision, cupy_on_host))
                for fault in faults(trial, engine.device)
            )
            assert any(kernel in fault for fault in found), kernel


def test_the_default_style_loss_is_tried_as_a_graph(cupy_on_host, small):
    make, name = PATHS["fused"], f"repeated evaluations, {Settings().style_loss}"
    engine = make("tf32", cupy_on_host, Guarded)
    (trial,) = (one for one in small(engine, partial(make, "tf32", cupy_on_host)) if one.name == name)
    Graph.launches = 0
    assert not list(faults(trial, engine.device))
    assert Graph.launches == 3
    assert "cholesky" in cupy_on_host.launched


@pytest.mark.parametrize("pool_dies", ["frees", "leaks"])
def test_a_graph_that_outlives_its_memory_is_seen(host_kernels, cupy_on_host, small, monkeypatch, pool_dies):
    """CuPy up to 14.0 frees the graph's memory with its pool, and then others have it."""

    class Forgetful(Repeated):
        def _record(self, image):
            super()._record(image)
            self.pool = None

    cupy_on_host.memory.pool_dies = pool_dies
    make = PATHS["fused"]
    *_, last = small(make("tf32", cupy_on_host, Guarded), lambda: make("tf32", cupy_on_host))
    assert not list(faults(last, Guarded(cupy_on_host, False, 0)))
    assert cupy_on_host.memory.leaked == 0
    monkeypatch.setattr("nst_manual.engines.cuda.plain.Repeated", Forgetful)
    found = list(faults(last, Guarded(cupy_on_host, False, 0)))
    if pool_dies == "frees":
        assert any("numbers in others' memory" in fault for fault in found)
    else:
        assert cupy_on_host.memory.leaked > 0


# ---- What follows from a verdict


@pytest.fixture
def judge(cupy_on_host, small, monkeypatch):
    """The self-tests run in this process; `failing` has the paths that fail, and `judged` those that were tested."""
    judge = SimpleNamespace(failing={}, tested=[])

    def tested(path, precision, number):
        judge.tested.append(path)
        return Verdict(path, precision, tuple(judge.failing.get(path, ())), 7, 1.5, judge.failing.get("lasts", True))

    monkeypatch.setattr(verdicts, "tested", tested)
    monkeypatch.setattr(paths, "verdict_of", verdict_of)
    return judge


def test_the_best_path_that_passes_is_taken_and_the_log_says_why(judge, caplog):
    taken = []
    with caplog.at_level(logging.INFO, "nst_manual"):
        for path in ("", *PATHS):
            judge.failing |= {path: ["a layer: up: conv<Tf32, Tf32, 8, 64> is wrong"]} if path else {}
            for file in verdicts.folder().glob("*"):
                file.unlink()
            taken.append(open_engine("auto", "tf32" if path != "plain" else "float32").name)
    assert taken == ["cuda", "cuda products", "cuda plain", "cpu"]
    assert "the fused path fails its self-test (a layer: up: conv<Tf32, Tf32, 8, 64> is wrong)" in caplog.text
    with pytest.raises(
        NoGPU, match=r"^--engine cuda: on this GPU the fused path fails its self-test \(a layer: up: conv"
    ) as e:
        open_engine("cuda", "tf32")
    assert "\n" not in str(e.value)
    assert "check --engine cuda" in str(e.value)
    assert judge.tested.count("fused") == 5


def test_a_verdict_is_kept_for_this_card_and_these_versions(judge, cupy_on_host, caplog):
    with caplog.at_level(logging.INFO, "nst_manual"):
        open_engine("cuda", "float32")
        open_engine("cuda", "float32")
    assert judge.tested == ["fused"]
    assert caplog.text.count("testing a CPU's fused path in float32") == 1
    open_engine("cuda", "tf32")
    cupy_on_host.__version__ = "another"
    open_engine("cuda", "tf32")
    assert judge.tested == ["fused"] * 3
    for file in verdicts.folder().glob("*.json"):
        file.write_text("damaged", encoding="utf-8")
    open_engine("cuda", "tf32")
    assert len(judge.tested) == 4
    assert [verdict.path for verdict, _ in survey(["tf32"], None, timed=False)] == list(PATHS)  # all, and anew
    assert judge.tested[4:] == list(PATHS)


def test_a_verdict_is_for_every_source_that_computes():
    files = {file for pattern in verdicts.SOURCES for file in verdicts.PACKAGE.glob(pattern) if file.suffix == ".py"}
    imported = {
        name for file in files for name in re.findall(r"^from \.+(\w+) import", file.read_text(encoding="utf-8"), re.M)
    }
    known = {file.stem for file in files} | {"arrays", "errors"}
    assert {name for name in imported if (verdicts.PACKAGE / f"{name}.py").exists()} <= known


def test_what_may_pass_next_time_is_not_kept(judge, monkeypatch, caplog, tmp_path):
    judge.failing = {"fused": ["MemoryError: out of memory"], "lasts": False}
    open_engine("cuda", "float32")
    open_engine("cuda", "float32")
    assert judge.tested == ["fused", "products"] * 2
    judge.failing = {}
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("NST_MANUAL_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.INFO, "nst_manual"):
        open_engine("cuda", "float32")
    assert "can't be kept" in caplog.text


# ---- The process


CHILDREN = {
    "crashes": ("import os\nos._exit(5)", 60, r"^its start: its process ended with code 5$"),
    "says why": ("raise RuntimeError('no such card')", 60, r"^its start: .* code 1 \(RuntimeError: no such card\)$"),
    "hangs": ("import time\ntime.sleep(60)", 1.5, r"^its start: it took more than 1.5 s$"),
}


@pytest.mark.parametrize("case", CHILDREN)
def test_whatever_happens_to_the_process_is_a_verdict(tmp_path, monkeypatch, case):
    text, longest, expected = CHILDREN[case]
    (tmp_path / "cupy.py").write_text(text, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(verdicts, "LONGEST", longest)
    verdict = verdicts.tested("plain", "float32", 0)
    assert not verdict.passed
    assert re.search(expected, verdict.faults[0])
    assert verdict.lasts == (case != "hangs")


def test_the_process_says_what_it_tries_line_by_line(cupy_on_host, monkeypatch, capsys):
    monkeypatch.setattr(self_test, "report", lambda *given: iter([{"begin": "a"}, {"fault": "b"}, {"done": 1}]))
    self_test.main(["plain", "float32", "0"])
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    verdict = judged("plain", "float32", records, "", 2.0)
    assert verdict.faults == ("a: b",)
    assert str(verdict) == "plain: FAILED, a: b"
    assert judged("plain", "float32", records[:1], "it vanished", 2.0).faults == ("a: it vanished",)
