"""`podlane injector` as a user types it, and as the kubelet starts and ends it: real processes, real signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import trio
import trustme

from daemon.kubernetes.http_client import HttpAnswer
from tests.injector_server import HOST, body_of, document_of, http1, identity, patch_of, review, trusting

PATIENCE = 20
"""Seconds for what takes less than one, on a machine that is busy."""
JSON = {"content-type": "application/json"}
BODY = body_of(review({"podlane.io/egress-bandwidth": "10M"}))
FILES = ("--certificate", "tls.crt", "--key", "tls.key")
ANY_PORTS = ("--address", HOST, "--port", "0", "--metrics-port", "0")


def environment(**more: str) -> dict[str, str]:
    """As in no Pod of a cluster, and without settings of whoever runs the tests."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("PODLANE_", "KUBERNETES_SERVICE_", "KUBECONFIG"))}
    return {**own, **more}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Has a pair that can be used, tls.crt and tls.key, and the key of somebody else."""
    chain, key = identity()
    (tmp_path / "tls.crt").write_bytes(chain)
    (tmp_path / "tls.key").write_bytes(key)
    stranger = trustme.CA(key_type=trustme.KeyType.ECDSA).issue_cert(HOST, key_type=trustme.KeyType.ECDSA)
    (tmp_path / "strange.key").write_bytes(stranger.private_key_pem.bytes())
    return tmp_path


@dataclass(frozen=True, slots=True)
class Running:
    """An injector that takes requests."""

    process: subprocess.Popen[str]
    port: int
    metrics_port: int

    def review(self, path: str) -> HttpAnswer:
        """Send a Pod to a webhook, over TLS."""
        return trio.run(http1(self.port).request, "POST", path, JSON, BODY)

    def get(self, path: str) -> HttpAnswer:
        """Ask at the port of metrics and health."""
        return trio.run(http1(self.metrics_port, encrypted=False).request, "GET", path)

    @contextmanager
    def half_a_review(self) -> Iterator[ssl.SSLSocket]:
        """A connection on which the server has read a head, and waits for the body."""
        plain = socket.create_connection((HOST, self.port), PATIENCE)
        with trusting("http/1.1").wrap_socket(plain, server_hostname=HOST) as connection:
            head = "POST /mutate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
            connection.sendall(f"{head}Content-Length: {len(BODY)}\r\n\r\n".encode())
            assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
            yield connection

    def logged(self, event: str) -> None:
        """Read the log up to this event."""
        assert self.process.stderr is not None
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            if json.loads(line)["event"] == event:
                return
        raise AssertionError(f"the injector never said {event!r}:\n{''.join(lines)}")

    def ended(self) -> list[str]:
        """Wait for the end, which must be a success; the events that were not read yet."""
        _, said = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, said
        return [json.loads(line)["event"] for line in said.splitlines()]


def write_kubeconfig(folder: Path, server: str) -> None:
    """In the file config."""
    document = {
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {}}],
        "current-context": "x",
    }
    (folder / "config").write_text(json.dumps(document))


@contextmanager
def started(folder: Path, options: Sequence[str], *descriptors: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "podlane", "injector", *ANY_PORTS, *options]
    with subprocess.Popen(
        command, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True, pass_fds=descriptors
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def running(folder: Path, *options: str) -> Iterator[Running]:
    read, write = os.pipe()
    with started(folder, (*FILES, *options, "--ready-fd", str(write)), write) as process:
        os.close(write)
        with os.fdopen(read) as ready:
            line = ready.readline()
        assert line, process.communicate(timeout=PATIENCE)[1]
        yield Running(process, *map(int, line.split()))


# --- from start to end -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_it_serves_until_a_signal_ends_it_in_order(folder: Path, number: signal.Signals) -> None:
    with running(folder, "--linger", "1h") as injector:
        assert any(change["path"] == "/spec/initContainers" for change in patch_of(injector.review("/mutate")))
        assert document_of(injector.review("/validate"))["response"]["allowed"] is False  # it has no sidecar
        assert injector.get("/readyz").status == 200
        metrics = injector.get("/metrics").body.decode()
        assert 'podlane_injector_admissions_total{result="patched",webhook="mutate"} 1.0' in metrics

        injector.process.send_signal(number)
        injector.logged("ending")
        # Endpoints follow readiness. Who has not heard of them yet is answered all the same.
        assert injector.get("/readyz").status == 503
        assert injector.get("/healthz").status == 200
        assert injector.review("/mutate").status == 200

        injector.process.send_signal(number)  # that is enough of lingering
        assert injector.ended() == ["patched", "ended"]


def test_a_review_that_has_begun_is_answered(folder: Path) -> None:
    with running(folder, "--linger", "0s", "--grace", "1h") as injector, injector.half_a_review() as connection:
        connection.sendall(BODY[:100])
        injector.process.send_signal(signal.SIGTERM)
        injector.logged("ending")
        connection.sendall(BODY[100:])
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert injector.ended() == ["patched", "ended"]


def test_a_review_that_never_comes_whole_is_cut_after_the_grace_period(folder: Path) -> None:
    with running(folder, "--linger", "0s", "--grace", "50ms") as injector, injector.half_a_review() as connection:
        injector.process.send_signal(signal.SIGTERM)
        injector.logged("ending")
        assert injector.ended() == ["connections cut at the end of the grace period", "ended"]
        assert not connection.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_it_ends_at_once_while_it_is_not_ready(folder: Path) -> None:
    """An API server that takes connections and says nothing: no certificate yet, so no webhook either."""
    with socket.create_server((HOST, 0)) as silent:
        silent.settimeout(PATIENCE)
        server = f"http://{HOST}:{silent.getsockname()[1]}"
        write_kubeconfig(folder, server)
        options = ("--kubeconfig", "config", "--secret", "tls", "--namespace", "podlane", "--linger", "1h")
        with started(folder, options) as process:
            silent.accept()
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, said
            assert "Traceback" not in said


# --- what cannot start -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        pytest.param(["--lingr", "1s"], 2, "Error: No such option '--lingr'. Did you mean '--linger'?", id="no such option"),
        pytest.param(["--tls-version", "1.1"], 2, "Error: Invalid value for '--tls-version': '1.1' is not one of '1.2', '1.3'.", id="no such choice"),
        pytest.param([], 2, "podlane: There is no certificate to serve. Name its files with --certificate and --key, or", id="nothing at all"),
        pytest.param([*FILES, "--linger", "soon", "--metrics-port", "99999"], 2, "podlane: --metrics-port: Input should be less than or equal to 65535 (got 99999).\n--linger: 'soon' is not a duration. Write a number and a unit", id="two wrong settings"),
        pytest.param(["--secret", "tls"], 2, "podlane: --secret: there is no API server to keep it. Start the injector in the cluster,", id="no API server for the Secret"),
        pytest.param(["--kubeconfig", "nowhere", "--secret", "tls"], 1, "podlane: nowhere cannot be read: No such file or directory.", id="no kubeconfig"),
        pytest.param([*FILES, "--certificate", "nowhere", *ANY_PORTS], 1, "podlane: nowhere cannot be read: No such file or directory. Name the files with --certificate and --key,", id="no certificate"),
        pytest.param([*FILES, "--certificate", "tls.key", *ANY_PORTS], 1, "podlane: tls.key, tls.key: The certificate cannot be read:", id="a key for a certificate"),
        pytest.param([*FILES, "--key", "strange.key", *ANY_PORTS], 1, "podlane: tls.crt, strange.key: The certificate and the key do not belong together.", id="another one's key"),
    ],
)  # fmt: skip
def test_a_start_that_cannot_be_says_why(folder: Path, arguments: list[str], code: int, says: str) -> None:
    done = podlane_injector(folder, arguments)
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert (done.returncode, done.stdout) == (code, "")


class _Versions(BaseHTTPRequestHandler):
    """An API server that says which version it is."""

    version: dict[str, str]

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(self.version).encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def kubernetes(folder: Path, minor: str) -> Iterator[None]:
    """Of this version; its kubeconfig is the file config."""
    says = type("Says", (_Versions,), {"version": {"major": "1", "minor": minor}})
    with HTTPServer((HOST, 0), says) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        write_kubeconfig(folder, f"http://{HOST}:{server.server_address[1]}")
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def test_kubernetes_without_native_sidecars_is_refused(folder: Path) -> None:
    with kubernetes(folder, "28+"):
        done = podlane_injector(folder, [*FILES, *ANY_PORTS, "--kubeconfig", "config"])
    assert "podlane: Kubernetes 1.28 has no native sidecars. Upgrade it to 1.29 or later." in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 2
    with kubernetes(folder, "29"), running(folder, "--kubeconfig", "config", "--linger", "0s") as injector:
        assert injector.get("/readyz").status == 200


@pytest.mark.parametrize("option", ["--port", "--metrics-port"])
def test_a_port_in_use_is_named_with_its_option(folder: Path, option: str) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = str(taken.getsockname()[1])
        done = podlane_injector(folder, [*FILES, *ANY_PORTS, option, port])
    assert f"podlane: {HOST} port {port} is taken. Choose another with {option}." in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 1


def test_a_wrong_variable_is_named_as_it_is_written(folder: Path) -> None:
    done = podlane_injector(folder, FILES, PODLANE_INJECTOR_PORT="tcp://10.96.0.7:443")
    assert "podlane: PODLANE_INJECTOR_PORT: 'tcp://10.96.0.7:443' is the address of the Service podlane-injector" in (
        done.stderr
    )
    assert done.returncode == 2


def podlane_injector(folder: Path, arguments: Sequence[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Start an injector that ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "podlane", "injector", *arguments],
        cwd=folder, env=environment(**variables), capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
