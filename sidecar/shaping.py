"""The sidecar's traffic control: one interface held to a policy, and its counters read at a steady pace.

Everything here blocks (netlink), so the service calls it in a worker thread, one call at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from sidecar.errors import ConfigError
from tc_core import reconcile
from tc_core.capability import Features
from tc_core.compile import compile_policy, leaf_handle
from tc_core.errors import InterfaceNotFoundError
from tc_core.handles import Handle
from tc_core.kernel import Kernel
from tc_core.marks import ClassIds
from tc_core.policy import ResolvedClass, TrafficPolicy
from tc_core.stats import ClassStats, rates
from tc_core.units import Rate

RATE_WINDOW: Final = 0.5
"""Seconds that a rate is the mean of, at least: over a few milliseconds one burst looks like many times the ceil."""


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


class Shaping:
    """Keeps an interface's HTB tree equal to a policy."""

    def __init__(self, kernel: Kernel, interface: str, features: Features, *, replace: bool) -> None:
        self.interface = interface
        self.ids = ClassIds.assign([])
        self.snapshots: tuple[ClassSnapshot, ...] = ()
        self._kernel = kernel
        self._features = features
        self._replace = replace
        self._classes: tuple[ResolvedClass, ...] = ()
        self._counters: Mapping[Handle, ClassStats] = {}
        self._sampled_at: float | None = None
        self._rates: Mapping[Handle, Rate] = {}
        self._peaks: dict[str, Rate] = {}

    def ids_for(self, policy: TrafficPolicy) -> ClassIds:
        """The class ids that ``policy`` gets: those in force for classes that stay, new ones for new classes."""
        return self.ids.evolve(c.name for c in policy.classes)

    def apply(self, policy: TrafficPolicy, ids: ClassIds) -> reconcile.Report:
        """Bring the interface to a policy; sends only what differs.

        Raises the errors of :mod:`tc_core`; :attr:`ids` are then still those of the policy before.
        """
        tree = compile_policy(policy, self._features, ids)
        report = reconcile.apply(self._kernel, self.interface, tree, replace=self._replace)
        self.ids = ids
        self._classes = policy.resolved()
        self._peaks = {c.name: self._peaks.get(c.name, Rate(0)) for c in self._classes}
        return report

    def remove(self) -> None:
        """Take our tree away; another's is never touched. An interface that is gone has taken it along."""
        with suppress(InterfaceNotFoundError):
            reconcile.remove(self._kernel, self.interface)

    def sample(self, now: float) -> None:
        """Read the counters. ``now`` is a monotonic time in seconds.

        Rates are means since the last sample that was at least ``RATE_WINDOW`` ago; samples in between (after a reload,
        at the end) show newer counters and the same rates.
        """
        counters = self._kernel.counters(self.interface)
        if self._sampled_at is None:
            self._counters, self._sampled_at = counters, now
        elif now - self._sampled_at >= RATE_WINDOW:
            self._rates = rates(self._counters, counters, now - self._sampled_at)
            self._counters, self._sampled_at = counters, now
        snapshots = []
        for c in self._classes:
            handle = leaf_handle(self.ids[c.name])
            stats = counters.get(handle)
            if stats is None:
                continue
            rate = self._rates.get(handle, Rate(0))
            self._peaks[c.name] = max(rate, self._peaks[c.name])
            snapshots.append(
                ClassSnapshot(
                    c.name, self.ids[c.name], handle, c.rate, c.ceil, c.priority, stats, rate, self._peaks[c.name]
                )
            )
        self.snapshots = tuple(snapshots)


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
