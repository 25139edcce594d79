"""A network namespace with access to the outside: veth pair, addresses, routes, NAT, forwarding.

Everything is recorded before it is created (:mod:`podlane.run.state`), so however this process ends, the next run finds
the record and removes the rest. The same code closes a run that ended well, one that failed halfway and one that was
killed; each step finds out by itself whether there is anything to remove.
"""

from __future__ import annotations

import ipaddress
import json
import os
import select
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from podlane.errors import LabError, RunError
from podlane.netns.namespace import Namespace, sysctl_path
from podlane.netns.tools import ip
from podlane.run.addresses import AnyNetwork, Networks, free_networks
from podlane.run.nat import Firewall, HostRules
from podlane.run.state import RunRecord, RunState, locked_state, process_start
from traffic_policy.errors import PodlaneError

INSIDE: Final = "eth0"
"""The interface's name inside, as in a Pod."""
RUN_VARIABLE: Final = "PODLANE_RUN"
"""Set in the environment of everything a run starts: its name, which identifies remaining processes."""

_FORWARD4: Final = "net.ipv4.ip_forward"
_FORWARD6: Final = "net.ipv6.conf.all.forwarding"
_INHERITED: Final = ("net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start")
"""Settings visible to unprivileged programs that a new namespace does not inherit from the host."""
_END_PATIENCE: Final = 2.0
"""Seconds between SIGTERM and SIGKILL for processes that COMMAND left running."""


class Left(NamedTuple):
    """A process that COMMAND left running."""

    pid: int
    program: str


def open_namespace(name: str, *, ipv6: bool) -> tuple[RunRecord, list[str]]:
    """Create the namespace ``name`` with access to the outside, after removing the remains of killed runs.

    Return the run's record, and sentences about those earlier runs.

    IPv6 reaches the outside if the host forwards IPv6 already; ``ipv6`` enables that. Raises
    :class:`~traffic_policy.errors.PodlaneError`, after removing everything again.
    """
    namespace = Namespace(name)
    with locked_state() as state:
        swept = _sweep(state)
        if namespace.exists():
            raise RunError(f"There is a network namespace {name} already. Choose another --name.")
        if ipv6:
            _refuse_to_cut_off_host()
        pid = os.getpid()
        networks = free_networks(_networks_in_use(), pid)
        record = RunRecord(name, pid, process_start(pid) or 0, f"pl{pid}", str(networks.ipv4), str(networks.ipv6))
        state.write(record)
        try:
            _make(state, record, networks, ipv6)
        except BaseException:
            _unmake(state, record)
            raise
    return record, swept


def close_namespace(record: RunRecord) -> None:
    """Remove everything that belongs to a run; raises LabError if something cannot be removed."""
    with locked_state() as state:
        _unmake(state, record)


def end_processes(namespace: Namespace, *, but: int | None = None) -> list[Left]:
    """End the processes that a run started and are still inside, by SIGTERM, then SIGKILL; return those found.

    ``but`` is the session to spare, by the pid of its leader: the proxy with its workers. Only processes with the run's
    name in their environment are ended: a shell that was opened there for inspection stays.
    """
    mark = f"{RUN_VARIABLE}={namespace.name}".encode()
    ended: list[Left] = []
    waiting: set[int] = set()
    with ExitStack() as open_descriptors:
        for pid in namespace.pids():
            try:
                if os.getsid(pid) == but:
                    continue
                descriptor = os.pidfd_open(pid)
                open_descriptors.callback(os.close, descriptor)
                if mark not in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    continue
                program = Path(f"/proc/{pid}/comm").read_text().strip()
                signal.pidfd_send_signal(descriptor, signal.SIGTERM)
            except OSError:
                continue  # it has ended by itself
            waiting.add(descriptor)
            ended.append(Left(pid, program))
        for descriptor in _still_there(waiting, _END_PATIENCE):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    return ended


def _still_there(processes: set[int], patience: float) -> set[int]:
    """Wait for the processes of pidfds to end; return those still running after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    waiting = set(processes)
    while waiting and (left := deadline - time.monotonic()) > 0:
        waiting.difference_update(select.select(list(waiting), [], [], left)[0])
    return waiting


def _make(state: RunState, record: RunRecord, networks: Networks, ipv6: bool) -> None:
    """Create everything in the record."""
    namespace = Namespace(record.name)
    namespace.create(sysctls={key: _setting(key) for key in _INHERITED if sysctl_path(key).exists()})
    ip("link", "add", record.interface, "type", "veth", "peer", "name", INSIDE, "netns", record.name)
    with_ipv6 = _host_has_ipv6()
    families: list[AnyNetwork] = [networks.ipv4, networks.ipv6] if with_ipv6 else [networks.ipv4]
    for network in families:
        nodad = ["nodad"] if network.version == 6 else []
        ip("address", "add", f"{network[1]}/{network.prefixlen}", "dev", record.interface, *nodad)
        namespace.ip("address", "add", f"{network[2]}/{network.prefixlen}", "dev", INSIDE, *nodad)
    ip("link", "set", record.interface, "up")
    namespace.ip("link", "set", INSIDE, "up")

    forward6 = with_ipv6 and (ipv6 or _setting(_FORWARD6) == "1")
    state.set_setting(_FORWARD4, "1")
    if forward6:
        state.set_setting(_FORWARD6, "1")
    for network in families[: 2 if forward6 else 1]:
        namespace.ip(f"-{network.version}", "route", "add", "default", "via", str(network[1]))
        firewall = Firewall(network.version)
        state.note_new(f"{network.version} {table}" for table in firewall.absent_tables())
        firewall.add(HostRules(record.name, network, record.interface))


def _unmake(state: RunState, record: RunRecord) -> None:
    """Remove everything a run has created; a failing step does not prevent the others.

    The record is removed only when everything else is: the next run retries the rest.
    """
    namespace = Namespace(record.name)
    with ExitStack() as steps:  # runs in reverse order
        steps.callback(namespace.delete)
        steps.callback(_delete_link, record.interface)
        steps.callback(_remove_rules, record.name)
        steps.callback(end_processes, namespace)
    for name in state.forget(record):
        version, _, table = name.partition(" ")
        Firewall(int(version)).tidy(table)


def _sweep(state: RunState) -> list[str]:
    """Remove the remains of runs whose process has ended; return a sentence about each."""
    said = []
    for record in state.runs():
        if record.alive:
            continue
        try:
            _unmake(state, record)
            said.append(f"Removed what {record.name} had left behind when it was killed.")
        except PodlaneError as error:
            said.append(f"What {record.name} left behind cannot be removed: {error}")
    return said


def _remove_rules(tag: str) -> None:
    for version in (4, 6) if _host_has_ipv6() else (4,):
        Firewall(version).remove(tag)


def _delete_link(interface: str) -> None:
    if Path(f"/proc/sys/net/ipv4/conf/{interface}").exists():
        ip("link", "delete", interface)


def _networks_in_use() -> list[AnyNetwork]:
    """Every network in the host's addresses and routes, in any table."""
    found: list[AnyNetwork] = []
    for version in ("-4", "-6"):
        try:
            routes = json.loads(ip("-j", version, "route", "show", "table", "all") or "[]")
        except LabError:
            continue  # the host has no IPv6
        found += [
            ipaddress.ip_network(route["dst"], strict=False)
            for route in routes
            if route.get("dst", "default") != "default"
        ]
    return found


def _setting(key: str) -> str:
    return sysctl_path(key).read_text().strip()


def _host_has_ipv6() -> bool:
    key = "net.ipv6.conf.default.disable_ipv6"
    return sysctl_path(key).exists() and _setting(key) == "0"


def _refuse_to_cut_off_host() -> None:
    """A host that forwards IPv6 drops default routes learnt from router advertisements, unless accept_ra is 2."""
    if not _host_has_ipv6() or _setting(_FORWARD6) == "1":
        return
    for route in json.loads(ip("-j", "-6", "route", "show", "default") or "[]"):
        device = route.get("dev", "")
        accept = sysctl_path(f"net.ipv6.conf.{device.replace('.', '/')}.accept_ra")
        if route.get("protocol") == "ra" and accept.read_text().strip() != "2":
            raise RunError(
                f"--ipv6 makes this host forward IPv6, and {device} would lose its default route, which comes from "
                f"router advertisements. Run `sysctl net.ipv6.conf.{device.replace('.', '/')}.accept_ra=2` first, or "
                "leave --ipv6 out: IPv4 works without it."
            )
