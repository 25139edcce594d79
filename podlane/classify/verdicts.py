"""From a flow and a policy to a verdict: the class, and the reason in plain words. Pure.

The class comes from :class:`datapath.routing.table.RoutingTable`, queried as by the proxy: as if the client ran under
the policy. So a name that came after the detection timeout does not count, nor one on a port where the server sends
first.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from datapath.mesh.types import MeshProxy
from datapath.protocols.detect import Detection, Protocol, Reason
from datapath.protocols.packets import UDP
from datapath.routing.decision import Decider, Decision
from datapath.routing.flow import NO_CONTENT, Content, Destination, parse_address
from datapath.routing.table import SILENT_PORTS
from podlane.classify.flow import Flow
from traffic_policy.describe import traffic_words
from traffic_policy.policy import Match, PortRange, TrafficPolicy, TransportProtocol

DETECTION_TIMEOUT: Final = 1.0
"""Seconds; the sidecar's own default (a test compares)."""
QUIC: Final = "quic"
UNKNOWN: Final = "unknown"
_WORDS_KEPT: Final = 4096
"""Sentences and addresses cached: similar flows share theirs."""

_ECH: Final = "the true name may be encrypted (ECH)"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of ``podlane classify`` for one flow. ``up``: from client to server. Bytes: on the wire."""

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
        """As the JSON object that is printed; the keys are documented in docs/how-to/classify.md."""
        document = {("class" if key == "class_name" else key): getattr(self, key) for key in self.__slots__}
        return {**document, "alpn": list(self.alpn)}


class FlowClassifier:
    """Applies a policy to flows."""

    def __init__(
        self,
        policy: TrafficPolicy,
        *,
        silent_ports: tuple[int, ...] = SILENT_PORTS,
        detection_timeout: float = DETECTION_TIMEOUT,
        mesh: MeshProxy | None = None,
    ) -> None:
        self._decider = Decider(policy, silent_ports=silent_ports, mesh=mesh)
        self._table = self._decider.table
        self._reads_source = self._table.reads_source
        self._timeout = detection_timeout

    def verdict(self, flow: Flow) -> Verdict:
        """The class of a flow, and why."""
        client, sport, server, dport = flow.ends()
        transport = TransportProtocol.UDP if flow.protocol == UDP else TransportProtocol.TCP
        destination = Destination.parse(_address(server), dport, transport)
        seen = flow.detection
        names = NO_CONTENT if seen is None else Content(seen.sni, seen.host, seen.alpn)
        source = parse_address(_address(client)) if self._reads_source else None
        decision = self._decider.decide(destination, names, source=source)
        in_time = decision if flow.delay <= self._timeout else self._decider.decide(destination, source=source)
        late, decision = in_time.class_name != decision.class_name, in_time
        up, down = flow.up, flow.down
        return Verdict(
            src=_address(client),
            sport=sport,
            dst=_address(server),
            dport=dport,
            protocol=transport.value,
            detected=_detected(flow),
            sni=names.sni,
            host=names.host,
            alpn=names.alpn,
            ech=seen is not None and seen.ech,
            class_name=decision.class_name,
            why=self._why(flow, destination, names, decision, late=late),
            bytes_up=up.bytes,
            packets_up=up.packets,
            bytes_down=down.bytes,
            packets_down=down.packets,
        )

    def _why(self, flow: Flow, destination: Destination, content: Content, decision: Decision, *, late: bool) -> str:
        if decision.held is None:
            parts = [f"no class takes {_traffic(content, destination.port, destination.protocol)}"]
        else:
            parts = [f"{decision.class_name} takes {traffic_words(decision.held)}"]
        if late:
            parts.append(f"the first bytes took {flow.delay:.1f} s and the proxy waits {self._timeout:g} s for them")
        elif decision.silenced:
            parts.append(f"names do not decide on port {destination.port}, where the server speaks first")
        if decision.refused and flow.quic:
            parts.append("its first packets would be refused (quic: block), so that the client takes TCP")
        parts += _remarks(flow, flow.detection)
        if (port := self._table.understood(content, destination.protocol).port) is not None:
            parts.append(f"the name is Istio's for port {port} of a service")
        return "; ".join(parts)


@lru_cache(_WORDS_KEPT)
def _address(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed))


def _detected(flow: Flow) -> str:
    if flow.quic:
        return QUIC
    if flow.detection is None or flow.detection.protocol is Protocol.OPAQUE:
        return UNKNOWN
    return flow.detection.protocol.value


def _remarks(flow: Flow, seen: Detection | None) -> list[str]:
    """Remarks on a verdict: every reason why it does not rest on the client's first bytes."""
    if flow.protocol == UDP:
        return _quic_remarks(seen) if flow.quic else []
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
        remarks.append(_ECH)
    return remarks


def _quic_remarks(seen: Detection | None) -> list[str]:
    if seen is None:
        return ["its first packets are not in the capture, or not whole"]
    if seen.reason is not Reason.FOUND:
        return ["what its first packets say is not valid, or too much"]
    remarks = [] if seen.sni is not None else ["it names no server"]
    return [*remarks, _ECH] if seen.ech else remarks


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
    if not names or protocol is TransportProtocol.UDP:
        names["protocol"] = (protocol,)
    return traffic_words(Match.model_construct(**names, port=(PortRange(port, port),)))
