"""Ctrl-C and its kin: the picture is saved, and whenever they come, the end is quiet."""

import json
import signal
import subprocess
import sys
import threading

import pytest
from PIL import Image

from nst_manual.cli import signals
from nst_manual.cli.main import main
from nst_manual.cli.signals import signals_caught

QUICK = ["--style-layers", "conv1_1", "--content-layers", "conv1_1", "--size", "32", "--engine", "reference"]


def test_a_second_signal_counts_only_after_a_second(monkeypatch):
    times = iter([100.0, 100.01, 100.9, 101.1, 101.2])
    monkeypatch.setattr(signals.time, "monotonic", lambda: next(times))
    with signals_caught() as cancel:
        cancel.begun = True
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
        assert cancel.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # while the first one's exception is on its way
    assert not isinstance(signal.getsignal(signal.SIGINT), signals.Cancel)


def test_before_the_first_iteration_one_signal_is_enough():
    with signals_caught():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_a_signal_that_nohup_has_switched_off_stays_off():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with signals_caught() as cancel:
            signal.raise_signal(signal.SIGTERM)
            assert not cancel.is_set()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_block_within_a_block_shares_its_flag():
    before = signal.getsignal(signal.SIGTERM)
    with signals_caught() as outer:
        with signals_caught() as inner:
            assert inner is outer
            inner.begun = True
            signal.raise_signal(signal.SIGTERM)
        assert outer.is_set()
        assert not outer.begun
        assert signal.getsignal(signal.SIGTERM) is outer
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_command_in_a_thread_leaves_signals_alone(capsys):
    before, codes = signal.getsignal(signal.SIGINT), []
    thread = threading.Thread(target=lambda: codes.append(main(["weights", "list", "--quiet"])))
    thread.start()
    thread.join()
    assert codes == [0]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no such signals to one other process")
def test_two_signals_at_once_save_the_picture(tmp_path, pictures):
    words = ["transfer", *pictures, "-o", "out.png", *QUICK, "--iterations", "1000000", "--json", "--time-limit", "60s"]
    command = [sys.executable, "-m", "nst_manual", *words, "--optimizer", "adam"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    for line in process.stdout:
        if json.loads(line).get("iteration") == 2:
            process.send_signal(signal.SIGHUP)  # as a terminal does that is closed
            process.send_signal(signal.SIGTERM)
            break
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(out.splitlines()[-1])["stopped"] == "interrupted"
    assert "interrupted; the picture is the best so far" in err
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (32, 24)


DURING = """
import runpy, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            for _ in range(int(count)):
                signal.raise_signal(signal.SIGINT)

module, count = sys.argv[1:]
sys.meta_path.insert(0, Interrupting())
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("nst_manual", run_name="__main__")
"""


@pytest.mark.parametrize("count", [1, 20])
@pytest.mark.parametrize("module", ["numpy", "nst_manual.cli.main", "nst_manual.settings"])
def test_ctrl_c_while_the_program_is_loaded_ends_it_quietly(module, count):
    command = [sys.executable, "-c", DURING, module, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
