"""In which lane a connection would be, by the routing table of those that carry policies out. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from control_plane.domain.errors import InvalidError
from datapath.routing.decision import Decider, Decision
from datapath.routing.flow import Address, Content, Destination, parse_address
from traffic_policy.names import HostNameError, parse_host
from traffic_policy.policy import Bound, TrafficPolicy, TransportProtocol

_ELSEWHERE: Final = "203.0.113.1"
"""Where a connection goes of which no address is said: in no network that policies name (TEST-NET-3, RFC 5737)."""


@dataclass(frozen=True, slots=True)
class TriedConnection:
    """What is known of it; an empty text: it says no such thing, or is not known. ``source``: the client's address."""

    port: int
    protocol: TransportProtocol = TransportProtocol.TCP
    sni: str = ""
    host: str = ""
    alpn: tuple[str, ...] = ()
    address: str = ""
    source: str = ""
    direction: Bound = Bound.OUTBOUND


@dataclass(frozen=True, slots=True)
class TriedResult:
    """``reads_names``: its first bytes could decide, so that they are read."""

    decision: Decision
    reads_names: bool


def try_connection(policy: TrafficPolicy, tried: TriedConnection) -> TriedResult:
    """Raises :class:`InvalidError` for names and addresses that are none."""
    destination = Destination(
        _address(tried.address or _ELSEWHERE, "address"), tried.port, tried.protocol, bound=tried.direction
    )  # fmt: skip
    source = _address(tried.source, "source") if tried.source else None
    content = Content(_name(tried.sni, "sni"), _name(tried.host, "host"), tried.alpn)
    decider = Decider(policy)
    return TriedResult(
        decider.decide(destination, content, source=source), decider.table.undecided(destination, source=source)
    )


def _address(text: str, what: str) -> Address:
    try:
        return parse_address(text.strip())
    except ValueError:
        raise InvalidError(
            f"{what}: {text[:70]!r} is no IP address.", "Write one, as 192.0.2.1 or 2001:db8::1."
        ) from None


def _name(text: str, what: str) -> str | None:
    if not text.strip():
        return None
    try:
        return parse_host(text)
    except HostNameError as error:
        raise InvalidError(f"{what}: {error}.", "Write a name, as www.example.com.") from None
