"""The API of a cluster as the benchmark reaches it: for nobody else, not after it, and watches that end."""

from __future__ import annotations

import json
import os
import select
import signal
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from benchmarks.kind.cluster import Api, Cluster, ClusterError
from benchmarks.kind.startup import Watcher

POD = {"metadata": {"name": "start"}}
PROXY = f"""#!{sys.executable}
import os, socketserver, sys
from http.server import BaseHTTPRequestHandler

path = sys.argv[-1].removeprefix("--unix-socket=")

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.headers["host"] == "localhost" else 403)
        self.end_headers()
        self.wfile.write(b'{{"pid": %d, "mode": "%o"}}' % (os.getpid(), os.stat(os.path.dirname(path)).st_mode & 0o777))

    def log_message(self, *arguments):
        pass

server = socketserver.UnixStreamServer(path, Handler)
print("Starting to serve on", path, flush=True)
server.serve_forever()
"""
"""Does of `kubectl proxy` what is asked of it here."""


@pytest.fixture
def kubectl(tmp_path: Path) -> str:
    program = tmp_path / "kubectl"
    program.write_text(PROXY)
    program.chmod(0o755)
    return str(program)


def ended(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 10)[0])


def test_nobody_else_reaches_the_administrators_api(kubectl: str) -> None:
    with Cluster(kubectl, "helm", "kind-x").api() as api:
        told = api.get("/version")
        folder = api.path.parent
        pidfd = os.pidfd_open(told["pid"])
    assert told["mode"] == "700"
    assert ended(pidfd)
    assert not folder.exists()


def test_it_ends_with_a_benchmark_that_is_killed(kubectl: str) -> None:
    program = (
        "import sys; from benchmarks.kind.cluster import Cluster\n"
        f"with Cluster({kubectl!r}, 'helm', 'kind-x').api() as api:\n"
        "    print(api.get('/version')['pid'], api.path.parent, flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as us:
        assert us.stdout is not None
        pid, folder = us.stdout.readline().split()
        pidfd = os.pidfd_open(int(pid))
        us.send_signal(signal.SIGKILL)
        assert ended(pidfd)
    (Path(folder) / "api").unlink()
    Path(folder).rmdir()


@contextmanager
def api_server(path: Path, *events: dict[str, object]) -> Iterator[Api]:
    """Lists Pods; a watch of them gives these events and ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(events if "watch=true" in self.path else [{"metadata": {"resourceVersion": "1"}}])

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self._answer([POD])

        def _answer(self, documents: object) -> None:
            self.send_response(200)
            self.end_headers()
            for document in documents:  # type: ignore[attr-defined]
                self.wfile.write(json.dumps(document).encode() + b"\n")

        def log_message(self, *_arguments: object) -> None:
            pass

    with socketserver.ThreadingUnixStreamServer(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Api(path)
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("events", "says"),
    [
        pytest.param([], "the API server ended it", id="ended"),
        pytest.param(
            [{"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old resource version"}}],
            "too old resource version",
            id="error",
        ),
    ],
)
def test_a_watch_that_ends_is_told(events: list[dict[str, object]], says: str, tmp_path: Path) -> None:
    with api_server(tmp_path / "api", *events) as api:
        watcher = Watcher(api, "bench")
        with watcher.watching(), pytest.raises(ClusterError, match=f"The watch of Pods ended: {says}"):
            watcher.start(POD)
