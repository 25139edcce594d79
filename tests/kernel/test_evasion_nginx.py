"""What docs/explanation/evasion.md has at a real nginx: the host that it reads must not be hidden from us."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from evasion_page import PAGE
from lab import connect
from waiting import until_listening
from webserver import HTTPS, start_nginx

from datapath.protocols.client_hello import ClientHello, ClientHelloReader
from datapath.protocols.detect import Detector
from podlane.netns.topology import PodNodeServer
from traffic_policy.names import normalise_host

sys.path.append(str(Path(__file__).parents[1] / "unit"))

from first_bytes import hello, records, sni
from test_evasion import HTTP

pytestmark = pytest.mark.root

TWO_SERVERS = """
daemon off; pid {folder}/pid; error_log stderr;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 443 ssl; ssl_certificate {folder}/other.pem; ssl_certificate_key {folder}/other.key; }}
  server {{
    listen 443 ssl; server_name {names};
    ssl_certificate {folder}/named.pem; ssl_certificate_key {folder}/named.key;
  }}
}}
"""
NAMES = {
    "api.example.com": ["api.example.com", "API.Example.com.", "api.example.com:443", "api.example.com.:443",
                        "api.example.com:", "api.example.com:x:1", "api.example.com:443.", "api.example.com:/",
                        "api.example.com: ", "api.example.com ", "[api.example.com]", "api.example.com/", "api.example.com.."],
    "foo-.example.com": ["foo-.example.com"],
    "192.0.2.1": ["192.0.2.1", "192.0.2.1:443", "192.0.2.1."],
    "[2001:db8::1]": ["[2001:db8::1]", "[2001:db8::1]:443"],
}  # fmt: skip
"""Servers' names as nginx writes them, and what a client may send for each."""


def served_host(topology: PodNodeServer, head: bytes) -> str | None:
    """The host for which nginx serves a request; None when it refuses it."""
    with connect(topology.pod, topology.server_ipv4, 80) as client:
        client.sendall(head)
        client.shutdown(1)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    match = re.match(rb"HTTP/1\.1 200 .*\r\n\r\n\|(.*?)\|", answer, re.DOTALL)
    # With no name in the request it serves that of its configuration.
    return match[1].decode("latin-1") if match and match[1] != b"_" else None


def test_no_host_that_nginx_serves_is_hidden_but_where_the_page_says_so(
    topology: PodNodeServer, tmp_path: Path
) -> None:
    start_nginx(topology.server, tmp_path / "nginx")
    hidden = set()
    for name, first in HTTP.items():
        head = re.sub(rb"^(\s*\S+ +)/([^ ]*)", rb"\1/who?\2", first, count=1)
        host = served_host(topology, head)
        answer = Detector().feed(head)
        if host is not None and (known := normalise_host(host)) and known != (answer and answer.host):
            hidden.add(name)
    said = {
        name
        for name in HTTP
        if re.search(rf"(?m)^\| `{re.escape(name)}` \| the port \|.*\bnginx\b(?! and Go refuse)", PAGE)
    }
    assert hidden == said


def test_an_sni_counts_as_the_name_under_which_nginx_serves_it(topology: PodNodeServer, tmp_path: Path) -> None:
    for name in ("named", "other"):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
             "-keyout", tmp_path / f"{name}.key", "-out", tmp_path / f"{name}.pem", "-subj", f"/CN={name}"],
            check=True, capture_output=True,
        )  # fmt: skip
    config = tmp_path / "nginx.conf"
    config.write_text(TWO_SERVERS.format(folder=tmp_path, names=" ".join(NAMES)))
    topology.server.popen(["nginx", "-p", str(tmp_path), "-c", str(config), "-g", "user root;"])
    until_listening(topology.server, HTTPS)
    served, read = {}, {}
    for known, tries in NAMES.items():
        for asked in tries:
            done = topology.pod.run(
                ["openssl", "s_client", "-connect", f"{topology.server_ipv4}:443", "-servername", asked], stdin=""
            )
            served[asked] = "CN = named" in done.stdout
            outcome = ClientHelloReader(1 << 14).feed(records(hello(sni(asked.encode()))))
            assert isinstance(outcome, ClientHello)
            read[asked] = outcome.sni == normalise_host(known)
    assert set(served.values()) == {True, False}
    assert read == served | {"192.0.2.1.": True}
