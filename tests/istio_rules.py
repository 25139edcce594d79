"""Istio's rules for a Pod, in their documented form, for its two ways of taking what clients open.

Written from the chains that Istio's documentation shows and that its injected ``istio-init`` prints
(https://istio.io/latest/docs/ops/deployment/application-requirements/, and the output of istio-iptables for
``-p 15001 -z 15006 -u 1337 -m REDIRECT|TPROXY -i * -b * -d 15090,15021,15020``): its own program cannot be built where
this project is tested.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from podlane.lab import Host

OUTBOUND, INBOUND = 15001, 15006
"""Where Envoy listens for what is redirected to it."""
ISTIO_ID: Final = 1337
"""Its gid, in any mode; its uid where it needs no privilege; the mark of what it sends to the application by TPROXY."""
_OWN_INBOUND: Final = (15090, 15021, 15020)
_PROGRAMS: Final = {4: "iptables", 6: "ip6tables"}
_LOOPBACK: Final = {4: "127.0.0.1/32", 6: "::1/128"}
_SIX: Final = {4: "127.0.0.6/32", 6: "::6/128"}
"""From where Envoy speaks to the application, so that it is not redirected once more."""


class Mode(StrEnum):
    """How what clients open comes to Envoy."""

    REDIRECT = "REDIRECT"
    TPROXY = "TPROXY"
    AMBIENT = "ambient"


def _nat(family: int, mode: Mode) -> Iterator[str]:
    yield "*nat"
    yield from (f":ISTIO_{name} - [0:0]" for name in ("INBOUND", "REDIRECT", "IN_REDIRECT", "OUTPUT"))
    yield "-A ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN"
    yield f"-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports {OUTBOUND}"
    yield f"-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports {INBOUND}"
    if mode is Mode.REDIRECT:
        yield "-A PREROUTING -p tcp -j ISTIO_INBOUND"
        yield from (f"-A ISTIO_INBOUND -p tcp -m tcp --dport {port} -j RETURN" for port in _OWN_INBOUND)
        yield "-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT"
    yield "-A OUTPUT -j ISTIO_OUTPUT"
    yield f"-A ISTIO_OUTPUT -s {_SIX[family]} -o lo -j RETURN"
    for kind in ("uid", "gid"):
        owner = f"-m owner --{kind}-owner {ISTIO_ID}"
        yield f"-A ISTIO_OUTPUT ! -d {_LOOPBACK[family]} -o lo -p tcp -m tcp ! --dport 15008 {owner} -j ISTIO_IN_REDIRECT"
        yield f"-A ISTIO_OUTPUT -o lo -m owner ! --{kind}-owner {ISTIO_ID} -j RETURN"
        yield f"-A ISTIO_OUTPUT {owner} -j RETURN"
    yield f"-A ISTIO_OUTPUT -d {_LOOPBACK[family]} -j RETURN"
    yield "-A ISTIO_OUTPUT -j ISTIO_REDIRECT"
    yield "COMMIT"


def _mangle(family: int) -> Iterator[str]:
    mine = f"0x{ISTIO_ID:x}"
    to_self = f"0x{ISTIO_ID + 1:x}"
    yield "*mangle"
    yield from (f":ISTIO_{name} - [0:0]" for name in ("DIVERT", "TPROXY", "INBOUND"))
    yield f"-A ISTIO_DIVERT -j MARK --set-mark {mine}"
    yield "-A ISTIO_DIVERT -j ACCEPT"
    yield f"-A ISTIO_TPROXY ! -d {_LOOPBACK[family]} -p tcp -j TPROXY --tproxy-mark {mine}/0xffffffff --on-port {INBOUND}"
    yield "-A PREROUTING -p tcp -j ISTIO_INBOUND"
    yield f"-A ISTIO_INBOUND -p tcp -m mark --mark {mine} -j RETURN"
    yield f"-A ISTIO_INBOUND -s {_SIX[family]} -i lo -p tcp -j RETURN"
    yield f"-A ISTIO_INBOUND -i lo -p tcp -m mark ! --mark {to_self} -j RETURN"
    yield from (f"-A ISTIO_INBOUND -p tcp -m tcp --dport {port} -j RETURN" for port in _OWN_INBOUND)
    yield "-A ISTIO_INBOUND -p tcp -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT"
    yield "-A ISTIO_INBOUND -p tcp -j ISTIO_TPROXY"
    yield f"-A PREROUTING -p tcp -m mark --mark {mine} -j CONNMARK --save-mark"
    yield f"-A OUTPUT -o lo -p tcp -m mark --mark {mine} -j RETURN"
    for kind in ("uid", "gid"):
        yield (
            f"-A OUTPUT ! -d {_LOOPBACK[family]} -o lo -p tcp -m owner --{kind}-owner {ISTIO_ID} "
            f"-j MARK --set-mark {to_self}"
        )
    yield f"-A OUTPUT -p tcp -m connmark --mark {mine} -j CONNMARK --restore-mark"
    yield "COMMIT"


def _ambient(family: int) -> Iterator[str]:
    """What its CNI plugin writes into a Pod for ztunnel, without DNS and host probes."""
    theirs, answer, lo = "0x539/0xfff", "0x111/0xfff", _LOOPBACK[family]
    yield "*mangle"
    yield from (":ISTIO_OUTPUT - [0:0]", ":ISTIO_PRERT - [0:0]")
    yield from ("-A PREROUTING -j ISTIO_PRERT", "-A OUTPUT -j ISTIO_OUTPUT")
    yield f"-A ISTIO_PRERT -m mark --mark {theirs} -j CONNMARK --set-xmark {answer}"
    yield f"-A ISTIO_OUTPUT -m connmark --mark {answer} -j CONNMARK --restore-mark"
    yield "COMMIT"
    yield "*nat"
    yield from (":ISTIO_OUTPUT - [0:0]", ":ISTIO_PRERT - [0:0]")
    yield from ("-A PREROUTING -j ISTIO_PRERT", "-A OUTPUT -j ISTIO_OUTPUT")
    yield f"-A ISTIO_OUTPUT -p tcp -m mark --mark {answer} -j ACCEPT"
    yield f"-A ISTIO_OUTPUT ! -d {lo} -o lo -j ACCEPT"
    yield f"-A ISTIO_OUTPUT ! -d {lo} -p tcp -m mark ! --mark {theirs} -j REDIRECT --to-ports {OUTBOUND}"
    yield f"-A ISTIO_PRERT ! -d {lo} -p tcp -m tcp ! --dport 15008 -m mark ! --mark {theirs} -j REDIRECT --to-ports {INBOUND}"
    yield "COMMIT"


def rules_of(family: int, mode: Mode) -> str:
    """What iptables-restore is given, for IPv4 (4) or IPv6 (6)."""
    lines = list(_ambient(family) if mode is Mode.AMBIENT else _nat(family, mode))
    if mode is Mode.TPROXY:
        lines += _mangle(family)
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class IstioRules:
    """Istio's side of a Pod's network namespace."""

    host: Host
    mode: Mode

    def install(self) -> None:
        """As istio-init (or the CNI plugin) does, beside whatever is there."""
        for family, program in _PROGRAMS.items():
            if self.mode is Mode.TPROXY:
                self.host.ip(f"-{family}", "rule", "add", "fwmark", f"0x{ISTIO_ID:x}", "lookup", "133")
                self.host.ip(f"-{family}", "route", "add", "local", "default", "dev", "lo", "table", "133")
            self.host.run([f"{program}-restore", "--noflush"], stdin=rules_of(family, self.mode))
        if self.mode is not Mode.AMBIENT:
            self.host.ip("-6", "address", "add", "::6/128", "dev", "lo")

    def saved(self) -> str:
        """All rules but those of Podlane, and the policy routes, byte for byte."""
        lines, table = [], ""
        for program in _PROGRAMS.values():
            for line in self.host.run([f"{program}-save"]).stdout.splitlines():
                table = line if line.startswith("*") else table
                # Whoever uses a table first makes its built-in chains, and they stay (iptables-nft).
                if line.startswith(("-A", ":ISTIO")) and "PODLANE" not in line:
                    lines.append(f"{program} {table} {line}")
        for family in _PROGRAMS:
            lines += (rule for rule in self.host.ip(f"-{family}", "rule").splitlines() if "15101" not in rule)
            if self.mode is Mode.TPROXY:
                lines += self.host.ip(f"-{family}", "route", "show", "table", "133").splitlines()
        return "\n".join(lines)
