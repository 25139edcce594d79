"""Reads the first datagrams of QUIC that the programs have shown: the sans-I/O part of :mod:`datapath.ebpf.reader` for
UDP, by the tables that stepping aside uses.

Nothing waits for an answer, so several datagrams of a hello come with the class that their flow had before. The answer
is written into a map by addresses and ports. What has no name is not in it: it goes by port.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from datapath.ebpf.beginnings import Beginning, mapped
from datapath.protocols.detect import Reason
from datapath.routing.cached import Routing
from datapath.stepaside.class_cache import ClassCache, FlowObserver
from datapath.stepaside.marks import DECIDED, FIRST
from datapath.stepaside.quic_flows import QuicFlows
from traffic_policy.marks import STATE_MASK, class_id_of, class_mark
from traffic_policy.policy import Bound

MAX_FLOWS: Final = 2048
"""Flows of one interface that have a class, in the kernel and in memory."""
_MAX_OPENINGS: Final = 256
_MAX_HELD: Final = 2 << 20
"""Flows of one interface whose hello is awaited, and bytes held for them."""


class FlowVerdict(NamedTuple):
    """The class of a flow. ``flow``: addresses and ports in network byte order."""

    flow: bytes
    class_id: int

    @property
    def entry(self) -> tuple[bytes, bytes]:
        """The key and the value in the map ``udp_flows``."""
        return mapped(self.flow), struct.pack("=I", self.class_id)


class OpenedFlow(NamedTuple):
    """A flow that a program here has opened and a name has decided. ``since``: monotonic seconds."""

    flow: bytes
    name: str | None
    since: float


class Datagrams:
    """The flows of one interface. Not thread-safe."""

    def __init__(self, routing: Routing, flow_observer: FlowObserver, *, detection_timeout: float) -> None:
        """``detection_timeout`` in seconds, from a connection's first datagram."""
        self._class_cache = ClassCache(routing)
        self._flows = QuicFlows(
            flow_observer,
            detection_timeout=detection_timeout,
            max_openings=_MAX_OPENINGS,
            max_held=_MAX_HELD,
            max_decided=MAX_FLOWS,
        )

    @property
    def undecided(self) -> int:
        """Flows whose hello is not whole yet."""
        return self._flows.undecided

    def opened_here(self) -> list[OpenedFlow]:
        """For lists of connections. Whether they go on is not known: UDP has no end."""
        return [
            OpenedFlow(flow, known.detection.sni, since)
            for flow, known, since in self._flows.all_known()
            if known.bound is Bound.OUTBOUND and known.detection.reason is Reason.FOUND
        ]

    def follow(self, routing: Routing) -> list[FlowVerdict]:
        """Put a routing in force; the flows that have another class by it."""
        before, self._class_cache = self._class_cache, ClassCache(routing)
        found = []
        for flow, known, _ in self._flows.all_known():
            class_id = class_id_of(self._class_cache.choose(flow, known).mark)
            if known.detection.reason is Reason.FOUND and class_id != class_id_of(before.choose(flow, known).mark):
                found.append(FlowVerdict(flow, class_id))
        return found

    def take(self, beginning: Beginning, now: float) -> list[FlowVerdict]:
        """The verdict that this datagram allows, at ``now`` (monotonic seconds). Does not raise, whatever it holds."""
        has = beginning.class_id
        mark = class_mark(has).value | DECIDED.value if has else FIRST.value
        after = self._flows.classify(
            beginning.flow, beginning.data, mark, now, beginning.bound, self._class_cache
        )  # fmt: skip
        self._flows.moved.clear()  # it is written each time
        class_id = class_id_of(after)
        if after & STATE_MASK != DECIDED.value or class_id == has:
            return []
        known = self._flows.known(beginning.flow)
        if not has and (known is None or known.detection.reason is not Reason.FOUND):
            return []
        return [FlowVerdict(beginning.flow, class_id)]

    def give_up_silent(self, now: float) -> None:
        """Flows that say nothing more go by port. Call periodically."""
        self._flows.give_up_silent(now, self._class_cache)
