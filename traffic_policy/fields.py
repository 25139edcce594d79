"""The single values of a policy: how each is read, how it is written back, and its JSON schema.

Each ``...Field`` is a pydantic type. Reading raises ValueError with a remedy; :mod:`traffic_policy.policy_file` adds
where.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Final

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, PlainSerializer, PlainValidator, WithJsonSchema
from pydantic_core import CoreSchema, core_schema

from traffic_policy.marks import Mark
from traffic_policy.names import HostNameError, parse_host
from traffic_policy.ports import PortRange
from traffic_policy.services import service_named
from traffic_policy.units import ByteCount, Duration, Percentage, Rate

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


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


def parse_network(value: object) -> Network:
    """An address or network such as ``10.0.0.0/8``; raises ValueError with a remedy."""
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


def parse_networks(text: str) -> tuple[Network, ...]:
    """Read ``10.0.0.0/8,fd00::1``; an empty text is an empty list. Raises ValueError with a remedy."""
    return tuple(parse_network(part.strip()) for part in text.split(",")) if text.strip() else ()


def _parse_alpn(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value.encode("utf-8", "replace")) <= 255:
        raise ValueError(f"{value!r} is not an ALPN protocol name. Write one such as h2 or http/1.1.")
    return value


def _parse_service(value: object) -> str:
    return service_named(value).name


_MARK = re.compile(r"(0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10})(?:\s*/\s*(0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10}))?")
_WORD: Final = 0xFFFFFFFF


def _parse_mark(value: object) -> Mark:
    """``0x10/0xff``, or a number alone, which is compared with the whole mark."""
    if isinstance(value, Mark):
        value = str(value)
    match = None if isinstance(value, bool | float) else _MARK.fullmatch(str(value).strip())
    if not match:
        raise ValueError(f'{value!r} is not a packet mark. Write one such as 0x10, or with a mask, "0x10/0xff".')
    number, mask = int(match[1], 0), int(match[2], 0) if match[2] else _WORD
    if number > _WORD or mask > _WORD:
        raise ValueError(f"{value} does not fit in a packet mark, which has 32 bits. Write at most 0xffffffff.")
    if not mask:
        raise ValueError(f"{value} asks for no bit, so everything would match. Write a mask of the bits that count.")
    if number & ~mask:
        raise ValueError(f"{value} can never match: {number:#x} has bits outside the mask. Write {number & mask:#x}.")
    return Mark(number, mask)


class _OneOrMore:
    """For a list of which a single value may stand for a list of one; the schema says so too."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def as_list(value: object) -> object:
            return value if isinstance(value, list | tuple) else [value]

        return core_schema.no_info_before_validator_function(as_list, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        several = handler(schema)
        return {"anyOf": [several["items"], several]}


ONE_OR_MORE: Final = _OneOrMore()

# The patterns are for editors: they allow all that the parsers read, and a little more.
_NUMBER = r"^\s*([0-9]+(\.[0-9]+)?|\.[0-9]+)\s*"
RATE_PATTERN: Final = rf"{_NUMBER}(([kKmMgGtT][iI]?)?[bB][iI][tT][sS]?(/[sS]|[pP][sS])?|[kMGT]|[KMGT]i)\s*$"
_BYTES = rf"{_NUMBER}([kKmMgGtT][iI]?)?[bB]([yY][tT][eE][sS]?)?\s*$"


def _schema(pattern: str, *examples: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": list(examples)})


_AS_TEXT = PlainSerializer(str, return_type=str)

RateField = Annotated[Rate, PlainValidator(Rate.parse), _AS_TEXT, _schema(RATE_PATTERN, "100Mbit")]
BytesField = Annotated[ByteCount, PlainValidator(ByteCount.parse), _AS_TEXT, _schema(_BYTES, "64KiB")]
DurationField = Annotated[
    Duration, PlainValidator(Duration.parse), _AS_TEXT, _schema(rf"{_NUMBER}(us|ms|s|m|h)\s*$", "50ms")
]
PercentageField = Annotated[
    Percentage, PlainValidator(Percentage.parse), _AS_TEXT, _schema(rf"{_NUMBER}%\s*$", "1%", "0.05%")
]
PortField = Annotated[
    PortRange,
    PlainValidator(PortRange.parse),
    PlainSerializer(lambda p: p.first if p.first == p.last else str(p)),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 65535},
                {"type": "string", "pattern": r"^\s*[0-9]{1,6}(\s*-\s*[0-9]{1,6})?\s*$", "examples": ["8000-8100"]},
            ]
        }
    ),
]
PatternField = Annotated[str, PlainValidator(_parse_pattern), WithJsonSchema({"type": "string", "minLength": 1})]
NetworkField = Annotated[
    Network,
    PlainValidator(parse_network),
    _AS_TEXT,
    _schema(r"^\s*[0-9a-fA-F.:]+(/[0-9.]+)?\s*$", "10.0.0.0/8", "fd00::/8"),
]
AlpnField = Annotated[
    str, PlainValidator(_parse_alpn), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 255})
]
ApplicationField = Annotated[
    str,
    PlainValidator(_parse_service),
    WithJsonSchema({"type": "string", "minLength": 1, "examples": ["ssh", "https"]}),
]
MarkField = Annotated[
    Mark,
    PlainValidator(_parse_mark),
    _AS_TEXT,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": _WORD},
                {"type": "string", "pattern": rf"^\s*{_MARK.pattern}\s*$", "examples": ["0x10/0xff"]},
            ]
        }
    ),
]
PriorityField = Annotated[int, Field(ge=0, le=7, strict=True)]
