"""The compiler of the maps of ``datapath: ebpf``. What they mean is tested with the programs (tests/kernel/test_ebpf_meaning.py)."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datapath.ebpf.policy_maps import HashKeys, PolicyMaps, compile_table
from datapath.routing.table import RoutingTable
from traffic_policy.errors import ConfigError
from traffic_policy.marks import ClassIds
from traffic_policy.policy import Match, PortRange, TrafficClass, TrafficPolicy

KEYS = HashKeys(1_000_003, 70_001)


def compiled(*matches: Match) -> PolicyMaps:
    policy = TrafficPolicy(total="1Gbit", classes=(TrafficClass(name="c", rate="1Mbit", match=matches),))
    return compile_table(RoutingTable.from_policy(policy, ()), ClassIds.assign(["c"]), KEYS)


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
