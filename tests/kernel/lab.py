"""What tests in network namespaces share beyond :mod:`podlane.netns`: servers, waiting for events, snapshots of state."""

from __future__ import annotations

import socket
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from podlane.netns import Host

_DUMPS = (
    ("ip", "-br", "address"),
    ("ip", "rule"),
    ("ip", "route", "show", "table", "all"),
    ("ip", "-6", "rule"),
    ("tc", "-s", "qdisc", "show"),
    ("tc", "-s", "class", "show", "dev", "eth0"),
    ("tc", "filter", "show", "dev", "eth0"),
    ("iptables-save", "-c"),
    ("ip6tables-save", "-c"),
    ("ss", "-tanp"),
)


def describe(host: Host) -> str:
    """Rules, qdiscs, addresses and sockets of a host, for the report of a failed test."""
    parts = []
    for command in _DUMPS:
        try:
            done = host.run(command, check=False)
        except Exception as error:  # noqa: BLE001 - a dump must not hide the failure it belongs to
            parts.append(f"$ {' '.join(command)}\n{error}")
        else:
            parts.append(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}")
    return "\n".join(parts)


def listen(host: Host, address: str = "::", port: int = 0) -> socket.socket:
    """A listening TCP socket in the host's namespace, owned by the test process; ``::`` takes IPv4 as well."""
    with host.namespace.entered():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return socket.create_server((address, port), family=family, dualstack_ipv6=address == "::", backlog=128)


def connect(host: Host, address: str, port: int, *, timeout: float = 10.0) -> socket.socket:
    """A TCP connection that starts in the host's namespace."""
    with host.namespace.entered():
        return socket.create_connection((address, port), timeout)


class _Handler(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        self.server.serve(self.request)


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    serve: Callable[[socket.socket], None]


@contextmanager
def serving(host: Host, serve: Callable[[socket.socket], None], port: int = 0) -> Iterator[int]:
    """Call ``serve`` with each connection to a port of the host, each in a thread; gives the port."""
    server = _Server(("", 0), _Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listen(host, port=port)
    server.serve = serve
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def read_until(process: subprocess.Popen[Any], text: str) -> str:
    """Read lines of a program's standard output (opened as text) until one holds ``text``; gives all of them.

    Fails when the output ends first. The test's own timeout is the limit for a program that says nothing.
    """
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if text in line:
            return said
    raise AssertionError(f"{process.args!r} ended without {text!r}; it said:\n{said}")
