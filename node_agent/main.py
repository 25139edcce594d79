"""Builds and runs an agent from its settings."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from daemon.admin_server import serve_admin
from daemon.descriptors import raise_descriptor_limit
from daemon.errors import single
from daemon.kubernetes.access import find_access
from daemon.kubernetes.api import ApiServer
from daemon.kubernetes.events import EventWriter
from daemon.log import Logger
from datapath.ebpf import features as ebpf
from datapath.ebpf.reader import SharedReader
from datapath.ebpf.shared_maps import SharedMaps
from datapath.netfilter.backend import has_net_admin
from datapath.netfilter.select import BackendChooser
from datapath.sock_diag import holder_of
from datapath.stepaside.turns import ClassifierThread
from node_agent.admin import AgentAdmin
from node_agent.agent import Agent, remove_left_lanes
from node_agent.budgets.sharer import BudgetSharer
from node_agent.cni.gate import CniGate
from node_agent.cni.life import run_plugin, take_plugin_out, take_plugin_out_if_unwanted
from node_agent.datapath import NodeDatapath
from node_agent.errors import CleanupError
from node_agent.happenings import happening
from node_agent.lanes import NodeContext, State
from node_agent.place import NodeEnds
from node_agent.policy_report import PolicyReporter
from node_agent.settings import AgentSettings
from node_agent.sources.file import Put, follow_workloads
from node_agent.sources.kubernetes import PodSource
from node_agent.state import StateFolder
from node_agent.sweep import Sweeper
from node_agent.workload import NodeWorkload
from tc_core.probe import features
from traffic_policy.errors import ConfigError, PodlaneError
from traffic_policy.settings import AgentDatapath
from traffic_policy.units import Duration

if TYPE_CHECKING:
    from node_agent.fleet.join import Fleet
    from node_agent.fleet.link import FleetLink

_PROGRAM: Final = "podlane-agent"
_TOGETHER: Final = 4
"""Blocking calls at once: programs that write rules take a few milliseconds of CPU each."""
_TIDY_EVERY: Final = Duration.from_seconds(5)
"""Between two looks at what the programs of hundreds of workloads have counted."""

log = Logger()


async def serve(settings: AgentSettings, *, on_ready: Callable[[int | None], None] = lambda _: None) -> None:
    """Keep the lanes of the workloads in force until SIGTERM or SIGINT, which leave them in force.

    ``on_ready`` is called with the admin port once the workloads are known. Raises :class:`ConfigError`,
    :class:`~node_agent.errors.WorkloadsError`, :class:`~daemon.errors.PortInUseError`,
    :class:`~daemon.kubernetes.errors.ApiAccessError`.
    """
    api = _api(settings)
    if not has_net_admin():
        raise ConfigError("The agent enters network namespaces, for which it needs root: CAP_SYS_ADMIN and NET_ADMIN.")
    raise_descriptor_limit()  # a workload takes ten: the usual 1024 would do for a hundred
    with ExitStack() as stack:
        signals = stack.enter_context(trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT))
        events = None if api is None else EventWriter(api, _PROGRAM)
        node = NodeContext(
            await trio.to_thread.run_sync(features.probe),
            await trio.to_thread.run_sync(BackendChooser),
            stack.enter_context(ClassifierThread()),
            SharedReader(SharedMaps(many=True), tidy_every=_TIDY_EVERY),
            Sweeper(),
            trio.CapacityLimiter(_TOGETHER),
            StateFolder(settings.state),
            partial(_tell, events),
            datapath=await trio.to_thread.run_sync(_node_datapath, settings.datapath),
            ends=NodeEnds.of_this_node(settings.enforce),
        )
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_end_at_signal, signals, nursery.cancel_scope)
                nursery.start_soon(node.sweeper.run)
                await nursery.start(node.reader.run)
                agent = Agent(node, nursery)
                nursery.start_soon(BudgetSharer(agent.running, node.moved).run)
                fleet = await _join(settings, agent, node, api)
                known = fleet is not None
                source = None
                if api is not None and settings.node:
                    source = PodSource(api, settings.node, settings.mode, fleet=known)
                    nursery.start_soon(PolicyReporter(api, settings.node, agent).run)
                gate = None
                if source is not None and settings.cni_conf_dir is not None:
                    gate = CniGate(source, agent, placed=fleet.policies.placed if fleet is not None else None)
                port = await _start_admin(settings, agent, gate, fleet and fleet.link, nursery)
                put = partial(_put, fleet.policies.want if fleet else agent.put, agent, partial(on_ready, port))
                if fleet is not None:
                    nursery.start_soon(fleet.link.run)
                    for part in fleet.parts:
                        nursery.start_soon(part)
                if source is not None and events is not None:
                    nursery.start_soon(source.run, put)
                    nursery.start_soon(events.run)
                    if gate is not None and settings.cni_conf_dir is not None:
                        nursery.start_soon(run_plugin, settings, settings.cni_conf_dir, gate)
                elif settings.workloads is not None:
                    nursery.start_soon(partial(follow_workloads, settings.workloads, put, fleet=known))
        except ExceptionGroup as group:
            raise single(group, PodlaneError) or group from None
    if api is not None:
        await take_plugin_out_if_unwanted(settings, api)
    log.info("ended; lanes stay in force, `podlane agent --cleanup` removes them")


async def _join(settings: AgentSettings, agent: Agent, node: NodeContext, api: ApiServer | None) -> Fleet | None:
    """The control plane, if there is to be one. What that takes (certificates, HTTP/2: 10 MiB) is only loaded then."""
    if settings.fleet is None:
        return None
    from node_agent.fleet.join import join_fleet

    return await join_fleet(settings.fleet, agent, node, api, settings.node)


def _api(settings: AgentSettings) -> ApiServer | None:
    """The API server of the node. Raises :class:`ConfigError`, :class:`~daemon.kubernetes.errors.ApiAccessError`."""
    if not settings.node:
        return None
    access = find_access(settings.kubeconfig, settings.context, os.environ)
    if access is None:
        raise ConfigError("There is no API server to ask for Pods: this is no Pod. Name a kubeconfig by --kubeconfig.")
    return ApiServer(access, program=_PROGRAM)


def _tell(events: EventWriter | None, workload: NodeWorkload, state: State, reason: str, note: str) -> None:
    if events is not None and (found := happening(workload, state, reason, note)) is not None:
        events.add(found)


def _node_datapath(asked: AgentDatapath) -> NodeDatapath:
    if asked is AgentDatapath.STEP_ASIDE:
        return NodeDatapath(asked)
    found = ebpf.probe()
    if found.available:
        return NodeDatapath(asked)
    write = log.warning if asked is AgentDatapath.EBPF else log.info
    write("this node takes no programs in the kernel; workloads step aside", reason=found.reason)
    return NodeDatapath(asked, found.reason)


async def _put(put: Put, agent: Agent, on_ready: Callable[[], None], workloads: Mapping[str, NodeWorkload]) -> None:
    first = not agent.synced
    await put(workloads)
    if first:
        on_ready()
        gc.collect()
        gc.freeze()


async def _start_admin(
    settings: AgentSettings, agent: Agent, gate: CniGate | None, link: FleetLink | None, nursery: trio.Nursery
) -> int | None:
    if not settings.admin_port:
        return None
    handlers = AgentAdmin(agent, gate, link, node=settings.node, mode=settings.mode).handlers()
    serving = partial(serve_admin, settings.admin_address, settings.admin_port, handlers, holder_of)
    port: int | None = await nursery.start(serving)
    log.info("the admin server listens", address=settings.admin_address, port=port)
    return port


async def _end_at_signal(signals: AsyncIterator[int], life: trio.CancelScope) -> None:
    async for _ in signals:
        life.cancel()
        return


def cleanup(settings: AgentSettings) -> Iterator[str]:
    """Remove what agents have left on this node, and say what that was. Blocks.

    Raises :class:`ConfigError`, and :class:`~node_agent.errors.CleanupError` if lanes are left.
    """
    for path in take_plugin_out(settings):
        yield f"podlane-cni taken out of {path}"
    removed, left = remove_left_lanes(StateFolder(settings.state), NodeEnds.of_this_node(settings.enforce))
    if left:
        raise CleanupError(
            f"Lanes are left in {left} network namespaces; the log says why. End the agent of this node, and try again."
        )
    settings.cni_socket.unlink(missing_ok=True)
    yield f"lanes removed from {removed} network namespaces"
