"""What a data plane is given, and what it tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from datapath.connection_list import ConnectionPage, Order
from datapath.download_limits import ReceiveLimits
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
    """Handles the connections that rules lead to it: a relay, or :class:`~datapath.stepaside.server.StepAside`."""

    @property
    def routing(self) -> Routing:
        """The routing in force."""

    @property
    def active(self) -> int:
        """Connections that end when it does."""

    async def run(self, *, task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until drained or cancelled. Started when rules may lead here."""

    async def follow(self, routing: Routing) -> None:
        """Put a routing in force."""

    async def drain(self, grace: Duration) -> int:
        """Accept nothing more, end when all connections have, or after ``grace``; how many were cut then."""

    async def connections(self, limit: int, order: Order) -> ConnectionPage:
        """The connections alive, and ``limit`` of them."""


@dataclass(frozen=True, slots=True)
class ServerFactory:
    """How servers are made, each with a routing. None runs before it is needed.

    ``captured`` makes the one for all connections that only content can tell; ``quic`` the classifier of QUIC next to a
    relay.
    """

    captured: Callable[[Routing], Server]
    quic: Callable[[Routing], StepAside]


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Who is told what is in force; nobody by default.

    ``ids`` is called with the class ids of each policy once it is in force. ``fallback``: see
    :class:`~datapath.ruleset_writer.RulesetWriter`.
    """

    ids: Callable[[ClassIds], None] = lambda _: None
    fallback: Fallback | None = None


@dataclass(frozen=True, slots=True)
class DataPlaneStatus:
    """What is in force, without asking the kernel. Counters are those of the last :meth:`DataPlane.sample`.

    ``ingress_classifier`` says who tells the classes of what arrives, ``limits`` are those that a relay keeps of it.
    ``captures``: whether a server runs. ``problem`` says what the policy wants and does not get; empty: nothing.
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
