"""The policy model: a total bandwidth, named classes, and the traffic that belongs to each.

Inside one match all criteria hold together (AND); the values of one criterion are alternatives, and so are the
matches of a class (OR). Order decides: the first match, in the order of classes and matches, wins; what matches
nothing goes to the default class. ``docs/reference/policy.md`` is the reference; :mod:`traffic_policy.policy_file`
reads policies from YAML and JSON, and :mod:`traffic_policy.check` finds what contradicts itself.

A policy is used by two kinds of classification, each with its own criteria: the sidecar reads names in the first bytes
of connections, ``podlane tc`` and the library classify by packets alone (:mod:`traffic_policy.scope`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

from traffic_policy.fields import (
    ONE_OR_MORE,
    AlpnField,
    ApplicationField,
    BytesField,
    DurationField,
    MarkField,
    NetworkField,
    PatternField,
    PercentageField,
    PortField,
    PriorityField,
    RateField,
)
from traffic_policy.fields import Network as Network
from traffic_policy.ports import PortRange as PortRange
from traffic_policy.ports import TransportProtocol as TransportProtocol
from traffic_policy.services import service_named
from traffic_policy.units import ByteCount, Rate

DEFAULT_CLASS: Final = "default"
MIN_RATE: Final = Rate(8_000)
"""A full-sized packet takes 1.5 s at this rate; TCP cannot keep a connection alive with less."""

QUIC_PORTS: Final = (PortRange(443, 443),)
"""UDP ports of matches by name that name no port: HTTP/3's (RFC 9114 3.1.2)."""

_CLASS_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


class Shaper(StrEnum):
    """How the total is shared: by guarantees, not at all, by strict priority, or by flow."""

    HTB = "htb"
    TBF = "tbf"
    PRIO = "prio"
    CAKE = "cake"

    @property
    def has_classes(self) -> bool:
        """Whether traffic is told apart at all."""
        return self in (Shaper.HTB, Shaper.PRIO)


class Queue(StrEnum):
    """The order in which packets of one class wait. The first three are wishes, the others name a qdisc."""

    AUTO = "auto"
    LOW_LATENCY = "low-latency"
    FAIR = "fair"
    FQ_CODEL = "fq_codel"
    SFQ = "sfq"
    CAKE = "cake"
    FIFO = "fifo"


class Bound(StrEnum):
    """Which way a connection was opened: by this side (outbound), towards it (inbound), or no matter which (both)."""

    OUTBOUND = "outbound"
    INBOUND = "inbound"
    BOTH = "both"

    def covers(self, other: Bound) -> bool:
        """Whether everything of ``other`` is meant, too."""
        return self in (other, Bound.BOTH)


class Requests(StrEnum):
    """Which requests of an HTTP connection decide its class.

    The first one, for as long as it lives; or each for itself, where the beginning of a request is in doubt in the
    strictest class that one could have (follow), or not at all (follow-strictly).
    """

    FIRST = "first"
    FOLLOW = "follow"
    FOLLOW_STRICTLY = "follow-strictly"


class Quic(StrEnum):
    """What becomes of QUIC where a name could decide.

    Its first packets are read like those of TLS, or refused, so that clients fall back to TCP.
    """

    CLASSIFY = "classify"
    BLOCK = "block"


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Match(_Document):
    """Criteria that must all hold. An empty criterion (the default) holds for everything."""

    sni: Annotated[tuple[PatternField, ...], ONE_OR_MORE] = Field(
        (), description="TLS server names (SNI), as api.example.com; *.example.com takes all names below it"
    )
    host: Annotated[tuple[PatternField, ...], ONE_OR_MORE] = Field(
        (), description="HTTP host names (Host, :authority), written as those of sni"
    )
    alpn: Annotated[tuple[AlpnField, ...], ONE_OR_MORE] = Field(
        (), description="ALPN protocols of which a TLS client offers one, as h2"
    )
    port: Annotated[tuple[PortField, ...], ONE_OR_MORE] = Field(
        (), description="destination ports and ranges, as 443 or 8000-8100"
    )
    application: Annotated[tuple[ApplicationField, ...], ONE_OR_MORE] = Field(
        (), description="services by IANA name, as ssh: their destination port and protocol"
    )
    cidr: Annotated[tuple[NetworkField, ...], ONE_OR_MORE] = Field(
        (), description="destination networks and addresses, as 10.0.0.0/8"
    )
    source: Annotated[tuple[NetworkField, ...], ONE_OR_MORE] = Field(
        (), description="source networks and addresses, as 10.0.0.0/8"
    )
    protocol: Annotated[tuple[TransportProtocol, ...], ONE_OR_MORE] = Field(
        (), description="transport protocols: tcp, udp, icmp (ICMPv6 included)"
    )
    mark: Annotated[tuple[MarkField, ...], ONE_OR_MORE] = Field((), description="packet marks set by other programs")
    direction: Bound = Field(
        Bound.OUTBOUND, description="who opened the connection: this side, the other (its answers are meant), or either"
    )

    @property
    def needs_content(self) -> bool:
        """Whether only the first bytes of the connection can tell (SNI, Host, ALPN)."""
        return bool(self.sni or self.host or self.alpn)

    @property
    def quic_ports(self) -> tuple[PortRange, ...]:
        """The UDP ports on which the first packets of QUIC can show what this match asks for; none: nowhere.

        Server name and ALPN, but no HTTP host: requests are encrypted. Without a port of its own, on HTTP/3's.
        """
        if self.host or not (self.sni or self.alpn):
            return ()
        if self.protocol and TransportProtocol.UDP not in self.protocol:
            return ()
        return self.port or QUIC_PORTS

    def accepts_protocol(self, protocol: TransportProtocol) -> bool:
        """Whether traffic of this transport protocol can match. Content is read in TCP, and in UDP that is QUIC."""
        readable = protocol is TransportProtocol.TCP or (protocol is TransportProtocol.UDP and self.quic_ports)
        if self.needs_content and not readable:
            return False
        if (self.port or self.application) and not protocol.has_ports:
            return False
        if self.application and not any(protocol in service_named(name).protocols for name in self.application):
            return False
        return not self.protocol or protocol in self.protocol

    def ports_of(self, protocol: TransportProtocol) -> tuple[PortRange, ...]:
        """The destination ports of what it takes of a protocol that it accepts; none: any."""
        return self.quic_ports if self.needs_content and protocol is TransportProtocol.UDP else self.port

    def expanded(self) -> Iterator[Match]:
        """The same as matches without ``application``: one for each set of protocols that its services use."""
        if not self.application:
            yield self
            return
        ports: dict[tuple[TransportProtocol, ...], list[PortRange]] = {}
        for name in self.application:
            service = service_named(name)
            protocols = tuple(p for p in service.protocols if self.accepts_protocol(p))
            if protocols:
                ports.setdefault(protocols, []).append(PortRange(service.port, service.port))
        for protocols, numbers in ports.items():
            yield self.model_copy(update={"application": (), "port": tuple(numbers), "protocol": protocols})

    def __str__(self) -> str:
        parts: list[str] = []
        for key in type(self).model_fields:
            values = getattr(self, key)
            if key == "direction":
                # Alone, "both" is no criterion.
                if values is Bound.INBOUND or (values is Bound.BOTH and parts):
                    parts.append(f"direction {values}")
            elif values:
                parts.append(f"{key} {', '.join(str(v) for v in values)}")
        return " and ".join(parts) or "everything"


class Rehearsal(_Document):
    """A worse network than there is, to try programs with (tc-netem(8))."""

    delay: DurationField | None = Field(None, description="how much later each packet leaves, as 50ms")
    jitter: DurationField | None = Field(None, description="how much the delay varies, up and down")
    loss: PercentageField | None = Field(None, description="packets that are lost, at random, as 1%")
    duplicate: PercentageField | None = Field(None, description="packets that are sent twice")
    corrupt: PercentageField | None = Field(None, description="packets in which one bit is changed")


class ClassIngress(_Document):
    """What a class may receive."""

    rate: RateField = Field(description="guaranteed bandwidth of what arrives, as 10Mbit")
    ceil: RateField | None = Field(None, description="most it may borrow up to; ingress.total when left out")


class Ingress(_Document):
    """Limits for what arrives at the interface. `port` and `cidr` of a match are then those of the other end."""

    total: RateField = Field(description="bandwidth of what arrives, shared by all classes, as 100Mbit")


class Budget(_Document):
    """What Pods may send together that have this policy. Each has its own total besides."""

    node: RateField = Field(description="bandwidth that the Pods of one node may use together, as 500Mbit")


class TrafficClass(_Document):
    """A named share of the total."""

    name: str = Field(description="unique name, shown in statistics")
    rate: RateField | None = Field(None, description="guaranteed bandwidth, as 10Mbit; required unless shaper is prio")
    ceil: RateField | None = Field(None, description="most it may borrow up to; the total when left out")
    priority: PriorityField = Field(
        4, description="0 (first) to 7 (last) when unused bandwidth is lent; 4 when left out"
    )
    burst: BytesField | None = Field(
        None, description="bytes that may go at once, as 64KiB; chosen from the rate when left out"
    )
    queue: Queue = Field(Queue.AUTO, description="the order in which its packets wait")
    rehearsal: Rehearsal | None = Field(None, description="a worse network for this class, to try programs with")
    ingress: ClassIngress | None = Field(None, description="limits for what the class receives")
    match: Annotated[tuple[Match, ...], ONE_OR_MORE] = Field(
        description="which traffic belongs to the class: one of these has to hold, each with all of its criteria",
        json_schema_extra={"minItems": 1},
    )

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if name == DEFAULT_CLASS:
            raise ValueError('"default" is the name of the default class. Set it with the top-level key default.')
        if not _CLASS_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a class name. Use up to 63 letters, digits, '-', '_' and '.'.")
        return name


class DefaultClass(_Document):
    """Where everything goes that matches no class."""

    rate: RateField | None = Field(None, description="guaranteed bandwidth; 1 % of the total when left out")
    ceil: RateField | None = Field(None, description="most it may borrow up to; the total when left out")
    priority: PriorityField = Field(7, description="0 (first) to 7 (last); 7 when left out")
    burst: BytesField | None = Field(None, description="bytes that may go at once")
    queue: Queue = Field(Queue.AUTO, description="the order in which its packets wait")
    rehearsal: Rehearsal | None = Field(None, description="a worse network for it, to try programs with")
    ingress: ClassIngress | None = Field(None, description="limits for what it receives")


@dataclass(frozen=True, slots=True)
class ResolvedClass:
    """A class with every default filled in, ready to compile. ``ceil`` never exceeds the total.

    ``rate`` is zero where the shaper gives no guarantees.
    """

    name: str
    rate: Rate
    ceil: Rate
    priority: int
    burst: ByteCount | None
    match: tuple[Match, ...] = ()
    queue: Queue = Queue.AUTO
    rehearsal: Rehearsal | None = None


class TrafficPolicy(_Document):
    """A whole policy. Check it with :func:`traffic_policy.check.check`; the loaders do."""

    total: RateField = Field(description="bandwidth of the interface, shared by all classes, as 100Mbit")
    budget: Budget | None = Field(
        None, description="what all Pods that have this policy may send together; no such limit when left out"
    )
    shaper: Shaper = Field(Shaper.HTB, description="how the total is shared; htb, by guarantees, when left out")
    classes: tuple[TrafficClass, ...] = Field(
        (), description="in order of precedence: the first with a match that holds has the traffic"
    )
    default: DefaultClass = Field(
        default_factory=DefaultClass, description="the class of everything that no match takes"
    )
    rehearsal: Rehearsal | None = Field(None, description="a worse network for every class that has none of its own")
    ingress: Ingress | None = Field(None, description="limits for what arrives")
    requests: Requests = Field(
        Requests.FIRST, description="which requests of an HTTP connection decide its class: the first, or each"
    )
    quic: Quic = Field(
        Quic.CLASSIFY, description="QUIC where a name could decide: read it, or refuse it so that clients take TCP"
    )

    @property
    def default_rate(self) -> Rate:
        """The default class's guarantee: as written, else 1 % of the total but no more than is left over."""
        if self.default.rate is not None:
            return self.default.rate
        left = self.total.bits_per_second - sum(c.rate.bits_per_second for c in self.classes if c.rate)
        return max(MIN_RATE, Rate(max(0, min(self.total.bits_per_second // 100, left))))

    def resolved(self) -> tuple[ResolvedClass, ...]:
        """All classes in order, the default class last."""
        total = self.total
        named = [
            ResolvedClass(
                c.name, c.rate or Rate(0), min(c.ceil or total, total), c.priority, c.burst, c.match, c.queue,
                c.rehearsal or self.rehearsal,
            )
            for c in self.classes
        ]  # fmt: skip
        rest = self.default
        rate = self.default_rate if self.shaper is Shaper.HTB else Rate(0)
        ceil = max(rate, min(rest.ceil or total, total))
        rehearsal = rest.rehearsal or self.rehearsal
        default = ResolvedClass(DEFAULT_CLASS, rate, ceil, rest.priority, rest.burst, (), rest.queue, rehearsal)
        return (*named, default)

    def rules(self, direction: Bound = Bound.BOTH) -> Iterator[tuple[str, Match]]:
        """(class name, match) in order of precedence: the first that holds decides. Services are ports here.

        With ``direction``, only the matches that speak of connections opened that way.
        """
        for traffic_class in self.classes:
            for match in traffic_class.match:
                if direction is not Bound.BOTH and not match.direction.covers(direction):
                    continue
                for expanded in match.expanded():
                    yield traffic_class.name, expanded

    def received(self) -> TrafficPolicy | None:
        """The policy for what arrives: the classes that limit it, and the default class for the rest.

        Its matches mean what they do here, so that packets have to be looked at from the other side. None without
        :attr:`ingress`.
        """
        if self.ingress is None:
            return None
        classes = tuple(
            TrafficClass(
                name=c.name, rate=c.ingress.rate, ceil=c.ingress.ceil, priority=c.priority, queue=c.queue, match=c.match
            )
            for c in self.classes
            if c.ingress
        )
        limits = self.default.ingress
        default = DefaultClass(
            rate=limits.rate if limits else None,
            ceil=limits.ceil if limits else None,
            priority=self.default.priority,
            queue=self.default.queue,
        )
        return TrafficPolicy(total=self.ingress.total, classes=classes, default=default)

    def to_document(self) -> dict[str, Any]:
        """Plain data in policy-file grammar, without what was left to its default."""
        return self.model_dump(mode="json", exclude_defaults=True)
