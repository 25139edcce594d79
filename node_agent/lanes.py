"""One workload's lanes: enters its network namespace, puts them in force, watches over them.

They are in the kernel. So they stay when the agent ends, and the next one adopts them: the state folder has the class
ids that live connections carry in their marks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Final, NamedTuple, NoReturn

import trio

from daemon.errors import single
from daemon.log import Logger
from datapath.cleanup import remove_leftovers
from datapath.data_plane import DataPlane
from datapath.data_plane_settings import DataPlaneSettings
from datapath.data_plane_types import Callbacks, ServerFactory
from datapath.ebpf.libbpf import BpfError
from datapath.ebpf.node_link import NoNodeLinkError
from datapath.ebpf.reader import LaneReader, SharedReader
from datapath.instance_lock import hold_instance_lock
from datapath.kernel_thread import KernelThread
from datapath.mesh.join import resolve
from datapath.mesh.types import MeshProxy
from datapath.netfilter.backend import Seal
from datapath.netfilter.install import Installer
from datapath.netfilter.select import BackendChooser
from datapath.network_namespace import Identity, NetworkNamespace, all_namespaces, is_namespace
from datapath.routing.cached import Routing
from datapath.shaping import Shaping, shaped_interface
from datapath.stepaside.server import StepAside
from datapath.stepaside.turns import ClassifierThread
from node_agent.broadcast import Broadcast
from node_agent.budgets.budget_share import BudgetShare
from node_agent.counters import FlowCounters
from node_agent.datapath import ChosenDatapath, NodeDatapath, choose
from node_agent.neighbours import limits_of_others
from node_agent.place import LanePlace, NodeEnds
from node_agent.state import Earlier, StateFolder
from node_agent.sweep import Found, Sweeper
from node_agent.workload import NodeWorkload, WantedLanes
from tc_core.apply.ends import NodeEnd, PodEnd, ShapedEnd
from tc_core.device_counts import DeviceCounts
from tc_core.errors import InterfaceNotFoundError
from tc_core.probe.capability import Features
from tc_core.rtnetlink.kernel import NetlinkKernel
from traffic_policy.errors import PodlaneError
from traffic_policy.marks import ClassIds
from traffic_policy.settings import OUTBOUND_PORT, Datapath, Enforce, OnFailure
from traffic_policy.units import Duration

_LOOK_S: Final = 0.1
"""Seconds between two looks whether a network namespace is there."""
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 30.0
"""Seconds before what has failed is tried again."""
_GOES_S: Final = 10.0
"""Seconds that an interface may be missing: the network of a Pod that ends goes before its namespace does."""

log = Logger()


class State(StrEnum):
    """Of a workload."""

    WAITING = "waiting"
    """Its network namespace is not known, or not there, or has just lost its interface."""
    PROGRAMMED = "programmed"
    """Its lanes are in force."""
    REFUSED = "refused"
    """Its policy cannot be honoured."""
    FAILED = "failed"
    """Its lanes cannot be put in force at present; it is tried again."""


@dataclass(frozen=True, slots=True)
class NodeContext:
    """What all workloads of a node share.

    ``features`` are those of its kernel, ``backends`` chooses how rules are written, ``classifier`` is the thread that
    reads first packets, ``reader`` reads what programs could not read, ``datapath`` says when programs do, ``ends``
    where lanes are. ``together`` limits the blocking calls at once, ``sweeper`` looks after what is in force. ``told``
    is called with each new state of a workload, its reason, and a note on where lanes are; and with each change that is
    in force, but not with what is adopted. ``moved``: lanes came into force, or another state did.
    """

    features: Features
    backends: BackendChooser
    classifier: ClassifierThread
    reader: SharedReader
    sweeper: Sweeper
    together: trio.CapacityLimiter
    state: StateFolder
    told: Callable[[NodeWorkload, State, str, str], None] = lambda _workload, _state, _reason, _note: None
    moved: Broadcast = field(default_factory=Broadcast)
    datapath: NodeDatapath = field(default_factory=NodeDatapath)
    ends: NodeEnds = field(default_factory=NodeEnds)


class _Start(NamedTuple):
    """What was found in the Pod's network namespace."""

    identity: Identity
    interface: str
    counts: DeviceCounts
    installer: Installer


class WorkloadLanes:
    """The lanes of one workload, kept equal to what :meth:`change` asks for last."""

    def __init__(self, node: NodeContext, workload: NodeWorkload) -> None:
        self.workload = workload
        self.state = State.WAITING
        self.reason = ""
        """Why it is not programmed, or not as it is wanted now; empty without a reason."""
        self.counters = FlowCounters()
        self.plane: DataPlane | None = None
        """While they are in force."""
        self.in_force_in: Identity | None = None
        """The network namespace in which they are."""
        self.left_in: set[Identity] = set()
        """Network namespaces in which something may be, of this agent or an earlier one."""
        self.chosen = ChosenDatapath(Datapath.STEP_ASIDE)
        """How first bytes are seen, while lanes are in force."""
        self.place = LanePlace()
        """Where lanes are, while they are in force."""
        self.others: tuple[str, ...] = ()
        """What others hold it to, in sentences, as it was seen when lanes came into force here."""
        self.shaping: Shaping | None = None
        """What shapes it, while they are in force."""
        self.budget: BudgetShare | None = None
        """What it has of its policy's budget now; None: there is none."""
        self.programmed = 0
        """How often lanes were put in force or changed."""
        self._node = node
        self._in_force: WantedLanes | None = None
        self._last: WantedLanes | None = None
        """What this agent has had in force last, here or in another network namespace."""
        self._mesh: MeshProxy | None = None
        self._obstacle = ""
        """Why programs could not be put there."""
        self._stirred = trio.Event()
        self._lacking_since = -math.inf
        """From when on its interface has been missing."""
        self._ended = False
        self._tried: NodeWorkload | None = None
        self._judged: NodeWorkload | None = None

    @property
    def judged(self) -> bool:
        """Whether :attr:`state` is about what was asked for last."""
        return self._judged is self.workload

    @property
    def as_wanted(self) -> bool:
        """Whether what is in force is what the workload is to have."""
        wanted, there = self.workload.lanes, self._in_force
        return wanted is not None and there is not None and wanted.digest == there.digest

    def change(self, workload: NodeWorkload) -> None:
        """Bring the lanes to this."""
        self.workload = workload
        self._obstacle = ""
        self._stirred.set()

    @property
    def marked_by(self) -> MeshProxy | None:
        """The mesh's proxy whose marks count for its connections, while lanes are in force."""
        counts = self._in_force is not None and self._in_force.mesh_marks
        return self._mesh if counts and self._mesh is not None and self._mesh.group is not None else None

    @property
    def ended(self) -> bool:
        """Whether :meth:`end` was called."""
        return self._ended

    @property
    def settled(self) -> bool:
        """Whether there is nothing more that the agent could do for it now."""
        return self.state in (State.PROGRAMMED, State.REFUSED) or (self.state is State.WAITING and bool(self.reason))

    def end(self) -> None:
        """Remove the lanes, and return from :meth:`run`. (Cancelling it leaves them in force.)"""
        self._ended = True
        self._stirred.set()

    async def run(self) -> None:
        """Until :meth:`end`. Never raises: what fails is tried again, after a pause that grows."""
        pause = _FIRST_PAUSE_S
        while not self._ended:
            began = self.programmed
            failure = await self._attempt()
            if failure is not None:
                pause = _FIRST_PAUSE_S if self.programmed > began else min(pause * 2, _LONGEST_PAUSE_S)
                self._say(self._or_waiting(State.FAILED), failure)
            if not self._ended:
                with trio.move_on_after(pause if failure is not None else self._patience()):
                    await self._stirred.wait()
                self._stirred = trio.Event()

    def _patience(self) -> float:
        """Seconds until the next attempt, without a change of the workload."""
        may_come = self.workload.lanes is not None and self.workload.network_namespace is not None
        return _LOOK_S if may_come else math.inf

    async def _attempt(self) -> str | None:
        """Have lanes in force for as long as the network namespace is there; returns what went wrong."""
        try:
            workload = self._tried = self.workload
            if workload.lanes is None:
                self._say(State.REFUSED, workload.refusal)
                return None
            if workload.network_namespace is None or not is_namespace(workload.network_namespace):
                place = workload.network_namespace
                self._say(State.WAITING, f"There is no network namespace {place}." if place else "It has none yet.")
                return None
            with NetworkNamespace(workload.network_namespace) as namespace:
                await self._work_in(namespace, workload.lanes)
        except (PodlaneError, ExceptionGroup) as error:
            known = single(error, PodlaneError) if isinstance(error, ExceptionGroup) else error
            if isinstance(known, BpfError):
                return self._without_programs(known)
            if isinstance(known, InterfaceNotFoundError):
                self._lacks_its_interface()
            if known is not None:
                return str(known)
            log.error("a mistake in the agent", workload=self.workload.name, exc_info=error)
            return f"A mistake in the agent: {error}. Its log has more."
        return None

    def _without_programs(self, error: BpfError) -> str | None:
        """Step aside at the next attempt, in this network namespace; what went wrong if that was so already."""
        if self._obstacle:
            return str(error)
        self._obstacle = str(error).splitlines()[0]
        return None

    async def _work_in(self, namespace: NetworkNamespace, lanes: WantedLanes) -> None:
        inside = KernelThread(namespace, together=self._node.together)
        async with trio.open_nursery() as nursery:
            with ExitStack() as stack:
                earlier = self._node.state.earlier(namespace.identity)
                if earlier is not None:
                    self.left_in.add(namespace.identity)
                seal = None if earlier is None else earlier.seal
                start = await inside.run(partial(self._look, stack, namespace, lanes, seal))
                link = self.place.link
                thread = inside if link is None else KernelThread(self.place.namespace, together=self._node.together)
                await thread.run(partial(self._make_plane, stack, start, lanes, thread, inside))
                plane = self.plane
                assert plane is not None
                stack.callback(self._forget_plane, plane)
                try:
                    async with plane.changing:
                        await plane.prepare(nursery, None if earlier is None else earlier.ids)
                        await plane.apply(lanes.policy, self._settings(lanes))
                    if earlier is not None and earlier.node_interface != (link.interface if link is not None else ""):
                        await inside.run(partial(self._remove_at_other_end, namespace, start.interface, earlier))
                    self.in_force_in = namespace.identity
                    self._programmed(lanes, adopted=earlier is not None)
                    await self._keep(plane, namespace)
                    if not self._continues(namespace):
                        await self._leave(plane, namespace)
                finally:
                    with trio.CancelScope(shield=True):
                        await thread.idle()  # the sweeper may be looking, at what is closed now
            nursery.cancel_scope.cancel()

    def _look(self, stack: ExitStack, namespace: NetworkNamespace, lanes: WantedLanes, seal: Seal | None) -> _Start:
        """In the Pod's network namespace: what is there, and where lanes are to be. ``stack`` closes what is held."""
        stack.enter_context(hold_instance_lock())
        with NetlinkKernel() as kernel:
            named = lanes.interface or kernel.default_route_interface()
            if named is None:
                raise InterfaceNotFoundError("Its network namespace has no default route, to tell its interface.")
            interface = shaped_interface(kernel, named)
        self._mesh = resolve(lanes.mesh)
        at_node = choose(self._node.datapath, lanes, self._mesh, self._obstacle, at_node=True)
        self.place = self._node.ends.place(namespace, interface, at_node)
        self.chosen = self._choose(lanes)
        self.others = limits_of_others(self._node.ends, namespace, interface, annotated=bool(lanes.neighbours))
        counts = DeviceCounts()
        stack.callback(counts.close)
        installer = Installer(self._node.backends.choose(seal), seal, self._node.backends.proven)
        return _Start(namespace.identity, interface, counts, installer)

    def _make_plane(
        self, stack: ExitStack, start: _Start, lanes: WantedLanes, thread: KernelThread, inside: KernelThread
    ) -> None:
        """In the network namespace that has the lanes, ``thread``'s; ``inside`` is the Pod's. What ``stack`` closes
        belongs to it."""
        kernel, link, features = stack.enter_context(NetlinkKernel()), self.place.link, self._node.features
        end: ShapedEnd = PodEnd(relays=False) if link is None else NodeEnd()
        interface = start.interface if link is None else link.interface
        lane = Shaping(kernel, interface, features, replace=False, end=end, device_counts=start.counts, budgets=True)
        self.shaping = shaping = lane

        def keep(ids: ClassIds) -> None:
            earlier = Earlier(ids, start.installer.seal, "" if link is None else link.interface)
            self._node.state.write(start.identity, self.workload.name, start.interface, earlier)
            self.left_in.add(start.identity)
            self.counters.keep(ids)

        servers = ServerFactory(
            captured=partial(self._classifier, thread, lanes),
            quic=_no_relay,
            beginnings=partial(
                LaneReader,
                observer=self.counters,
                names=self.counters,
                detection_timeout=lanes.detection_timeout,
                inside=inside.entered,
            ),
            reader=self._node.reader,
        )
        self.plane = DataPlane(
            *(lanes.policy, self._settings(lanes), shaping, start.installer, servers, Callbacks(ids=keep), thread, link)
        )

    def _remove_at_other_end(self, namespace: NetworkNamespace, interface: str, earlier: Earlier) -> None:
        """In the Pod's network namespace: what an earlier agent has left at the end that is not used now."""
        if earlier.node_interface:
            self._node.ends.remove_at_node(namespace, earlier.node_interface)
        else:
            remove_leftovers(interface)

    def _choose(self, lanes: WantedLanes) -> ChosenDatapath:
        return choose(self._node.datapath, lanes, self._mesh, self._obstacle, at_node=self.place.end is Enforce.HOST)

    def _settings(self, lanes: WantedLanes) -> DataPlaneSettings:
        return lanes.settings(self._mesh, self.chosen.datapath)

    def _classifier(self, thread: KernelThread, lanes: WantedLanes, routing: Routing) -> StepAside:
        return StepAside(
            OUTBOUND_PORT,
            routing,
            self.counters,
            detection_timeout=lanes.detection_timeout,
            kernel=thread,
            shared_thread=self._node.classifier,
            fail_open=lanes.on_failure is OnFailure.OPEN,
        )

    def _forget_plane(self, plane: DataPlane) -> None:
        plane.close()
        self.plane = self.shaping = self.budget = self._in_force = self.in_force_in = None

    async def _keep(self, plane: DataPlane, namespace: NetworkNamespace) -> None:
        """Until the end is asked for, the namespace is gone, or something changes that is read at the start only."""
        found: Found = frozenset()
        stale = trouble = ""

        def looked(seen: Found) -> None:
            nonlocal found
            found = seen
            if seen or trouble or plane.unsettled or not namespace.named:
                self._stirred.set()

        with self._node.sweeper.looking_at(plane, looked):
            while self._continues(namespace) and self._same_start():
                await self._stirred.wait()
                self._stirred = trio.Event()
                if not self._same_start():
                    break
                self._tried = self.workload
                if self.workload.lanes != self._in_force and not self._ended:
                    stale = await self._follow(plane)
                else:
                    trouble = await self._mend(plane, found)
                    if self._lost_its_end(found):
                        break
                self._say(self._or_waiting(State.PROGRAMMED), " ".join(filter(None, (stale, trouble))))

    async def _follow(self, plane: DataPlane) -> str:
        """Put in force what is wanted now; why that cannot be, or an empty text."""
        lanes = self.workload.lanes
        problem = self.workload.refusal
        if lanes is not None:
            problem = ""
            self.chosen = self._choose(lanes)  # the same, but the reason may be another
            try:
                async with plane.changing:
                    await plane.apply(lanes.policy, self._settings(lanes))
            except PodlaneError as error:
                problem = str(error)
            else:
                self._programmed(lanes)
        return problem and f"What was in force stays so. {problem}"

    async def _mend(self, plane: DataPlane, found: Found) -> str:
        """Put back what is missing; what is wrong, or an empty text."""
        try:
            if isinstance(found, PodlaneError):
                raise found
            async with plane.changing:
                await plane.mend(found)
        except InterfaceNotFoundError as error:
            self._lacks_its_interface()
            return str(error)
        except PodlaneError as error:
            return str(error)
        self._lacking_since = -math.inf
        return ""

    def _lost_its_end(self, found: Found) -> bool:
        """Whether lanes at the node's end have to be put elsewhere: others have come there, or the link is another."""
        lost = isinstance(found, NoNodeLinkError) or self._lacking_since != -math.inf
        return lost and self.place.link is not None

    def _lacks_its_interface(self) -> None:
        if self._lacking_since == -math.inf:
            self._lacking_since = trio.current_time()

    def _or_waiting(self, state: State) -> State:
        """This state, but while the interface may only be missing because the Pod ends."""
        return State.WAITING if trio.current_time() < self._lacking_since + _GOES_S else state

    def _continues(self, namespace: NetworkNamespace) -> bool:
        """Whether there are to be lanes in this namespace, on the same interface."""
        lanes, old = self.workload.lanes, self._in_force
        same = lanes is None or old is None or lanes.interface == old.interface
        place = self.workload.network_namespace  # it may have got another path: a process behind it has ended
        return not self._ended and same and place is not None and namespace.is_at(place)

    def _same_start(self) -> bool:
        lanes, old = self.workload.lanes, self._in_force
        if lanes is None or old is None:
            return True
        return lanes.starts_like(old) and self._choose(lanes).datapath is self.chosen.datapath

    async def _leave(self, plane: DataPlane, namespace: NetworkNamespace) -> None:
        """The end: remove the lanes, if there is anything left that they could be removed from."""
        with trio.CancelScope(shield=True):
            there = namespace.named or namespace.identity in await trio.to_thread.run_sync(all_namespaces)
            if there and self._is_lost(namespace):
                return  # it has lost its path: it is adopted when it has another
            if there:
                async with plane.changing:
                    await plane.stop_capture()
                    await plane.drain(Duration(0))
                    await plane.remove()
            elif self.place.link is not None:  # what is left there of a link that has gone with its Pod
                async with plane.changing:
                    await plane.remove()
        self._node.state.forget(namespace.identity)
        self.left_in.discard(namespace.identity)
        log.info("lanes ended", workload=self.workload.name, removed=there)

    def _is_lost(self, namespace: NetworkNamespace) -> bool:
        """Whether it only lacks a path: the process behind that has ended, and others go on."""
        return not self._ended and not namespace.named and self.workload.network_namespace == namespace.path

    def _programmed(self, lanes: WantedLanes, *, adopted: bool = False) -> None:
        """``adopted``: they were there. An earlier agent has told it then, and an upgrade must not tell it again of all
        Pods; but it may also be this one that has begun anew with other lanes, for another datapath say."""
        is_news = not adopted or (self._last is not None and lanes != self._last)
        self._in_force = self._last = lanes
        self._lacking_since = -math.inf
        self.programmed += 1
        self._say(State.PROGRAMMED, "")
        if is_news:
            note = " ".join(filter(None, (self.place.note, *self.others)))
            self._node.told(self.workload, State.PROGRAMMED, "", note)
        log.info(
            "lanes in force",
            workload=self.workload.name,
            classes=len(lanes.policy.classes),
            datapath=self.chosen.datapath.value,
            enforce=self.place.end.value,
            hash=lanes.digest,
        )
        if self.chosen.reason:
            log.info("programs do not decide here", workload=self.workload.name, reason=self.chosen.reason)
        if self.place.reason:
            log.warning("lanes are at the Pod's end", workload=self.workload.name, reason=self.place.reason)
        for warning in (*lanes.warnings, *self.others):
            log.warning(warning, workload=self.workload.name)

    def _say(self, state: State, reason: str) -> None:
        self._judged = self._tried
        self._node.moved.tell()
        if (state, reason) == (self.state, self.reason):
            return
        self.state, self.reason = state, reason
        if reason:
            write = log.info if state is State.WAITING else log.warning
            write("lanes are not as they are wanted", workload=self.workload.name, state=state.value, reason=reason)
            self._node.told(self.workload, state, reason, "")


def _no_relay(_: Routing) -> NoReturn:
    raise AssertionError("next to a relay, which an agent has not")
