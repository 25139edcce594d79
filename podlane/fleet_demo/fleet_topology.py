"""The topology of the fleet's demo: Pods and a server in namespaces; a control plane and five agents on this machine.

The agents are processes of this machine, as those of five nodes would be of theirs: each with a name, a folder and Pods
of its own. They reach the control plane by mutual TLS on a loopback address. All is made in one ``with`` block.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from podlane.console import ignore_signals
from podlane.demo.clients import Running, Transfer, command, start_upload
from podlane.demo.leftovers import PREFIX, own_folder
from podlane.demo.programs import DemoProgram
from podlane.demo.requirements import INTERFACE
from podlane.demo.servers import PYTHON_MODULE, Servers, make_certificate
from podlane.demo.topology import STOP_PATIENCE, SYSCTLS, StartingDaemon, launch_daemon
from podlane.fleet.client import FleetClient
from podlane.fleet.contexts import FleetContext
from podlane.fleet_demo.parts import CLUSTER, LABEL, LANES, NODES
from podlane.netns import Host, Lab
from podlane.netns.lab import end_processes
from tc_core.compile.mark_tree import leaf_handle
from tc_core.handles import Handle
from tc_core.kernel import Kernel
from tc_core.rtnetlink.kernel import NetlinkKernel
from traffic_policy.marks import ClassIds
from traffic_policy.units import Rate

TENANT: Final = "default"
_TOKEN_PATIENCE: Final = 10.0
_CLASS: Final = re.compile(r"^class htb (\S+) .*\brate (\S+) ceil (\S+)", re.MULTILINE)
_FINISH_PATIENCE: Final = 20.0

PodKey = tuple[str, str]
"""Node, and what the Pod is."""


@dataclass(eq=False)
class ThisMachine:
    """Where the control plane and the agents run: in no namespace of ours."""

    _processes: list[subprocess.Popen[Any]] = field(default_factory=list)

    def popen(self, argv: list[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a program; :meth:`end_programs` ends it at the latest."""
        process = subprocess.Popen(argv, **options)
        self._processes.append(process)
        return process

    def end_programs(self) -> None:
        """End everything that :meth:`popen` started."""
        end_processes(self._processes)


@dataclass
class FleetTopology:
    """Everything that runs. Get one from :func:`open_fleet_topology`."""

    folder: Path
    pods: Mapping[PodKey, Host]
    address: str
    servers: Servers
    certificate: Path
    control_plane: DemoProgram
    agents: Mapping[str, DemoProgram]
    client: FleetClient
    kernels: Mapping[PodKey, Kernel]
    transfers: dict[tuple[PodKey, str], Running] = field(default_factory=dict)

    def start_traffic(self) -> None:
        """Start all uploads of all Pods."""
        for key, pod in self.pods.items():
            for lane in LANES[key[1]]:
                argv = command(lane, self.address, self.certificate)
                folder = self.folder / pod.short_name
                folder.mkdir(exist_ok=True)
                self.transfers[key, lane.name] = start_upload(lane, pod, self.servers, argv, folder)

    def sent(self, app: str) -> dict[tuple[str, str], int]:
        """Bytes that each lane's class has let through so far, by node and lane, from the kernel."""
        handles = lane_handles(app)
        found: dict[tuple[str, str], int] = {}
        for (node, what), kernel in self.kernels.items():
            if what == app:
                counters = kernel.counters(INTERFACE)
                found |= {(node, lane): counters[handle].bytes for lane, handle in handles.items()}
        return found

    def limits(self, node: str, app: str) -> dict[str, tuple[int, int]]:
        """Guarantee and ceil of each lane in bit/s, as tc(8) shows them in the Pod."""
        said = self.pods[node, app].run(["tc", "class", "show", "dev", INTERFACE]).stdout
        lanes = {str(handle): lane for lane, handle in lane_handles(app).items()}
        return {
            lanes[handle]: (Rate.parse(rate).bits_per_second, Rate.parse(ceil).bits_per_second)
            for handle, rate, ceil in _CLASS.findall(said)
            if handle in lanes
        }

    def check(self) -> None:
        """Raise :class:`DemoError` when something has ended that should still run."""
        for program in (self.control_plane, *self.agents.values()):
            program.check()
        self.servers.check()
        for transfer in self.transfers.values():
            transfer.check()

    def finish(self) -> list[Transfer]:
        """What became of all transfers, which end now."""
        for transfer in self.transfers.values():
            transfer.end()
        return [transfer.result(_FINISH_PATIENCE) for transfer in self.transfers.values()]

    def stop(self) -> None:
        """Stop the agents and the control plane as systemd would. Raises :class:`DemoError`."""
        for program in (*self.agents.values(), self.control_plane):
            program.stop(STOP_PATIENCE)


def lane_handles(app: str) -> dict[str, Handle]:
    """The class of each lane of a Pod."""
    ids = ClassIds.assign(lane.name for lane in LANES[app])
    return {lane.name: leaf_handle(ids[lane.name]) for lane in LANES[app]}


@contextmanager
def open_fleet_topology() -> Iterator[FleetTopology]:
    """Set everything up, with agents that have joined; take everything down at the end of the block, whatever happened.

    Raises :class:`DemoError`, :class:`~podlane.errors.LabError` or :class:`~traffic_policy.errors.PodlaneError`.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(own_folder())
        lab = stack.enter_context(Lab(PREFIX))
        machine = ThisMachine()
        stack.callback(machine.end_programs)
        starting = _launch_control_plane(machine, folder)
        net, server = lab.host("net", forward=True), lab.host("server", sysctls=SYSCTLS)
        pods = {}
        for number, node in enumerate(NODES, 1):
            for app in LANES:
                pods[node, app] = pod = lab.host(f"{app}-{number}", sysctls=SYSCTLS)
                lab.link(pod, INTERFACE, net, pod.short_name, gateway=True)
        address = str(lab.link(server, INTERFACE, net, "server0", gateway=True).a.ipv4)
        certificate, key = make_certificate(folder)
        (folder / "server").mkdir()
        servers = Servers(server, folder / "server", address, certificate, key)
        client, agents_port = _connect(starting)
        client.ask("PUT", client.about("clusters", CLUSTER))
        joining = {node: _launch_agent(machine, folder, node, pods, client, agents_port) for node in NODES}
        for agent in joining.values():
            agent.wait_ready()
        kernels = dict[PodKey, Kernel]()
        for place, pod in pods.items():
            with pod.namespace.entered():
                kernels[place] = stack.enter_context(NetlinkKernel())
        # Runs first: a second Ctrl-C must not stop the clearing up.
        stack.callback(ignore_signals)
        agents = {node: agent.daemon for node, agent in joining.items()}
        yield FleetTopology(folder, pods, address, servers, certificate, starting.daemon, agents, client, kernels)


def _launch_control_plane(machine: ThisMachine, folder: Path) -> StartingDaemon:
    argv = [*PYTHON_MODULE, "podlane", "control-plane", "--state", str(folder / "control-plane")]
    argv += ["--port", "0", "--agents-port", "0"]
    return launch_daemon("The control plane", machine, argv, folder / "control-plane.log", stdout=subprocess.PIPE)


def _connect(starting: StartingDaemon) -> tuple[FleetClient, int]:
    """An administrator's connection, and the port of agents."""
    ports = starting.wait_ready().split()
    token = starting.daemon.line(_TOKEN_PATIENCE)
    if len(ports) != 2 or not token:
        raise starting.daemon.error(f"has said no ports, or no token: {ports}.")
    return FleetClient(FleetContext(f"http://127.0.0.1:{ports[0]}", token, TENANT)), int(ports[1])


def _launch_agent(
    machine: ThisMachine, folder: Path, node: str, pods: Mapping[PodKey, Host], client: FleetClient, port: int
) -> StartingDaemon:
    token = client.ask("POST", client.about("clusters", CLUSTER, "join-tokens"), {"node": node})["token"]
    own = folder / node
    own.mkdir()
    # Like the data of each agent it is for root alone, and good once.
    (own / "join-token").write_text(token)
    entries = [
        {"name": app, "netns": pod.namespace.name, "interface": INTERFACE, "labels": {LABEL: app}}
        for (where, app), pod in pods.items()
        if where == node
    ]
    (own / "workloads.yaml").write_text(yaml.safe_dump({"workloads": entries}))
    argv = [*PYTHON_MODULE, "podlane", "agent", "--workloads", str(own / "workloads.yaml"), "--name", node]
    argv += ["--control-plane", f"127.0.0.1:{port}", "--join-token", f"@{own / 'join-token'}", "--admin-port", "0"]
    argv += ["--state", str(own / "state"), "--data", str(own / "data")]
    return launch_daemon(f"The agent of {node}", machine, argv, own / "agent.log")
