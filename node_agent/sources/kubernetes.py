"""Workloads that are Pods of this node, as the API server has them.

Pods come by a watch, and so do TrafficPolicies and ClusterTrafficPolicies. Namespaces and shared policies are read
again from time to time. When the API server is away all stays as it is; until it was there once, nothing is known, and
nothing is changed on the node.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import trio

from daemon.kubernetes.api import ApiServer, Resource, config_map, namespace, pods_of_node
from daemon.kubernetes.errors import ApiError
from daemon.kubernetes.policy_watch import PolicyWatch
from daemon.kubernetes.reflector import Objects, follow
from daemon.log import Logger
from node_agent.broadcast import Broadcast
from node_agent.container_runtime import PodNetwork, find_networks
from node_agent.sources.cached_objects import CachedObjects
from node_agent.sources.file import Put
from node_agent.sources.pods import AskedPod, asked, kubelet_uid, needed
from node_agent.workload import NodeWorkload
from traffic_policy.cluster.objects import ClusterPolicies
from traffic_policy.pod.annotations import SHARED_POLICY_KEY
from traffic_policy.pod.mode import Mode

_REFRESH_S: Final = 20.0
"""Seconds after which namespaces and shared policies are looked at again."""
_RETRY_S: Final = 1.0
_FIRST_LOOK_S: Final = 0.1
_LONGEST_LOOK_S: Final = 4.0
"""Seconds between two searches for the network namespaces of Pods that have none yet: containers are being pulled."""
_REST: Final = 9.0
"""Times as long as a search took before the next one: it reads a file of each process of the node, and there are
hundreds of changes of Pods when many come."""
_LOOK_S: Final = 1.0
"""Seconds between two looks at those that are known."""
_AWAY: Final = 500
"""Status codes from here on, and 0, say nothing about the question."""

log = Logger()


@dataclass(frozen=True, slots=True)
class PodName:
    """A Pod as a container runtime names it; ``uid`` is the kubelet's, and old runtimes do not tell it."""

    namespace: str
    name: str
    uid: str = ""


class PodSource:
    """The Pods of a node that are the agent's."""

    def __init__(self, api: ApiServer, node: str, default: Mode, *, fleet: bool = False) -> None:
        """``default`` is the mode of Pods where neither they nor their namespaces say one; ``fleet``: a control plane
        may have policies for those that say nothing about limits."""
        self._api = api
        self._node = node
        self._objects = CachedObjects(api)
        self._default = default
        self._fleet = fleet
        self._pods: Objects | None = None
        self._seen = trio.Event()
        self._policies = PolicyWatch(api, self._stir)
        self._known: dict[str, tuple[AskedPod, str | None, str, NodeWorkload]] = {}
        """By the kubelet's UID: what it asks, its shared policy or why that is not known, and what it is to have."""
        self._judged: dict[str, PodName] | None = None
        """All Pods that were decided about, by the kubelet's UID; None before the first time."""
        self._decided = Broadcast()
        self._networks: dict[str, PodNetwork] = {}
        self._search_due = -math.inf

    async def run(self, put: Put) -> None:
        """Put the Pods, and again after each change, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow, self._api, pods_of_node(self._node), self._saw, needed)
            nursery.start_soon(self._policies.run)
            nursery.start_soon(self._decide_again_and_again)
            nursery.start_soon(self._place, put)

    async def network_began(self, pod: PodName, network: PodNetwork) -> NodeWorkload | None:
        """Wait until a Pod is known whose network the container runtime has made; what it is to have there, or None if
        it is not the agent's. That is put, too."""
        while (uid := self._uid_of(pod)) is None:
            await self._decided.wait()
        found = self._known.get(uid)
        if found is None or not found[0].own_network:
            return None
        self._networks[uid] = network
        self._decided.tell()
        return self._placed(uid, found[3])

    def _uid_of(self, pod: PodName) -> str | None:
        """The UID of a Pod that was decided about."""
        judged = self._judged or {}
        if pod.uid:
            return pod.uid if pod.uid in judged else None
        return next((uid for uid, each in judged.items() if each == replace(pod, uid=uid)), None)

    def _saw(self, pods: Objects) -> None:
        """These are the Pods."""
        self._pods = pods
        self._stir()

    def _stir(self) -> None:
        """Something that decides has changed."""
        self._seen.set()

    async def _decide_again_and_again(self) -> None:
        """Decide about all Pods after each change of one, and from time to time."""
        patience = _REFRESH_S
        while True:
            with trio.move_on_after(patience):
                await self._seen.wait()
            self._seen = trio.Event()
            policies = self._policies.known
            if self._pods is None or policies is None:
                continue
            try:
                await self._decide(self._pods, policies)
            except ApiError as error:
                log.warning("lanes stay as they are", error=str(error))
                patience = _RETRY_S
            else:
                patience = _REFRESH_S
                self._decided.tell()

    async def _decide(self, pods: Objects, policies: ClusterPolicies) -> None:
        """Raises :class:`ApiError` if the API server cannot say what is needed for it."""
        known, used = {}, set[Resource]()
        judged = {}
        for pod in list(pods.values()):
            about = pod["metadata"]
            uid = kubelet_uid(pod)
            judged[uid] = PodName(about["namespace"], about["name"], uid)
            above = namespace(about["namespace"])
            used.add(above)
            found = await self._objects.get(above) or {}
            wants = asked(pod, found, self._default, policies=policies, fleet=self._fleet)
            if wants is None:
                continue
            shared, failure = None, ""
            if wants.shared_policy is not None:
                policy = config_map(wants.namespace, wants.shared_policy)
                used.add(policy)
                shared, failure = await self._shared(policy)
            old = self._known.get(wants.kubelet_uid)
            same = old is not None and old[:3] == (wants, shared, failure)
            workload = old[3] if old is not None and same else wants.workload(shared, failure)
            known[wants.kubelet_uid] = wants, shared, failure, workload
        self._known, self._judged = known, judged
        self._objects.keep(used)

    async def _shared(self, policy: Resource) -> tuple[str | None, str]:
        """The text of a shared policy, and why it is not known."""
        try:
            document = await self._objects.get(policy)
        except ApiError as error:
            if not error.status or error.status >= _AWAY:
                raise
            return None, f"The shared policy cannot be read. {error}"
        data = document.get("data") if document is not None else None
        text = data.get(SHARED_POLICY_KEY) if isinstance(data, dict) else None
        return text if isinstance(text, str) else None, ""

    async def _place(self, put: Put) -> None:
        """Find the network namespaces of what is decided, and put it."""
        last: dict[str, NodeWorkload] | None = None
        seen: tuple[object, object] = (None, None)
        while self._judged is None:
            await self._decided.wait()
        pause = _FIRST_LOOK_S
        while True:
            decided = self._decided.next()
            known = self._known
            missing = await self._search({uid for uid, (pod, *_) in known.items() if pod.own_network})
            if known is not seen[0] or self._networks != seen[1]:
                seen = known, dict(self._networks)
                workloads = {each.name: self._placed(uid, each) for uid, (*_, each) in known.items()}
                if workloads != last:
                    last = workloads
                    await put(workloads)
            with trio.move_on_after(pause if missing else _LOOK_S):
                await decided.wait()
            pause = _FIRST_LOOK_S if decided.is_set() else min(pause * 2, _LONGEST_LOOK_S)

    async def _search(self, uids: set[str]) -> bool:
        """Look for the network namespaces that are not known, or no longer there; whether some were not found."""
        self._networks = {uid: network for uid, network in self._networks.items() if uid in uids}
        missing = {uid for uid in uids if uid not in self._networks or not self._networks[uid].is_there}
        began = trio.current_time()
        if missing and began >= self._search_due:
            before = dict(self._networks)
            found = await trio.to_thread.run_sync(partial(find_networks, missing))
            ended = trio.current_time()
            self._search_due = ended + _REST * (ended - began)
            for uid, network in found.items():
                if self._networks.get(uid) is before.get(uid):  # else the runtime has just told a newer one
                    self._networks[uid] = network
            missing -= found.keys()
        return bool(missing)

    def _placed(self, uid: str, workload: NodeWorkload) -> NodeWorkload:
        network = self._networks.get(uid)
        return workload if network is None else replace(workload, network_namespace=network.path)
