"""The routing in force, with cached answers.

The time to walk the table (:mod:`datapath.routing.table`) grows with the number of matches, which may be hundreds. An
application connects to few destinations under few names, so results are cached, and a connection usually costs one
dictionary lookup. The caches are bounded and belong to one policy: a new policy gets a new :class:`Routing`.
"""

from __future__ import annotations

from typing import Final

from datapath.bounded_map import BoundedMap
from datapath.download_limits import ReceiveLimits
from datapath.protocols.detect import Detection, Reason
from datapath.routing.flow import Address, Content, Destination, parse_address
from datapath.routing.table import Route, RoutingTable
from traffic_policy.marks import OWN, ClassIds, class_mark
from traffic_policy.policy import DEFAULT_CLASS, Requests

_REMEMBERED: Final = 4096
"""Bound of each cache, since clients may invent any number of names."""

_Where = tuple[Destination, Address | None]
_What = tuple[Destination, Address | None, str | None, str | None, tuple[str, ...]]


class Routing:
    """The routing table and the class ids in force."""

    __slots__ = ("_marks", "_may_differ", "_reads_source", "_routes", "_undecided", "ids", "limits", "table")

    def __init__(self, table: RoutingTable, ids: ClassIds, limits: ReceiveLimits | None = None) -> None:
        """``limits`` are the receive limits that the relay enforces; None without any."""
        self.table = table
        self.ids = ids
        self.limits = limits
        self._marks = {name: (OWN | class_mark(class_id)).value for name, class_id in ids.items()}
        self._reads_source = table.reads_source
        self._undecided = BoundedMap[_Where, bool](_REMEMBERED)
        self._routes = BoundedMap[_What, Route](_REMEMBERED)
        self._may_differ = BoundedMap[_Where, bool](_REMEMBERED)

    def undecided(self, destination: Destination, client: tuple[str, int] | tuple[str, int, int, int]) -> bool:
        """Whether the first bytes could still decide."""
        where = (destination, parse_address(client[0]) if self._reads_source else None)
        known = self._undecided.get(where)
        if known is None:
            known = self._undecided[where] = self.table.undecided(destination, source=where[1])
        return known

    def class_of(
        self, destination: Destination, client: tuple[str, int] | tuple[str, int, int, int], detection: Detection
    ) -> str:
        """The name of the class that :meth:`route_of` gives."""
        return self.route_of(destination, client, detection).class_name

    def route_of(
        self, destination: Destination, client: tuple[str, int] | tuple[str, int, int, int], detection: Detection
    ) -> Route:
        """The class, and the match that decided; of contradictory content the strictest class that any content could
        have, by no match.

        ``client`` is used only when a match has a source criterion.

        TPROXY preserves the client's address.
        """
        source = parse_address(client[0]) if self._reads_source else None
        if detection.reason is Reason.CONTRADICTED:
            return Route(self.table.strictest_of_all(destination, source=source), None)
        what = (destination, source, detection.sni, detection.host, detection.alpn)
        known = self._routes.get(what)
        if known is None:
            content = Content(detection.sni, detection.host, detection.alpn)
            known = self._routes[what] = self.table.route(destination, content, source=source)
        return known

    def requests_may_differ(
        self, destination: Destination, client: tuple[str, int] | tuple[str, int, int, int]
    ) -> bool:
        """Whether each request of an HTTP/1 connection must be classified."""
        if self.table.requests is Requests.FIRST:
            return False
        where = (destination, parse_address(client[0]) if self._reads_source else None)
        known = self._may_differ.get(where)
        if known is None:
            known = self._may_differ[where] = self.table.requests_may_differ(destination, source=where[1])
        return known

    def strictest(self, destination: Destination, client: tuple[str, int] | tuple[str, int, int, int]) -> str:
        """The class of a connection whose request boundaries are ambiguous."""
        return self.table.strictest(destination, source=parse_address(client[0]) if self._reads_source else None)

    def mark_of(self, class_name: str) -> int:
        """The complete socket mark of our own packets of a class."""
        return self._marks.get(class_name, self._marks[DEFAULT_CLASS])
