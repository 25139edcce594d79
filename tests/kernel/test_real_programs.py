"""Programs as people run them, through every datapath and both ways: all works byte for byte, in the class it must be in.

nginx and curl, WebSockets, gRPC, Redis, PostgreSQL. One Pod and one sidecar serve all tests of a world.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from ebpf_judge import require_programs
from lab import read_until
from sidecars import RunningSidecar, start_sidecar
from waiting import until, until_listening
from webserver import CHAT, HTTP2, WebServer, start_nginx, upload

from podlane.netns import Lab, pod_node_server
from podlane.netns.lab import Host
from tc_core.compile.mark_tree import leaf_handle
from tc_core.rtnetlink.kernel import NetlinkKernel
from traffic_policy.marks import ClassIds

pytestmark = pytest.mark.root

CLASSES = ("web", "chat", "rpc", "named", "db", "cache")
POLICY = """
total: 1Gbit
requests: REQUESTS
classes:
  - {name: web, rate: 10Mbit, match: [{host: web.example.com, direction: both}, {sni: web.example.com, direction: both}]}
  - {name: chat, rate: 10Mbit, match: {host: chat.example.com, direction: both}}
  - {name: rpc, rate: 10Mbit, match: {host: rpc.example.com, direction: both}}
  - {name: named, rate: 10Mbit, match: {sni: db.example.com, port: 5432, direction: both}}
  - {name: db, rate: 10Mbit, match: {port: 5432, direction: both}}
  - {name: cache, rate: 10Mbit, match: {port: [6379, 6390], direction: both}}
"""
SIZE = 400_000
"""Bytes that every program carries each way, at least: far more than what may be in another class."""
STRAY = 20_000
"""Bytes that may be: handshakes, and what is sent before a name is known."""
RPC, POSTGRES = 50051, 5432
REDIS = {6379: "a port on which servers speak first", 6390: "another port"}
PROGRAMS = Path(__file__).parent / "programs"


@dataclass(frozen=True, slots=True)
class World:
    """A Pod with a sidecar; ``server`` has the programs that serve, ``client`` those that ask."""

    pod: Host
    server: Host
    client: Host
    address: str
    sidecar: RunningSidecar
    web: WebServer
    datapath: str
    follows: bool

    def sent(self) -> dict[str, int]:
        """Bytes that the Pod has sent in each class, from the kernel."""
        with self.pod.namespace.entered(), NetlinkKernel() as kernel:
            counters = kernel.counters("eth0")
        return {name: counters[leaf_handle(number)].bytes for name, number in ClassIds.assign(CLASSES).items()}

    @contextmanager
    def only(self, name: str, size: int = SIZE) -> Iterator[None]:
        """Fail unless at least so many bytes are sent in a class, and next to nothing in any other."""
        before = self.sent()
        yield
        more = {each: count - before[each] for each, count in self.sent().items()}
        assert more.pop(name) >= size, more
        assert max(more.values()) < STRAY, more


WORLDS = {
    "the Pod asks, relay": ("relay", "first", True),
    "the Pod asks, relay, every request": ("relay", "follow", True),
    "the Pod asks, step aside": ("step-aside", "first", True),
    "the Pod asks, ebpf": ("ebpf", "first", True),
    "the Pod answers, relay": ("relay", "first", False),
    "the Pod answers, relay, every request": ("relay", "follow", False),
    "the Pod answers, step aside": ("step-aside", "first", False),
    "the Pod answers, ebpf": ("ebpf", "first", False),
}


@pytest.fixture(scope="module")
def clusters() -> Iterator[Path]:
    """A folder that PostgreSQL, which runs as its own user, gets to: pytest's are for root alone."""
    with tempfile.TemporaryDirectory(prefix="podlane-test-") as name:
        shutil.chown(name, "postgres")
        yield Path(name)


@pytest.fixture(scope="module")
def database(clusters: Path) -> Path:
    """A database cluster that has just been made, to be copied."""
    data = clusters / "new"
    options = ["--auth=trust", "--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C"]
    subprocess.run([*as_postgres("initdb"), *options, "-D", str(data)], check=True, capture_output=True)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-subj", "/CN=db.example.com", "-keyout", str(data / "server.key"), "-out", str(data / "server.crt")],
        check=True, capture_output=True,
    )  # fmt: skip
    for name in ("server.key", "server.crt"):
        shutil.chown(data / name, "postgres")
    return data


def as_postgres(name: str) -> list[str]:
    """A program of the PostgreSQL server, which Debian keeps out of the path and which refuses root."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    assert found, "PostgreSQL is not installed: apt-get install postgresql"
    return ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups", str(found[-1])]


EVERY_TIME = (
    "the Pod asks, relay, every request",
    "the Pod asks, step aside",
    "the Pod answers, relay",
    "the Pod answers, ebpf",
)
"""Each datapath and each direction; the other combinations are nightly."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(world, id=name, marks=() if name in EVERY_TIME else pytest.mark.nightly)
        for name, world in WORLDS.items()
    ],
)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, database: Path) -> Iterator[World]:
    datapath, requests, asks = request.param
    if datapath == "ebpf":
        require_programs()
    folder = tmp_path_factory.mktemp("world")
    with ExitStack() as stack:
        # Removed when the lab's programs have ended.
        copies = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=database.parent)))
        shutil.chown(copies, "postgres")
        lab = stack.enter_context(Lab("test"))
        topology = pod_node_server(lab, sysctls={"net.ipv4.tcp_congestion_control": "reno"})
        pod = topology.pod
        server, client = (topology.server, pod) if asks else (pod, topology.server)
        web = start_nginx(server, folder / "nginx")
        start_programs(server, database, copies)
        policy = POLICY.replace("REQUESTS", requests)
        sidecar = start_sidecar(pod, policy, folder, "--datapath", datapath)
        address = topology.server_ipv4 if asks else str(topology.pod_link.a.ipv4)
        yield World(pod, server, client, address, sidecar, web, datapath, requests == "follow")
        assert sidecar.stop() == 0


def start_programs(host: Host, database: Path, folder: Path) -> None:
    """All that serves, but nginx. ``folder`` is theirs."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for port in REDIS:
        options = ["--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--dir", str(folder)]
        host.popen(["redis-server", "--port", str(port), *options], **quiet)
    host.popen([sys.executable, str(PROGRAMS / "chat_server.py"), str(CHAT)])
    host.popen([sys.executable, str(PROGRAMS / "rpc_server.py"), str(RPC)])
    # A copy: one that was in use is not ended in time to be used again.
    copy = folder / "postgres"
    subprocess.run(["cp", "-a", str(database), str(copy)], check=True)
    (copy / "everybody.conf").write_text("host all all all trust\n")
    settings = {"listen_addresses": "*", "ssl": "on", "fsync": "off", "unix_socket_directories": "", "port": POSTGRES}
    settings |= {"hba_file": copy / "everybody.conf"}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with (folder / "postgres.log").open("wb") as log:
        postgres = host.popen([*as_postgres("postgres"), "-D", str(copy), *options], stdout=log, stderr=log)
    for port in (*REDIS, CHAT, RPC):
        until_listening(host, port)
    ready = partial(says_it_is_ready, folder / "postgres.log")
    until("PostgreSQL, or its end", lambda: ready() or postgres.poll() is not None)
    assert ready(), (folder / "postgres.log").read_text()


def says_it_is_ready(log: Path) -> bool:
    """Whether PostgreSQL takes connections."""
    return "ready to accept connections" in log.read_text()


@pytest.fixture
def body(tmp_path: Path) -> Path:
    path = tmp_path / "body"
    path.write_bytes(random.Random(3).randbytes(SIZE))
    return path


# --- nginx and curl --------------------------------------------------------------------------------------------------

CURL = {
    "HTTP/1.1": ("http://web.example.com:80/f", ["--http1.1"]),
    "HTTP/2, prior knowledge": ("http://web.example.com:8080/f", ["--http2-prior-knowledge"]),
    "HTTP/2, ALPN": ("https://web.example.com:443/f", ["--http2"]),
}


@pytest.mark.parametrize(("url", "options"), CURL.values(), ids=CURL)
def test_curl_and_nginx(world: World, body: Path, tmp_path: Path, url: str, options: list[str]) -> None:
    by_http2 = options != ["--http1.1"]
    # Programs cannot read HTTP/2 without TLS: what is sent before user space has answered, here all, goes by port.
    shown = world.datapath == "ebpf" and by_http2 and url.startswith("http:")
    before = by_protocol(world, "http2")
    with nullcontext() if shown else world.only("web"):
        upload(world.client, body, url, world.address, *([HTTP2] if by_http2 else options))
        assert (world.web.root / "f").read_bytes() == body.read_bytes()
        resolve = f"{url.split('/')[2]}:{world.address}"
        # curl 7.88 cannot send a second request by HTTP/2 with prior knowledge.
        got = [tmp_path / name for name in (("one",) if by_http2 else ("one", "two"))]
        command = ["curl", "-sS", "-v", "-k", "-f", "--max-time", "20", "--resolve", resolve, *options]
        command += [word for path in got for word in ("-o", str(path), url)]
        said = world.client.run(command).stderr
    assert {path.read_bytes() for path in got} == {body.read_bytes()}
    assert said.count("Re-using existing connection") == len(got) - 1, "it is kept"
    if shown:
        until("both connections to be in their class", lambda: by_protocol(world, "http2") == before + 2)


def by_protocol(world: World, protocol: str) -> int:
    """Connections that the class of the web has had."""
    return world.sidecar.connections("web").get(protocol, 0)


# --- WebSocket -------------------------------------------------------------------------------------------------------


def test_a_websocket_on_a_connection_that_had_another_request_before(world: World) -> None:
    """Behind nginx. Followed, the upgrade is what decides, for as long as the connection lives; else the first request."""
    argv = [sys.executable, str(PROGRAMS / "chat_client.py"), world.address, "web.example.com", "chat.example.com"]
    with world.only("chat" if world.follows else "web"):
        assert world.client.run([*argv, str(SIZE)]).stdout == "same\n"


def test_a_websocket_from_its_first_byte(world: World) -> None:
    argv = [sys.executable, str(PROGRAMS / "chat_client.py"), world.address, "chat.example.com", "chat.example.com"]
    with world.only("chat"):
        assert world.client.run([*argv, str(SIZE)]).stdout == "same\n"


# --- gRPC ------------------------------------------------------------------------------------------------------------


def test_grpc_calls_and_streams(world: World) -> None:
    """gRPC's core library, that of Python, C++ and others, waits for the server's SETTINGS before it makes a request.

    So there must be a server before there is a name, and the name decides when it comes.
    """
    argv = [sys.executable, str(PROGRAMS / "rpc_client.py"), world.address, str(RPC), "rpc.example.com", str(SIZE)]
    with world.only("rpc"):
        assert world.client.run(argv).stdout == "same\n"


# --- Redis -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", REDIS, ids=REDIS.values())
def test_redis_pipelining_and_large_values(world: World, port: int) -> None:
    """Its first bytes are none that name anything, so its port decides, whether or not somebody looks at them."""
    where = ["-h", world.address, "-p", str(port)]
    value = "".join(random.Random(port).choices("abcdefghij", k=SIZE))
    with world.only("cache"):
        assert world.client.run(["redis-cli", *where, "-x", "SET", "large"], stdin=value).stdout == "OK\n"
        assert world.client.run(["redis-cli", *where, "GET", "large"]).stdout == f"{value}\n"
        pushes = "".join(f"RPUSH list {number}\r\n" for number in range(5000))
        said = world.client.run(["redis-cli", *where, "--pipe"], stdin=pushes).stdout
        assert "errors: 0, replies: 5000" in said
        kept = world.client.run(["redis-cli", *where, "LRANGE", "list", "0", "-1"]).stdout.split()
        assert kept == [str(number) for number in range(5000)]
        load = ["redis-benchmark", *where, "-P", "50", "-c", "10", "-n", "5000", "-q", "-t", "set,get", "-d", "100"]
        assert world.client.run(load).stdout.count("requests per second") == 2
        world.client.run(["redis-cli", *where, "DEL", "list"])


@pytest.mark.parametrize("port", REDIS, ids=REDIS.values())
def test_redis_subscriptions(world: World, port: int) -> None:
    """The client is silent from then on, and the server speaks whenever it likes."""
    cli = ["redis-cli", "-h", world.address, "-p", str(port)]
    subscriber = world.client.popen([*cli, "SUBSCRIBE", "news"], stdout=subprocess.PIPE, text=True)
    read_until(subscriber, "subscribe")
    publish = partial(world.server.run, ["redis-cli", "-p", str(port), "-x", "PUBLISH", "news"])
    # One after another: of two that arrive together, redis-cli keeps the second one to itself.
    for text in ("first", "x" * SIZE, "last"):
        assert publish(stdin=text).stdout == "1\n"
        assert text in read_until(subscriber, text).splitlines()
    subscriber.terminate()
    subscriber.communicate()


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_postgresql(world: World, tls: bool) -> None:
    """A client that wants TLS asks the server first, in eight bytes of PostgreSQL's own (SSLRequest), and sends its
    ClientHello when the answer has come. So what is seen first names nothing, and the port decides, not the server name.
    """
    mode = "require" if tls else "disable"
    where = f"host={world.address} port={POSTGRES} user=postgres dbname=postgres sslmode={mode}"
    psql = ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", where]
    source = random.Random(5)
    rows = "".join(f"{number}\t{source.getrandbits(128):032x}\n" for number in range(SIZE // 32))
    with world.only("db"):
        seen = world.client.run([*psql, "-c", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"]).stdout
        assert seen == ("t\n" if tls else "f\n")
        world.client.run([*psql, "-c", f"CREATE TABLE t_{mode} (n int, word text)"])
        world.client.run([*psql, "-c", f"COPY t_{mode} FROM STDIN"], stdin=rows)
        assert world.client.run([*psql, "-c", f"COPY (SELECT * FROM t_{mode} ORDER BY n) TO STDOUT"]).stdout == rows
        world.client.run([*psql, "-c", f"DROP TABLE t_{mode}"])
    if world.datapath == "relay":
        assert until("to be seen", lambda: world.sidecar.connections("db")).keys() == {"opaque"}
