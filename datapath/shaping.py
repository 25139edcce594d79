"""The sidecar's traffic control: shapes one interface by a policy, both ways, and samples its counters.

Everything here blocks (netlink), so the service calls it in a worker thread, one call at a time.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from datapath.download_limits import ReceiveLimits
from datapath.shared_counters import SharedCounters
from datapath.transition import transition
from tc_core.apply.ends import PodEnd, ShapedEnd
from tc_core.apply.execute import Report, clear, execute
from tc_core.apply.plan import ObservedInterface, Steps, observe_interface, plan_arriving
from tc_core.compile.held_tree import held, held_changes
from tc_core.compile.ingress_classifier import IngressClassifier
from tc_core.compile.mark_tree import INNER_HANDLE, LEAF_BASE, leaf_handle
from tc_core.compile.packet_tree import compile_ingress
from tc_core.device_counts import DeviceCounts
from tc_core.diff import is_ours
from tc_core.errors import ForeignLinkError, ForeignQdiscError, InterfaceNotFoundError
from tc_core.handles import Handle
from tc_core.kernel import Kernel
from tc_core.model import HtbClass, TrafficTree
from tc_core.probe.capability import Features
from tc_core.sampling import RateMeter
from tc_core.stats import ClassStats
from tc_core.trees import IngressTree
from traffic_policy.errors import ConfigError
from traffic_policy.marks import ClassIds
from traffic_policy.policy import Match, ResolvedClass, TrafficPolicy
from traffic_policy.units import Rate
from traffic_policy.water_filling import beginning

RATE_WINDOW: Final = 0.5
"""Minimum averaging time of a rate, in seconds."""


@dataclass(frozen=True, slots=True)
class ClassSnapshot:
    """A class with its limits and counters, as last sampled."""

    name: str
    class_id: int
    handle: Handle
    rate: Rate
    ceil: Rate
    priority: int
    stats: ClassStats
    current_rate: Rate
    peak_rate: Rate


@dataclass(frozen=True, slots=True)
class Received:
    """Received traffic and its limits. ``device`` has its classes, which have the ids of those for sent traffic.

    ``ingress_classifier`` is how packets find their class where names decide, None where ports and networks do. With
    :attr:`IngressClassifier.PACING` the counters of a class sum its packets on the ifb and what the relay has read.
    """

    device: str
    total: Rate
    classes: tuple[ClassSnapshot, ...]
    ingress_classifier: IngressClassifier | None = None


class _Sampler:
    """The classes of one HTB tree, with rates computed from readings of their counters."""

    def __init__(self) -> None:
        self._classes: tuple[ResolvedClass, ...] = ()
        self._meter: RateMeter[Handle] = RateMeter(RATE_WINDOW)
        self._peaks: dict[str, Rate] = {}
        self.last: tuple[ClassSnapshot, ...] = ()
        """Snapshots of the existing classes."""
        self.counters: Mapping[Handle, ClassStats] = {}
        """As they were read last."""
        self._idle = False
        """Whether :attr:`last` is of these classes."""

    @property
    def waits(self) -> bool:
        """Whether packets waited in a class at the last reading."""
        return any(stats.backlog_packets for stats in self.counters.values())

    def follow(self, classes: tuple[ResolvedClass, ...]) -> None:
        """Sample these classes from now on."""
        self._idle = False
        self._classes = classes
        self._peaks = {c.name: self._peaks.get(c.name, Rate(0)) for c in classes}

    def sample(
        self, counters: Mapping[Handle, ClassStats], ids: ClassIds, now: float, *, since: float | None = None
    ) -> bool:
        """Make :attr:`last` of counters read at ``now`` (seconds); whether it stays so while they are the same, since
        all rates are 0. ``since``: until then the last reading is known to have been true."""
        if self._idle and since is not None:
            self._meter.again(self.counters, since)
        if self._idle and self._meter.again(counters, now):
            return True
        rates = self._meter.read(counters, now)
        snapshots = []
        for c in self._classes:
            handle = leaf_handle(ids[c.name])
            stats = counters.get(handle)
            if stats is None:
                continue
            rate = rates.get(handle, Rate(0))
            self._peaks[c.name] = max(rate, self._peaks[c.name])
            snapshots.append(
                ClassSnapshot(c.name, ids[c.name], handle, c.rate, c.ceil, c.priority, stats, rate, self._peaks[c.name])
            )
        self.last = tuple(snapshots)
        self.counters = counters
        self._idle = True
        return False


class Shaping:
    """Keeps the HTB trees of an interface, and of the ifb for received traffic, equal to a policy."""

    def __init__(
        self,
        kernel: Kernel,
        interface: str,
        features: Features,
        *,
        replace: bool,
        end: ShapedEnd | None = None,
        received_counters: SharedCounters | None = None,
        device_counts: DeviceCounts | None = None,
        budgets: bool = False,
    ) -> None:
        """``end``: the one of the Pod's link that the interface is, its own without it. ``received_counters`` counts
        what a pacing relay receives.

        With ``device_counts`` classes are read only when packets have passed or wait. ``budgets``: somebody shares out
        the budgets of policies, by :meth:`hold`.
        """
        self.end = end or PodEnd()
        """Where the lanes are."""
        self.interface = interface
        self.received_counters = received_counters or SharedCounters()
        self.ingress_classifier: IngressClassifier | None = None
        """Class ids of the policy passed to :meth:`begin` last."""
        self.ids = ClassIds.assign([])
        self.snapshots: tuple[ClassSnapshot, ...] = ()
        self.received: Received | None = None
        """State of received traffic, if the policy limits it."""
        self.read_at: float | None = None
        """When the counters of the snapshots were read, on the clock of :meth:`sample`."""
        self.share: Rate | None = None
        """What is left to it of a budget now, of which it never sends more; None: there is no budget."""
        self._budgets = budgets
        self._device_counts = device_counts
        self._settled = False
        """Whether the counters stay as they were read while no packet passes: nothing waited."""
        self._still = False
        """Whether the snapshots do then, too: all rates are 0."""
        self._passed: bytes | None = None
        self._in_all = ClassStats()
        """What :meth:`sent_in_all` said last, when so much had passed."""
        self._kernel = kernel
        self._features = features
        self._replace = replace
        self._policy: TrafficPolicy | None = None
        self._lanes: tuple[TrafficTree, IngressTree | None] | None = None  # the final state
        self._whole: TrafficTree | None = None  # the tree of the policy alone, whatever its share
        self._goes = False  # whether classes are left to remove
        self._rest = True  # whether the second step has anything to do
        self.unfinished = False
        """Whether more than the final state exists: :meth:`finish` was not called, or failed."""
        self._sending = _Sampler()
        self._receiving: tuple[str, Rate, IngressClassifier | None, _Sampler] | None = None

    def ids_for(self, policy: TrafficPolicy) -> ClassIds:
        """The class ids for ``policy``: classes that stay keep theirs, new classes get new ones."""
        return self.ids.evolve(c.name for c in policy.classes)

    def pacing_limits(self, policy: TrafficPolicy, ids: ClassIds) -> ReceiveLimits | None:
        """The receive limits that the relay must enforce after :meth:`begin`; None if the kernel enforces all."""
        return ReceiveLimits.from_policy(policy, ids) if self.ingress_classifier is IngressClassifier.PACING else None

    def begin(
        self,
        policy: TrafficPolicy,
        ids: ClassIds,
        excluded_matches: Sequence[Match] = (),
        silent_ports: Sequence[int] = (),
    ) -> Report:
        """Bring the interface to a policy, but keep the removed classes of the previous one for now.

        Received traffic is unchanged until :meth:`finish`; from then on ``excluded_matches`` are in the default class.
        ``silent_ports`` are those that matches by name capture only if they name the port.

        Sends only what differs. Raises the errors of :mod:`tc_core`; :attr:`ids` are then still those of the previous
        policy.
        """
        whole = self.end.sending(policy, self._features, ids)  # first: fails before anything is changed
        self._settled = False
        ingress_classifier = self.end.classifier(policy, self._features)
        ingress = compile_ingress(
            policy,
            self.interface,
            self._features,
            ids,
            excluded_matches=excluded_matches,
            ingress_classifier=ingress_classifier or IngressClassifier.SOCKETS,  # of no account where it is None
            silent_ports=silent_ports,
        )
        seen = observe_interface(self._kernel, self.interface)
        self.share = self._share_of(policy, seen)
        first = wanted = self._held(whole)
        if self._policy is not None:
            both, both_ids = transition(self._policy, self.ids, policy, ids)
            first = wanted if both is policy else self._held(self.end.sending(both, self._features, both_ids))
        steps = self.end.first_steps(seen, first, ingress, replace=self._replace)
        report = execute(self._kernel, self.interface, steps)
        self._lanes, self._whole = (wanted, ingress), whole
        self._goes = first != wanted
        arrives = ingress is not None or bool(plan_arriving(seen, None))
        self._rest = self.unfinished or self._goes or arrives
        self.unfinished = True
        self.ids, self._policy, self.ingress_classifier = ids, policy, ingress_classifier
        self._sending.follow(policy.resolved())
        return report

    def finish(self) -> Report:
        """Delete the removed classes, which receive no packets any more, and set up received traffic.

        By now connections have their class of the new policy, by which their packets are classified. Raises the errors
        of :mod:`tc_core`.
        """
        if self._lanes is None or self._policy is None:
            return Report(self.interface)
        self._settled = False
        if not self._rest and self._receiving is None:
            self.unfinished = False
            return Report(self.interface)
        report = execute(self._kernel, self.interface, self._steps())
        received = self._policy.received()
        if received is None or self._lanes[1] is None:
            self._receiving = self.received = None
        else:
            sampler = self._receiving[-1] if self._receiving else _Sampler()
            sampler.follow(received.resolved())
            self._receiving = self.end.receives_by(self.interface), received.total, self.ingress_classifier, sampler
        self.unfinished = False
        return report

    def _share_of(self, policy: TrafficPolicy, seen: ObservedInterface) -> Rate | None:
        """With which it begins under a policy: what it has, or an earlier process has left to it. What has just come
        has little, until the others have made room."""
        if policy.budget is None or not self._budgets:
            return None
        if self.share is not None:
            return self.share
        there = seen.leaving if self.end.sends_by(self.interface) == self.interface else seen.arriving
        total = None if there is None or not is_ours(there) else there.class_named(INNER_HANDLE)
        return Rate(beginning(policy.budget.node.bits_per_second)) if total is None else total.ceil

    def _held(self, tree: TrafficTree) -> TrafficTree:
        return tree if self.share is None else held(tree, self.share)

    @property
    def can_hold(self) -> bool:
        """Whether :meth:`hold` can change the share now: not while a policy is being put in force."""
        return self.share is not None and self._lanes is not None and not self.unfinished

    def hold(self, share: Rate) -> None:
        """Leave this much of a budget to it from now on, where it :attr:`can_hold`. Raises the errors of
        :mod:`tc_core`; then it keeps what it had, which :meth:`put_back` puts back."""
        assert self._lanes is not None
        assert self._whole is not None
        old, ingress = self._lanes
        new = held(self._whole, share)
        for change in held_changes(old, new):
            self._kernel.apply(self.end.sends_by(self.interface), change)
        self.share, self._lanes = share, (new, ingress)

    def sent_in_all(self) -> ClassStats:
        """The counters of what is sent, all classes together, as they are now; the backlog is that of the classes.
        Raises the errors of :mod:`tc_core`."""
        passed = None if self._device_counts is None else self._device_counts.text()
        if passed is not None and passed == self._passed and not self._in_all.backlog_packets:
            return self._in_all
        counters = self._kernel.counters(self.end.sends_by(self.interface))
        waiting = sum(each.backlog_packets for handle, each in counters.items() if handle != INNER_HANDLE)
        self._in_all = replace(counters.get(INNER_HANDLE, ClassStats()), backlog_packets=waiting)
        self._passed = passed
        return self._in_all

    def devices(self) -> list[int]:
        """The numbers of the devices with classes, of those that are there."""
        found = []
        for name in (self.end.sends_by(self.interface), self.end.receives_by(self.interface)):
            with suppress(OSError):
                found.append(socket.if_nametoindex(name))
        return found

    def missing(self) -> list[str]:
        """The changes that would bring the kernel to the final state; none while :attr:`unfinished`.

        Raises the errors of :mod:`tc_core`.
        """
        if self._lanes is None or self.unfinished:
            return []
        try:
            steps = self._steps()
        except (ForeignLinkError, ForeignQdiscError) as error:
            return [str(error)]
        return [change.command(name) for name, change in steps]

    def put_back(self) -> None:
        """Make the changes of :meth:`missing`. Raises the errors of :mod:`tc_core`."""
        if self._lanes is not None and not self.unfinished:
            self._settled = False
            execute(self._kernel, self.interface, self._steps())

    def _steps(self) -> Steps:
        """To the final state."""
        if self._lanes is None:
            return ()
        return self.end.steps(observe_interface(self._kernel, self.interface), *self._lanes, replace=self._replace)

    def remove(self) -> None:
        """Delete our trees, never foreign ones. A removed interface is no error: its tree was removed with it."""
        with suppress(InterfaceNotFoundError):
            clear(self._kernel, self.interface)

    def sample(self, now: float) -> None:
        """Read the counters. ``now`` is a monotonic time in seconds.

        Rates are means since the last sample at least ``RATE_WINDOW`` ago; samples in between (after a reload, at the
        end) update the counters only.
        """
        moved = self._device_counts is None or self._device_counts.moved()
        known = self._settled and not moved
        if known and self._still:
            self.read_at = now
            return
        self._settled = False
        sent = self._sending.counters if known else self._kernel.counters(self.end.sends_by(self.interface))
        still = self._sending.sample(sent, self.ids, now, since=self.read_at)
        self.snapshots = self._sending.last
        waits = self._sending.waits
        if self._receiving is not None:
            device, total, ingress_classifier, sampler = self._receiving
            counters = sampler.counters if known else self._kernel.counters(device)
            if ingress_classifier is IngressClassifier.PACING and not known:
                counters = {handle: self._with_relayed(handle, stats) for handle, stats in counters.items()}
            still &= sampler.sample(counters, self.ids, now, since=self.read_at)
            self.received = Received(device, total, sampler.last, ingress_classifier)
            waits |= sampler.waits
        self._settled, self._still = not waits, still
        self.read_at = now

    def _with_relayed(self, handle: Handle, stats: ClassStats) -> ClassStats:
        """A leaf's counters on the ifb plus what the relay has read; the ifb sees relayed packets in another leaf."""
        if not handle.minor & LEAF_BASE:
            return stats
        return replace(stats, bytes=stats.bytes + self.received_counters.total(handle.minor & ~LEAF_BASE))

    def classes_in_force(self) -> dict[Handle, HtbClass]:
        """The classes of what is sent, read from the kernel. Raises the errors of :mod:`tc_core`."""
        return {each.handle: each for each in self._kernel.observe(self.end.sends_by(self.interface)).classes}

    def received_in_force(self) -> dict[Handle, HtbClass]:
        """The classes of what is received, read from the kernel; empty without limits for that."""
        if self._receiving is None:
            return {}
        return {each.handle: each for each in self._kernel.observe(self._receiving[0]).classes}


def shaped_interface(kernel: Kernel, named: str | None) -> str:
    """The interface to shape: the named one, else that of the default route. Raises :class:`ConfigError`."""
    interface = named or kernel.default_route_interface()
    if interface is None:
        raise ConfigError("There is no default route to tell which interface to shape. Name it with --interface.")
    if interface == "lo":
        raise ConfigError(
            "lo is the loopback interface: what it carries stays on this machine and is not shaped. "
            "Name the interface that leads out (see `ip link`) with --interface."
        )
    return interface
