"""Downloads from a local server: a right file is installed, and nothing stays of a wrong one."""

import argparse
import contextlib
import hashlib
import http.server
import json
import os
import signal
import threading
import time

import h5py
import numpy as np
import pytest
from weight_files import keras1, oxford_net

from nst_manual.cli.main import main
from nst_manual.cli.weights import add_parser
from nst_manual.errors import NSTError
from nst_manual.vgg import LAYERS
from nst_manual.weights import commands, download, find_weights, load_weights, registry
from nst_manual.weights.fingerprint import OXFORD_LICENCE
from nst_manual.weights.naming import SHAPES
from nst_manual.weights.registry import Known

NAME = "vgg19.h5"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A complete network of VGG-19's shapes, mostly zeros: 80 MB, packed to less than 1."""
    path = tmp_path_factory.mktemp("original") / "notop.h5"
    net = oxford_net(["conv1_1"])
    with h5py.File(path, "w") as file:
        for layer in LAYERS:
            name = layer.replace("conv", "block", 1).replace("_", "_conv")
            kernel, bias = net.get(layer, (np.zeros(SHAPES[layer], np.float32), np.zeros(SHAPES[layer][3], np.float32)))
            file.create_dataset(f"{name}/{name}_W_1:0", data=kernel, compression="gzip", chunks=kernel.shape)
            file[f"{name}/{name}_b_1:0"] = bias
    return path.read_bytes()


class Server(http.server.ThreadingHTTPServer):
    """Answers by the path: /good, /chunked, /wrong, /cut, /long, /lying, /missing, /packed, /slow, and so on."""

    content = b""
    asked: list[str]
    over: threading.Event
    daemon_threads = True


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    close_connection = True

    def do_GET(self):
        self.server.asked.append(self.path)
        content, kind = self.server.content, self.path.split("/")[1]
        if kind == "missing":
            self.send_error(404)
            return
        if kind in ("moved", "circle", "endless"):
            self.send_response(302)
            self.send_header("Location", {"moved": "/good/notop.h5"}.get(kind, f"/{kind}/notop.h5"))
            self.end_headers()
            with contextlib.suppress(OSError):
                while kind == "endless":
                    self.wfile.write(bytes(1 << 16))
            return
        if kind in ("slow-start", "slow-chunk", "slow"):
            start = b"HTTP/1.1 200 OK\r\n"
            start += {"slow-chunk": b"Transfer-Encoding: chunked\r\n\r\n", "slow": b"\r\n"}.get(kind, b"")
            with contextlib.suppress(OSError):
                self.wfile.write(start)
                while not self.server.over.wait(0.01):
                    self.wfile.write(b"0")
            return
        self.send_response(200)
        announced = {"lying": len(content) + 5, "long": None, "chunked": None}.get(kind, len(content))
        if announced is not None:
            self.send_header("Content-Length", str(announced))
        if kind == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        if kind == "packed":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        if kind == "chunked":
            for start in range(0, len(content), 1000):
                piece = content[start : start + 1000]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
            return
        body = {"wrong": content[:-1] + b"?", "cut": content[: len(content) // 2], "long": content * 3}
        with contextlib.suppress(OSError):  # the client may hang up
            self.wfile.write(body.get(kind, content))
        self.close_connection |= kind == "cut"

    def log_message(self, *_):
        pass


@pytest.fixture
def server(original):
    with Server(("127.0.0.1", 0), Handler) as server:
        server.content, server.asked, server.over = original, [], threading.Event()
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def offer(server, original, monkeypatch, tmp_path):
    """Makes the table of published files hold only one, at the given paths of the server."""
    monkeypatch.setenv("NST_MANUAL_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def offered(*paths, md5=None, size=None, rough=False):
        md5, size = md5 or hashlib.md5(original).hexdigest(), size or len(original)
        urls = tuple(
            path if path.startswith("http") else f"http://127.0.0.1:{server.server_port}/{path}/notop.h5"
            for path in paths
        )
        known = Known("vgg19", "a test", "oxford", "notop.h5", urls, size, "", md5, NAME, rough)
        monkeypatch.setattr(registry, "KNOWN_FILES", (known,))
        return tmp_path / "cache"

    return offered


def left_in(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_get_downloads_verifies_converts_and_installs(offer):
    cache = offer("good")
    counted = []
    result = commands.get("vgg19", progress=lambda done, total: counted.append((done, total)))
    assert result["fetched"]
    assert left_in(cache) == [NAME]
    assert counted[-1][0] == counted[-1][1] == counted[0][1]
    assert find_weights("vgg19") == find_weights("auto") == cache / NAME
    weights = load_weights(cache / NAME, LAYERS)
    assert (weights.family, weights.licence) == ("oxford", OXFORD_LICENCE)
    with h5py.File(cache / NAME) as file:
        assert "Simonyan" in file.attrs["licence"]
        assert file.attrs["source_checksum"].startswith("md5:")


def test_what_is_installed_is_not_downloaded_again_unless_forced(offer, server):
    offer("good")
    commands.get("vgg19", half=True)
    assert not commands.get("vgg19")["fetched"]
    assert len(server.asked) == 1
    assert commands.get("vgg19", force=True, half=True)["fetched"]
    assert len(server.asked) == 2


def test_the_original_is_kept_on_request_and_any_folder_will_do(offer, tmp_path, original):
    offer("good")
    commands.get("vgg19", tmp_path / "a" / "b", keep=True, half=True)
    assert left_in(tmp_path / "a" / "b") == ["notop.h5", NAME]
    assert (tmp_path / "a" / "b" / "notop.h5").read_bytes() == original
    assert (tmp_path / "a" / "b" / NAME).stat().st_size < 41_000_000


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("wrong", "has the checksum [0-9a-f]{32}, not md5:[0-9a-f]{32}"),
        ("cut", "the connection broke off after .* bytes"),
        ("long", "sends more than the expected"),
        ("lying", "announces .* bytes instead of"),
        ("missing", "the server answers 404"),
        ("packed", r"sends it packed \(gzip\)"),
        ("circle", "redirects more than 5 times"),
        ("endless", "redirects more than 5 times"),
        ("http://127.0.0.1:9/none", "no answer"),
    ],
)
def test_a_bad_download_leaves_nothing_and_the_next_mirror_is_tried(kind, reason, offer, server):
    cache = offer(kind)
    with pytest.raises(NSTError, match=reason):
        commands.get("vgg19")
    assert left_in(cache) == []
    offer(kind, "good")
    assert commands.get("vgg19", half=True)["fetched"]
    assert left_in(cache) == [NAME]
    assert server.asked[-1] == "/good/notop.h5"


def test_a_file_in_chunks_of_any_size_is_counted_right(offer):
    cache = offer("chunked")
    commands.get("vgg19", half=True)
    assert left_in(cache) == [NAME]


def test_a_file_much_larger_than_its_roughly_known_size_is_not_downloaded_to_its_end(offer, original):
    for kind, size in (("long", len(original) - 100), ("good", len(original) // 2)):
        cache = offer(kind, size=size, rough=True)
        with pytest.raises(NSTError, match=r"sends more than the expected|announces \d+ bytes, more than"):
            commands.get("vgg19")
        assert left_in(cache) == []


@pytest.mark.parametrize("kind", ["slow", "slow-start", "slow-chunk"])
def test_a_server_that_trickles_is_given_up(kind, offer, monkeypatch):
    monkeypatch.setattr(download, "_PATIENCE", 0.2)
    cache = offer(kind)
    began = time.monotonic()
    with pytest.raises(NSTError, match=r"only \d+ of \d+ bytes came in"):
        commands.get("vgg19")
    assert time.monotonic() - began < 10
    assert left_in(cache) == []


def test_a_redirect_is_followed(offer):
    cache = offer("moved")
    assert commands.get("vgg19", half=True)["fetched"]
    assert left_in(cache) == [NAME]


def test_a_dangling_link_among_old_downloads_does_not_matter(offer, monkeypatch):
    cache = offer("good")
    cache.mkdir()
    (cache / ".download-link").symlink_to(cache / "nowhere")
    assert commands.get("vgg19", half=True)["fetched"]
    monkeypatch.setattr(download, "_FORGOTTEN", -1)
    assert commands.get("vgg19", half=True, force=True)["fetched"]
    assert left_in(cache) == [NAME]


def test_a_folder_in_the_place_of_the_result_is_found_before_the_download(offer, server):
    cache = offer("good")
    (cache / "notop.h5").mkdir(parents=True)
    with pytest.raises(NSTError, match=r"notop\.h5 is a folder"):
        commands.get("vgg19", keep=True)
    assert server.asked == []


def test_a_file_in_the_place_of_the_folder_is_said_to_be_none(offer, tmp_path):
    offer("good")
    (tmp_path / "file").touch()
    with pytest.raises(NSTError, match=r"file can't be written \(it is not a folder\)"):
        commands.get("vgg19", tmp_path / "file")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP"])
def test_a_download_ended_by_a_signal_leaves_nothing(number, offer):
    cache = offer("slow")

    def end():
        while not list(cache.glob(".download-*/0/*")):
            time.sleep(0.01)
        os.kill(os.getpid(), getattr(signal, number))

    threading.Thread(target=end, daemon=True).start()
    assert main(["weights", "get"]) == 130
    assert left_in(cache) == []


def test_an_interrupted_download_leaves_nothing_and_can_be_started_again(offer):
    cache = offer("good")

    def interrupt(done, total):
        if done > total // 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        commands.get("vgg19", progress=interrupt)
    assert left_in(cache) == []
    assert commands.get("vgg19", half=True)["fetched"]


def test_the_remains_of_a_killed_download_are_removed(offer):
    cache = offer("good")
    old, new = cache / ".download-old", cache / ".download-new"
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "tmp").write_bytes(b"half")
    yesterday = time.time() - 2 * 24 * 3600
    os.utime(old, (yesterday, yesterday))
    commands.get("vgg19", half=True)
    assert left_in(cache) == [".download-new", NAME]  # the newer one may belong to another process


def test_offline_uses_no_network_and_says_what_to_do(offer, server):
    cache = offer("good")
    with pytest.raises(NSTError, match=r"fetch notop\.h5 from .* and run `weights convert notop\.h5 .*vgg19\.h5` here"):
        commands.get("vgg19", offline=True)
    assert server.asked == []
    cache.mkdir()
    (cache / NAME).touch()
    assert not commands.get("vgg19", offline=True)["fetched"]


def test_a_verified_file_that_is_no_network_is_still_refused(offer, server, tmp_path):
    keras1(tmp_path / "few", oxford_net(LAYERS[:2]))
    server.content = (tmp_path / "few").read_bytes()
    cache = offer("good", md5=hashlib.md5(server.content).hexdigest(), size=len(server.content))
    with pytest.raises(NSTError, match="no layer conv2_1"):
        commands.get("vgg19")
    assert left_in(cache) == []


def test_only_files_with_a_checksum_are_downloaded_or_offered(tmp_path):
    for name in ("gatys", "jcjohnson", "caffe-normalised"):
        with pytest.raises(NSTError, match=r"no checksum .* run `weights convert"):
            commands.get(name, tmp_path)
    with pytest.raises(NSTError, match="choose one of vgg19, keras-full") as caught:
        commands.get("vgg", tmp_path)
    assert "gatys" not in str(caught.value)


def test_the_command_prints_the_authors(offer, capsys):
    offer("good")
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    for options in ([], ["--json"]):
        arguments = parser.parse_args(["weights", "get", "--half", *options])
        assert arguments.run(arguments) == 0
    plain, lines = capsys.readouterr().out.splitlines()
    assert "Karen Simonyan and Andrew Zisserman" in plain
    assert json.loads(lines)["fetched"] is False
