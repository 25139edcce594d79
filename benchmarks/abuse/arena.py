"""Where it happens: a Pod with nginx and the sidecar, and strangers outside, who come over a node.

Abuse is what clients do to a Pod, so the policy's classes are those of answers (``direction: inbound``). The sidecar
has one CPU, everybody else another one.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO, Any, Final

from benchmarks.abuse.readings import Reading, read
from benchmarks.candidates.base import Running
from benchmarks.candidates.podlane import PodlaneRelay
from benchmarks.errors import BenchmarkError, MeasurementError
from benchmarks.policies import BenchPolicy, wide
from benchmarks.processes import Growth, wait_until
from benchmarks.stage import HTTP2_PORT, HTTP_PORT, PAGE, PAGE_BYTES, Stage, listens
from traffic_policy.policy import Requests

LONG_PAGE: Final = "/long"
_LONG_PAGE_BYTES: Final = 64 << 20
NOWHERE: Final = "198.18.0.0/15"
"""A network that nobody has (RFC 2544); what is sent there ends at the strangers' host."""
_ADMIN: Final = "http://127.0.0.1:15109"
GIVES_BACK_S: Final = 2.0
"""Seconds after which it has given memory back: there is nothing to ask for it."""
_PATIENCE_S: Final = 120.0
"""Seconds in which the sidecar's connections must have ended after those of the clients, and its admin server must have
answered: an hour's measurement is not to be lost to a busy moment."""
POLICY: Final = replace(wide(), name="strangers", inbound=True)


class Abused(PodlaneRelay):
    """The sidecar, as it is to be abused."""

    name = "podlane"
    title = "Podlane"

    def __init__(self, options: tuple[str, ...], requests: Requests) -> None:
        self.options = options
        self._requests = requests

    def document(self, policy: BenchPolicy) -> dict[str, Any]:
        return {**super().document(policy), "requests": self._requests.value}


class Client:
    """A running one of :mod:`benchmarks.abuse.clients`."""

    def __init__(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self._name = name
        self._process = process
        self.began = self._line()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise MeasurementError(f"the client {self._name} ended with {self._process.wait()}")
        told: dict[str, Any] = json.loads(line)
        return told

    def end(self) -> dict[str, Any]:
        """Its last words, once it has ended; asks it to end if it waits for that."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        told = self._line()
        self._process.wait()
        return told


@dataclass(frozen=True)
class Sidecar:
    """A running one in the arena."""

    arena: Arena
    running: Running

    def read(self) -> Reading:
        """What it takes now."""
        return read(self.running.pids())

    def growth(self) -> Growth:
        """What its processes gain from now on."""
        return Growth(self.running.pids())

    @contextmanager
    def descriptors_limited(self, count: int) -> Iterator[None]:
        """Let it have so many at most for the block (it asks for all that it may have, at its start only)."""
        before = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in self.running.pids()}
        for pid, (_, hard) in before.items():
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (count, hard))
        try:
            yield
        finally:
            for pid, limits in before.items():
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's values that have these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        rows = (row.rpartition(" ") for row in self._get("/metrics").splitlines())
        return sum(
            float(value)
            for key, _, value in rows
            if key.partition("{")[0] == name and all(label in key for label in wanted)
        )

    def settle(self, *, rest: float = GIVES_BACK_S) -> Reading:
        """What it takes ``rest`` seconds after all connections have ended.

        Raises :class:`BenchmarkError` when some stay.
        """

        def ended() -> bool:
            return self.metric("podlane_connections_active") == 0

        wait_until("an end of all connections", self.running.pids()[0], ended, patience=_PATIENCE_S)
        self.arena.pause(rest)
        return self.read()

    def _get(self, path: str) -> str:
        url = f"{_ADMIN}{path}"
        with self.arena.pod.namespace.entered(), urllib.request.urlopen(url, timeout=_PATIENCE_S) as answer:
            text: str = answer.read().decode()
        return text


class Arena(Stage):
    """A context manager. :meth:`sidecar` runs one in the Pod, :meth:`stranger` a client outside."""

    def pinned(self, cpu: int | None = None) -> list[str]:
        """Everybody has the memory allocator that the sidecar has in its image (see the Dockerfile)."""
        return [*super().pinned(cpu), "env", "PYTHONMALLOC=malloc"]

    @property
    def outside(self) -> str:
        """The Pod's address, where clients come to."""
        return str(self.topology.pod_link.a.ipv4)

    def _start_servers(self) -> None:
        (self.folder / PAGE.removeprefix("/")).write_bytes(b"x" * PAGE_BYTES)
        with (self.folder / LONG_PAGE.removeprefix("/")).open("wb") as long:
            long.truncate(_LONG_PAGE_BYTES)
        configuration = self.folder / "server.conf"
        configuration.write_text(_server_configuration(str(self.folder)))
        with self.log("nginx") as stream:
            process = self.pod.popen(
                [*self.pinned(), "nginx", "-p", str(self.folder), "-c", str(configuration)],
                stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, process_group=0,
            )  # fmt: skip
        try:
            wait_until("a listener", process.pid, lambda: listens(self.pod, HTTP2_PORT))
        except BenchmarkError as error:
            raise BenchmarkError(f"nginx does not serve: {error}. It said: {self.last_words('nginx')}") from None
        # Where half-open connections come from: answers go to the strangers' host, which has no such address.
        node = self.topology.node
        node.route(NOWHERE, self.topology.server_link.a)
        for host in (node, self.server, self.pod):
            host.namespace.write_sysctl("net.ipv4.conf.all.rp_filter", "0")

    @contextmanager
    def sidecar(self, *options: str, requests: Requests = Requests.FIRST) -> Iterator[Sidecar]:
        """Run one with further options. Raises :class:`CandidateError`."""
        candidate = Abused(options, requests)
        with candidate.running(self, POLICY) as running:
            yield Sidecar(self, running)

    @contextmanager
    def stranger(self, name: str, *, port: int = HTTP_PORT, **arguments: object) -> Iterator[Client]:
        """A client at work; it has begun when the block does. Raises :class:`MeasurementError`."""
        words = {"address": self.outside, "port": port, **arguments}
        argv = [sys.executable, "-m", f"benchmarks.abuse.clients.{name}", *(f"{k}={v}" for k, v in words.items())]
        with self.log(name) as stream:
            process = self.server.popen(
                [*self.pinned(), *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream, process_group=0
            )
        try:
            yield Client(name, process)
        finally:
            _end(process)

    def pause(self, seconds: float) -> None:
        """The measurement itself: nothing happens meanwhile."""
        threading.Event().wait(seconds)

    def honest(self, rate: float, seconds: float) -> Mapping[str, Any]:
        """What honest clients get: requests at a rate, for some seconds."""
        host = POLICY.target.host
        with self.stranger("honest", host=host, path=PAGE, rate=rate, seconds=seconds) as client:
            return client.began


def _end(process: subprocess.Popen[bytes]) -> None:
    pipes: tuple[IO[bytes] | None, ...] = (process.stdin, process.stdout)
    process.kill()
    process.wait()
    for pipe in pipes:
        if pipe is not None:
            pipe.close()


def _server_configuration(folder: str) -> str:
    """nginx that lets nobody wait too long: what becomes of slow clients is the sidecar's matter here."""
    return f"""\
daemon off; user root; worker_processes 1; pid {folder}/server.pid; error_log {folder}/nginx.log crit;
worker_rlimit_nofile 100000;
events {{ worker_connections 60000; }}
http {{
  access_log off; sendfile on; tcp_nodelay on; default_type text/plain;
  keepalive_timeout 3600s; keepalive_requests 100000000; client_header_timeout 3600s; send_timeout 3600s;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{ listen {HTTP_PORT} backlog=8192; root {folder}; }}
  server {{ listen {HTTP2_PORT} http2 backlog=8192; root {folder}; http2_max_concurrent_streams 128; }}
}}
"""
