"""The servers of the demo: a real nginx with TLS, HTTP/1.1 and HTTP/2 on one address, and a sink behind and beside it.

nginx passes request bodies on as they come (``proxy_request_buffering off``), so an upload runs at the speed of its
lane and never touches the disk.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from podlane.demonstration.programs import guarded, last_words, tool
from podlane.demonstration.scenario import HTTP2_PORT, HTTP_PORT, RAW_PORT, TLS_NAMES, TLS_PORT
from podlane.errors import DemoError
from podlane.lab import Host

_START_PATIENCE: Final = 15.0
"""Seconds until a server listens; a Python process needs about one on a busy machine."""
_CERTIFICATE_DAYS: Final = 2
_PROBE_SECONDS: Final = 0.02
"""Between two attempts to connect to a server that is starting."""


@dataclass
class Servers:
    """nginx and the sink, running in the server's namespace."""

    nginx: subprocess.Popen[Any]
    sink: subprocess.Popen[Any]
    log: Path

    def check(self) -> None:
        """Raise :class:`DemoError` when one of them is gone."""
        for name, process in (("nginx", self.nginx), ("The upload sink", self.sink)):
            if process.poll() is not None:
                raise DemoError(f"{name} ended with {process.returncode}.{last_words(self.log)}")

    def raw_upload(self, patience: float) -> int | None:
        """How many bytes the raw upload brought, once it has ended; None when it does not within ``patience`` s."""
        assert self.sink.stdout is not None
        line = _line(self.sink.stdout, patience)
        return int(json.loads(line)["received"]) if line else None


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-made certificate and its key, for :data:`~podlane.demonstration.scenario.TLS_NAMES`, in ``folder``."""
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
    access_log off;
    client_max_body_size 0;
{temporary}
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    upstream sink {{ server unix:{folder}/sink.sock; }}
    server {{
        listen {address}:{TLS_PORT} ssl http2;
        listen {address}:{HTTP_PORT};
        location / {{ proxy_pass http://sink; proxy_http_version 1.1; proxy_request_buffering off; }}
    }}
    server {{
        listen {address}:{HTTP2_PORT} http2;
        location / {{ proxy_pass http://sink; proxy_http_version 1.1; proxy_request_buffering off; }}
    }}
}}
"""


def start_servers(host: Host, folder: Path, address: str, certificate: Path, key: Path) -> Servers:
    """Start them on ``host`` and wait until every port answers. Raises :class:`DemoError`."""
    log = folder / "servers.log"
    config = folder / "nginx.conf"
    config.write_text(nginx_config(folder, address, certificate, key))
    with log.open("ab") as stream:
        command = [sys.executable, "-P", "-m", "podlane.demonstration.sink"]
        sink = host.popen(
            guarded([*command, f"{folder}/sink.sock", address, str(RAW_PORT)]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stream,
            start_new_session=True,
        )
        nginx = host.popen(
            guarded([tool("nginx"), "-e", "stderr", "-p", str(folder), "-c", str(config)]),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    servers = Servers(nginx, sink, log)
    assert sink.stdout is not None
    if _line(sink.stdout, _START_PATIENCE) != "ready":
        servers.check()
        raise DemoError(f"The upload sink did not get ready within {_START_PATIENCE:g} s.{last_words(log)}")
    for port in (TLS_PORT, HTTP_PORT, HTTP2_PORT):
        _wait_for_port(host, address, port, servers)
    return servers


def _line(stream: IO[bytes], patience: float) -> str | None:
    # The sink writes whole lines; once something is there, a line is.
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
