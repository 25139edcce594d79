"""Compiles a routing table to the maps of the programs (``programs/policy.h``). Pure.

The matches of the table are numbered in order of precedence. A vector has a bit for each of them; for everything that
can be found in a packet there is the vector of the matches whose criterion of that kind it satisfies. The program
intersects them and takes the first bit, whatever the number of matches. Equal vectors are stored once. Behind the
matches stands one of the default class that everything satisfies, where there is room for it, so that the program
seldom looks further than the first word.

**With a mesh** no match that asks for content holds on the mesh's own ports. Beside Istio a match by name and port has
two bits (:mod:`datapath.ebpf.numbered_matches`). The second one is satisfied by all ports that names may decide on, but
of names only by those of services, whose port is asked for as well (the kind of port ``KIND_SERVICE``).

What the table means is :meth:`datapath.routing.table.RoutingTable.route`; a property test compares the two.
"""

from __future__ import annotations

import ipaddress
import secrets
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from datapath.ebpf.numbered_matches import MOST_MATCHES, numbered, too_many
from datapath.routing.table import Matcher, RoutingTable
from traffic_policy.errors import ConfigError
from traffic_policy.marks import DEFAULT_CLASS_ID, ClassIds
from traffic_policy.names import parents
from traffic_policy.policy import Bound, Network, PortRange, Quic, TransportProtocol

ETHERNET: Final = 14
"""Bytes of the header of an Ethernet frame."""
_VECTOR: Final = struct.Struct("=16Q")
_SETTINGS: Final = struct.Struct("=IIIIII4Q4QiI16x")
SETTINGS_BYTES: Final = _SETTINGS.size
"""Of ``struct settings``."""
_WORD: Final = (1 << 64) - 1
_BLOCKS_QUIC, _TELLS_DESTINATIONS, _TELLS_SOURCES, _AT_NODE, _HEARS_QUIC, _READS_SERVICES = 1, 2, 4, 8, 16, 32
"""As in policy.h."""
_OWN_SOCKETS: Final = -1
"""BPF_F_CURRENT_NETNS: those of the interface's own network namespace."""
_ALL_MATCHES: Final = 0
"""The number of that vector (ANY_CONTENT there)."""
_PRIME: Final = 2**31 - 1
_WILDCARD: Final = 1 << 63
_KINDS: Final[Sequence[tuple[TransportProtocol | None, Bound]]] = (
    (TransportProtocol.TCP, Bound.OUTBOUND),
    (TransportProtocol.UDP, Bound.OUTBOUND),
    (TransportProtocol.ICMP, Bound.OUTBOUND),
    (None, Bound.OUTBOUND),
    (TransportProtocol.TCP, Bound.INBOUND),
    (TransportProtocol.UDP, Bound.INBOUND),
)
"""``KIND_*`` of ``programs/types.h``."""
_KIND_SERVICE: Final = len(_KINDS)
_FIXED_VECTORS: Final = 4
_PORTS: Final = 1 << 16
_PORT_BITS: Final = 16
_V4_MAPPED: Final = b"\0" * 10 + b"\xff\xff"

Entries = dict[bytes, bytes]


@dataclass(frozen=True, slots=True)
class HashKeys:
    """The keys of the hashes of names. Kept from one policy to the next is not needed: each has maps of its own."""

    first: int
    second: int

    @classmethod
    def draw(cls) -> HashKeys:
        """New ones, at random."""
        return cls(*(secrets.randbelow(_PRIME - _PORTS) + _PORTS for _ in range(2)))

    def of_name(self, name: str, *, wildcard: bool = False) -> bytes:
        """The key of a name, or of the names below it, in the map ``names``."""
        return self._packed(reversed(name.encode("ascii")), _WILDCARD if wildcard else 0)

    def of_offer(self, offer: str) -> bytes:
        """The key of an ALPN protocol in the map ``alpn_protocols``."""
        name = offer.encode("latin-1")
        return self._packed(bytes([len(name)]) + name, 0)

    def _packed(self, data: Iterable[int], flag: int) -> bytes:
        first = second = 0
        for byte in data:
            first = _modulo(first * self.first + byte)
            second = _modulo(second * self.second + byte)
        return struct.pack("=Q", flag | ((first << 31 | second) & _WORD))


def _modulo(value: int) -> int:
    """As ``modulo()`` of ``programs/names.h``: not always the smallest of equal values."""
    value = (value & _PRIME) + (value >> 31)
    return (value & _PRIME) + (value >> 31)


@dataclass(frozen=True, slots=True)
class PolicyMaps:
    """The entries of the maps, by name of the map."""

    entries: Mapping[str, Entries]

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each map; a map without entries has room for one."""
        return {name: max(1, len(entries)) for name, entries in self.entries.items()}


@dataclass(frozen=True, slots=True)
class Exclusions:
    """Connections in the default class, whatever the policy says: by destination's port and network of what this side
    opens (TCP and UDP), by port and the client's network of what clients open."""

    outbound_ports: Sequence[PortRange] = ()
    outbound_networks: Sequence[Network] = ()
    inbound_ports: Sequence[PortRange] = ()
    inbound_networks: Sequence[Network] = ()


NOTHING_EXCLUDED: Final = Exclusions()


def compile_table(
    table: RoutingTable,
    ids: ClassIds,
    keys: HashKeys,
    *,
    generation: int = 1,
    link_header: int = ETHERNET,
    lane: int = 0,
    exclude: Exclusions = NOTHING_EXCLUDED,
    sockets: int | None = None,
    received: Iterable[int] = (),
) -> PolicyMaps:
    """The maps for connections in both directions, inbound ones of TCP, and of QUIC where names decide.

    ``link_header`` is the size of the interface's link-layer header, ``lane`` the number that says in the ring of
    whom a record is. ``sockets``: the programs are at the node's end of a link, and the Pod's network namespace has
    this number there; ``received`` are then the ids of classes that limit what arrives. Raises :class:`ConfigError` if
    there are too many matches.
    """
    if problem := too_many((m.match for _, m in table.entries), services=table.reads_services):
        raise ConfigError(f"{problem} Put the names of one class into one match, or use datapath: step-aside.")
    matchers = numbered(table)
    vectors = _Vectors(
        [each.matcher for each in matchers], sum(1 << i for i, each in enumerate(matchers) if each.by_named_port)
    )
    # In the order of the numbers that the program knows.
    vectors.number(lambda _: True)
    vectors.number(lambda m: not m.match.needs_content)
    nameless = vectors.bits(lambda m: m.sni is None and m.host is None)
    vectors.number_of(nameless & ~vectors.by_named_port, always_new=True)
    vectors.number(lambda m: m.alpn is None)
    if table.reads_services:
        vectors.number_of(nameless, always_new=True)
    matches = [
        *((ids[each.class_name], each.matcher.match.needs_content) for each in matchers),
        (DEFAULT_CLASS_ID, False),
    ]
    compiled = {
        "ports": _ports(table, vectors, exclude),
        "destinations": {
            **_networks(vectors, lambda m: m.networks, Bound.OUTBOUND, exclude.outbound_networks),
            **_networks(vectors, lambda m: m.networks, Bound.INBOUND),
        },
        "sources": {
            **_networks(vectors, lambda m: m.sources, Bound.OUTBOUND),
            **_networks(vectors, lambda m: m.sources, Bound.INBOUND, exclude.inbound_networks),
        },
        "names": _names(vectors, keys, services=table.reads_services),
        "alpn_protocols": {
            keys.of_offer(offer): _number(vectors.number(lambda m, o=offer: m.alpn is None or o in m.alpn))  # type: ignore[misc]
            for offer in sorted({offer for _, m in table.entries for offer in m.alpn or ()})
        },
        "matches": {
            _number(i): struct.pack("=BB", class_id, needs_content)
            for i, (class_id, needs_content) in enumerate(matches[:MOST_MATCHES])
        },
    }
    flags = (
        _BLOCKS_QUIC * (table.quic is Quic.BLOCK)
        | _TELLS_DESTINATIONS * (set(compiled["destinations"].values()) != {_number(_ALL_MATCHES)})
        | _TELLS_SOURCES * (set(compiled["sources"].values()) != {_number(_ALL_MATCHES)})
        | _AT_NODE * (sockets is not None)
        | _HEARS_QUIC * table.hears_quic
        | _READS_SERVICES * table.reads_services
    )
    settings = _SETTINGS.pack(
        *(generation, keys.first, keys.second, link_header, lane, flags),
        *_bits(ids.values()),
        *_bits(received),
        _OWN_SOCKETS if sockets is None else sockets,
        table.mesh.inbound_port if table.mesh is not None else 0,
    )
    return PolicyMaps({**compiled, "settings": {_number(0): settings}, "vectors": vectors.entries})


def _bits(class_ids: Iterable[int]) -> Iterator[int]:
    known = sum(1 << class_id for class_id in class_ids)
    return (known >> shift & _WORD for shift in range(0, 256, 64))


@dataclass(slots=True)
class _Vectors:
    """Vectors, each stored once. ``by_named_port``: the bits of matches that hold for the port in a service's name."""

    matchers: Sequence[Matcher]
    by_named_port: int = 0
    entries: Entries = field(default_factory=dict)
    _numbers: dict[int, int] = field(default_factory=dict)

    def bits(self, holds: Callable[[Matcher], bool]) -> int:
        """The vector of the matches for which ``holds``, as an integer."""
        return sum(1 << i for i, matcher in enumerate(self.matchers) if holds(matcher))

    def number(self, holds: Callable[[Matcher], bool]) -> int:
        """The number of the vector of the matches for which ``holds``. The first calls must be the program's own."""
        return self.number_of(self.bits(holds), always_new=len(self.entries) < _FIXED_VECTORS)

    def number_of(self, bits: int, *, always_new: bool = False) -> int:
        """The number of a vector."""
        number = self._numbers.get(bits)
        if number is None or always_new:
            number = len(self.entries)
            self._numbers.setdefault(bits, number)
            whole = bits | 1 << len(self.matchers)  # the default class's; where there is no room for it, it is cut off
            self.entries[_number(number)] = _VECTOR.pack(*(whole >> shift & _WORD for shift in range(0, 1024, 64)))
        return number


def _ports(table: RoutingTable, vectors: _Vectors, exclude: Exclusions) -> Entries:
    """All ports of each kind of transport: direction, protocol, port, and ports on which names do not decide."""
    found: Entries = {}
    for kind, (protocol, bound) in enumerate(_KINDS):
        accepts = partial(_accepts, protocol=protocol, bound=bound)
        if protocol is None or not protocol.has_ports:
            bits = vectors.bits(lambda m, a=accepts: a(m) and not m.match.port)  # type: ignore[misc]
            found[struct.pack("=IBBH", 16, kind, 0, 0)] = _number(vectors.number_of(bits))
            continue
        excluded = exclude.outbound_ports if bound is Bound.OUTBOUND else exclude.inbound_ports
        found |= _keyed(kind, vectors, _stretches(table, vectors, accepts, protocol, excluded))
    if vectors.by_named_port:
        found |= _keyed(_KIND_SERVICE, vectors, _named_ports(vectors))
    return found


def _keyed(kind: int, vectors: _Vectors, stretches: Iterable[tuple[int, int, int]]) -> Entries:
    return {
        struct.pack("=IBB", 16 + fixed, kind, 0) + struct.pack("!H", start): _number(vectors.number_of(bits))
        for first, end, bits in stretches
        for start, fixed in _prefixes(first, end)
    }


def _accepts(matcher: Matcher, protocol: TransportProtocol | None, bound: Bound) -> bool:
    """Whether a match takes this direction and transport protocol (None: one that policies do not name) at all."""
    match = matcher.match
    if not match.direction.covers(bound):
        return False
    if match.needs_content:
        return protocol is not None and match.accepts_protocol(protocol)
    return not match.protocol if protocol is None else match.accepts_protocol(protocol)


def _stretches(
    table: RoutingTable,
    vectors: _Vectors,
    accepts: Callable[[Matcher], bool],
    protocol: TransportProtocol,
    excluded: Sequence[PortRange],
) -> Iterator[tuple[int, int, int]]:
    """All ports as (first, end, vector) for what has this transport protocol."""
    tcp = protocol is TransportProtocol.TCP
    accepted = vectors.bits(accepts) & (-1 if tcp else ~vectors.by_named_port)
    everywhere = accepted & (vectors.bits(lambda m: not m.match.ports_of(protocol)) | vectors.by_named_port)
    some = (
        (ports, 1 << i)
        for i, matcher in enumerate(vectors.matchers)
        if accepted & ~everywhere & 1 << i
        for ports in matcher.match.ports_of(protocol)
    )
    content = vectors.bits(lambda m: m.match.needs_content)
    # On silent ports only matches that name them read names; on the mesh's own, none does.
    quiet = content & (vectors.bits(lambda m: not m.match.port) | vectors.by_named_port)
    mesh = table.mesh.ports if table.mesh is not None and tcp else ()
    without = (
        *((PortRange(port, port), quiet) for port in table.silent_ports),
        *((ports, content) for ports in mesh),
        *((ports, -1) for ports in excluded),
    )
    return _sweep(everywhere, some, without)


def _named_ports(vectors: _Vectors) -> Iterator[tuple[int, int, int]]:
    """All ports that names of services may have, as (first, end, vector)."""
    everywhere = vectors.bits(lambda _: True) & ~vectors.by_named_port
    some = (
        (ports, 1 << i)
        for i, matcher in enumerate(vectors.matchers)
        if vectors.by_named_port & 1 << i
        for ports in matcher.ports
    )
    return _sweep(everywhere, some, ())


def _sweep(
    everywhere: int, some: Iterable[tuple[PortRange, int]], without: Sequence[tuple[PortRange, int]]
) -> Iterator[tuple[int, int, int]]:
    """All ports as (first, end, vector): stretches as long as the vector is the same.

    A vector has the bits that are ``everywhere`` and those that ``some`` ports have, less those that they are
    ``without``.
    """
    beginning: dict[int, list[int]] = {}
    ending: dict[int, list[int]] = {}
    for ports, bit in some:
        beginning.setdefault(ports.first, []).append(bit)
        ending.setdefault(ports.last + 1, []).append(bit)
    edges = {0, _PORTS, *beginning, *ending}
    edges |= {edge for ports, _ in without for edge in (ports.first, ports.last + 1)}
    open_ranges: Counter[int] = Counter()
    since, before = 0, -1
    for at in sorted(edges - {_PORTS}):
        open_ranges.update(beginning.get(at, ()))
        open_ranges.subtract(ending.get(at, ()))
        bits = everywhere | sum(bit for bit, count in open_ranges.items() if count)
        for ports, missing in without:
            if at in ports:
                bits &= ~missing
        if bits != before and before >= 0:
            yield since, at, before
            since = at
        before = bits
    yield since, _PORTS, before


def _prefixes(first: int, end: int) -> Iterator[tuple[int, int]]:
    """The numbers from ``first`` to ``end`` - 1 as (start, number of fixed bits), as few as there can be."""
    while first < end:
        size = first & -first or _PORTS
        while size > end - first:
            size //= 2
        yield first, _PORT_BITS - size.bit_length() + 1
        first += size


def _networks(
    vectors: _Vectors, of: Callable[[Matcher], Sequence[Network]], bound: Bound, excluded: Sequence[Network] = ()
) -> Entries:
    """For each network of the policy, and for all other addresses, the matches whose criterion an address there meets.

    The longest prefix that has an address is found, so each has the matches of the networks that contain it, too.
    """
    roots: tuple[Network, ...] = (ipaddress.IPv4Network((0, 0)), ipaddress.IPv6Network((0, 0)))
    found: Entries = {}
    for network in {*roots, *excluded, *(n for m in vectors.matchers for n in of(m))}:
        bits = 0
        if not any(_contains(other, network) for other in excluded):
            bits = vectors.bits(lambda m, n=network: not of(m) or any(_contains(other, n) for other in of(m)))  # type: ignore[misc]
        found[_network_key(network, bound)] = _number(vectors.number_of(bits))
    return found


def _contains(outer: Network, inner: Network) -> bool:
    if isinstance(outer, ipaddress.IPv4Network):
        return isinstance(inner, ipaddress.IPv4Network) and inner.subnet_of(outer)
    return isinstance(inner, ipaddress.IPv6Network) and inner.subnet_of(outer)


def _network_key(network: Network, bound: Bound) -> bytes:
    packed = network.network_address.packed
    fixed, address = (96, _V4_MAPPED + packed) if network.version == 4 else (0, packed)
    return struct.pack("=II", 32 + fixed + network.prefixlen, bound is Bound.INBOUND) + address


def _names(vectors: _Vectors, keys: HashKeys, *, services: bool) -> Entries:
    """For each name and wildcard of the policy, the matches that it satisfies as an SNI, as an HTTP host, and as the
    host of one of Istio's ``services``, which is taken for both."""
    by_sni, by_host = _Named(vectors.matchers, "sni"), _Named(vectors.matchers, "host")
    # A match that asks for a name of the other kind, too, cannot hold: a connection has one of them.
    no_sni = vectors.bits(lambda m: m.sni is None)
    no_host = vectors.bits(lambda m: m.host is None)
    no_alpn = vectors.bits(lambda m: m.alpn is None)
    by_own_port = ~vectors.by_named_port
    found: Entries = {}
    for wildcard in (True, False):
        for name in by_sni.names(wildcard=wildcard) | by_host.names(wildcard=wildcard):
            with_sni = no_sni | by_sni.matches(name, wildcard=wildcard)
            with_host = no_host | by_host.matches(name, wildcard=wildcard)
            key = keys.of_name(name, wildcard=wildcard)
            if key in found:
                raise ConfigError("Two names have the same hash, by a chance of one in a million. Try again.")
            as_sni = vectors.number_of(with_sni & no_host & by_own_port)
            as_host = vectors.number_of(with_host & no_sni & no_alpn & by_own_port)
            as_service = vectors.number_of(with_sni & with_host) if services else as_sni
            found[key] = _number(as_sni) + _number(as_host) + _number(as_service)
    return found


class _Named:
    """The matches that ask for each name by one criterion, as bits."""

    def __init__(self, matchers: Sequence[Matcher], criterion: str) -> None:
        self._exact: dict[str, int] = {}
        self._below: dict[str, int] = {}
        for i, matcher in enumerate(matchers):
            asked = matcher.sni if criterion == "sni" else matcher.host
            if asked is None:
                continue
            for names, bits in ((asked.exact, self._exact), (asked.suffixes, self._below)):
                for name in names:
                    bits[name] = bits.get(name, 0) | 1 << i

    def names(self, *, wildcard: bool) -> set[str]:
        """All names, or those whose subdomains are meant."""
        return set(self._below if wildcard else self._exact)

    def matches(self, name: str, *, wildcard: bool) -> int:
        """The matches that ask for this name, or for any below it (``wildcard``)."""
        bits = self._below.get(name, 0) if wildcard else self._exact.get(name, 0)
        for parent in parents(name):
            bits |= self._below.get(parent, 0)
        return bits


def _number(value: int) -> bytes:
    return struct.pack("=I", value)
