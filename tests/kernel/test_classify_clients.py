"""Captures of real clients, judged by ``podlane classify`` and compared with what tshark reads in them.

One capture is made for all tests: nginx behind a node, tcpdump on the Pod's interface, and client after client, each with
a name or a port of its own. tshark is the oracle for names and for counts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from client_captures import (
    Captured,
    classify,
    each_of,
    is_here,
    need_tools,
    read_fields,
    run_client,
    send_datagram,
    sniffing,
    tshark,
)
from lab import listen
from scapy.utils import RawPcapReader, RawPcapWriter
from waiting import until
from webserver import H2C, HTTP, HTTPS, start_nginx

from podlane.netns import Lab, PodNodeServer, pod_node_server

pytestmark = pytest.mark.root

SOURCES = Path(__file__).parent / "clients"
CURL = ["curl", "-sk", "-o", "/dev/null", "--max-time", "20", "--noproxy", "*"]
OPENSSL = ["openssl", "s_client", "-connect"]
PYTHON = """
import socket, ssl, sys
server, port, name, segment = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
plain = socket.socket()
if segment:
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment)
plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
plain.settimeout(20)
plain.connect((server, port))
"""
PYTHON_TLS = (
    PYTHON
    + """
context = ssl._create_unverified_context()
context.set_alpn_protocols(["http/1.1"])
with context.wrap_socket(plain, server_hostname=name) as connection:
    connection.sendall(b"GET /who HTTP/1.1\\r\\nHost: inner.example.com\\r\\nConnection: close\\r\\n\\r\\n")
    while connection.recv(65536): pass
"""
)
PYTHON_PIPELINE = (
    PYTHON
    + """
request = b"GET /who HTTP/1.1\\r\\nHost: %s\\r\\n"
plain.sendall(request % name.encode() + b"\\r\\n" + request % b"second.example.com" + b"Connection: close\\r\\n\\r\\n")
while plain.recv(65536): pass
"""
)
PYTHON_PIECES = (
    PYTHON
    + """
for byte in b"GET /who HTTP/1.1\\r\\nHost: %s\\r\\nConnection: close\\r\\n\\r\\n" % name.encode():
    plain.sendall(bytes([byte]))
while plain.recv(65536): pass
"""
)
NODE = """
const [server, port, name] = process.argv.slice(1)
require('https').get({host: server, port, servername: name, rejectUnauthorized: false, path: '/who'},
                     r => { r.resume(); r.on('end', () => process.exit(0)) })
"""


@dataclass(frozen=True)
class Client:
    """A real client. ``command`` is made of (server's address, name); ``name`` is what it asks for."""

    label: str
    port: int
    detected: str
    command: Callable[[str, str], list[str]]
    succeeds: bool = True
    alpn: tuple[str, ...] | None = None
    named: bool = True
    ipv6: bool = False
    tool: str = ""

    @property
    def name(self) -> str:
        return f"{self.label}.example.com"


def curl(label: str, scheme: str, detected: str, *options: str, port: int | None = None, **rest: Any) -> Client:
    port = port or (HTTPS if scheme == "https" else HTTP)

    def command(server: str, name: str) -> list[str]:
        address = f"[{server}]" if ":" in server else server
        return [*CURL, *options, "--resolve", f"{name}:{port}:{address}", f"{scheme}://{name}:{port}/who"]

    return Client(label, port, detected, command, **rest)


def openssl(label: str, *options: str, **rest: Any) -> Client:
    def command(server: str, name: str) -> list[str]:
        return [*OPENSSL, f"{server}:{HTTPS}", "-servername", name, *options]

    return Client(label, HTTPS, "tls", command, **rest)


def python(label: str, program: str, port: int, detected: str, segment: int = 0, **rest: Any) -> Client:
    return Client(
        label, port, detected, lambda server, name: [sys.executable, "-c", program, server, str(port), name, str(segment)], **rest
    )  # fmt: skip


BUILT = tempfile.TemporaryDirectory(prefix="podlane-clients-")
"""Gone when the tests end."""


@cache
def go_client() -> str:
    """Build it, without asking anybody for modules: it needs none."""
    made = Path(BUILT.name) / "client"
    environment = {**os.environ, "GOPROXY": "off", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod"}
    subprocess.run(
        ["go", "build", "-o", str(made), f"{SOURCES}/client.go"], check=True, capture_output=True, env=environment
    )
    return str(made)


def git(server: str, name: str) -> list[str]:
    """Debian's git uses curl with GnuTLS."""
    options = ["http.sslVerify=false", f"http.curloptResolve={name}:{HTTPS}:{server}", "http.proxy="]
    return ["git", *(word for option in options for word in ("-c", option)), "ls-remote", f"https://{name}/who"]


CLIENTS = [
    curl("curl-tls", "https", "tls", alpn=("h2", "http/1.1")),
    curl("curl-tls6", "https", "tls", ipv6=True, alpn=("h2", "http/1.1")),
    curl("curl-tls12", "https", "tls", "--tls-max", "1.2", "--http1.1", alpn=("http/1.1",)),
    curl("curl-noalpn", "https", "tls", "--no-alpn", alpn=()),
    curl("curl-http", "http", "http1"),
    curl("curl-http6", "http", "http1", ipv6=True),
    curl("curl-http10", "http", "http1", "--http1.0"),
    curl("curl-upgrade", "http", "http1", "--http2"),
    curl("curl-h2c", "http", "http2", "--http2-prior-knowledge", port=H2C),
    curl("curl-h2c-post", "http", "http2", "--http2-prior-knowledge", "--data", "a=b", port=H2C, succeeds=False),
    Client(
        "curl-absolute", HTTP, "http1",
        lambda server, name: [*CURL[:-2], "--proxy", f"http://{server}:{HTTP}", f"http://{name}/who"],
    ),
    Client(
        "curl-connect", HTTP, "http1",
        lambda server, name: [*CURL[:-2], "--proxy", f"http://{server}:{HTTP}", f"https://{name}/who"], succeeds=False,
    ),
    openssl("openssl", "-alpn", "h2,spdy/3", alpn=("h2", "spdy/3")),
    openssl("openssl-tls13", "-tls1_3", "-groups", "X25519:P-256:P-384", succeeds=False),
    openssl("openssl-psk", "-tls1_3", "-psk", "1a2b3c4d", "-psk_identity", "somebody", succeeds=False),
    openssl("openssl-extensions", "-status", "-maxfraglen", "512", "-use_srtp", "SRTP_AES128_CM_SHA1_80",
            "-no_ticket", "-bugs", "-sigalgs", "RSA-PSS+SHA256:ECDSA+SHA256:RSA+SHA256", succeeds=False),
    openssl("openssl-tls12", "-tls1_2", "-cipher", "ECDHE+AESGCM", "-status"),
    openssl("openssl-tls11", "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0", succeeds=False),
    openssl("openssl-tls10", "-tls1", "-cipher", "DEFAULT@SECLEVEL=0", succeeds=False),
    Client("openssl-noname", HTTPS, "tls", lambda s, _: [*OPENSSL, f"{s}:{HTTPS}", "-noservername"], named=False),
    python("python-tls", PYTHON_TLS, HTTPS, "tls", alpn=("http/1.1",)),
    python("python-tiny-mss", PYTHON_TLS, HTTPS, "tls", segment=88, alpn=("http/1.1",)),
    python("python-pipeline", PYTHON_PIPELINE, HTTP, "http1"),
    python("python-pieces", PYTHON_PIECES, HTTP, "http1"),
    Client(
        "gnutls", HTTPS, "tls",
        lambda server, name: ["gnutls-cli", "--insecure", "--sni-hostname", name, "--alpn", "h2", "-p", str(HTTPS), server],
        alpn=("h2",),
    ),
    Client("nghttp", H2C, "http2", lambda s, n: ["nghttp", "-n", "-H", f":authority: {n}", f"http://{s}:{H2C}/who"]),
    # What not every machine has.
    Client("node", HTTPS, "tls", lambda s, n: ["node", "-e", NODE, s, str(HTTPS), n], tool="node"),
    Client("java", HTTPS, "tls", lambda s, n: ["java", f"{SOURCES}/Client.java", s, str(HTTPS), n], alpn=("h2",), tool="javac"),
    Client("go", HTTPS, "tls", lambda s, n: [go_client(), f"{s}:{HTTPS}", n], alpn=("h2", "http/1.1"), tool="go"),
    Client("git", HTTPS, "tls", git, succeeds=False, tool="git"),
]  # fmt: skip
HERE = [client for client in CLIENTS if is_here(client)]


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Captured]:
    """The capture of all clients, made once."""
    need_tools()
    folder = tmp_path_factory.mktemp("classify")
    folder.chmod(0o755)
    with Lab("classify") as lab:
        topology = pod_node_server(lab)
        start_nginx(topology.server, folder / "nginx")
        yield capture(topology, folder)


def capture(topology: PodNodeServer, folder: Path) -> Captured:
    path = folder / "clients.pcap"
    with sniffing(topology, path):
        for client in HERE:
            server = topology.server_ipv6 if client.ipv6 else topology.server_ipv4
            command = client.command(server, client.name)
            run_client(topology.pod, client.label, command, folder, succeeds=client.succeeds)
        for server in (topology.server_ipv4, topology.server_ipv6):
            send_datagram(topology, server, 9999, b"f" * 9000)  # must be cut into fragments
    return Captured(path, folder)


def by_name(verdicts: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {v["sni"] or v["host"] or "": v for v in verdicts if v["protocol"] == "tcp"}


@pytest.mark.parametrize("client", each_of(CLIENTS))
def test_a_real_client_is_recognised_and_classed(captured: Captured, client: Client) -> None:
    verdict = by_name(captured.verdicts())[client.name if client.named else ""]
    assert verdict["detected"] == client.detected
    assert verdict["dport"] == client.port
    names = (verdict["sni"], verdict["host"])
    assert names == (
        (None, None) if not client.named else (client.name, None) if client.detected == "tls" else (None, client.name)
    )
    assert verdict["class"] == ("default" if not client.named else "tls" if client.detected == "tls" else "http")
    if client.alpn is not None:
        assert tuple(verdict["alpn"]) == client.alpn
    assert "capture starts" not in verdict["why"]


def test_each_client_made_one_flow(captured: Captured) -> None:
    verdicts = captured.verdicts()
    assert len([v for v in verdicts if v["protocol"] == "tcp"]) == len(HERE)
    assert {v["dport"] for v in verdicts if v["protocol"] == "udp"} == {9, 9999}


def test_names_are_those_that_tshark_reads(captured: Captured) -> None:
    """tls.handshake.extensions_server_name, http.host and http2.headers.authority, per connection."""
    fields = ("tls.handshake.extensions_server_name", "http.host", "http2.headers.authority")
    seen: dict[str, list[str]] = {}
    for stream, *names in read_fields(captured.path, "tcp.stream", *fields, only="tcp"):
        for index, name in enumerate(names):
            if name:
                seen.setdefault(stream, ["", "", ""])
                seen[stream][index] = seen[stream][index] or name.rpartition(":")[0] or name
    oracle = {tuple(names) for names in seen.values()}
    ours = {
        (v["sni"] or "", v["host"] if v["detected"] == "http1" else "", v["host"] if v["detected"] == "http2" else "")
        for v in captured.verdicts()
        if v["sni"] or v["host"]
    }
    assert ours == oracle
    assert len(ours) == len(HERE) - 1


def test_hellos_in_several_segments_were_among_them(captured: Captured) -> None:
    """Tiny segments and post-quantum key shares are told apart from the rest by tshark's reassembly."""
    rows = read_fields(
        captured.path, "tls.handshake.extensions_server_name", "tcp.segment.count", only="tls.handshake.type==1"
    )
    several = {name for name, count in rows if count and int(count) > 1}
    assert several >= {client.name for client in HERE if client.label in ("python-tiny-mss", "go")}


def test_alpn_offers_are_those_that_tshark_reads(captured: Captured) -> None:
    rows = read_fields(
        captured.path,
        "tls.handshake.extensions_server_name",
        "tls.handshake.extensions_alpn_str",
        only="tls.handshake.type==1",
    )
    oracle = dict(rows)
    ours = {v["sni"] or "": v["alpn"][0] if v["alpn"] else "" for v in captured.verdicts() if v["detected"] == "tls"}
    assert ours == oracle


def test_bytes_and_packets_are_those_that_tshark_counts(captured: Captured) -> None:
    packets: Counter[tuple[str, ...]] = Counter()
    sizes: Counter[tuple[str, ...]] = Counter()
    for size, v4, v6, d4, d6, sport, dport in read_fields(
        captured.path, "frame.len", "ip.src", "ipv6.src", "ip.dst", "ipv6.dst", "tcp.srcport", "tcp.dstport", only="tcp"
    ):
        key = (v4 or v6, sport, d4 or d6, dport)
        packets[key] += 1
        sizes[key] += int(size)
    for v in captured.verdicts():
        if v["protocol"] == "tcp":
            up = (v["src"], str(v["sport"]), v["dst"], str(v["dport"]))
            down = (*up[2:], *up[:2])
            assert (v["packets_up"], v["bytes_up"]) == (packets.pop(up), sizes.pop(up))
            assert (v["packets_down"], v["bytes_down"]) == (packets.pop(down), sizes.pop(down))
    assert not packets


def test_fragments_are_one_flow_with_all_their_frames(captured: Captured) -> None:
    frames = read_fields(
        captured.path, "frame.len", "ipv6.src", only="ip.flags.mf==1 || ip.frag_offset>0 || ipv6.fraghdr"
    )
    for version, wanted in ((4, ""), (6, ":")):
        sizes = [int(size) for size, source in frames if (":" in source) == bool(wanted)]
        (verdict,) = [
            v for v in captured.verdicts()
            if v["dport"] == 9999 and v["protocol"] == "udp" and (":" in v["src"]) == bool(wanted)
        ]  # fmt: skip
        assert (verdict["packets_up"], verdict["bytes_up"]) == (len(sizes), sum(sizes)), version
        assert len(sizes) >= 6
        assert verdict["class"] == "other"


def test_pcapng_and_gzip_say_the_same(captured: Captured) -> None:
    pcapng = captured.folder / "clients.pcapng"
    tshark(captured.path, "-F", "pcapng", "-w", str(pcapng))
    subprocess.run(["gzip", "-kf", str(pcapng)], check=True)
    expected = captured.verdicts()
    assert captured.verdicts(pcapng) == expected
    assert captured.verdicts(pcapng.with_suffix(".pcapng.gz")) == expected


def test_without_handshakes_the_client_is_who_spoke_its_protocol(captured: Captured) -> None:
    path = captured.folder / "middle.pcap"
    tshark(captured.path, "-F", "pcap", "-Y", "tcp.flags.syn==0", "-w", str(path))
    verdicts, errors = classify(captured.folder, path)
    keys = ("src", "sport", "dst", "dport", "detected", "sni", "host", "alpn", "class")
    whole = [{k: v[k] for k in keys} for v in captured.verdicts() if v["protocol"] == "tcp"]
    assert [{k: v[k] for k in keys} for v in verdicts] == whole
    assert f"{len(HERE)} connections began before the capture" in errors
    assert all("the capture starts in mid-connection" in v["why"] for v in verdicts)


def test_frames_out_of_order_and_twice_say_the_same_of_names(captured: Captured) -> None:
    """Each two neighbours swapped, each fifth frame again."""
    frames = list(RawPcapReader(str(captured.path)))
    mixed = [frame for pair in zip(frames[1::2], frames[::2], strict=False) for frame in pair]
    path = captured.folder / "mixed.pcap"
    with path.open("wb") as file:
        writer = RawPcapWriter(file, linktype=1)
        writer._write_header(b"")
        for index, (data, about) in enumerate(mixed):
            for _ in range(1 if index % 5 else 2):
                writer._write_packet(data, 1, sec=about.sec, usec=about.usec)
    keys = ("src", "sport", "dst", "dport", "detected", "sni", "host", "alpn", "class", "why")
    mixed_up, whole = (
        [{k: v[k] for k in keys} for v in captured.verdicts(p) if v["protocol"] == "tcp"] for p in (path, None)
    )
    assert mixed_up == whole


def test_frames_captured_in_part_count_in_full_and_are_told(captured: Captured) -> None:
    path = captured.folder / "short.pcap"
    subprocess.run(["editcap", "-F", "pcap", "-s", "96", str(captured.path), str(path)], check=True)
    verdicts, errors = classify(captured.folder, path)
    assert len(verdicts) == len(captured.verdicts())
    assert "not captured whole" in errors
    for short, whole in zip(verdicts, captured.verdicts(), strict=True):
        counts = ("src", "sport", "dst", "dport", "bytes_up", "packets_up", "bytes_down", "packets_down")
        if short["dport"] != 9999:
            assert [short[k] for k in counts] == [whole[k] for k in counts]


@pytest.mark.parametrize(
    ("interface", "link"),
    [("any", "LINUX_SLL2"), ("any", "LINUX_SLL"), ("lo", "EN10MB")],
    ids=["cooked v2", "cooked v1", "loopback"],
)
def test_other_link_types_of_this_kernel(lab: Lab, tmp_path: Path, interface: str, link: str) -> None:
    host = lab.host("pod")
    path = tmp_path / "link.pcap"
    with listen(host, port=HTTP):
        sniffer = host.popen(
            ["tcpdump", "-i", interface, "-y", link, "-U", "--immediate-mode", "-w", str(path), "-Z", "root", "tcp"],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert sniffer.stderr is not None
        assert any("listening on" in line for line in sniffer.stderr)
        program = (
            f"import socket; s = socket.create_connection(('127.0.0.1', {HTTP}))\n"
            "s.sendall(b'GET / HTTP/1.1\\r\\nHost: lo.example.com\\r\\n\\r\\n')"
        )
        host.run([sys.executable, "-c", program])
        until("the request in the capture", lambda: b"lo.example.com" in path.read_bytes())
        sniffer.terminate()
        sniffer.wait()
    verdicts, _ = classify(tmp_path, path)
    assert [(v["host"], v["dport"], v["class"]) for v in verdicts] == [("lo.example.com", HTTP, "http")]
