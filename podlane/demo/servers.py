"""The servers of the demo: a real nginx with TLS, HTTP/1.1 and HTTP/2 on one address, and behind and beside it a peer.

nginx passes bodies on as they come, both ways (``proxy_request_buffering off``, ``proxy_buffering off``), so a transfer
runs at the speed of its lane and never touches the disk. The peer (:mod:`podlane.demo.peer`) takes what is
uploaded, gives what is downloaded, and counts.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from podlane.demo.programs import guarded, last_words, tool
from podlane.demo.scenario import HTTP2_PORT, HTTP_PORT, RAW_PORT, TLS_NAMES, TLS_PORT
from podlane.errors import DemoError
from podlane.netns import Host

_START_PATIENCE: Final = 15.0
"""Seconds until a server listens; a Python process needs about one on a busy machine."""
_CERTIFICATE_DAYS: Final = 2
_CLIENTS: Final = "clients.log"
"""Where nginx writes the address of each client that it has served."""
_PROBE_SECONDS: Final = 0.02
"""Between two attempts to connect to a server that is starting."""


@dataclass
class Servers:
    """nginx and its peer, running in one namespace."""

    nginx: subprocess.Popen[Any]
    peer: subprocess.Popen[Any]
    folder: Path
    log: Path
    _counts: dict[str, int] = field(default_factory=dict)

    def check(self) -> None:
        """Raise :class:`DemoError` when one of them is gone."""
        for name, process in (("nginx", self.nginx), ("The peer of the transfers", self.peer)):
            if process.poll() is not None:
                raise DemoError(f"{name} ended with {process.returncode}.{last_words(self.log)}")

    def clients(self) -> frozenset[str]:
        """The addresses of all whose requests nginx has answered."""
        return frozenset((self.folder / _CLIENTS).read_text().split())

    def end_download(self, name: str) -> None:
        """Let the download of that name finish."""
        assert self.peer.stdin is not None
        try:
            self.peer.stdin.write(f"{name}\n".encode())
        except BrokenPipeError:
            self.check()
            raise DemoError(f"The peer of the transfers does not listen any more.{last_words(self.log)}") from None

    def counted(self, name: str, patience: float) -> int | None:
        """How many bytes a transfer had at the peer, once it has ended; None when it does not within ``patience`` s."""
        assert self.peer.stdout is not None
        deadline = time.monotonic() + patience
        while name not in self._counts:
            line = _line(self.peer.stdout, max(0.0, deadline - time.monotonic()))
            if not line:
                return None
            said = json.loads(line)
            self._counts[said["name"]] = int(said["bytes"])
        return self._counts[name]


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-made certificate and its key, for :data:`~podlane.demo.scenario.TLS_NAMES`, in ``folder``."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    names = ",".join(f"DNS:{name}" for name in TLS_NAMES)
    argv = [tool("openssl"), "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    argv += ["-subj", "/CN=podlane demo", "-addext", f"subjectAltName={names}", "-days", str(_CERTIFICATE_DAYS)]
    argv += ["-keyout", str(key), "-out", str(certificate)]
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


def start_servers(host: Host, folder: Path, address: str, certificate: Path, key: Path) -> Servers:
    """Start them on ``host``, with ``folder`` for what they write, and wait until every port answers.

    Raises :class:`DemoError`.
    """
    log = folder / "servers.log"
    config = folder / "nginx.conf"
    config.write_text(nginx_config(folder, address, certificate, key))
    with log.open("ab") as stream:
        command = [sys.executable, "-P", "-m", "podlane.demo.peer"]
        peer = host.popen(
            guarded([*command, f"{folder}/peer.sock", address, str(RAW_PORT)]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stream,
            # Unbuffered: select(2) must see every line that has not been read yet.
            bufsize=0,
            start_new_session=True,
        )
        nginx = host.popen(
            guarded([tool("nginx"), "-e", "stderr", "-p", str(folder), "-c", str(config)]),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    servers = Servers(nginx, peer, folder, log)
    assert peer.stdout is not None
    if _line(peer.stdout, _START_PATIENCE) != "ready":
        servers.check()
        raise DemoError(f"The peer of the transfers is not ready within {_START_PATIENCE:g} s.{last_words(log)}")
    for port in (TLS_PORT, HTTP_PORT, HTTP2_PORT):
        _wait_for_port(host, address, port, servers)
    return servers


def _line(stream: IO[bytes], patience: float) -> str | None:
    # The peer writes whole lines; once something is there, a line is.
    readable, _, _ = select.select([stream], [], [], patience)
    return stream.readline().decode().strip() if readable else None


def _wait_for_port(host: Host, address: str, port: int, servers: Servers) -> None:
    deadline = time.monotonic() + _START_PATIENCE
    while True:
        try:
            with host.namespace.entered():
                socket.create_connection((address, port), timeout=1.0).close()
            return
        except OSError as error:
            servers.check()
            if time.monotonic() > deadline:
                raise DemoError(f"nginx does not answer on port {port}: {error}.{last_words(servers.log)}") from None
            time.sleep(_PROBE_SECONDS)
