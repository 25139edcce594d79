"""Checks what agents say of names: whoever holds the certificate of one may say anything. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from control_plane.fleet.hearing import wrong
from control_plane.fleet.names.seen import HeardName, MatchPlace, NamePlace
from fleet_api.agent_pb2 import NamesSeen
from fleet_api.limits import MAX_MATCHES, MAX_NAMES
from traffic_policy.match_key import MATCH_KEY_BYTES

PROTOCOLS: Final = frozenset(("tls", "quic", "http1", "http2"))
DIRECTIONS: Final = frozenset(("outbound", "inbound"))
DECIDED: Final = frozenset(("name", "port", "default"))
_NAME: Final = re.compile(r"[a-z0-9_.:-]{1,253}")
"""Of a host, or an address."""
_LONGEST: Final = 400
_LONGEST_LABEL: Final = 63
_MOST_CONNECTIONS: Final = 1 << 32
_MOST_PORT: Final = 65535


def heard_names(cluster: str, said: NamesSeen) -> list[HeardName]:
    """What an agent of this cluster says of names. Raises :class:`RpcError`."""
    if len(said.names) > MAX_NAMES:
        raise wrong(f"{len(said.names)} names are too many for one message: {MAX_NAMES} at most.")
    found = []
    for each in said.names:
        if not _NAME.fullmatch(each.name):
            raise wrong(f"{each.name[:_LONGEST_LABEL]!r} is no name of a host.")
        known = each.protocol in PROTOCOLS and each.direction in DIRECTIONS and each.decided in DECIDED
        if not known or each.port > _MOST_PORT:
            raise wrong("A name comes with a protocol, port, direction or reason that there is not.")
        _check(_LONGEST_LABEL, each.namespace, each.policy, each.lane)
        _check(_LONGEST, each.workload)
        place = NamePlace(cluster, each.namespace, each.policy, each.name, each.protocol, each.port, each.direction)
        count = min(each.connections, _MOST_CONNECTIONS)
        found.append(HeardName(place, each.lane, each.decided, count, each.workload))
    return found


def heard_hits(said: NamesSeen) -> Iterator[tuple[str, MatchPlace, int]]:
    """What it says of matches. Raises :class:`RpcError`."""
    if len(said.matches) > MAX_MATCHES:
        raise wrong(f"{len(said.matches)} matches are too many for one message: {MAX_MATCHES} at most.")
    for each in said.matches:
        if len(each.match) not in (0, MATCH_KEY_BYTES):
            raise wrong(f"{len(each.match)} bytes name no match.")
        yield each.policy, (each.lane, each.match), min(each.connections, _MOST_CONNECTIONS)


def _check(longest: int, *texts: str) -> None:
    for text in texts:
        if len(text) > longest or not text.isprintable():
            raise wrong(f"{text[:_LONGEST_LABEL]!r} is too long for a name, or no text.")
