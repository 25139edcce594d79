"""The heads of docs/explanation/evasion.md at a real nginx: what it reads there must not be hidden from us."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from evasion_page import PAGE
from lab import connect
from webserver import start_nginx

from datapath.protocols.detect import Detector
from podlane.netns.topology import PodNodeServer
from traffic_policy.names import normalise_host

sys.path.append(str(Path(__file__).parents[1] / "unit"))

from test_evasion import HTTP

pytestmark = pytest.mark.root


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
