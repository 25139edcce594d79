"""Types of a data plane's collaborators and of its status."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import trio

from datapath.connection_list import ConnectionPage, Order
from datapath.download_limits import ReceiveLimits
from datapath.ebpf.reader import LaneReader, SharedReader
from datapath.ebpf.shared_maps import LaneMaps
from datapath.netfilter.capture_settings import CaptureSettings
from datapath.routing.cached import Routing
from datapath.ruleset_writer import Fallback
from datapath.shaping import ClassSnapshot, Received
from datapath.stepaside.server import StepAside
from tc_core.compile.ingress_classifier import IngressClassifier
from traffic_policy.marks import ClassIds
from traffic_policy.policy import TrafficPolicy
from traffic_policy.units import Duration


class Server(Protocol):
    """Handles captured connections: a relay, or :class:`~datapath.stepaside.server.StepAside`."""

    @property
    def routing(self) -> Routing:
        """The routing in force."""

    @property
    def active(self) -> int:
        """Number of connections that depend on this server."""

    async def run(self, *, task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until drained or cancelled. Reports started once rules may lead here."""

    async def follow(self, routing: Routing) -> None:
        """Put a routing in force."""

    async def drain(self, grace: Duration) -> int:
        """Accept nothing more; end with the last connection or after ``grace``. Returns how many were aborted."""

    async def connections(self, limit: int, order: Order) -> ConnectionPage:
        """The number of live connections, and ``limit`` of them."""


@dataclass(frozen=True, slots=True)
class ServerFactory:
    """Constructors of servers, each called with a routing. No server runs before it is needed.

    ``captured`` makes the server of connections classified by content, ``quic`` the QUIC classifier next to a relay,
    ``beginnings`` what answers programs in the kernel about what they could not read, from their maps; without it that
    goes by port. ``reader`` is what it is served by, one for all data planes of a process.
    """

    captured: Callable[[Routing], Server]
    quic: Callable[[Routing], StepAside]
    beginnings: Callable[[LaneMaps, Routing], LaneReader] | None = None
    reader: SharedReader = field(default_factory=SharedReader)


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Called on changes; the defaults do nothing.

    ``ids`` is called with the class ids of each policy once it is in force. ``fallback``: see
    :class:`~datapath.ruleset_writer.RulesetWriter`.
    """

    ids: Callable[[ClassIds], None] = lambda _: None
    fallback: Fallback | None = None


@dataclass(frozen=True, slots=True)
class DataPlaneStatus:
    """The status as known without asking the kernel. Counters are those of the last :meth:`DataPlane.sample`.

    ``ingress_classifier`` is how received packets find their class, ``limits`` are the receive limits that the relay
    enforces. ``captures``: whether a server runs. ``problem`` is what the policy asks for and does not get, or empty.
    """

    interface: str
    policy: TrafficPolicy
    ids: ClassIds
    capture: CaptureSettings
    ingress_classifier: IngressClassifier | None
    limits: ReceiveLimits | None
    snapshots: tuple[ClassSnapshot, ...]
    received: Received | None
    read_at: float | None
    captures: bool
    problem: str
