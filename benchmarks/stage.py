"""Where everything is measured: client - Pod - node - server in network namespaces, with real servers.

The client runs inside the Pod, as the application would; inbound, the servers run there, and the client outside.
Pinning (the proxy on one CPU, client and server on the other) is the same for every candidate, so that nobody is
measured with more machine than another.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Final, Self

from benchmarks.errors import BenchmarkError, MeasurementError
from benchmarks.policies import FIRST_SINK_PORT, HTTP_PORT_OFFSET, BenchPolicy
from benchmarks.processes import wait_until
from podlane.errors import LabError
from podlane.netns import Host, Lab, PodNodeServer, pod_node_server
from podlane.netns.tools import require_tool
from tc_core.apply.execute import apply, clear
from tc_core.compile.mark_tree import compile_policy
from tc_core.probe import features
from tc_core.probe.capability import Features
from tc_core.rtnetlink.kernel import NetlinkKernel

INTERFACE: Final = "eth0"
HTTP_PORT, TLS_PORT, HTTP2_PORT, IPERF_PORT = 80, 443, 8080, 5201
SINK_PORTS: Final = (FIRST_SINK_PORT, FIRST_SINK_PORT + 1)
_SMALL_REQUESTS: Final = tuple(port + HTTP_PORT_OFFSET for port in SINK_PORTS)
PAGE: Final = "/s"
PAGE_BYTES: Final = 1024
_OPEN_FILES: Final = 200_000
_SYSCTLS: Final = {
    "net.ipv4.tcp_congestion_control": "reno",  # BBR on a veth pair is a third as fast and measures itself
    "net.ipv4.ip_local_port_range": "16000 65000",  # clear of every listener
    "net.ipv4.tcp_tw_reuse": "1",
    "net.core.somaxconn": "8192",
    "net.ipv4.tcp_max_syn_backlog": "16384",
}
_CONNTRACK: Final = {
    # Tens of thousands of connections a second would fill the table in seconds with those that have ended.
    "net.netfilter.nf_conntrack_tcp_timeout_time_wait": "1",
    "net.netfilter.nf_conntrack_tcp_timeout_close": "1",
}


@dataclass(frozen=True, slots=True)
class Placement:
    """Which CPU the proxy has, and which the client and the server share."""

    proxy: int = 0
    others: int = 1


class Stage:
    """The namespaces, the servers, and what candidates and metrics do with them; a context manager.

    ``inbound``: the servers are in the Pod and clients at the other end.
    """

    def __init__(self, placement: Placement, *, inbound: bool = False) -> None:
        self.placement = placement
        self.inbound = inbound
        self._stack = ExitStack()
        self.folder = Path()
        self.topology: PodNodeServer

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="podlane-bench-")))
            self.folder.chmod(0o755)  # servers that give up root read their files here
            _allow_many_files()
            lab = stack.enter_context(Lab("bench"))
            self.topology = pod_node_server(lab, sysctls=_SYSCTLS)
            for key, value in _CONNTRACK.items():
                self.pod.namespace.write_sysctl(key, value)
            self.hosts = self.folder / "hosts"
            self._start_servers()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @property
    def pod(self) -> Host:
        return self.topology.pod

    @property
    def server(self) -> Host:
        """Where the servers are."""
        return self.pod if self.inbound else self.topology.server

    @property
    def asking(self) -> Host:
        """Where the clients are."""
        return self.topology.server if self.inbound else self.pod

    @property
    def address(self) -> str:
        """The servers' IPv4 address."""
        return str(self.topology.pod_link.a.ipv4) if self.inbound else self.topology.server_ipv4

    # --- programs --------------------------------------------------------------------------------------------------

    def client(self, argv: Sequence[str], *, cpu: int | None = None) -> list[str]:
        """``argv`` as a command for a client: pinned, with the server's address for every name in /etc/hosts."""
        script = 'mount --bind "$0" /etc/hosts && exec "$@"'
        return [*self.pinned(cpu), "unshare", "--mount", "sh", "-c", script, str(self.hosts), *argv]

    def run_client(self, argv: Sequence[str], *, seconds: float, cpu: int | None = None) -> str:
        """Run a client to its end and give what it printed; it is expected to take ``seconds``.

        Raises :class:`MeasurementError` with its words when it fails or hangs.
        """
        try:
            return self.asking.run(self.client(argv, cpu=cpu), timeout=seconds * 2 + 30).stdout
        except LabError as error:
            raise MeasurementError(str(error)) from None

    def worker(self, name: str, *arguments: str) -> list[str]:
        """The command of one of :mod:`benchmarks.workers`."""
        return [sys.executable, "-m", f"benchmarks.workers.{name}", *arguments]

    def pinned(self, cpu: int | None = None) -> list[str]:
        """What puts a command on a CPU; by default on that of client and server."""
        return ["taskset", "-c", str(self.placement.others if cpu is None else cpu)]

    def name_hosts(self, policy: BenchPolicy) -> None:
        """Let the names of a policy's classes lead to the server."""
        names = " ".join(c.host for c in policy.classes)
        self.hosts.write_text(f"127.0.0.1 localhost\n{self.address} server.example.com {names}\n")

    @contextmanager
    def log(self, name: str) -> Iterator[IO[bytes]]:
        """A file for what a program says; :meth:`last_words` reads it."""
        with (self.folder / f"{name}.log").open("ab") as stream:
            yield stream

    def last_words(self, name: str) -> str:
        """The end of a program's log."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace").strip()[-1500:] if path.exists() else ""

    def features(self) -> Features:
        """What this kernel can do."""
        return _kernel_features()

    # --- traffic control -------------------------------------------------------------------------------------------

    @contextmanager
    def shaped(self, policy: BenchPolicy, *, by_port: bool = False) -> Iterator[None]:
        """The product's HTB tree for a policy on the Pod's interface, for candidates that do not bring their own."""
        traffic = policy.policy(by_port=by_port)
        with self.pod.namespace.entered(), NetlinkKernel() as kernel:
            tree = compile_policy(traffic, self.features(), policy.ids)
            apply(kernel, INTERFACE, tree)
        try:
            yield
        finally:
            with self.pod.namespace.entered(), NetlinkKernel() as kernel:
                clear(kernel, INTERFACE)

    # --- servers ---------------------------------------------------------------------------------------------------

    def _start_servers(self) -> None:
        certificate, key = self.folder / "cert.pem", self.folder / "key.pem"
        (self.folder / PAGE.removeprefix("/")).write_bytes(b"x" * PAGE_BYTES)
        _make_certificate(certificate, key)
        (self.folder / "server.conf").write_text(_server_configuration(self.folder, certificate, key))
        self._serve("nginx", ["nginx", "-p", str(self.folder), "-c", str(self.folder / "server.conf")], TLS_PORT)
        self._serve("iperf3", ["iperf3", "-s"], IPERF_PORT)
        self._serve("sink", self.worker("sink", *map(str, SINK_PORTS)), SINK_PORTS[-1])

    def _serve(self, name: str, argv: list[str], port: int) -> None:
        with self.log(name) as stream:
            process = self.server.popen(
                [*self.pinned(), require_tool(argv[0]), *argv[1:]],
                stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, process_group=0,
            )  # fmt: skip
        try:
            wait_until(f"a listener on port {port}", process.pid, lambda: listens(self.server, port))
        except BenchmarkError as error:
            raise BenchmarkError(
                f"The server {name} does not serve: {error}. It said: {self.last_words(name)}"
            ) from None


def listens(host: Host, port: int) -> bool:
    """Whether some process of the host listens on a TCP port."""
    suffix = f":{port:04X}"
    rows = host.read("/proc/net/tcp").splitlines()[1:] + host.read("/proc/net/tcp6").splitlines()[1:]
    return any(row.split()[1].endswith(suffix) and row.split()[3] == "0A" for row in rows)


def _allow_many_files() -> None:
    """What candidates and clients inherit: 5,000 connections are 10,000 descriptors of a proxy, and as many pipes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(hard, _OPEN_FILES) if hard != resource.RLIM_INFINITY else _OPEN_FILES
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _make_certificate(certificate: Path, key: Path) -> None:
    done = subprocess.run(
        [
            *(require_tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-days", "2", "-subj", "/CN=example.com", "-addext", "subjectAltName=DNS:*.example.com"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchmarkError(f"openssl cannot make a certificate: {done.stderr.strip()}")


def _server_configuration(folder: Path, certificate: Path, key: Path) -> str:
    """nginx as the server: one worker, keep-alive without end; plain HTTP, TLS, and HTTP/2 without TLS."""
    small = " ".join(f"listen {port};" for port in _SMALL_REQUESTS)
    return f"""\
daemon off; user root; worker_processes 1; pid {folder}/server.pid; error_log {folder}/nginx.log;
events {{ worker_connections 50000; }}
http {{
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; default_type text/plain;
  keepalive_timeout 3600s; keepalive_requests 100000000; open_file_cache max=100 inactive=1h;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{ listen {HTTP_PORT} backlog=8192; {small} root {folder}; }}
  server {{ listen {HTTP2_PORT} http2 backlog=8192; root {folder}; http2_max_concurrent_streams 1000; }}
  server {{
    listen {TLS_PORT} ssl backlog=8192; root {folder};
    ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_session_tickets off; ssl_session_cache off;
  }}
}}
"""


@cache
def _kernel_features() -> Features:
    return features.probe()
