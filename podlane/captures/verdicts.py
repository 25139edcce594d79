"""From a flow and a policy to a verdict: the class, and in plain words why. Pure.

The class is the one that :class:`sidecar.routing.table.RoutingTable` gives, asked as the proxy asks it: as if the
client ran under the policy. A name that came after the detection timeout therefore does not count, and neither does
one on a port where the server speaks first.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from podlane.captures.flow import Flow
from podlane.captures.packets import UDP
from podlane.explanation import traffic_words
from sidecar.protocols.detect import Detection, Protocol, Reason
from sidecar.routing.flow import NO_CONTENT, Content, Destination
from sidecar.routing.matchers import Matcher
from sidecar.routing.table import SILENT_PORTS, Route, RoutingTable
from tc_core.policy import Match, PortRange, TrafficPolicy, TransportProtocol

DETECTION_TIMEOUT: Final = 1.0
"""Seconds; the sidecar's own default (a test compares)."""
QUIC: Final = "quic"
UNKNOWN: Final = "unknown"
_WORDS_KEPT: Final = 4096
"""Sentences and addresses remembered: flows of one kind share theirs."""

_DETECTED: Final = {Protocol.OPAQUE: UNKNOWN}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What ``podlane classify`` says of one flow. ``up``: from client to server. Bytes: on the wire."""

    src: str
    sport: int
    dst: str
    dport: int
    protocol: str
    detected: str
    sni: str | None
    host: str | None
    alpn: tuple[str, ...]
    ech: bool
    class_name: str
    why: str
    bytes_up: int
    packets_up: int
    bytes_down: int
    packets_down: int

    def document(self) -> dict[str, Any]:
        """As the JSON object that is printed; the keys are documented in docs/classify.md."""
        return {
            "src": self.src,
            "sport": self.sport,
            "dst": self.dst,
            "dport": self.dport,
            "protocol": self.protocol,
            "detected": self.detected,
            "sni": self.sni,
            "host": self.host,
            "alpn": list(self.alpn),
            "ech": self.ech,
            "class": self.class_name,
            "why": self.why,
            "bytes_up": self.bytes_up,
            "packets_up": self.packets_up,
            "bytes_down": self.bytes_down,
            "packets_down": self.packets_down,
        }


class Judge:
    """Knows a policy, gives verdicts."""

    def __init__(
        self,
        policy: TrafficPolicy,
        *,
        silent_ports: tuple[int, ...] = SILENT_PORTS,
        detection_timeout: float = DETECTION_TIMEOUT,
    ) -> None:
        self._table = RoutingTable.of(policy, silent_ports)
        self._table_of_all_ports = RoutingTable.of(policy, ())
        self._timeout = detection_timeout

    def verdict(self, flow: Flow) -> Verdict:
        """The class of a flow, and why."""
        client, sport, server, dport = flow.ends()
        transport = TransportProtocol.UDP if flow.protocol == UDP else TransportProtocol.TCP
        destination = Destination.parse(_address(server), dport, transport)
        seen = flow.detection
        content = NO_CONTENT if seen is None else Content(seen.sni, seen.host, seen.alpn)
        route = self._table.route(destination, content)
        in_time = route if flow.delay <= self._timeout else self._table.route(destination, NO_CONTENT)
        late, route = in_time.class_name != route.class_name, in_time
        up, down = flow.up, flow.down
        return Verdict(
            src=_address(client),
            sport=sport,
            dst=_address(server),
            dport=dport,
            protocol=transport.value,
            detected=_detected(flow),
            sni=content.sni,
            host=content.host,
            alpn=content.alpn,
            ech=seen is not None and seen.ech,
            class_name=route.class_name,
            why=self._why(flow, destination, content, route, late=late),
            bytes_up=up.bytes,
            packets_up=up.packets,
            bytes_down=down.bytes,
            packets_down=down.packets,
        )

    def _why(self, flow: Flow, destination: Destination, content: Content, route: Route, *, late: bool) -> str:
        if route.match is None:
            parts = [f"no class takes {_traffic(content, destination.port, destination.protocol)}"]
        else:
            deciding = _deciding(route.match, destination, content)
            parts = [f"{route.class_name} takes {traffic_words(deciding)}"]
        if late:
            parts.append(f"the first bytes took {flow.delay:.1f} s and the proxy waits {self._timeout:g} s for them")
        elif self._silenced(destination, content, route):
            parts.append(f"names do not decide on port {destination.port}, where the server speaks first")
        parts += _remarks(flow, flow.detection)
        return "; ".join(parts)

    def _silenced(self, destination: Destination, content: Content, route: Route) -> bool:
        """Whether a name would have decided otherwise on another port."""
        if destination.port not in self._table.silent_ports:
            return False
        return self._table_of_all_ports.route(destination, content).class_name != route.class_name


@lru_cache(_WORDS_KEPT)
def _address(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed))


def _detected(flow: Flow) -> str:
    if flow.quic:
        return QUIC
    if flow.detection is None:
        return UNKNOWN
    return _DETECTED.get(flow.detection.protocol, flow.detection.protocol.value)


def _remarks(flow: Flow, seen: Detection | None) -> list[str]:
    """What to know about a verdict: everything that kept it from resting on the client's first bytes."""
    if flow.protocol == UDP:
        return ["QUIC shows no names to the proxy"] if flow.quic else []
    remarks = []
    if not flow.whole:
        remarks.append("the capture starts in mid-connection")
    if flow.gap:
        remarks.append("some of the first bytes are not in the capture")
    elif seen is None:
        if flow.whole:
            remarks.append("the client sent nothing")
    elif seen.reason is Reason.MALFORMED and flow.whole:
        remarks.append(f"what it says in {seen.protocol.value} is not valid")
    elif seen.reason is Reason.EOF and flow.whole:
        remarks.append("the client said too little to tell")
    elif seen.reason is Reason.FOUND and seen.sni is None and seen.host is None:
        remarks.append("it names no server")
    if seen is not None and seen.ech:
        remarks.append("the true name may be encrypted (ECH)")
    return remarks


@lru_cache(_WORDS_KEPT)
def _traffic(content: Content, port: int, protocol: TransportProtocol) -> str:
    """What a flow is, in the words of a match that would take it and nothing else."""
    names: dict[str, Any] = {}
    if content.sni is not None:
        names["sni"] = (content.sni,)
    elif content.host is not None:
        names["host"] = (content.host,)
    elif content.alpn:
        names["alpn"] = content.alpn
    if not names:
        names["protocol"] = (protocol,)
    return traffic_words(Match.model_construct(**names, port=(PortRange(port, port),)))


@lru_cache(_WORDS_KEPT)
def _deciding(match: Match, destination: Destination, content: Content) -> Match:
    """The match with those of its alternatives only that held: one name of fifty."""
    kept: dict[str, Any] = {}
    for key in ("sni", "host", "alpn", "port", "cidr"):
        kept[key] = tuple(
            value
            for value in getattr(match, key)
            if _holds(Matcher.of(match.model_copy(update={key: (value,)})), destination, content)
        )
    if match.protocol:
        kept["protocol"] = (destination.protocol,)
    return match.model_copy(update=kept)


def _holds(matcher: Matcher, destination: Destination, content: Content) -> bool:
    return matcher.accepts_destination(destination) and matcher.accepts_content(content)
