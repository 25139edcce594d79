"""The sidecar's traffic control: one interface held to a policy, both ways, and its counters read at a steady pace.

Everything here blocks (netlink), so the service calls it in a worker thread, one call at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from datapath.download_limits import ReceiveLimits
from datapath.shared_counters import SharedCounters
from datapath.transition import transition
from tc_core.apply.execute import Report, apply, clear, execute
from tc_core.apply.plan import observe_interface, plan_arriving
from tc_core.compile.ingress_classifier import IngressClassifier, select_ingress_classifier
from tc_core.compile.mark_tree import LEAF_BASE, compile_policy, leaf_handle
from tc_core.compile.packet_tree import compile_ingress
from tc_core.errors import InterfaceNotFoundError
from tc_core.handles import Handle
from tc_core.kernel import Kernel
from tc_core.model import HtbClass
from tc_core.probe.capability import Features
from tc_core.sampling import RateMeter
from tc_core.stats import ClassStats
from tc_core.trees import Lanes
from traffic_policy.errors import ConfigError
from traffic_policy.marks import ClassIds
from traffic_policy.policy import Match, ResolvedClass, TrafficPolicy
from traffic_policy.units import Rate

RATE_WINDOW: Final = 0.5
"""Seconds that a rate is the mean of, at least."""


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
    """What arrives and its limits: ``device`` is the ifb that it passes, whose classes have the ids of those sent.

    ``ingress_classifier`` says who tells the classes where names decide, None where ports and networks do. With
    :attr:`IngressClassifier.PACING` the counters of a class are those of its packets on the ifb and of what the relay
    has read.
    """

    device: str
    total: Rate
    classes: tuple[ClassSnapshot, ...]
    ingress_classifier: IngressClassifier | None = None


class _Sampler:
    """The classes of one HTB tree, with their rates worked out from readings of their counters."""

    def __init__(self) -> None:
        self._classes: tuple[ResolvedClass, ...] = ()
        self._meter: RateMeter[Handle] = RateMeter(RATE_WINDOW)
        self._peaks: dict[str, Rate] = {}

    def follow(self, classes: tuple[ResolvedClass, ...]) -> None:
        """From now on these."""
        self._classes = classes
        self._peaks = {c.name: self._peaks.get(c.name, Rate(0)) for c in classes}

    def sample(self, counters: Mapping[Handle, ClassStats], ids: ClassIds, now: float) -> tuple[ClassSnapshot, ...]:
        """What these counters, read at ``now``, say of the classes that are there."""
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
        return tuple(snapshots)


class Shaping:
    """Keeps an interface's HTB tree equal to a policy, and that of the ifb for what arrives."""

    def __init__(
        self,
        kernel: Kernel,
        interface: str,
        features: Features,
        *,
        replace: bool,
        relays: bool = True,
        received_counters: SharedCounters | None = None,
    ) -> None:
        """``relays``: whether connections are. ``received_counters`` counts what the relay receives where it has to
        pace."""
        self._relays = relays
        self.interface = interface
        self.received_counters = received_counters or SharedCounters()
        self.ingress_classifier: IngressClassifier | None = None
        """Of the policy that was begun last."""
        self.ids = ClassIds.assign([])
        self.snapshots: tuple[ClassSnapshot, ...] = ()
        self.received: Received | None = None
        """Of what arrives, if the policy limits it."""
        self.read_at: float | None = None
        """When the counters of the snapshots were read, on the clock of :meth:`sample`."""
        self._kernel = kernel
        self._features = features
        self._replace = replace
        self._policy: TrafficPolicy | None = None
        self._lanes: Lanes | None = None  # what is there in the end
        self._goes = False  # whether classes are there that have to go
        self._rest = True  # whether the second step has anything to do
        self.unfinished = False
        """Whether more is there than that: :meth:`finish` has not been called, or has failed."""
        self._sending = _Sampler()
        self._receiving: tuple[str, Rate, IngressClassifier | None, _Sampler] | None = None

    def ids_for(self, policy: TrafficPolicy) -> ClassIds:
        """The class ids that ``policy`` gets: those in force for classes that stay, new ones for new classes."""
        return self.ids.evolve(c.name for c in policy.classes)

    def pacing_limits(self, policy: TrafficPolicy, ids: ClassIds) -> ReceiveLimits | None:
        """The limits that the relay has to keep for a policy that was begun; None: the kernel keeps all."""
        return ReceiveLimits.from_policy(policy, ids) if self.ingress_classifier is IngressClassifier.PACING else None

    def begin(
        self,
        policy: TrafficPolicy,
        ids: ClassIds,
        excluded_matches: Sequence[Match] = (),
        silent_ports: Sequence[int] = (),
    ) -> Report:
        """Bring the interface to a policy, except that classes of the one before that go are still there.

        What arrives is not touched yet. What is ``excluded_matches`` is the default class's then. ``silent_ports`` are
        those that matches by name do not capture unless they say so.

        Sends only what differs. Raises the errors of :mod:`tc_core`; :attr:`ids` are then still those of the policy
        before.
        """
        wanted = compile_policy(policy, self._features, ids)  # first: whether it can be had does not depend on the old
        ingress_classifier = select_ingress_classifier(policy, self._features, relays=self._relays)
        ingress = compile_ingress(
            policy,
            self.interface,
            self._features,
            ids,
            excluded_matches=excluded_matches,
            ingress_classifier=ingress_classifier or IngressClassifier.SOCKETS,
            silent_ports=silent_ports,
        )
        first = wanted
        if self._policy is not None:
            both, both_ids = transition(self._policy, self.ids, policy, ids)
            first = wanted if both is policy else compile_policy(both, self._features, both_ids)
        report = apply(self._kernel, self.interface, first, replace=self._replace)
        self._lanes = Lanes(wanted, ingress, ids)
        self._goes = first != wanted
        self._rest = self.unfinished or self._goes or self._policy is None or ingress is not None
        self.unfinished = True
        self.ids, self._policy, self.ingress_classifier = ids, policy, ingress_classifier
        self._sending.follow(policy.resolved())
        return report

    def finish(self) -> Report:
        """Take away the classes that go, once nobody sends there any more, and do all for what arrives.

        Connections have the class of the new policy by now, which is how their packets are found. Raises the errors of
        :mod:`tc_core`.
        """
        if self._lanes is None or self._policy is None:
            return Report(self.interface)
        if not self._rest and self._receiving is None:
            self.unfinished = False
            return Report(self.interface)
        if self._goes:
            report = apply(self._kernel, self.interface, self._lanes, replace=self._replace)
        else:
            seen = observe_interface(self._kernel, self.interface)
            steps = plan_arriving(seen, self._lanes.ingress, replace=self._replace)
            report = execute(self._kernel, self.interface, steps)
        received = self._policy.received()
        if received is None or self._lanes.ingress is None:
            self._receiving = self.received = None
        else:
            sampler = self._receiving[-1] if self._receiving else _Sampler()
            sampler.follow(received.resolved())
            self._receiving = self._lanes.ingress.device, received.total, self.ingress_classifier, sampler
        self.unfinished = False
        return report

    def remove(self) -> None:
        """Take our trees away; another's is never touched. An interface that is gone has taken its own along."""
        with suppress(InterfaceNotFoundError):
            clear(self._kernel, self.interface)

    def sample(self, now: float) -> None:
        """Read the counters. ``now`` is a monotonic time in seconds.

        Rates are means since the last sample that was at least ``RATE_WINDOW`` ago; samples in between (after a reload,
        at the end) show newer counters and the same rates.
        """
        self.snapshots = self._sending.sample(self._kernel.counters(self.interface), self.ids, now)
        if self._receiving is not None:
            device, total, ingress_classifier, sampler = self._receiving
            counters = self._kernel.counters(device)
            if ingress_classifier is IngressClassifier.PACING:
                counters = {handle: self._with_relayed(handle, stats) for handle, stats in counters.items()}
            self.received = Received(device, total, sampler.sample(counters, self.ids, now), ingress_classifier)
        self.read_at = now

    def _with_relayed(self, handle: Handle, stats: ClassStats) -> ClassStats:
        """The counters of a leaf on the ifb, which sees what is relayed in another one, and what the relay has read."""
        if not handle.minor & LEAF_BASE:
            return stats
        return replace(stats, bytes=stats.bytes + self.received_counters.total(handle.minor & ~LEAF_BASE))

    def classes_in_force(self) -> dict[Handle, HtbClass]:
        """The classes that the interface has now. Raises the errors of :mod:`tc_core`."""
        return {each.handle: each for each in self._kernel.observe(self.interface).classes}

    def received_in_force(self) -> dict[Handle, HtbClass]:
        """The same of the ifb for what arrives; none if there is none."""
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
