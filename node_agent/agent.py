"""All workloads of a node, kept equal to what is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import trio

from daemon.log import Logger
from datapath.kernel_thread import KernelThread
from datapath.network_namespace import Identity, NetworkNamespace, all_namespaces
from node_agent.lanes import NodeContext, WorkloadLanes
from node_agent.place import NodeEnds
from node_agent.state import StateFolder
from node_agent.workload import NodeWorkload
from tc_core.errors import InterfaceNotFoundError
from traffic_policy.errors import PodlaneError

log = Logger()


class Agent:
    """Starts, changes and ends the lanes of workloads."""

    def __init__(self, node: NodeContext, nursery: trio.Nursery) -> None:
        """Lanes run in ``nursery``; when it is cancelled, they stay in force."""
        self.running: dict[str, WorkloadLanes] = {}
        """By the workload's name."""
        self.synced = False
        """Whether :meth:`put` was called."""
        self._node = node
        self._nursery = nursery
        self._strangers = True
        """Whether there may be lanes of an earlier agent that none of this one's workloads has."""

    async def put(
        self, wanted: Mapping[str, NodeWorkload], undecided: Mapping[str, NodeWorkload] | None = None
    ) -> None:
        """Bring the node to these workloads, by name: start what is new, change what differs, end what is missing.

        What an earlier agent has left in network namespaces of ``undecided`` ones stays for now.
        """
        if self._strangers:
            await self._remove_strangers({**wanted, **(undecided or {})})
            self._strangers = bool(undecided)
        for name, lanes in list(self.running.items()):
            if name not in wanted:
                lanes.end()
        for name, workload in wanted.items():
            running = self.running.get(name)
            if running is None or running.ended:
                self._nursery.start_soon(self._run, WorkloadLanes(self._node, workload))
            elif running.workload != workload:
                running.change(workload)
        self.synced = True

    async def _run(self, lanes: WorkloadLanes) -> None:
        name = lanes.workload.name
        self.running[name] = lanes
        try:
            await lanes.run()
            if lanes.left_in:  # it ended while its lanes could not be changed
                await KernelThread().run(
                    partial(remove_left_lanes, self._node.state, self._node.ends, only=lanes.left_in)
                )
        finally:
            if self.running.get(name) is lanes:
                del self.running[name]

    async def _remove_strangers(self, wanted: Mapping[str, NodeWorkload]) -> None:
        """Lanes of an earlier agent whose workload went while there was none."""
        known = (*wanted.values(), *(each.workload for each in self.running.values()))
        mine = {w.network_namespace for w in known if w.network_namespace is not None}
        await KernelThread().run(partial(remove_left_lanes, self._node.state, self._node.ends, mine))

    async def in_force(self, wanted: NodeWorkload, namespace: Identity) -> WorkloadLanes:
        """Wait until the lanes of a workload are in force in this network namespace."""
        while True:
            lanes = self.running.get(wanted.name)
            if lanes is not None and lanes.in_force_in == namespace:
                return lanes
            await self._node.moved.wait()

    @property
    def ready(self) -> bool:
        """Whether all lanes that can be in force are. A Pod may wait for its network for ever."""
        return self.synced and all(each.settled for each in self.running.values())


def remove_left_lanes(
    state: StateFolder, ends: NodeEnds, but: set[Path] | None = None, *, only: set[Identity] | None = None
) -> tuple[int, int]:
    """Remove what agents have left in all network namespaces, or in all ``but`` these, or in these ``only``.

    In how many something was removed, and in how many it could not be, which is logged. Blocks.
    """
    kept: set[Identity] = set()
    for path in but or ():
        with suppress(PodlaneError), NetworkNamespace(path) as namespace:
            kept.add(namespace.identity)
    there = all_namespaces()
    removed = left = 0
    ends.remove_orphans()
    for identity, (interface, node_interface) in state.all().items():
        if identity in kept or (only is not None and identity not in only):
            continue
        if identity in there:
            try:
                # Classes go with their interface; all else is removed also without it.
                with NetworkNamespace(there[identity]) as namespace, suppress(InterfaceNotFoundError):
                    ends.remove(namespace, interface or None, node_interface)
            except PodlaneError as error:
                log.error("lanes could not be removed", namespace=str(there[identity]), error=str(error))
                left += 1
                continue
            removed += 1
            log.info("lanes of an earlier agent removed", namespace=str(there[identity]))
        state.forget(identity)
    return removed, left
