"""The compiler of the maps of ``datapath: ebpf``. What they mean is tested with the programs (tests/kernel/test_ebpf_meaning.py)."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datapath.ebpf.numbered_matches import numbered
from datapath.ebpf.policy_maps import HashKeys, PolicyMaps, compile_table
from datapath.mesh.types import ISTIO, LINKERD, MeshProxy
from datapath.routing.table import RoutingTable
from traffic_policy.errors import ConfigError
from traffic_policy.marks import ClassIds
from traffic_policy.policy import Match, PortRange, TrafficClass, TrafficPolicy

KEYS = HashKeys(1_000_003, 70_001)


def table_of(*matches: Match, mesh: MeshProxy | None = None) -> RoutingTable:
    policy = TrafficPolicy(total="1Gbit", classes=(TrafficClass(name="c", rate="1Mbit", match=matches),))
    return RoutingTable.from_policy(policy, (), mesh)


def compiled(*matches: Match, mesh: MeshProxy | None = None) -> PolicyMaps:
    return compile_table(table_of(*matches, mesh=mesh), ClassIds.assign(["c"]), KEYS)


def vectors(maps: PolicyMaps) -> dict[int, int]:
    """The vectors of the only match as integers, by number; behind it stands that of the default class."""
    found = {int.from_bytes(k, "little"): int.from_bytes(v, "little") for k, v in maps.entries["vectors"].items()}
    assert all(bits & 0b10 for bits in found.values())
    return {number: bits & ~0b10 for number, bits in found.items()}


@settings(max_examples=10)
@given(st.lists(st.tuples(st.integers(1, 65535), st.integers(0, 3000)), min_size=1, max_size=4))
def test_every_port_has_one_prefix(ranges: list[tuple[int, int]]) -> None:
    allowed = [PortRange(first, min(65535, first + more)) for first, more in ranges]
    maps = compiled(Match(port=tuple(allowed)))
    bits = vectors(maps)
    found: dict[int, int] = {}
    for key, value in maps.entries["ports"].items():
        length, kind = struct.unpack("=IB", key[:5])
        if kind == 0:
            start = int.from_bytes(key[6:], "big")
            for port in range(start, start + (1 << 32 - length)):
                assert port not in found
                found[port] = bits[int.from_bytes(value, "little")]
    assert found == {port: int(any(port in those for those in allowed)) for port in range(65536)}


def test_equal_vectors_are_stored_once() -> None:
    maps = compiled(Match(sni=tuple(f"n{i}.example.com" for i in range(5000))))
    assert len(maps.entries["names"]) == 5000
    assert len(maps.entries["vectors"]) <= 7
    assert maps.sizes["names"] == 5000
    assert maps.sizes["alpn_protocols"] == 1


def test_a_wildcard_is_no_name() -> None:
    assert KEYS.of_name("example.com") != KEYS.of_name("example.com", wildcard=True)
    assert HashKeys.draw() != HashKeys.draw()


def test_too_many_matches_are_refused() -> None:
    assert compiled(*(Match(port=(PortRange(i, i),)) for i in range(1, 1025)))
    with pytest.raises(ConfigError, match="1025 matches; datapath: ebpf takes 1024"):
        compiled(*(Match(port=(PortRange(i, i),)) for i in range(1, 1026)))


def test_beside_istio_a_match_by_name_and_port_is_also_about_the_port_in_a_name() -> None:
    port = (PortRange(80, 80),)
    matches = (
        Match(sni=("a.example",), port=port),
        Match(port=port),
        Match(sni=("a.example",)),
        Match(sni=("a.example",), port=port, protocol=("udp",)),
    )
    for mesh, expected in ((None, []), (LINKERD, []), (ISTIO, [1])):
        found = numbered(table_of(*matches, mesh=mesh))
        assert [number for number, each in enumerate(found) if each.by_named_port] == expected
        assert [each.matcher.match for each in found if not each.by_named_port] == list(matches)
    named = (Match(sni=(f"n{i}.example",), port=port) for i in range(513))
    with pytest.raises(ConfigError, match=r"513 matches \(beside Istio 513 of them, by name and port, count twice\)"):
        compiled(*named, mesh=ISTIO)


@pytest.mark.parametrize(("mesh", "own"), [(ISTIO, range(15000, 15091)), (LINKERD, (*range(4140, 4144), 4190, 4191))])
def test_names_do_not_decide_on_the_ports_of_a_mesh(mesh: MeshProxy, own: Iterable[int]) -> None:
    maps = compiled(Match(sni=("a.example",)), mesh=mesh)
    bits = vectors(maps)
    silent: dict[int, set[int]] = {}
    for key, value in maps.entries["ports"].items():
        length, kind = struct.unpack("=IB", key[:5])
        start = int.from_bytes(key[6:], "big")
        if not bits[int.from_bytes(value, "little")]:
            silent.setdefault(kind, set()).update(range(start, start + (1 << 32 - length)))
    tcp, inbound = 0, 4
    assert silent[tcp] == set(own)
    assert silent[inbound] == set(range(65536)), "the match is about what this side opens"
