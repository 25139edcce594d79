"""Bytes sent and received by each class of an interface, and its present rate, from two readings of the counters.

The limits are those that the kernel has, not those of a policy that may not be in force. Names come from outside: the
kernel has handles only. Reading and waiting is :func:`measure`; the rest is pure.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tc_core.compile.packet_tree import ifb_name, is_our_ifb
from tc_core.diff import is_ours
from tc_core.handles import Handle
from tc_core.kernel import Counters, Kernel
from tc_core.model import Cake, Observed, Prio, Qdisc, Tbf
from tc_core.stats import ClassStats, rate_between, with_leaf_drops
from traffic_policy.units import ByteCount, Duration, Rate

Names = Mapping[Handle, str]


@dataclass(frozen=True, slots=True)
class ClassStatistics:
    """One class. ``rate`` is the mean over the time between the two readings; the rest is what the second one said.

    ``sent``, of a class that receives what has passed to the receiver, counts link headers too, as the shaper does
    (:class:`tc_core.stats.ClassStats`). ``guaranteed`` is None
    where the shaper gives no guarantees, ``ceil`` where nothing but the total limits the class.
    """

    name: str
    rate: Rate
    sent: ByteCount
    packets: int
    dropped: int
    queued: ByteCount
    guaranteed: Rate | None = None
    ceil: Rate | None = None

    def as_document(self) -> dict[str, Any]:
        """Plain data: rates in bits per second, amounts in bytes."""
        return {
            "name": self.name,
            "rate": self.rate.bits_per_second,
            "guaranteed": self.guaranteed.bits_per_second if self.guaranteed is not None else None,
            "ceil": self.ceil.bits_per_second if self.ceil is not None else None,
            "sent": self.sent.count,
            "packets": self.packets,
            "dropped": self.dropped,
            "queued": self.queued.count,
        }


@dataclass(frozen=True, slots=True)
class Statistics:
    """All classes of an interface, those of the policy in their order. ``str()`` is a table.

    ``sending`` is empty where nothing of ours is in force, ``receiving`` where what arrives is not limited. ``over``
    is the time between the two readings.
    """

    interface: str
    over: Duration
    sending: tuple[ClassStatistics, ...] = ()
    receiving: tuple[ClassStatistics, ...] = ()

    def __getitem__(self, name: str) -> ClassStatistics:
        """What a class sends. Raises KeyError when there is no such class."""
        for each in self.sending:
            if each.name == name:
                return each
        raise KeyError(name)

    def as_document(self) -> dict[str, Any]:
        """Plain data, for JSON: rates in bits per second, amounts in bytes, times in seconds."""
        return {
            "interface": self.interface,
            "over": self.over.seconds,
            "sending": [each.as_document() for each in self.sending],
            "receiving": [each.as_document() for each in self.receiving],
        }

    def __str__(self) -> str:
        if not self.sending:
            return f"Podlane does not shape {self.interface}."
        lines = [f"{self.interface} sends", *_table(self.sending, "sent")]
        if self.receiving:
            lines += ["", f"{self.interface} receives", *_table(self.receiving, "received")]
        return "\n".join(lines)


def _table(classes: tuple[ClassStatistics, ...], passed: str) -> Iterator[str]:
    rows = [("class", "now", "guaranteed", "up to", passed, "packets", "dropped", "queued"), *map(_row, classes)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *numbers in rows:
        cells = [cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True)]
        yield "  ".join([name.ljust(widths[0]), *cells])


def _row(each: ClassStatistics) -> tuple[str, ...]:
    return (
        each.name,
        each.rate.human,
        each.guaranteed.human if each.guaranteed is not None else "-",
        each.ceil.human if each.ceil is not None else "-",
        each.sent.human,
        str(each.packets),
        str(each.dropped),
        each.queued.human,
    )


# --- readings --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Lane:
    """A class of our tree as one reading shows it."""

    handle: Handle
    stats: ClassStats
    guaranteed: Rate | None
    ceil: Rate | None


def measure(
    kernel: Kernel,
    interface: str,
    over: Duration,
    *,
    sending: Names,
    receiving: Names,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Statistics:
    """Read the counters twice, ``over`` apart. ``sending`` and ``receiving`` name the classes in the order to show.

    Classes without a name are called by their handles. Raises :class:`InterfaceNotFoundError`, :class:`KernelError`.
    """
    device = ifb_name(interface)
    before, began = (_lanes(kernel, interface), _arrivals(kernel, device)), clock()
    pause(over.seconds)
    after, ended = (_lanes(kernel, interface), _arrivals(kernel, device)), clock()
    seconds = max(ended - began, 1e-9)
    return Statistics(
        interface,
        Duration.from_seconds(seconds),
        tuple(_compared(before[0], after[0], seconds, sending)),
        tuple(_compared(before[1], after[1], seconds, receiving)),
    )


def _compared(
    before: Mapping[Handle, _Lane], after: Mapping[Handle, _Lane], seconds: float, names: Names
) -> Iterator[ClassStatistics]:
    order = {handle: place for place, handle in enumerate(names)}
    for lane in sorted(after.values(), key=lambda lane: (order.get(lane.handle, len(order)), int(lane.handle))):
        stats = lane.stats
        earlier = before[lane.handle].stats if lane.handle in before else ClassStats()
        yield ClassStatistics(
            names.get(lane.handle, str(lane.handle)),
            rate_between(earlier, stats, seconds),
            ByteCount(stats.bytes),
            stats.packets,
            stats.drops,
            ByteCount(stats.backlog_bytes),
            lane.guaranteed,
            lane.ceil,
        )


def _arrivals(kernel: Kernel, device: str) -> dict[Handle, _Lane]:
    link = kernel.interfaces().get(device)
    return _lanes(kernel, device) if link is not None and is_our_ifb(link.alias) else {}


def _lanes(kernel: Kernel, interface: str) -> dict[Handle, _Lane]:
    """The classes of our tree on an interface; none where the tree is foreign."""
    observed = kernel.observe(interface)
    root = observed.root
    if root is None or not is_ours(observed):
        return {}
    if observed.classes:
        counters = kernel.counters(interface)
        leaves = [c for c in observed.classes if not c.is_inner]
        found = [_Lane(c.handle, counters.get(c.handle, ClassStats()), c.rate, c.ceil) for c in leaves]
    else:
        found = list(_plain_lanes(observed, root, kernel.qdisc_counters(interface)))
    return {lane.handle: lane for lane in found}


def _plain_lanes(observed: Observed, root: Qdisc, counters: Counters) -> Iterator[_Lane]:
    """The bands of a prio qdisc, or the root alone: what hangs on a band counts for it."""
    prio = next((q for q in observed.qdiscs if isinstance(q, Prio)), None)
    if prio is None:
        yield _Lane(root.handle, _with_drops_below(root, observed, counters), None, _ceil(root))
        return
    for number in range(1, prio.bands + 1):
        band = Handle(prio.handle.major, number)
        below = next((q for q in observed.qdiscs if q.parent == band), None)
        if below is not None:
            yield _Lane(band, _with_drops_below(below, observed, counters), None, _ceil(below))


def _with_drops_below(qdisc: Qdisc, observed: Observed, counters: Counters) -> ClassStats:
    stats = counters.get(qdisc.handle, ClassStats())
    below = (counters.get(q.handle) for q in observed.qdiscs if q.parent.major == qdisc.handle.major)
    return with_leaf_drops(stats, sum(each.drops for each in below if each is not None))


def _ceil(qdisc: Qdisc) -> Rate | None:
    if isinstance(qdisc, Tbf):
        return qdisc.rate
    return qdisc.bandwidth if isinstance(qdisc, Cake) else None
