"""A real server, in a process of its own, and what a browser would say to it."""

import contextlib
import http.client
import io
import json
import signal
import subprocess
import sys
import time
from urllib.parse import urlsplit

from picture_files import drawn

QUICK = {"size": 32, "style_layers": "conv1_1", "content_layers": "conv1_1", "iterations": 3}


class Server:
    """A server and the cookie of one visitor."""

    def __init__(self, folder, *words):
        command = [sys.executable, "-m", "nst_manual", "serve", "--no-browser", "--port", "0", "--folder", str(folder)]
        self.folder = folder
        self.process = subprocess.Popen([*command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.address = self.process.stdout.readline().strip()
        if not self.address:
            raise AssertionError(self.process.communicate()[1])
        self.host = urlsplit(self.address).netloc
        answer, _ = self.ask("GET", f"/?{urlsplit(self.address).query}", cookie="")
        self.cookie = answer.getheader("Set-Cookie").partition(";")[0]

    def ask(self, method, path, body=None, cookie=None, **headers):
        """The answer and its bytes."""
        connection = http.client.HTTPConnection(self.host, timeout=60)
        headers = {"Cookie": self.cookie if cookie is None else cookie, **headers}
        if method != "GET":
            headers.setdefault("Origin", f"http://{self.host}")
        if isinstance(body, dict):
            body = json.dumps(body)
        with contextlib.closing(connection):
            connection.request(
                method, path, body, {name: value for name, value in headers.items() if value is not None}
            )
            answer = connection.getresponse()
            return answer, answer.read()

    def get(self, path):
        answer, data = self.ask("GET", path)
        assert answer.status == 200, data
        return json.loads(data)

    def post(self, path, body, status=200):
        answer, data = self.ask("POST", path, body)
        assert answer.status == status, data
        return json.loads(data)

    def state(self, run):
        return next(one for one in self.get("/about")["runs"] if one["id"] == run["id"])

    def wait(self, run, *states, seconds=90):
        """Until the run is in one of these states, or has so many iterations."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            now = self.state(run)
            if now["state"] in states or (now.get("last") or {}).get("iteration", 0) >= max(
                [n for n in states if isinstance(n, int)], default=1 << 60
            ):
                return now
            time.sleep(0.1)
        raise AssertionError(now)

    def close(self):
        """As by Ctrl-C; what it said."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def png(drawing, width=64, height=48):
    file = io.BytesIO()
    drawn(drawing, width, height).save(file, "PNG")
    return file.getvalue()
