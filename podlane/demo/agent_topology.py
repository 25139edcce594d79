"""The topology of the agent's part: Pods and their node in namespaces, a server behind it, and one agent on the node.

As in :mod:`podlane.demo.topology` all is made in one ``with`` block, and rates are read from the kernel's counters.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml

from daemon.documents.classes import Class
from daemon.documents.codec import DocumentError, from_json
from daemon.documents.node import NodeClasses
from podlane.admin_client import NoAnswerError, ask
from podlane.console import ignore_signals
from podlane.demo.clients import Running, Transfer, command, start_upload
from podlane.demo.leftovers import PREFIX, own_folder
from podlane.demo.programs import DemoProgram
from podlane.demo.requirements import INTERFACE
from podlane.demo.scenario import DemoLane, Part, Scenario
from podlane.demo.servers import PYTHON_MODULE, Servers, make_certificate
from podlane.demo.topology import (
    CHANGE_PATIENCE,
    READY_PATIENCE,
    STOP_PATIENCE,
    SYSCTLS,
    results,
    start_daemon,
    wait_for_change,
)
from podlane.errors import DemoError
from podlane.netns import Host, Lab
from tc_core.compile.mark_tree import leaf_handle
from tc_core.handles import Handle
from tc_core.kernel import Kernel
from tc_core.rtnetlink.kernel import NetlinkKernel
from traffic_policy.marks import ClassIds
from traffic_policy.settings import ADMIN_ADDRESS, AGENT_PORT

_WORKLOADS: Final = "workloads.yaml"
_POLL_SECONDS: Final = 0.05
_PROGRAMMED: Final = "programmed"


@dataclass
class AgentTopology:
    """Everything that runs. Get one from :func:`open_agent_topology`."""

    scenario: Scenario
    folder: Path
    node: Host
    pods: Mapping[str, Host]
    addresses: Mapping[str, str]
    address: str
    servers: Servers
    certificate: Path
    agent: DemoProgram
    kernels: Mapping[str, Kernel]
    handles: Mapping[str, Handle]
    transfers: dict[str, Running] = field(default_factory=dict)

    def start_lane(self, lane: DemoLane) -> None:
        """Start the lane's upload."""
        argv = command(lane, self.address, self.certificate)
        self.transfers[lane.name] = start_upload(lane, self.pods[lane.pod], self.servers, argv, self.folder)

    def change_limits(self) -> None:
        """Put the second policies in force by rewriting the agent's file. Raises :class:`DemoError`."""
        _write_workloads(self.folder, self.scenario.part, self.pods, changed=True)
        wait_for_change(self.scenario, self._classes, self.agent)

    def sent(self) -> dict[str, int]:
        """Bytes that each lane's class has let through so far, from the kernel."""
        counters = {pod: kernel.counters(INTERFACE) for pod, kernel in self.kernels.items()}
        return {lane.name: counters[lane.pod][self.handles[lane.name]].bytes for lane in self.scenario.lanes}

    def protocols(self) -> dict[str, tuple[str, ...]]:
        """What the agent recognised each lane's connections as; empty for what the kernel decides alone."""
        return {c.name: tuple(c.connections.by_protocol) for c in self._classes() if c.connections is not None}

    def check(self) -> None:
        """Raise :class:`DemoError` when something has ended that should still run."""
        self.agent.check()
        self.servers.check()
        for each in self.transfers.values():
            each.check()

    def finish(self) -> list[Transfer]:
        """What became of all transfers, which end now."""
        return results(self.scenario, self.transfers)

    def clients_known(self) -> bool:
        """Whether nginx saw the own addresses of the Pods whose curls asked it, and no others."""
        asking = {lane.pod for lane in self.scenario.lanes if lane.name in self.transfers and lane.criterion != "port"}
        return self.servers.clients() == {self.addresses[pod] for pod in asking}

    def remarks(self) -> tuple[tuple[bool, str], ...]:
        """That nothing of ours runs in the Pods, and what the one agent takes; whether each is so."""
        others = [pid for pod in self.pods.values() for pid in pod.namespace.pids() if _is_python(pid)]
        alone = "Nothing of Podlane runs in the Pods" if not others else f"In the Pods RUN {others}"
        memory = f"one process on their node holds them, with {_resident_mib(self.agent.process.pid):.0f} MiB"
        known = self.clients_known()
        saw = "The server saw the Pods' own addresses." if known else "The server did NOT see the Pods' own addresses."
        return (not others, f"{alone}: {memory}."), (known, saw)

    def stop(self) -> None:
        """Stop the agent as systemd would. Raises :class:`DemoError`."""
        self.agent.stop(STOP_PATIENCE)

    def wait_programmed(self) -> None:
        """Wait until the lanes of all Pods are in force. Raises :class:`DemoError`."""
        deadline = time.monotonic() + READY_PATIENCE
        while True:
            found = {each.name: each for each in self._node().workloads}
            if found.keys() == self.pods.keys() and all(each.state == _PROGRAMMED for each in found.values()):
                return
            self.agent.check()
            if time.monotonic() > deadline:
                reasons = "; ".join(f"{each.name} {each.state} {each.reason}".strip() for each in found.values())
                raise self.agent.error(f"has no lanes in force after {READY_PATIENCE:g} s: {reasons}.")
            time.sleep(_POLL_SECONDS)

    def _classes(self) -> list[Class]:
        found = (each.classes for each in self._node().workloads)
        return [each for classes in found if classes is not None for each in classes.classes]

    def _node(self) -> NodeClasses:
        with self.node.namespace.entered():
            try:
                answer = ask(ADMIN_ADDRESS, AGENT_PORT, "/node", CHANGE_PATIENCE)
                return from_json(NodeClasses, json.loads(answer.body))
            except (NoAnswerError, ValueError, DocumentError) as error:
                raise DemoError(f"The agent's admin server does not answer: {error}.") from None


@contextmanager
def open_agent_topology(scenario: Scenario) -> Iterator[AgentTopology]:
    """Set everything up, ready for the first lane; take everything down at the end of the block, whatever happened.

    Raises :class:`DemoError`, :class:`~podlane.errors.LabError` or :class:`~traffic_policy.errors.PodlaneError`.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(own_folder())
        lab = stack.enter_context(Lab(PREFIX))
        node, server = lab.host("node", forward=True), lab.host("server", sysctls=SYSCTLS)
        pods = {name: lab.host(name, sysctls=SYSCTLS) for name in scenario.part.pods}
        links = {name: lab.link(pod, INTERFACE, node, name, gateway=True) for name, pod in pods.items()}
        addresses = {name: str(link.a.ipv4) for name, link in links.items()}
        address = str(lab.link(server, INTERFACE, node, "server0", gateway=True).a.ipv4)
        certificate, key = make_certificate(folder)
        (folder / "server").mkdir()
        servers = Servers(server, folder / "server", address, certificate, key)
        _write_workloads(folder, scenario.part, pods, changed=False)
        argv = [*PYTHON_MODULE, "podlane", "agent", "--workloads", str(folder / _WORKLOADS)]
        argv += ["--state", str(folder / "state")]
        agent = start_daemon("The agent", node, argv, folder / "agent.log")
        kernels = dict[str, Kernel]()
        for name, pod in pods.items():
            with pod.namespace.entered():
                kernels[name] = stack.enter_context(NetlinkKernel())
        topology = AgentTopology(
            scenario, folder, node, pods, addresses, address, servers, certificate, agent, kernels, _handles(scenario)
        )
        topology.wait_programmed()
        # Runs first: a second Ctrl-C must not stop the clearing up.
        stack.callback(ignore_signals)
        yield topology


def _handles(scenario: Scenario) -> dict[str, Handle]:
    policies = scenario.part.policies_by_pod()
    ids = {pod: ClassIds.assign(each.name for each in policy.classes) for pod, policy in policies.items()}
    return {lane.name: leaf_handle(ids[lane.pod][lane.name]) for lane in scenario.lanes}


def _write_workloads(folder: Path, part: Part, pods: Mapping[str, Host], *, changed: bool) -> None:
    document = yaml.safe_load(part.policy_text(changed=changed))
    for each in document["workloads"]:
        each["netns"] = pods[each["name"]].namespace.name
    # Replaced in one step: the agent must never read half a file.
    new = folder / "workloads.new"
    new.write_text(yaml.safe_dump(document), encoding="utf-8")
    new.replace(folder / _WORKLOADS)


def _is_python(pid: int) -> bool:
    with suppress(OSError):
        return b"python" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _resident_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024
