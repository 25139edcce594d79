"""The servers of the demo: nginx with TLS, HTTP/1.1 and HTTP/2 on one address, its upstream peer, and QUIC.

nginx passes bodies on unbuffered in both directions (``proxy_request_buffering off``, ``proxy_buffering off``), so a
transfer runs at the rate of its class and never touches the disk. The peer (:mod:`podlane.demo.peer`) receives uploads,
sends downloads, and counts.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from podlane.demo.programs import DemoProgram
from podlane.demo.scenario import HTTP2_PORT, HTTP_PORT, RAW_PORT, TLS_NAMES, TLS_PORT
from podlane.errors import DemoError
from podlane.netns import Host
from podlane.netns.tools import require_tool

PYTHON_MODULE: Final = (sys.executable, "-P", "-m")
_START_PATIENCE: Final = 15.0
"""Seconds until a server listens; a Python process needs about one on a busy machine."""
_CERTIFICATE_DAYS: Final = 2
_CLIENTS: Final = "clients.log"
"""Where nginx writes the address of each client that it has served."""
_PROBE_SECONDS: Final = 0.02
"""Between two attempts to connect to a server that is starting."""


class Servers:
    """nginx and its peer, running in one namespace."""

    def __init__(self, host: Host, folder: Path, address: str, certificate: Path, key: Path) -> None:
        """Start them, with ``folder`` for what they write, and wait until every port answers.

        Raises :class:`DemoError`.
        """
        log, config = folder / "servers.log", folder / "nginx.conf"
        config.write_text(nginx_config(folder, address, certificate, key))
        peer = [*PYTHON_MODULE, "podlane.demo.peer", f"{folder}/peer.sock", address, str(RAW_PORT)]
        nginx = [require_tool("nginx"), "-e", "stderr", "-p", str(folder), "-c", str(config)]
        self._clients = folder / _CLIENTS
        self._counts: dict[str, int] = {}
        self._peer = DemoProgram("The peer of the transfers", host, peer, log, subprocess.PIPE)
        self._nginx = DemoProgram("nginx", host, nginx, log, subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self._peer.wait_ready(_START_PATIENCE)
        for port in (TLS_PORT, HTTP_PORT, HTTP2_PORT):
            self._wait_for_port(host, address, port)

    def _wait_for_port(self, host: Host, address: str, port: int) -> None:
        deadline = time.monotonic() + _START_PATIENCE
        while True:
            try:
                with host.namespace.entered():
                    socket.create_connection((address, port), timeout=1.0).close()
                return
            except OSError as error:
                self.check()
                if time.monotonic() > deadline:
                    raise self._nginx.error(f"does not answer on port {port}: {error}.") from None
                time.sleep(_PROBE_SECONDS)

    def check(self) -> None:
        """Raise :class:`DemoError` if one of them has ended."""
        self._nginx.check()
        self._peer.check()

    def clients(self) -> frozenset[str]:
        """The addresses of all clients whose requests nginx has answered."""
        return frozenset(self._clients.read_text().split())

    def end_download(self, name: str) -> None:
        """Let the download of that name finish."""
        assert self._peer.process.stdin is not None
        try:
            self._peer.process.stdin.write(f"{name}\n".encode())
        except BrokenPipeError:
            self.check()
            raise self._peer.error("does not listen any more.") from None

    def counted(self, name: str, patience: float) -> int | None:
        """The number of bytes of an ended transfer at the peer; None if it does not end within ``patience`` seconds."""
        deadline = time.monotonic() + patience
        while name not in self._counts:
            line = self._peer.line(max(0.0, deadline - time.monotonic()))
            if not line:
                return None
            said = json.loads(line)
            self._counts[said["name"]] = int(said["bytes"])
        return self._counts[name]


def start_quic_server(host: Host, folder: Path, address: str, certificate: Path, key: Path) -> DemoProgram:
    """Start it on ``host`` and wait until it listens on UDP port 443. Raises :class:`DemoError`."""
    argv = [*PYTHON_MODULE, "podlane.demo.quic", "receive", address, str(TLS_PORT), str(certificate), str(key)]
    server = DemoProgram("The QUIC server", host, argv, folder / "quic.log", subprocess.DEVNULL)
    server.wait_ready(_START_PATIENCE)
    return server


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-made certificate and its key, for :data:`~podlane.demo.scenario.TLS_NAMES`, in ``folder``."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    names = ",".join(f"DNS:{name}" for name in TLS_NAMES)
    argv = [require_tool("openssl"), "req", "-x509", "-nodes", "-subj", "/CN=podlane demo"]
    argv += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-addext", f"subjectAltName={names}"]
    argv += ["-days", str(_CERTIFICATE_DAYS), "-keyout", str(key), "-out", str(certificate)]
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise DemoError(f"openssl cannot make a certificate: {done.stderr.strip()}")
    return certificate, key


def nginx_config(folder: Path, address: str, certificate: Path, key: Path) -> str:
    """nginx's configuration: everything it writes goes to ``folder``, every port is on ``address``."""
    pass_on = "proxy_pass http://peer; proxy_http_version 1.1; proxy_request_buffering off; proxy_buffering off;"
    temporary = "\n".join(
        f"    {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # `listen ... http2` is the form that every nginx from 1.9 on reads; the newest ones only warn about it.
    return f"""\
daemon off;
user root;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
    log_format client '$remote_addr';
    access_log {folder}/{_CLIENTS} client;
    client_max_body_size 0;
{temporary}
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    upstream peer {{ server unix:{folder}/peer.sock; }}
    server {{
        listen {address}:{TLS_PORT} ssl http2;
        listen {address}:{HTTP_PORT};
        location / {{ {pass_on} }}
    }}
    server {{
        listen {address}:{HTTP2_PORT} http2;
        location / {{ {pass_on} }}
    }}
}}
"""
