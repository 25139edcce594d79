"""Captures of real clients for the tests of ``podlane classify``: making them, judging them, and asking tshark."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import pytest
from waiting import until
from webserver import H2C

from podlane.netns import Host, PodNodeServer

POLICY = """
total: 100Mbit
classes:
  - {name: tls, rate: 1Mbit, match: [{sni: ["*.example.com"]}]}
  - {name: http, rate: 1Mbit, match: [{host: ["*.example.com"]}]}
  - {name: other, rate: 1Mbit, match: [{port: [9999]}]}
"""
_LAST = b"the last datagram"
_TOOLS = {"tcpdump": "tcpdump", "tshark": "tshark", "gnutls-cli": "gnutls-bin", "nghttp": "nghttp2-client"}
"""Commands, and the packages they are in."""


@dataclass(frozen=True)
class Captured:
    """The capture, in a folder for more of them."""

    path: Path
    folder: Path

    def verdicts(self, path: Path | None = None) -> list[dict[str, Any]]:
        return classify(self.folder, path or self.path)[0]


@cache
def classify(folder: Path, path: Path) -> tuple[list[dict[str, Any]], str]:
    """The JSON objects of a capture, and what was said on standard error."""
    policy = folder / "policy.yaml"
    policy.write_text(POLICY)
    done = subprocess.run(
        [sys.executable, "-m", "podlane", "classify", "--policy", str(policy), "--json", str(path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def tshark(path: Path, *arguments: str) -> str:
    return subprocess.run(["tshark", "-r", str(path), *arguments], capture_output=True, text=True, check=True).stdout


def read_fields(path: Path, *fields: str, only: str = "", occurrence: str = "f") -> list[list[str]]:
    """Rows of tshark's fields; of a field that comes several times in a frame, the first (``occurrence``: f, l, a)."""
    options = [option for field in fields for option in ("-e", field)]
    chosen = ["-Y", only] if only else []
    rows = tshark(
        path, "-T", "fields", "-E", f"occurrence={occurrence}", "-d", f"tcp.port=={H2C},http", *chosen, *options
    )
    return [line.split("\t") for line in rows.splitlines()]


def need_tools() -> None:
    """Skip where the system's packages are missing (which is a failure on CI)."""
    for tool, package in _TOOLS.items():
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed (package {package}): make system-packages")


@contextmanager
def sniffing(topology: PodNodeServer, path: Path) -> Iterator[None]:
    """Write everything that goes over the Pod's eth0 to a capture, with segments as on a wire."""
    pod = topology.pod
    # On a wire, the network card has cut them.
    pod.ip("link", "set", "eth0", "gso_max_segs", "1")
    # -U writes each packet at once, so the file's growth shows that everything is in it.
    sniffer = pod.popen(
        ["tcpdump", "-i", "eth0", "-s", "0", "-U", "-B", "32768", "--immediate-mode", "-w", str(path), "-Z", "root"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert sniffer.stderr is not None
    assert any("listening on" in line for line in sniffer.stderr)
    yield
    send_datagram(topology, topology.server_ipv4, 9, _LAST)
    until("the last datagram in the capture", lambda: _LAST in path.read_bytes())
    sniffer.terminate()
    assert "0 packets dropped by kernel" in sniffer.stderr.read()
    sniffer.wait()


def send_datagram(topology: PodNodeServer, server: str, port: int, data: bytes) -> None:
    """Send one from the Pod."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with topology.pod.namespace.entered(), socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.sendto(data, (server, port))


def run_client(host: Host, label: str, command: list[str], folder: Path, *, succeeds: bool) -> bytes:
    """Run a client to its end, and return what it said; that is in the failure too, if it had to succeed."""
    with (folder / f"{label}.log").open("w+b") as log:
        process = host.popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        status = process.wait(60)
        log.seek(0)
        said = log.read()
    assert not succeeds or status == 0, (label, said)
    return said


class NeedsATool(Protocol):
    """A client as the lists of them have it. ``tool`` is the command that not every machine has; "" for none."""

    @property
    def label(self) -> str: ...
    @property
    def tool(self) -> str: ...


def is_here(client: NeedsATool) -> bool:
    """Whether it can be run on this machine."""
    return not client.tool or shutil.which(client.tool) is not None


def each_of(clients: Sequence[NeedsATool]) -> list[Any]:
    """Parameters of a test, one for each client; those that cannot be run are skipped, and the report says why."""
    return [
        pytest.param(
            client, id=client.label, marks=pytest.mark.skipif(not is_here(client), reason=f"{client.tool} is not installed")
        )
        for client in clients
    ]  # fmt: skip


def chromium(server: str, certificate: Path, profile: Path, url: str, *options: str) -> list[str]:
    """Chromium without a screen, printing one page. Every name below example.com is at ``server``, no other exists."""
    key = subprocess.run(
        f"openssl x509 -in {certificate} -pubkey -noout | openssl pkey -pubin -outform der |"
        " openssl dgst -sha256 -binary | base64",
        shell=True, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    return [
        "env", f"HOME={profile}", "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
        f"--user-data-dir={profile}", f"--ignore-certificate-errors-spki-list={key}",
        f"--host-resolver-rules=MAP *.example.com {server}, MAP * ~NOTFOUND",
        *options, "--dump-dom", url,
    ]  # fmt: skip
