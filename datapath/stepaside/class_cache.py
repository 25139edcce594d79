"""Detection results of flows, the classes chosen by them, and the observer interface. Pure.

Shared by TCP connections (:mod:`datapath.stepaside.classifier`) and QUIC flows (:mod:`datapath.stepaside.quic_flows`).
"""

from __future__ import annotations

import ipaddress
from typing import Final, NamedTuple, Protocol

from datapath.bounded_map import BoundedMap
from datapath.protocols.detect import Detection
from datapath.routing.cached import Routing
from datapath.routing.flow import Destination
from traffic_policy.policy import Bound, Match, TransportProtocol

_CHOICES: Final = 4096


class DetectedFlow(NamedTuple):
    """What the class of a connection depends on, in addition to its addresses and ports."""

    detection: Detection
    bound: Bound
    transport: TransportProtocol = TransportProtocol.TCP


class FlowObserver(Protocol):
    """Receives the decisions."""

    def detected(self, detection: Detection, seconds: float) -> None:
        """Detection ended, ``seconds`` after the first bytes."""

    def stepped_aside(self, flow: bytes, known: DetectedFlow, chosen: ChosenClass) -> None:
        """The class is chosen; no more packets of the connection are queued. :func:`ends` reads ``flow``."""

    def lost_lines(self, count: int) -> None:
        """``count`` lines of the access log were lost. Called from any thread."""


class ChosenClass(NamedTuple):
    """A class, its decided mark, and the match that decided; None: no match did."""

    class_name: str
    mark: int
    match: Match | None = None


class ClassCache:
    """Caches the choices of one routing, as destinations and names repeat. A new policy gets a new cache."""

    __slots__ = ("_known", "routing")

    def __init__(self, routing: Routing) -> None:
        self.routing = routing
        self._known = BoundedMap[tuple[bytes, DetectedFlow], ChosenClass](_CHOICES)

    def choose(self, flow: bytes, known: DetectedFlow) -> ChosenClass:
        """The class of a connection."""
        # Without the client's port, which is no criterion and differs each time.
        key = (flow[:-4] + flow[-2:], known)
        choice = self._known.get(key)
        if choice is None:
            source, destination = ends(flow, known)
            route = self.routing.route_of(destination, source, known.detection)
            mark = self.routing.mark_of(route.class_name)
            choice = self._known[key] = ChosenClass(route.class_name, mark, route.match)
        return choice


def addresses(flow: bytes) -> tuple[tuple[str, int], tuple[str, int]]:
    """The client's and the server's address and port, from a flow in network byte order."""
    size = (len(flow) - 4) // 2
    source, destination = (str(ipaddress.ip_address(flow[at : at + size])) for at in (0, size))
    source_port, port = (int.from_bytes(flow[at : at + 2], "big") for at in (-4, len(flow) - 2))
    return (source, source_port), (destination, port)


def ends(flow: bytes, known: DetectedFlow) -> tuple[tuple[str, int], Destination]:
    """The client's address and port, and the destination."""
    client, (address, port) = addresses(flow)
    return client, Destination.parse(address, port, known.transport, known.bound)


def known_marks(routing: Routing) -> frozenset[int]:
    """The decided marks of all classes."""
    return frozenset(routing.mark_of(name) for name in routing.ids)
