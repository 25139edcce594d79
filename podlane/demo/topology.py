"""The stage of a part: a Pod, a node and a host outside in namespaces, servers, the sidecar, clients that come and go.

Everything is made in one ``with`` block and gone at its end. What is measured is read straight from the kernel's class
counters on the Pod's interface (and, of what arrives, on its ifb), not from the sidecar's own statistics: the one who
is judged does not keep the score.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from daemon.documents.classes import Class, Classes
from daemon.documents.codec import DocumentError, from_json
from podlane.admin_client import ADMIN_PORT, NoAnswerError, ask
from podlane.demo.clients import Downloader, Running, Transfer, Uploader
from podlane.demo.conversation import Conversation, Request
from podlane.demo.kernel import INTERFACE
from podlane.demo.leftovers import PREFIX, own_folder
from podlane.demo.programs import guarded, last_words
from podlane.demo.quic import QuicServer, quic_lanes, start_quic_server
from podlane.demo.scenario import Kind, Lane, Part, Scenario, Way
from podlane.demo.servers import Servers, make_certificate, start_servers
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

_DEVICES: Final = {Way.SENT: INTERFACE, Way.RECEIVED: ifb_name(INTERFACE)}
"""Where the classes of what goes that way are."""
_EVERY_ADDRESS: Final = "0.0.0.0"
"""The Pod's programs listen on it, as programs do: the proxy reaches them at their loopback address."""
_READY_PATIENCE: Final = 60.0
"""Seconds until the sidecar has everything in force; imports and the look at the kernel are the slow parts."""
_STOP_PATIENCE: Final = 15.0
_CHANGE_PATIENCE: Final = 5.0
"""Seconds until changed limits must be in force; the change itself takes milliseconds."""
_FINISH_PATIENCE: Final = 20.0
"""Seconds for what is on its way when the transfers end: under a megabyte each, at 5 Mbit/s or more."""
_POLL_SECONDS: Final = 0.02

SYSCTLS: Final = {
    # Always there and the same everywhere; what a host prefers (bbr paces by itself) would show in the picture.
    "net.ipv4.tcp_congestion_control": "reno",
    # Small socket buffers: an upload that ends is over in a moment, instead of after megabytes at a few Mbit/s.
    "net.ipv4.tcp_wmem": "4096 65536 262144",
    "net.ipv4.tcp_rmem": "4096 131072 262144",
}


@dataclass
class Stage:
    """Everything that runs. Get one from :func:`open_stage`."""

    scenario: Scenario
    folder: Path
    hosts: PodNodeServer
    servers: Servers
    pod_servers: Servers
    quic_server: QuicServer | None
    certificate: Path
    sidecar: subprocess.Popen[Any]
    kernel: Kernel
    handles: Mapping[str, Handle]
    transfers: dict[str, Running] = field(default_factory=dict)
    _conversation: Conversation | None = None

    def start_lane(self, lane: Lane) -> None:
        """Start the lane's transfer."""
        self.transfers[lane.name] = self._start(lane)

    def _start(self, lane: Lane) -> Running:
        pod, outside = self.hosts.pod, self.hosts.server
        common = (self.certificate, self.folder)
        match lane.kind:
            case Kind.UPLOAD:
                return Uploader(lane, pod, self.servers, self.hosts.server_ipv4, *common)
            case Kind.DOWNLOAD:
                return Downloader(lane, pod, self.servers, self.hosts.server_ipv4, *common)
            case Kind.ANSWER:
                return Downloader(lane, outside, self.pod_servers, str(self.hosts.pod_link.a.ipv4), *common)
            case Kind.REQUEST:
                if self._conversation is None:
                    requests = [each for each in self.scenario.lanes if each.kind is Kind.REQUEST]
                    self._conversation = Conversation(requests, pod, self.hosts.server_ipv4, *common)
                return Request(lane, self._conversation)

    def end_lane(self, name: str) -> None:
        """Let the lane's transfer finish."""
        self.transfers[name].end()

    def change_limits(self) -> None:
        """Put the second policy in force, as an operator would: rewrite the file and send SIGHUP. Raises DemoError."""
        _write_policy(self.folder, self.scenario.part, changed=True)
        self.sidecar.send_signal(signal.SIGHUP)
        wanted = {
            name: (limits.rate.bits_per_second, limits.ceil.bits_per_second)
            for name, limits in self.scenario.after.items()
        }
        deadline = time.monotonic() + _CHANGE_PATIENCE
        while (found := self._limits()) != wanted:
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(
                    f"The changed limits are not in force after {_CHANGE_PATIENCE:g} s: found {found}."
                    f"{last_words(_sidecar_log(self.folder))}"
                )
            time.sleep(_POLL_SECONDS)

    def sent(self) -> dict[str, int]:
        """Bytes that each lane's class has let through so far, from the kernel."""
        counters = {way: self.kernel.counters(_DEVICES[way]) for way in self.scenario.totals}
        return {lane.name: counters[lane.kind.way][self.handles[lane.name]].bytes for lane in self.scenario.lanes}

    def protocols(self) -> dict[str, tuple[str, ...]]:
        """What the proxy recognised each lane's connections as; empty for what never went through it."""
        return {c.name: tuple(c.connections.by_protocol) for c in self._classes() if c.connections is not None}

    def check(self) -> None:
        """Raise :class:`DemoError` when something has ended that should still run."""
        if self.sidecar.poll() is not None:
            raise DemoError(f"The sidecar ended with {self.sidecar.returncode}.{last_words(_sidecar_log(self.folder))}")
        for servers in (self.servers, self.pod_servers, self.quic_server):
            if servers is not None:
                servers.check()
        for transfer in self.transfers.values():
            transfer.check()

    def finish(self) -> list[Transfer]:
        """End all transfers and wait until each has arrived; gives what became of them, in the order of the lanes."""
        for transfer in self.transfers.values():
            transfer.end()
        lanes = (lane.name for lane in self.scenario.lanes if lane.name in self.transfers)
        return [self.transfers[name].result(_FINISH_PATIENCE) for name in lanes]

    def clients_known(self) -> bool:
        """Whether the Pod's server, if it had clients, saw their address, which is that of the host outside."""
        has_clients = any(transfer.lane.kind is Kind.ANSWER for transfer in self.transfers.values())
        return self.pod_servers.clients() == ({self.hosts.server_ipv4} if has_clients else set())

    def stop_sidecar(self) -> None:
        """Stop it as Kubernetes would; raises :class:`DemoError` when it does not end well."""
        self.sidecar.send_signal(signal.SIGTERM)
        try:
            status = self.sidecar.wait(_STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            raise DemoError(
                f"The sidecar did not end within {_STOP_PATIENCE:g} s.{last_words(_sidecar_log(self.folder))}"
            ) from None
        if status:
            raise DemoError(f"The sidecar ended with {status}.{last_words(_sidecar_log(self.folder))}")

    def _limits(self) -> dict[str, tuple[int, int]]:
        return {
            c.name: (c.rate_bits_per_second, c.ceil_bits_per_second)
            for c in self._classes()
            if c.name in self.scenario.after
        }

    def _classes(self) -> tuple[Class, ...]:
        with self.hosts.pod.namespace.entered():
            try:
                answer = ask("127.0.0.1", ADMIN_PORT, "/classes", _CHANGE_PATIENCE)
                return from_json(Classes, json.loads(answer.body)).classes
            except (NoAnswerError, ValueError, DocumentError) as error:
                raise DemoError(f"The sidecar's admin server does not answer: {error}.") from None


@contextmanager
def open_stage(scenario: Scenario) -> Iterator[Stage]:
    """Set everything up, ready for the first lane; take everything down at the end of the block, whatever happened.

    Raises :class:`DemoError`, :class:`~podlane.errors.LabError` or :class:`~traffic_policy.errors.PodlaneError`.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(own_folder())
        hosts = pod_node_server(stack.enter_context(Lab(PREFIX)), sysctls=SYSCTLS)
        certificate, key = make_certificate(folder)
        servers, pod_servers = (
            start_servers(host, _subfolder(folder, host), address, certificate, key)
            for host, address in ((hosts.server, hosts.server_ipv4), (hosts.pod, _EVERY_ADDRESS))
        )
        quic_server = None
        if quic_lanes(scenario.part):
            quic_server = start_quic_server(hosts.server, folder, hosts.server_ipv4, certificate, key)
        _write_policy(folder, scenario.part, changed=False)
        sidecar = _start_sidecar(hosts, folder)
        with hosts.pod.namespace.entered():
            kernel = stack.enter_context(NetlinkKernel())
        ids = ClassIds.assign(c.name for c in parse_policy(scenario.part.policy_text()).classes)
        handles = {lane.name: leaf_handle(ids[lane.name]) for lane in scenario.lanes}
        stage = Stage(scenario, folder, hosts, servers, pod_servers, quic_server, certificate, sidecar, kernel, handles)
        stack.callback(_kill_feeders, stage)
        # Runs first: a second Ctrl-C must not stop the clearing up.
        stack.callback(_ignore_signals)
        yield stage


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _kill_feeders(stage: Stage) -> None:
    for transfer in stage.transfers.values():
        transfer.kill()


def _subfolder(folder: Path, host: Host) -> Path:
    made = folder / host.short_name
    made.mkdir()
    return made


def _policy_file(folder: Path) -> Path:
    return folder / "policy.yaml"


def _sidecar_log(folder: Path) -> Path:
    return folder / "sidecar.log"


def _write_policy(folder: Path, part: Part, *, changed: bool) -> None:
    # Replaced in one step: the sidecar must never read half a file.
    new = folder / "policy.new"
    new.write_text(part.policy_text(changed=changed), encoding="utf-8")
    new.replace(_policy_file(folder))


def _start_sidecar(hosts: PodNodeServer, folder: Path) -> subprocess.Popen[Any]:
    log = _sidecar_log(folder)
    ready, writing = os.pipe2(os.O_CLOEXEC)
    options = ["--policy", str(_policy_file(folder)), "--interface", INTERFACE, "--grace", "3s"]
    options += ["--admin-port", str(ADMIN_PORT), "--ready-fd", str(writing), "--log-level", "info"]
    # Settings of the user's own sidecar must not change the demo.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PODLANE_")}
    try:
        with log.open("ab") as stream:
            sidecar = hosts.pod.popen(
                guarded(sidecar_command(*options)),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                pass_fds=(writing,),
                env={**environment, "NO_COLOR": "1"},
                start_new_session=True,
            )
    finally:
        os.close(writing)
    try:
        readable, _, _ = select.select([ready], [], [], _READY_PATIENCE)
        said = os.read(ready, 64) if readable else b""
    finally:
        os.close(ready)
    if not said:
        happened = "ended before it was ready" if readable else f"did not get ready within {_READY_PATIENCE:g} s"
        raise DemoError(f"The sidecar {happened}.{last_words(log)}")
    return sidecar
