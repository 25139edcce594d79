"""The routing that is in force, with what every connection asks of it made quick.

The walk of the table (:mod:`datapath.routing.table`) takes some microseconds per match, and a policy may have hundreds.
But an application talks to few places under few names, so what was found is remembered: a connection costs one look-up
in a dictionary, however long the policy is. What is remembered is bounded and belongs to one policy: a new policy
brings a new :class:`Routing`.
"""

from __future__ import annotations

from typing import Final

from datapath.download_limits import ReceiveLimits
from datapath.protocols.detect import Detection
from datapath.routing.flow import Address, Content, Destination, parse_address
from datapath.routing.table import RoutingTable
from traffic_policy.marks import OWN, ClassIds, class_mark
from traffic_policy.policy import DEFAULT_CLASS, Requests

_REMEMBERED: Final = 4096
"""Answers of each kind. When there are more (somebody makes up names), all are forgotten and found anew."""

_Where = tuple[Destination, Address | None]
_What = tuple[Destination, Address | None, str | None, str | None, tuple[str, ...]]


class Routing:
    """The routing table and the class ids that are in force."""

    __slots__ = ("_classes", "_marks", "_may_differ", "_reads_source", "_undecided", "ids", "limits", "table")

    def __init__(self, table: RoutingTable, ids: ClassIds, limits: ReceiveLimits | None = None) -> None:
        """``limits`` are those that the relay keeps for what it receives; None: it keeps none."""
        self.table = table
        self.ids = ids
        self.limits = limits
        self._marks = {name: (OWN | class_mark(class_id)).value for name, class_id in ids.items()}
        self._reads_source = table.reads_source
        self._undecided: dict[_Where, bool] = {}
        self._classes: dict[_What, str] = {}
        self._may_differ: dict[_Where, bool] = {}

    def undecided(self, destination: Destination, client: tuple[str, int] | tuple[str, int, int, int]) -> bool:
        """Whether the first bytes could still decide."""
        where = (destination, parse_address(client[0]) if self._reads_source else None)
        known = self._undecided.get(where)
        if known is None:
            if len(self._undecided) >= _REMEMBERED:
                self._undecided.clear()
            known = self._undecided[where] = self.table.undecided(destination, source=where[1])
        return known

    def class_of(
        self, destination: Destination, client: tuple[str, int] | tuple[str, int, int, int], detection: Detection
    ) -> str:
        """The name of the class. ``client`` matters only when a match asks where a connection comes from.

        TPROXY leaves the client's address as the application's socket had it.
        """
        source = parse_address(client[0]) if self._reads_source else None
        what = (destination, source, detection.sni, detection.host, detection.alpn)
        known = self._classes.get(what)
        if known is None:
            if len(self._classes) >= _REMEMBERED:
                self._classes.clear()
            content = Content(detection.sni, detection.host, detection.alpn)
            known = self._classes[what] = self.table.route(destination, content, source=source).class_name
        return known

    def requests_may_differ(
        self, destination: Destination, client: tuple[str, int] | tuple[str, int, int, int]
    ) -> bool:
        """Whether each request of an HTTP/1 connection is to be looked at."""
        if self.table.requests is Requests.FIRST:
            return False
        where = (destination, parse_address(client[0]) if self._reads_source else None)
        known = self._may_differ.get(where)
        if known is None:
            if len(self._may_differ) >= _REMEMBERED:
                self._may_differ.clear()
            known = self._may_differ[where] = self.table.requests_may_differ(destination, source=where[1])
        return known

    def strictest(self, destination: Destination, client: tuple[str, int] | tuple[str, int, int, int]) -> str:
        """The class of a connection of which nobody can say where its requests begin."""
        return self.table.strictest(destination, source=parse_address(client[0]) if self._reads_source else None)

    def mark_of(self, class_name: str) -> int:
        """The whole socket mark of our own packets of a class."""
        return self._marks.get(class_name, self._marks[DEFAULT_CLASS])
