"""Istio's rules as nftables of its own, in the form that its documentation shows; for ``nft -f``.

https://github.com/istio/istio/blob/master/tools/istio-nftables/pkg/README.md; the same walk as in :mod:`istio_rules`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from istio_rules import INBOUND, ISTIO_ID, OUTBOUND, Mode

_NAT: Final = "priority -100; policy accept;"
_MANGLE: Final = "priority -150; policy accept;"


def _sidecar(gid: int, *, tproxy: bool) -> Iterator[str]:
    yield "table inet istio-proxy-nat {"
    yield f"chain prerouting {{ type nat hook prerouting {_NAT}"
    if not tproxy:
        yield "meta l4proto tcp jump istio-inbound"
    yield "}"
    yield f"chain output {{ type nat hook output {_NAT} jump istio-output; }}"
    yield "chain istio-inbound { tcp dport { 15008, 15090, 15021, 15020 } return; meta l4proto tcp jump istio-in-redirect; }"
    yield f"chain istio-redirect {{ meta l4proto tcp redirect to :{OUTBOUND}; }}"
    yield f"chain istio-in-redirect {{ meta l4proto tcp redirect to :{INBOUND}; }}"
    yield "chain istio-output {"
    yield 'oifname "lo" ip saddr 127.0.0.6 return'
    for kind, number in (("skuid", ISTIO_ID), ("skgid", gid)):
        yield f'oifname "lo" ip daddr != 127.0.0.1 tcp dport != 15008 meta {kind} {number} counter jump istio-in-redirect'
        yield f'oifname "lo" meta {kind} != {number} counter return'
        yield f"meta {kind} {number} counter return"
    yield from ("ip daddr 127.0.0.1 return", "ip6 daddr ::1 return", "jump istio-redirect", "}", "}")
    if not tproxy:
        return
    yield "table inet istio-proxy-mangle {"
    yield f"chain prerouting {{ type filter hook prerouting {_MANGLE}"
    yield from (
        "meta l4proto tcp jump istio-inbound",
        f"meta l4proto tcp meta mark {ISTIO_ID} ct mark set meta mark",
        "}",
    )
    yield f"chain output {{ type route hook output {_MANGLE}"
    yield f'oifname "lo" meta l4proto tcp meta mark {ISTIO_ID} return'
    yield f'oifname "lo" meta l4proto tcp ip daddr != 127.0.0.1 meta skgid {ISTIO_ID} meta mark set {ISTIO_ID + 1}'
    yield from (f"meta l4proto tcp ct mark {ISTIO_ID} meta mark set ct mark", "}")
    yield f"chain istio-divert {{ meta mark set {ISTIO_ID}; accept; }}"
    yield "chain istio-tproxy {"
    yield f"meta l4proto tcp ip daddr != 127.0.0.1 tproxy ip to :{INBOUND} meta mark set {ISTIO_ID} accept"
    yield "}"
    yield "chain istio-inbound {"
    yield f"meta l4proto tcp meta mark {ISTIO_ID} return"
    yield 'iifname "lo" ip saddr 127.0.0.6 return'
    yield f'iifname "lo" meta l4proto tcp meta mark != {ISTIO_ID + 1} return'
    yield "tcp dport { 15008, 15090, 15021, 15020 } return"
    yield "meta l4proto tcp ct state related,established jump istio-divert"
    yield from ("meta l4proto tcp jump istio-tproxy", "}", "}")


def _ambient() -> Iterator[str]:
    yield "table inet istio-ambient-mangle {"
    yield f"chain output {{ type route hook output {_MANGLE} jump istio-output; }}"
    yield "chain istio-output { ct mark and 0xfff == 0x111 counter meta mark set ct mark; }"
    yield "}"
    yield "table inet istio-ambient-nat {"
    yield f"chain prerouting {{ type nat hook prerouting {_NAT} jump istio-prerouting; }}"
    yield f"chain output {{ type nat hook output {_NAT} jump istio-output; }}"
    yield "chain istio-prerouting {"
    yield f"ip daddr != 127.0.0.1 tcp dport != 15008 mark and 0xfff != 0x539 counter redirect to :{INBOUND}"
    yield from ("}", "chain istio-output {")
    yield "meta l4proto tcp mark and 0xfff == 0x111 counter accept"
    yield 'oifname "lo" ip daddr != 127.0.0.1 counter accept'
    yield f"meta l4proto tcp ip daddr != 127.0.0.1 mark and 0xfff != 0x539 counter redirect to :{OUTBOUND}"
    yield from ("}", "}")


def native_rules_of(mode: Mode, gid: int = ISTIO_ID) -> str:
    """What ``nft -f -`` is given, for both families."""
    lines = _ambient() if mode is Mode.AMBIENT else _sidecar(gid, tproxy=mode is Mode.TPROXY)
    return "\n".join(lines) + "\n"
