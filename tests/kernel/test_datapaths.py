"""One contract for all datapaths: real clients and servers, told apart by name, every byte as it was sent.

:mod:`test_stepaside` and :mod:`test_ebpf` have what is particular to one of them.
"""

from __future__ import annotations

import hashlib
import random
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from ebpf_judge import require_programs
from lab import connect, listen, serving
from sidecars import RunningSidecar, start_sidecar, state_of
from waiting import until
from webserver import HTTP2, WebServer, start_nginx, upload

from podlane.netns.topology import PodNodeServer

pytestmark = [
    pytest.mark.root,
    pytest.mark.covering,
    pytest.mark.parametrize("datapath", ["relay", "step-aside", "ebpf"]),
]

POLICY = """
total: 1Gbit
classes:
  - {name: sni, rate: 10Mbit, match: {sni: ["*.api.example.com", api.example.com]}}
  - {name: host, rate: 10Mbit, match: {host: web.example.com}}
  - {name: h2only, rate: 10Mbit, match: {alpn: h2}}
  - {name: port, rate: 10Mbit, match: {port: "9000-9100"}}
"""
BODY = 300_000
"""Bytes of an upload that makes its class stand out among handshakes and acknowledgements."""


@pytest.fixture
def web(topology: PodNodeServer, tmp_path: Path) -> WebServer:
    return start_nginx(topology.server, tmp_path / "nginx")


def start(topology: PodNodeServer, folder: Path, datapath: str, *options: str, policy: str = POLICY) -> RunningSidecar:
    if datapath == "ebpf":
        require_programs()
    return start_sidecar(topology.pod, policy, folder, "--datapath", datapath, *options)


def has_had(sidecar: RunningSidecar, name: str, counted: dict[str, int]) -> None:
    """The class has had these connections; what programs decide is counted once a second."""
    until(f"{counted} in {name}", lambda: sidecar.connections(name) == counted)


def address_of(topology: PodNodeServer, family: str) -> str:
    return topology.server_ipv4 if family == "IPv4" else topology.server_ipv6


def sent_bytes(sidecar: RunningSidecar) -> dict[str, int]:
    return {name: c["bytes"] for name, c in sidecar.classes().items()}


CLIENTS = {
    "TLS": ("https://x.api.example.com:443/f", ["--http1.1"], "sni"),
    "HTTP/1": ("http://web.example.com:80/f", ["--http1.1"], "host"),
    "HTTP/2, prior knowledge": ("http://web.example.com:8080/f", [HTTP2], "host"),
    "ALPN": ("https://other.example.com:443/f", [HTTP2], "h2only"),
    "no name that is known": ("https://other.example.com:443/f", ["--http1.1", "--no-alpn"], "default"),
}


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_the_kernel_counts_each_upload_in_its_class(
    topology: PodNodeServer, web: WebServer, tmp_path: Path, datapath: str, family: str
) -> None:
    sidecar = start(topology, tmp_path, datapath)
    body = tmp_path / "body"
    body.write_bytes(random.Random(4).randbytes(BODY))
    for url, options, name in CLIENTS.values():
        before = sent_bytes(sidecar)
        upload(topology.pod, body, url, address_of(topology, family), *options)
        assert (web.root / "f").read_bytes() == body.read_bytes()
        if datapath == "ebpf" and url.startswith("http:") and HTTP2 in options:
            # The programs cannot read it. What is sent before user space answers goes by port, and is not held up.
            has_had(sidecar, name, {"http1": 1, "http2": 1})
            continue
        until("the sample to show it", lambda n=name, b=before: sent_bytes(sidecar)[n] - b[n] > BODY)
        after = sent_bytes(sidecar)
        others = {n: after[n] - before[n] for n in after if n != name}
        # With the relay the default class has the handshakes' acknowledgements at most, stepping aside the SYNs.
        assert max(others.values()) < 5000, others
    has_had(sidecar, "sni", {"tls": 1})
    has_had(sidecar, "host", {"http1": 1, "http2": 1})


def client_hello(name: str, *, wide: int = 0) -> bytes:
    """What Python's ssl sends first; ``wide`` pads it by that many ALPN offers."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    if wide:
        context.set_alpn_protocols([f"protocol-{number:04}" for number in range(wide)])
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


OPENINGS = {
    "TLS": (client_hello("api.example.com"), "sni", {"tls": 1}),
    "a hello of 16 KiB": (client_hello("api.example.com", wide=1150), "sni", {"tls": 1}),
    "HTTP": (b"GET /" + b"x" * 3000 + b" HTTP/1.1\r\nHost: web.example.com\r\n\r\n", "host", {"http1": 1}),
}


def test_what_follows_a_load_balancers_header_decides(topology: PodNodeServer, tmp_path: Path, datapath: str) -> None:
    """The PROXY protocol, in a segment of its own; the server gets it as it was."""
    sidecar = start(topology, tmp_path, datapath)
    headers = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 80\r\n", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12)
    request = b"GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n"
    with listen(topology.server, port=80) as listener:
        for header in headers:
            with connect(topology.pod, topology.server_ipv4, 80) as client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client.sendall(header)
                client.sendall(request)
                served, _ = listener.accept()
                with served:
                    whole = header + request
                    assert served.recv(len(whole), socket.MSG_WAITALL) == whole
    has_had(sidecar, "host", {"http1": 2})


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
@pytest.mark.parametrize("opening", OPENINGS)
@pytest.mark.parametrize("piece", [88, 700], ids=["tiny segments", "small segments"])
def test_names_that_come_in_many_segments(
    topology: PodNodeServer, tmp_path: Path, datapath: str, family: str, opening: str, piece: int
) -> None:
    first, name, counted = OPENINGS[opening]
    rest = random.Random(5).randbytes(20_000)
    sidecar = start(topology, tmp_path, datapath)
    with serving(topology.server, digest) as port, topology.pod.namespace.entered():
        client = socket.socket(socket.AF_INET if family == "IPv4" else socket.AF_INET6)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, piece)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.connect((address_of(topology, family), port))
        with client:
            for at in range(0, len(first), piece):
                client.sendall(first[at : at + piece])
            # What is sent before user space answers the programs goes by port.
            has_had(sidecar, name, counted)
            client.sendall(rest)
            client.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.decode() == hashlib.sha256(first + rest).hexdigest()
    until("the sample to show it", lambda: sent_bytes(sidecar)[name] > 20_000)


def digest(connection: socket.socket) -> None:
    """Read until the client half-closes, answer with what it was, and close."""
    seen = hashlib.sha256()
    while data := connection.recv(65536):
        seen.update(data)
    connection.sendall(seen.hexdigest().encode())


def test_a_server_that_speaks_first_is_answered(topology: PodNodeServer, tmp_path: Path, datapath: str) -> None:
    """On a port where content could decide: the relay waits for the detection timeout, stepping aside does not."""
    got: list[bytes] = []

    def greet(connection: socket.socket) -> None:
        connection.sendall(b"220 hello\r\n")
        got.append(connection.recv(99))

    sidecar = start(topology, tmp_path, datapath, "--detection-timeout", "300ms")
    with serving(topology.server, greet) as port:
        talk = "import socket,sys; s=socket.create_connection((sys.argv[1], int(sys.argv[2]))); print(s.recv(99)); s.sendall(b'QUIT\\r\\n')"
        said = topology.pod.run([sys.executable, "-c", talk, topology.server_ipv4, str(port)]).stdout
        assert said == "b'220 hello\\r\\n'\n"
        until("the answer", lambda: got)
    assert got == [b"QUIT\r\n"]
    has_had(sidecar, "default", {"opaque": 1})


def test_large_bodies_arrive_as_they_were_sent(
    topology: PodNodeServer, web: WebServer, tmp_path: Path, datapath: str
) -> None:
    start(topology, tmp_path, datapath)
    body, down = tmp_path / "body", tmp_path / "down"
    body.write_bytes(random.Random(6).randbytes(20_000_003))
    for url, options, _ in CLIENTS.values():
        upload(topology.pod, body, url, topology.server_ipv4, *options)
        assert (web.root / "f").read_bytes() == body.read_bytes()
    host = "api.example.com"
    topology.pod.run(["curl", "-sS", "-k", "-f", "-o", str(down), "--resolve", f"{host}:443:{topology.server_ipv4}",
                      f"https://{host}/f"])  # fmt: skip
    assert down.read_bytes() == body.read_bytes()


def test_many_connections_at_once_all_get_their_class(
    topology: PodNodeServer, web: WebServer, tmp_path: Path, datapath: str
) -> None:
    (web.root / "s").write_text("hello")
    sidecar = start(topology, tmp_path, datapath)
    many = str(Path(__file__).parent / "clients" / "many.py")
    command = [sys.executable, many, topology.server_ipv4, "80", "web.example.com", "400", "50"]
    assert topology.pod.run(command).stdout == "400"
    has_had(sidecar, "host", {"http1": 400})
    has_had(sidecar, "default", {})


def test_openssl_and_a_session_that_stays(
    topology: PodNodeServer, web: WebServer, tmp_path: Path, datapath: str
) -> None:
    """A keep-alive connection: its class is decided once, and later requests stay in it."""
    sidecar = start(topology, tmp_path, datapath)
    request = b"GET /who HTTP/1.1\r\nHost: anything.example.com\r\n\r\n"
    with subprocess.Popen(
        topology.pod.namespace.command(
            ["openssl", "s_client", "-quiet", "-connect", f"{topology.server_ipv4}:443", "-servername", "api.example.com"]
        ),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as client:  # fmt: skip
        assert client.stdin is not None
        assert client.stdout is not None
        for _ in range(3):
            client.stdin.write(request)
            client.stdin.flush()
            while b"HTTP/1.1|" not in client.stdout.readline():
                pass
        client.terminate()
    assert web.root.exists()
    has_had(sidecar, "sni", {"tls": 1})


def test_a_half_closed_connection_goes_on(topology: PodNodeServer, tmp_path: Path, datapath: str) -> None:
    """The client ends its side right behind its request; the server's answer is long and comes whole."""
    answer = random.Random(7).randbytes(3_000_000)

    def reply(connection: socket.socket) -> None:
        while connection.recv(65536):
            pass
        connection.sendall(answer)

    start(topology, tmp_path, datapath)
    ask = (
        "import hashlib,socket,sys; s=socket.create_connection((sys.argv[1], int(sys.argv[2])));"
        "s.sendall(b'GET / HTTP/1.1\\r\\nHost: web.example.com\\r\\n\\r\\n'); s.shutdown(1);"
        "print(hashlib.sha256(b''.join(iter(lambda: s.recv(65536), b''))).hexdigest())"
    )
    with serving(topology.server, reply) as port:
        said = topology.pod.run([sys.executable, "-c", ask, topology.server_ipv4, str(port)]).stdout.strip()
    assert said == hashlib.sha256(answer).hexdigest()


def test_a_refused_connection_is_an_error(topology: PodNodeServer, tmp_path: Path, datapath: str) -> None:
    start(topology, tmp_path, datapath)
    done = topology.pod.run(["curl", "-sS", "--max-time", "5", f"http://{topology.server_ipv4}:81/"], check=False)
    assert done.returncode in (7, 52, 56), done.stderr


@pytest.mark.usefixtures("web")
def test_sigterm_leaves_no_trace_and_new_connections_go_direct(
    topology: PodNodeServer, tmp_path: Path, datapath: str
) -> None:
    pod = topology.pod
    before = state_of(pod)
    sidecar = start(topology, tmp_path, datapath)
    ask = ["curl", "-sS", "-f", "-H", "Host: web.example.com", f"http://{topology.server_ipv4}/who"]
    pod.run(ask)
    assert sidecar.stop() == 0
    assert state_of(pod) == before
    assert pod.run(ask).stdout.startswith("|web.example.com|")


@pytest.mark.usefixtures("web")
def test_after_a_kill_the_other_datapath_can_start(topology: PodNodeServer, tmp_path: Path, datapath: str) -> None:
    pod = topology.pod
    before = state_of(pod)
    ask = ["curl", "-sS", "-f", "-H", "Host: web.example.com", f"http://{topology.server_ipv4}/who"]
    killed = start(topology, tmp_path, datapath)
    pod.run(ask)
    assert killed.stop(signal.SIGKILL) == -signal.SIGKILL
    other = start(topology, tmp_path, {"relay": "step-aside", "step-aside": "ebpf", "ebpf": "relay"}[datapath])
    pod.run(ask)
    has_had(other, "host", {"http1": 1})
    assert other.stop() == 0
    assert state_of(pod) == before
