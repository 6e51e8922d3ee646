"""What --cluster may be, and what is said where there is no Dask, or no cluster."""

import json
import logging
import socket
import sys
import threading
import time

import pytest

from nst_manual import NSTError, transfer
from nst_manual.cluster import connection
from nst_manual.cluster.connection import opened
from nst_manual.options import OptionError
from nst_manual.settings import Run, Settings


@pytest.mark.parametrize("text", ["locally", "local:0", "local:x", "http://host:1", "tcp://", ""])
def test_what_is_no_cluster_is_refused(text):
    with pytest.raises(OptionError, match="must be local, local:N, a scheduler's address"):
        Run(cluster=text)


def test_without_dask_one_sentence_says_how_to_get_it(monkeypatch):
    for name in ("dask", "distributed"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(NSTError, match="--cluster needs Dask"), opened(Settings(), Run(cluster="local")):
        pass


def test_what_one_process_needs_is_refused_before_a_picture_is_read():
    with pytest.raises(NSTError, match="--optimizer l-bfgs-b works in one process"):
        transfer("missing.png", "missing.png", cluster="local", optimizer="l-bfgs-b")


@pytest.fixture
def listening():
    """Starts what answers each connection with some bytes, and then says nothing; gives its port."""
    sockets = []

    def start(banner):
        server = socket.create_server(("127.0.0.1", 0))
        sockets.append(server)

        def serve():
            while True:
                try:
                    connected, _ = server.accept()
                except OSError:
                    return
                sockets.append(connected)
                connected.sendall(banner)

        threading.Thread(target=serve, daemon=True).start()
        return server.getsockname()[1]

    yield start
    for one in sockets:
        one.close()


SOMETHING_ELSE = {
    "silence": ("tcp", b""),
    "SSH": ("tcp", b"SSH-2.0-OpenSSH_9.6\r\n"),
    "a web page": ("tcp", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "TLS without certificates": ("tls", b""),
}


@pytest.mark.parametrize("what", SOMETHING_ELSE)
def test_what_is_no_scheduler_is_told_in_one_sentence(listening, monkeypatch, what):
    pytest.importorskip("distributed", reason="needs Dask: `python -m pip install '.[cluster]'`")
    monkeypatch.setattr(connection, "PATIENCE", 0.5)
    protocol, banner = SOMETHING_ELSE[what]
    address = f"{protocol}://127.0.0.1:{listening(banner)}"
    with pytest.raises(NSTError, match=f"no Dask scheduler answers at {address} .*: start one with"):
        opened(Settings(), Run(cluster=address)).__enter__()


def test_a_worker_is_no_scheduler(cluster, monkeypatch):
    from distributed import Client

    with Client(cluster, set_as_default=False) as client:
        [worker, _] = client.scheduler_info(n_workers=-1)["workers"]
    monkeypatch.setattr(connection, "PATIENCE", 0.5)
    with pytest.raises(NSTError, match=f"no Dask scheduler answers at {worker}"):
        opened(Settings(), Run(cluster=worker)).__enter__()


def test_a_schedulers_file_leads_to_its_workers(cluster, tmp_path):
    file = tmp_path / "cluster.json"
    file.write_text(json.dumps({"type": "Scheduler", "address": cluster}), encoding="utf-8")
    with opened(Settings(weights="calibrated"), Run(cluster=str(file))) as client:
        assert len(client.scheduler_info(n_workers=-1)["workers"]) == 2


def test_after_ctrl_c_dask_speaks_again(monkeypatch):
    monkeypatch.setattr(connection, "PATIENCE", 0.01)
    logger = logging.getLogger("distributed")
    level = logger.level
    heard = []

    def interrupted():
        with connection._quiet():
            heard.append(logger.isEnabledFor(logging.CRITICAL))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert heard == [False]
    while logger.level != level:
        time.sleep(0.01)
