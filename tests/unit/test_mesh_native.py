"""Istio's nftables as the kernel gives them: which rules tell what, and which do not. Real ones are in tests/kernel."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from datapath.mesh.detect_nft import Expression, NativeRule, detect_native_mesh
from datapath.mesh.nftables import read_rule
from datapath.mesh.types import ISTIO, ISTIO_AMBIENT, MeshProxy
from tc_core.netlink.codec import attribute, nested
from traffic_policy.marks import Mark

SKUID, SKGID, MARK = 10, 11, 3
EQUAL, OTHER = 0, 1


def big(number: int) -> bytes:
    return number.to_bytes(4, "big")


def host(number: int) -> bytes:
    return number.to_bytes(4, sys.byteorder)


def meta(key: int) -> Expression:
    return Expression("meta", attribute(1, big(1)) + attribute(2, big(key)))


def cmp(number: int, op: int = EQUAL) -> Expression:
    return Expression("cmp", attribute(1, big(1)) + attribute(2, big(op)) + nested(3, attribute(1, host(number))))


def masked(mask: int) -> Expression:
    return Expression("bitwise", nested(4, attribute(1, host(mask))))


def port(number: int) -> Expression:
    return Expression("immediate", attribute(1, big(1)) + nested(2, attribute(1, number.to_bytes(2, "big"))))


def verdict(code: int) -> Expression:
    said = nested(2, attribute(1, code.to_bytes(4, "big", signed=True)))
    return Expression("immediate", attribute(1, big(0)) + nested(2, said))


RETURN, JUMP = verdict(-5), verdict(-3)
COUNTER, REDIRECT, TPROXY = (Expression(name, b"") for name in ("counter", "redir", "tproxy"))


def rule(*steps: Expression, table: str = "istio-proxy-nat", chain: str = "istio-output") -> NativeRule:
    return NativeRule(table, chain, steps)


TO_ENVOY = rule(port(15001), REDIRECT, chain="istio-redirect")
GOES = (meta(SKGID), cmp(2000), COUNTER, RETURN)
AMBIENT = (meta(MARK), masked(0xFFF), cmp(0x53A, OTHER), COUNTER, port(15001), REDIRECT)


@pytest.mark.parametrize(
    ("found", "proxy"),
    [
        ([rule(*GOES)], replace(ISTIO, group=2000)),
        ([rule(*GOES, chain="istio-output-dns")], ISTIO),
        ([rule(meta(SKUID), cmp(2000), RETURN)], ISTIO),
        ([rule(meta(SKGID), cmp(2000, OTHER), RETURN)], ISTIO),
        ([rule(meta(SKGID), cmp(2000), JUMP)], ISTIO),
        ([rule(meta(SKUID), cmp(7), meta(SKGID), cmp(2000), RETURN)], ISTIO),
        ([rule(meta(SKGID), cmp(1), RETURN, table="mine"), rule(*GOES)], replace(ISTIO, group=2000)),
        ([rule(*AMBIENT, table="istio-ambient-nat")], replace(ISTIO_AMBIENT, mark=Mark(0x53A, 0xFFF))),
        ([rule(*AMBIENT[:3], RETURN, table="istio-ambient-nat")], ISTIO_AMBIENT),
        ([rule(Expression("meta", b"\1"), Expression("cmp", b""), Expression("immediate", b"\5\0"))], ISTIO),
    ],
    ids=[
        "gid", "another chain", "a uid", "all others", "not let go", "more is asked", "beside mine",
        "ambient", "an ambient rule that redirects nothing", "damaged",
    ],
)  # fmt: skip
def test_the_mesh_says_by_what_it_knows_its_proxy(found: list[NativeRule], proxy: MeshProxy) -> None:
    known = detect_native_mesh(found)
    assert known is not None
    assert known.proxy == proxy


def test_where_it_redirects_to_and_how() -> None:
    known = detect_native_mesh([TO_ENVOY, rule(port(15006), REDIRECT), rule(port(15001), REDIRECT)])
    assert known is not None
    assert (known.inbound, known.ports) == ("REDIRECT", (15001, 15006))
    known = detect_native_mesh([TO_ENVOY, rule(port(15006), TPROXY, table="istio-proxy-mangle")])
    assert known is not None
    assert (known.inbound, known.ports) == ("TPROXY", (15001, 15006))


@pytest.mark.parametrize("table", ["istio", "mine", "my-istio-proxy-nat", ""])
def test_tables_of_others_tell_nothing(table: str) -> None:
    assert detect_native_mesh([rule(*GOES, table=table)]) is None
    assert detect_native_mesh([]) is None


def test_a_rule_is_read_from_its_message() -> None:
    steps = nested(1, attribute(1, b"counter\0")), nested(1, attribute(1, b"redir\0"), nested(2, attribute(1, big(1))))
    data = attribute(1, b"mine\0") + attribute(2, b"out\0") + attribute(3, bytes(8)) + nested(4, *steps)
    found = read_rule(data)
    assert (found.table, found.chain, [each.name for each in found.expressions]) == (
        "mine",
        "out",
        ["counter", "redir"],
    )
    assert found.expressions[1].number(1) == 1
    assert read_rule(data[:-3]).table == "mine", "what is cut off is left out"
