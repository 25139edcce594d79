"""What users write: a total bandwidth, named classes, and which traffic belongs to each.

Inside one match all criteria hold together (AND); the values of one criterion are alternatives, and so are the
matches of a class (OR). Order decides: the first match, in the order of classes and matches, wins; what matches
nothing goes to the default class. ``docs/policy.md`` is the reference; :mod:`tc_core.policy_file` reads policies from
YAML and JSON.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
    field_validator,
)

from tc_core.names import HostNameError, parse_host
from tc_core.units import ByteCount, Rate

DEFAULT_CLASS: Final = "default"
MIN_RATE: Final = Rate(8_000)
"""A full-sized packet takes 1.5 s at this rate; TCP cannot keep a connection alive with less."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_CLASS_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


class TransportProtocol(StrEnum):
    """Protocols that have ports."""

    TCP = "tcp"
    UDP = "udp"


@dataclass(frozen=True, slots=True, order=True)
class PortRange:
    """Destination ports ``first`` to ``last``, both included."""

    first: int
    last: int

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read ``443`` or ``"8000-8100"``; raises ValueError with a remedy."""
        if isinstance(value, cls):
            return value
        text = str(value).strip()
        match = None if isinstance(value, bool | float) else re.fullmatch(r"([0-9]{1,6})(?:\s*-\s*([0-9]{1,6}))?", text)
        if not match:
            raise ValueError(f'{value!r} is not a port. Write a number from 1 to 65535 or a range such as "8000-8100".')
        first = int(match[1])
        last = int(match[2] or first)
        if first > last:
            raise ValueError(f'The range {text} runs backwards. Write "{last}-{first}".')
        if not (first >= 1 and last <= 65535):
            raise ValueError(f"{text} is outside the ports there are. Write numbers from 1 to 65535.")
        return cls(first, last)

    def __contains__(self, port: object) -> bool:
        return isinstance(port, int) and self.first <= port <= self.last

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


def _parse_pattern(value: object) -> str:
    """An exact name or ``*.suffix``, in comparable form."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f'{value!r} is not a host name. Write a name such as api.example.com or "*.example.com".')
    text = value.strip()
    wildcard = text.startswith("*.")
    name = text[2:] if wildcard else text
    if "*" in name:
        better = name.rpartition("*")[2].lstrip(".-")
        hint = f'Write "*.{better}"' if better and "." in better else 'Write "*.example.com"'
        raise ValueError(f"The wildcard {text!r} cannot match: '*' stands only for whole labels at the start. {hint}.")
    try:
        name = parse_host(name)
    except HostNameError as error:
        raise ValueError(f"{text!r} is not a host name: {error}.") from None
    if wildcard and re.fullmatch(r"[0-9.]+|.*:.*", name):
        raise ValueError(f"The wildcard {text!r} cannot match: addresses have no subdomains. Use cidr for networks.")
    return f"*.{name}" if wildcard else name


def _parse_server_name(value: object) -> str:
    """A pattern for SNI, which never carries an address (RFC 6066 3)."""
    name = _parse_pattern(value)
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name
    raise ValueError(f"{value!r} is an address, and TLS clients send none as a server name. Use cidr.")


def _parse_network(value: object) -> Network:
    try:
        return ipaddress.ip_network(value if isinstance(value, str | Network) else str(value))
    except ValueError:
        pass
    try:
        widened = ipaddress.ip_network(str(value), strict=False)
    except ValueError:
        raise ValueError(f"{value!r} is not a network. Write one such as 10.0.0.0/8 or fd00::/8.") from None
    address = str(value).partition("/")[0]
    raise ValueError(
        f"{value!r} has address bits behind its prefix. "
        f"Write {widened} for the network, or {address} for the one address."
    )


def _parse_alpn(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value.encode("utf-8", "replace")) <= 255:
        raise ValueError(f"{value!r} is not an ALPN protocol name. Write one such as h2 or http/1.1.")
    return value


def _as_list(value: object) -> object:
    """A single value stands for a list of one."""
    return value if isinstance(value, list | tuple) else [value]


_RATE_PATTERN = r"^\s*[0-9.]+\s*([kKmMgGtT]i?)?([bB][iI][tT][sS]?(/s|ps)?)?\s*$"
RateField = Annotated[
    Rate,
    PlainValidator(Rate.parse),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _RATE_PATTERN, "examples": ["100Mbit"]}),
]
BytesField = Annotated[
    ByteCount,
    PlainValidator(ByteCount.parse),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["64KiB"]}),
]
PortField = Annotated[
    PortRange,
    PlainValidator(PortRange.parse),
    PlainSerializer(lambda p: p.first if p.first == p.last else str(p)),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 65535}, {"type": "string"}]}),
]
PatternField = Annotated[str, PlainValidator(_parse_pattern), WithJsonSchema({"type": "string"})]
NetworkField = Annotated[
    Network,
    PlainValidator(_parse_network),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["10.0.0.0/8"]}),
]
ServerNameField = Annotated[str, PlainValidator(_parse_server_name), WithJsonSchema({"type": "string"})]
AlpnField = Annotated[str, PlainValidator(_parse_alpn), WithJsonSchema({"type": "string"})]
_ONE_OR_MORE = BeforeValidator(_as_list)
PriorityField = Annotated[int, Field(ge=0, le=7, strict=True)]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Match(_Document):
    """Criteria that must all hold. An empty criterion (the default) holds for everything."""

    sni: Annotated[tuple[ServerNameField, ...], _ONE_OR_MORE] = Field((), description="TLS server names")
    host: Annotated[tuple[PatternField, ...], _ONE_OR_MORE] = Field((), description="HTTP Host or :authority names")
    alpn: Annotated[tuple[AlpnField, ...], _ONE_OR_MORE] = Field((), description="ALPN protocols a TLS client offers")
    port: Annotated[tuple[PortField, ...], _ONE_OR_MORE] = Field((), description="destination ports and ranges")
    cidr: Annotated[tuple[NetworkField, ...], _ONE_OR_MORE] = Field((), description="destination networks")
    protocol: Annotated[tuple[TransportProtocol, ...], _ONE_OR_MORE] = Field((), description="tcp, udp or both")

    @property
    def needs_content(self) -> bool:
        """Whether only the first bytes of the connection can tell (SNI, Host, ALPN)."""
        return bool(self.sni or self.host or self.alpn)

    def accepts_protocol(self, protocol: TransportProtocol) -> bool:
        """Whether traffic of this transport protocol can match. Content criteria are about TCP."""
        if self.needs_content and protocol is not TransportProtocol.TCP:
            return False
        return not self.protocol or protocol in self.protocol

    def __str__(self) -> str:
        parts = []
        for key in type(self).model_fields:
            values = getattr(self, key)
            if values:
                parts.append(f"{key} {', '.join(str(v) for v in values)}")
        return " and ".join(parts) or "everything"


class TrafficClass(_Document):
    """A named share of the total."""

    name: str = Field(description="unique name, shown in statistics")
    rate: RateField = Field(description="guaranteed bandwidth")
    ceil: RateField | None = Field(None, description="most it may borrow up to; the total when left out")
    priority: PriorityField = Field(4, description="0 (first) to 7 (last) when unused bandwidth is lent")
    burst: BytesField | None = Field(None, description="bytes that may go at once; chosen from the rate when left out")
    match: Annotated[tuple[Match, ...], _ONE_OR_MORE] = Field(
        description="alternatives", json_schema_extra={"minItems": 1}
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
    priority: PriorityField = Field(7, description="0 (first) to 7 (last)")
    burst: BytesField | None = Field(None, description="bytes that may go at once")


@dataclass(frozen=True, slots=True)
class ResolvedClass:
    """A class with every default filled in, ready to compile. ``ceil`` never exceeds the total."""

    name: str
    rate: Rate
    ceil: Rate
    priority: int
    burst: ByteCount | None
    match: tuple[Match, ...] = ()


class TrafficPolicy(_Document):
    """A whole policy. Check it with :func:`tc_core.policy_check.check`; the loaders do."""

    total: RateField = Field(description="bandwidth of the interface, shared by all classes")
    classes: tuple[TrafficClass, ...] = Field((), description="in order of precedence")
    default: DefaultClass = Field(default_factory=DefaultClass, description="the class of everything else")

    @property
    def default_rate(self) -> Rate:
        """The default class's guarantee: as written, else 1 % of the total but no more than is left over."""
        if self.default.rate is not None:
            return self.default.rate
        left = self.total.bits_per_second - sum(c.rate.bits_per_second for c in self.classes)
        return max(MIN_RATE, Rate(max(0, min(self.total.bits_per_second // 100, left))))

    def resolved(self) -> tuple[ResolvedClass, ...]:
        """All classes in order, the default class last."""
        named = [
            ResolvedClass(c.name, c.rate, min(c.ceil or self.total, self.total), c.priority, c.burst, c.match)
            for c in self.classes
        ]
        rest = self.default
        rate = self.default_rate
        ceil = max(rate, min(rest.ceil or self.total, self.total))
        return (*named, ResolvedClass(DEFAULT_CLASS, rate, ceil, rest.priority, rest.burst))

    def rules(self) -> Iterator[tuple[str, Match]]:
        """(class name, match) in order of precedence: the first that holds decides."""
        for traffic_class in self.classes:
            for match in traffic_class.match:
                yield traffic_class.name, match

    def to_document(self) -> dict[str, Any]:
        """Plain data in policy-file grammar, without what was left to its default."""
        return self.model_dump(mode="json", exclude_defaults=True)
