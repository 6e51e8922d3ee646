"""What the page's tests share."""

import sys

import pytest
from page_server import Server, png

from nst_manual.pictures.demo import painting, scene


@pytest.fixture
def serve(tmp_path):
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    if sys.platform == "win32":
        pytest.skip("Windows sends Ctrl-C to all processes of a console")
    servers = []

    def start(*words):
        servers.append(Server(tmp_path / "page", *words))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
        server.process.communicate()


@pytest.fixture
def pictures():
    return png(scene), png(painting)
