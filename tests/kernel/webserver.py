"""A real nginx for the kernel tests: TLS with HTTP/2, plain HTTP/1.1 and HTTP/2 with prior knowledge, on one address."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from waiting import until_listening

from podlane.netns.lab import Host

HTTP, HTTPS, H2C = 80, 443, 8080
CHAT = 8765
"""Where a WebSocket server behind /chat may be, on loopback."""
HTTP2 = "HTTP/2"
"""In place of curl's options: by a client of ours (clients/http2_put.py says why)."""
_PUT = str(Path(__file__).parent / "clients" / "http2_put.py")

_CONFIG = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
  log_format received '$host $server_port $request_length $request_time $status'; access_log {folder}/access.log received;
  client_max_body_size 0; client_body_temp_path {folder}/body; sendfile on;
  client_header_buffer_size 1k; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
  server {{
    listen 80; listen [::]:80; listen 443 ssl http2; listen [::]:443 ssl http2; listen 8080 http2; listen [::]:8080 http2;
    server_name _; root {folder}/www;
    location /who {{ return 200 "$ssl_server_name|$host|$server_protocol|$remote_addr\\n"; }}
    location /chat {{
      proxy_pass http://127.0.0.1:8765; proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; proxy_set_header Host $host;
    }}
    location / {{ dav_methods PUT; }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class WebServer:
    """nginx running on ``host``; files below ``root`` are served, PUT writes there.

    ``log`` has a line for each request when it has been answered: host, port, bytes received, seconds they took, status.
    """

    host: Host
    root: Path
    certificate: Path
    log: Path


def start_nginx(host: Host, folder: Path) -> WebServer:
    """Start it and wait until all its ports listen."""
    root = folder / "www"
    root.mkdir(parents=True)
    folder.chmod(0o755)
    root.chmod(0o777)
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", str(key), "-out", str(certificate), "-subj", "/CN=podlane test",
         "-addext", "subjectAltName=DNS:*.example.com,DNS:example.com"],
        check=True, capture_output=True,
    )  # fmt: skip
    config = folder / "nginx.conf"
    config.write_text(_CONFIG.format(folder=folder))
    log = (folder / "nginx.log").open("w")
    host.popen(["nginx", "-p", str(folder), "-c", str(config), "-g", "user root;"], stdout=log, stderr=log)
    for port in (HTTP, HTTPS, H2C):
        until_listening(host, port)
    return WebServer(host, root, certificate, folder / "access.log")


def in_url(address: str) -> str:
    """As it stands in a URL."""
    return f"[{address}]" if ":" in address else address


def upload(pod: Host, body: Path, url: str, address: str, *options: str) -> None:
    """PUT a file with curl, or by HTTP/2 with a client of ours; fails when the server did not take it."""
    scheme, _, authority, _ = url.split("/")
    host, port = authority.rsplit(":", 1)
    if options == (HTTP2,):
        tls = ["tls"] if scheme == "https:" else []
        pod.run([sys.executable, _PUT, address, port, host, str(body), *tls])
        return
    pod.run(["curl", "-sS", "-k", "-f", "--max-time", "20", "-H", "Expect:", "-T", str(body),
             "--resolve", f"{host}:{port}:{in_url(address)}", *options, url])  # fmt: skip
