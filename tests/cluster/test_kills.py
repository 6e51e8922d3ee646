"""Processes of a cluster are killed without a word, as by a system that is out of memory: no picture is lost."""

import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import pytest
from batches import WORDS, written_weights
from picture_files import grains
from PIL import Image

distributed = pytest.importorskip("distributed", reason="needs Dask: `python -m pip install '.[cluster]'`")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")

# The command line, which waits less long for workers to come back.
COMMAND = """
import sys
from nst_manual.cli.main import main
from nst_manual.cluster import team
team.PATIENCE = 2.0
sys.exit(main(sys.argv[1:]))
"""


@contextmanager
def started(*words):
    """A process, which does not outlive the block."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, *map(str, words)], **pipes, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(process, wanted):
    """Until it has said so, in JSON."""
    for line in process.stdout:
        if wanted(json.loads(line)):
            return
    raise AssertionError(process.stderr.read())


def ended(process):
    """Exit code, the last of what it has said, and its sentences."""
    out, err = process.communicate(timeout=100)
    return process.returncode, json.loads(out.splitlines()[-1]), err


@pytest.fixture
def pictures(tmp_path):
    names = [tmp_path / name for name in ("a.png", "b.png", "c.png", "x.png")]
    for number, name in enumerate(names):
        grains(30 + number, 40).save(name)
    return names


@pytest.fixture
def options(tmp_path):
    return ["--weights", written_weights(tmp_path), *WORDS, "--size", 32, "--scales", "off", "--json"]


@pytest.mark.parametrize("moment", [3])
def test_a_killed_worker_costs_one_picture_nothing_but_time(tmp_path, pictures, options, moment):
    import psutil  # which comes with Dask

    words = ["transfer", pictures[0], pictures[3], "-o", tmp_path / "out.png", *options]
    words += ["--iterations", 60, "--optimizer", "lbfgs", "--cluster", "local:2"]
    words += ["--checkpoint", tmp_path / "run.ckpt", "--checkpoint-every", 0]
    with started("-c", COMMAND, *words) as process:
        wait_for(process, lambda said: said.get("iteration") == moment)
        family = psutil.Process(process.pid).children(recursive=True)
        worker = next(one for one in family if "spawn_main" in " ".join(one.cmdline()))
        worker.send_signal(signal.SIGKILL)
        code, last, err = ended(process)
    assert (code, last["stopped"]) == (0, "iterations"), err
    assert "a worker is gone" in err
    assert "Traceback" not in err
    with Image.open(tmp_path / "out.png") as picture:
        assert max(picture.size) == 32


def written_address(file, scheduler):
    """Once it is there and whole."""
    while True:
        with suppress(OSError, ValueError):
            return json.loads(file.read_text())["address"]
        assert scheduler.poll() is None
        time.sleep(0.05)


@contextmanager
def cluster(folder):
    """The file of a scheduler with two workers, and its process."""
    file, own = folder / "scheduler.json", ["--host", "127.0.0.1", "--no-dashboard"]
    work = ["distributed.cli.dask_worker", "--nthreads", 1, "--no-nanny", "--memory-limit", 0]
    schedule = ["distributed.cli.dask_scheduler", "--port", 0]
    with started("-m", *schedule, *own, "--scheduler-file", file) as scheduler:
        address = written_address(file, scheduler)
        with started("-m", *work, *own, address), started("-m", *work, *own, address):
            with distributed.Client(address, set_as_default=False, timeout=60) as client:
                client.wait_for_workers(2, timeout=60)
            yield file, scheduler


def test_a_killed_scheduler_leaves_what_is_done(tmp_path, pictures, options):
    """One picture, and many, at the same time on the same workers."""
    out, folder = tmp_path / "out.png", tmp_path / "folder"
    with cluster(tmp_path) as (file, scheduler):
        one = [pictures[0], pictures[3], "-o", out, "--checkpoint", tmp_path / "run.ckpt", "--checkpoint-every", 0]
        one += ["--optimizer", "lbfgs", "--iterations", 100_000]
        many = [tmp_path / "?.png", pictures[3], "--out-dir", folder, "--optimizer", "adam", "--iterations", 15]
        common = [*options, "--cluster", file]
        with (
            started("-c", COMMAND, "transfer", *common, *one) as of_one,
            started("-c", COMMAND, "transfer", *common, *many) as of_many,
        ):
            wait_for(of_one, lambda said: said.get("iteration") == 2)
            wait_for(of_many, lambda said: "loss" in said and "output" in said)
            scheduler.kill()
            code, last, err = ended(of_one)
            assert (code, last["stopped"]) == (1, "cluster lost"), err
            assert "Traceback" not in err
            with Image.open(out) as picture:
                assert max(picture.size) == 32
            code, last, err = ended(of_many)
            assert code == 1, err
            assert "no longer answers: what is done is saved, and --skip-existing makes the rest" in err
            assert "Traceback" not in err
            assert 1 <= last["done"] == len(list(folder.iterdir()))
