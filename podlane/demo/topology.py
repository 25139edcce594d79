"""The topology of a part: a Pod, a node and an outside host in namespaces, servers, the sidecar, and clients.

Everything is created in one ``with`` block and removed at its end. Rates are read from the kernel's class counters on
the Pod's interface (and its ifb for received traffic), not from the sidecar's own statistics, which are under test.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from daemon.documents.classes import Class, Classes
from daemon.documents.codec import DocumentError, from_json
from podlane.admin_client import NoAnswerError, ask
from podlane.console import ignore_signals
from podlane.demo.clients import Conversation, Running, Transfer, command, start_download, start_upload
from podlane.demo.leftovers import PREFIX, own_folder
from podlane.demo.programs import DemoProgram, ProgramStarter
from podlane.demo.requirements import INTERFACE, quic_lanes
from podlane.demo.scenario import DemoLane, Part, Scenario, TransferDirection, TransferKind
from podlane.demo.servers import Servers, make_certificate, start_quic_server
from podlane.errors import DemoError
from podlane.netns import Host, Lab, PodNodeServer, pod_node_server
from podlane.run.proxy import sidecar_command
from tc_core.compile.mark_tree import leaf_handle
from tc_core.compile.packet_tree import ifb_name
from tc_core.handles import Handle
from tc_core.kernel import Kernel
from tc_core.rtnetlink.kernel import NetlinkKernel
from traffic_policy.marks import ClassIds
from traffic_policy.policy_file import parse_policy
from traffic_policy.settings import ADMIN_ADDRESS, ADMIN_PORT

_DEVICES: Final = {TransferDirection.SENT: INTERFACE, TransferDirection.RECEIVED: ifb_name(INTERFACE)}
"""Where the classes of what goes that way are."""
_EVERY_ADDRESS: Final = "0.0.0.0"
"""The Pod's programs listen on it, as programs do: the proxy reaches them at their loopback address."""
READY_PATIENCE: Final = 60.0
"""Seconds until the sidecar has everything in force; imports and the look at the kernel are the slow parts."""
STOP_PATIENCE: Final = 15.0
CHANGE_PATIENCE: Final = 5.0
"""Seconds until changed limits must be in force; the change itself takes milliseconds."""
_FINISH_PATIENCE: Final = 20.0
"""Seconds for what is on its way when the transfers end: under a megabyte each, at 5 Mbit/s or more."""
_POLL_SECONDS: Final = 0.02
_POLICY: Final = "policy.yaml"

SYSCTLS: Final = {
    # Always there and the same everywhere; what a host prefers (bbr paces by itself) would show in the picture.
    "net.ipv4.tcp_congestion_control": "reno",
    # Small socket buffers: an upload that ends is over in a moment, instead of after megabytes at a few Mbit/s.
    "net.ipv4.tcp_wmem": "4096 65536 262144",
    "net.ipv4.tcp_rmem": "4096 131072 262144",
}


@dataclass
class DemoTopology:
    """Everything that runs. Get one from :func:`open_topology`."""

    scenario: Scenario
    folder: Path
    hosts: PodNodeServer
    servers: Servers
    pod_servers: Servers
    quic_server: DemoProgram | None
    certificate: Path
    sidecar: DemoProgram
    kernel: Kernel
    handles: Mapping[str, Handle]
    transfers: dict[str, Running] = field(default_factory=dict)
    _conversation: Conversation | None = None

    def start_lane(self, lane: DemoLane) -> None:
        """Start the lane's transfer."""
        host, servers, address = self.hosts.pod, self.servers, self.hosts.server_ipv4
        if lane.kind is TransferKind.REQUEST:
            if self._conversation is None:
                requests = [each for each in self.scenario.lanes if each.kind is TransferKind.REQUEST]
                self._conversation = Conversation(requests, host, servers, address, self.certificate, self.folder)
            self.transfers[lane.name] = self._conversation.start_upload(lane)
            return
        if lane.kind is TransferKind.ANSWER:
            host, servers, address = self.hosts.server, self.pod_servers, str(self.hosts.pod_link.a.ipv4)
        start = start_upload if lane.kind.uploads else start_download
        argv = command(lane, address, self.certificate)
        self.transfers[lane.name] = start(lane, host, servers, argv, self.folder)

    def change_limits(self) -> None:
        """Put the second policy in force, as an operator would: rewrite the file and send SIGHUP. Raises DemoError."""
        _write_policy(self.folder, self.scenario.part, changed=True)
        self.sidecar.process.send_signal(signal.SIGHUP)
        wait_for_change(self.scenario, self._classes, self.sidecar)

    def sent(self) -> dict[str, int]:
        """Bytes that each lane's class has let through so far, from the kernel."""
        counters = {way: self.kernel.counters(_DEVICES[way]) for way in self.scenario.totals}
        return {lane.name: counters[lane.kind.way][self.handles[lane.name]].bytes for lane in self.scenario.lanes}

    def protocols(self) -> dict[str, tuple[str, ...]]:
        """What the proxy recognised each lane's connections as; empty for what never went through it."""
        return {c.name: tuple(c.connections.by_protocol) for c in self._classes() if c.connections is not None}

    def check(self) -> None:
        """Raise :class:`DemoError` when something has ended that should still run."""
        for each in (self.sidecar, self.servers, self.pod_servers, self.quic_server, *self.transfers.values()):
            if each is not None:
                each.check()

    def finish(self) -> list[Transfer]:
        """What became of all transfers, which end now."""
        return results(self.scenario, self.transfers)

    def clients_known(self) -> bool:
        """Whether the Pod's server, if it had clients, saw their address, which is that of the host outside."""
        has_clients = any(transfer.lane.kind is TransferKind.ANSWER for transfer in self.transfers.values())
        return self.pod_servers.clients() == ({self.hosts.server_ipv4} if has_clients else set())

    def remarks(self) -> tuple[tuple[bool, str], ...]:
        """Nothing more to tell."""
        return ()

    def stop(self) -> None:
        """Stop the sidecar as Kubernetes would; raises :class:`DemoError` when it does not end well."""
        self.sidecar.stop(STOP_PATIENCE)

    def _classes(self) -> tuple[Class, ...]:
        with self.hosts.pod.namespace.entered():
            try:
                answer = ask(ADMIN_ADDRESS, ADMIN_PORT, "/classes", CHANGE_PATIENCE)
                return from_json(Classes, json.loads(answer.body)).classes
            except (NoAnswerError, ValueError, DocumentError) as error:
                raise DemoError(f"The sidecar's admin server does not answer: {error}.") from None


def wait_for_change(scenario: Scenario, classes: Callable[[], Iterable[Class]], daemon: DemoProgram) -> None:
    """Wait until the ``daemon`` has the changed limits in force, by its ``classes``. Raises :class:`DemoError`."""
    wanted = {
        name: (limits.rate.bits_per_second, limits.ceil.bits_per_second) for name, limits in scenario.after.items()
    }
    deadline = time.monotonic() + CHANGE_PATIENCE
    while True:
        found = {c.name: (c.rate_bits_per_second, c.ceil_bits_per_second) for c in classes()}
        if wanted.items() <= found.items():
            return
        daemon.check()
        if time.monotonic() > deadline:
            raise daemon.error(f"has no changed limits in force after {CHANGE_PATIENCE:g} s: found {found}.")
        time.sleep(_POLL_SECONDS)


def results(scenario: Scenario, transfers: Mapping[str, Running]) -> list[Transfer]:
    """End all transfers and wait until each has arrived; gives what became of them, in the order of the lanes."""
    for transfer in transfers.values():
        transfer.end()
    lanes = (lane.name for lane in scenario.lanes if lane.name in transfers)
    return [transfers[name].result(_FINISH_PATIENCE) for name in lanes]


@contextmanager
def open_topology(scenario: Scenario) -> Iterator[DemoTopology]:
    """Set everything up, ready for the first lane; take everything down at the end of the block, whatever happened.

    Raises :class:`DemoError`, :class:`~podlane.errors.LabError` or :class:`~traffic_policy.errors.PodlaneError`.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(own_folder())
        hosts = pod_node_server(stack.enter_context(Lab(PREFIX)), sysctls=SYSCTLS)
        certificate, key = make_certificate(folder)
        for host in (hosts.server, hosts.pod):
            (folder / host.short_name).mkdir()
        servers = Servers(hosts.server, folder / "server", hosts.server_ipv4, certificate, key)
        pod_servers = Servers(hosts.pod, folder / "pod", _EVERY_ADDRESS, certificate, key)
        quic_server = None
        if quic_lanes(scenario.part):
            quic_server = start_quic_server(hosts.server, folder, hosts.server_ipv4, certificate, key)
        _write_policy(folder, scenario.part, changed=False)
        sidecar = _start_sidecar(hosts, folder)
        with hosts.pod.namespace.entered():
            kernel = stack.enter_context(NetlinkKernel())
        ids = ClassIds.assign(c.name for c in parse_policy(scenario.part.policy_text()).classes)
        handles = {lane.name: leaf_handle(ids[lane.name]) for lane in scenario.lanes}
        # Runs first: a second Ctrl-C must not stop the clearing up.
        stack.callback(ignore_signals)
        yield DemoTopology(
            scenario, folder, hosts, servers, pod_servers, quic_server, certificate, sidecar, kernel, handles
        )


def _write_policy(folder: Path, part: Part, *, changed: bool) -> None:
    # Replaced in one step: the sidecar must never read half a file.
    new = folder / "policy.new"
    new.write_text(part.policy_text(changed=changed), encoding="utf-8")
    new.replace(folder / _POLICY)


def _start_sidecar(hosts: PodNodeServer, folder: Path) -> DemoProgram:
    options = ["--policy", str(folder / _POLICY), "--interface", INTERFACE, "--grace", "3s"]
    options += ["--admin-port", str(ADMIN_PORT), "--log-level", "info"]
    return start_daemon("The sidecar", hosts.pod, sidecar_command(*options), folder / "sidecar.log")


def start_daemon(name: str, host: Host, argv: list[str], log: Path) -> DemoProgram:
    """Start a daemon of ours that has ``--ready-fd``, and wait until it is ready. Raises :class:`DemoError`."""
    starting = launch_daemon(name, host, argv, log)
    starting.wait_ready()
    return starting.daemon


@dataclass
class StartingDaemon:
    """A daemon that was started, and the pipe by which it says that it is ready."""

    daemon: DemoProgram
    _ready: int

    def wait_ready(self) -> str:
        """Wait until it is ready, once; gives what it said. Raises :class:`DemoError`."""
        with os.fdopen(self._ready, "rb", buffering=0) as stream:
            readable, _, _ = select.select([stream], [], [], READY_PATIENCE)
            if readable and (said := stream.read(64)):
                return said.decode()
        happened = "ended before it was ready" if readable else f"did not get ready within {READY_PATIENCE:g} s"
        raise self.daemon.error(f"{happened}.")


def launch_daemon(
    name: str, host: ProgramStarter, argv: list[str], log: Path, stdout: int = subprocess.DEVNULL
) -> StartingDaemon:
    """Start a daemon of ours that has ``--ready-fd``. Raises :class:`DemoError`."""
    ready, writing = os.pipe2(os.O_CLOEXEC)
    # Settings of the user's own daemons must not change the demo.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PODLANE_")}
    try:
        daemon = DemoProgram(
            name,
            host,
            [*argv, "--ready-fd", str(writing)],
            log,
            subprocess.DEVNULL,
            stdout=stdout,
            pass_fds=(writing,),
            env={**environment, "NO_COLOR": "1"},
        )
    finally:
        os.close(writing)
    return StartingDaemon(daemon, ready)
