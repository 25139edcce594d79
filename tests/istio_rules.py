"""Istio's rules for a Pod, for its ways of taking what clients open: by its own programs, and in their documented form.

The programs are those of its init container (istio-iptables) and of its CNI plugin, which `tools/kube-tools
istio-iptables` builds. Where they are not built, and for tests that install nothing, there is what they print, which
tests/kernel/test_mesh_istio.py compares with what they install. The arguments are those of an injected ``istio-init``.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Final

from podlane.netns import Host

OUTBOUND, INBOUND = 15001, 15006
"""Where Envoy listens for what is redirected to it."""
ISTIO_ID: Final = 1337
"""Its gid, in any mode; its uid where it needs no privilege; the mark of what it sends to the application by TPROXY."""
_OWN_INBOUND: Final = (15090, 15021, 15020)
_PROGRAMS: Final = {4: "iptables", 6: "ip6tables"}
_LOOPBACK: Final = {4: "127.0.0.1/32", 6: "::1/128"}
_SIX: Final = {4: "127.0.0.6/32", 6: "::6/128"}
"""From where Envoy speaks to the application, so that it is not redirected once more."""


_PROBES: Final = {4: "169.254.7.127/32", 6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff/128"}
"""From where the kubelet's probes come to a Pod of the ambient mesh."""
_ANSWER: Final = "0x111/0xfff"
"""The mark, in the ambient mesh, of answers that go back to ztunnel."""
_TOOLS: Final = Path(__file__).parents[1] / "tools" / "kube-tools"
_MISSING: Final = 77
"""The tool's exit code when something is missing."""


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
    """What its CNI plugin writes into a Pod for ztunnel, without DNS."""
    theirs, answer, lo = "0x539/0xfff", _ANSWER, _LOOPBACK[family]
    yield "*mangle"
    yield from (":ISTIO_OUTPUT - [0:0]", ":ISTIO_PRERT - [0:0]")
    yield from ("-A PREROUTING -j ISTIO_PRERT", "-A OUTPUT -j ISTIO_OUTPUT")
    yield f"-A ISTIO_PRERT -m mark --mark {theirs} -j CONNMARK --set-xmark {answer}"
    yield f"-A ISTIO_OUTPUT -m connmark --mark {answer} -j CONNMARK --restore-mark"
    yield "COMMIT"
    yield "*nat"
    yield from (":ISTIO_OUTPUT - [0:0]", ":ISTIO_PRERT - [0:0]")
    yield from ("-A PREROUTING -j ISTIO_PRERT", "-A OUTPUT -j ISTIO_OUTPUT")
    yield f"-A ISTIO_PRERT -s {_PROBES[family]} -p tcp -m tcp -j ACCEPT"
    yield f"-A ISTIO_OUTPUT -d {_PROBES[family]} -p tcp -m tcp -j ACCEPT"
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


@cache
def istio_program() -> str | None:
    """Where Istio's programs are, which `tools/kube-tools istio-iptables` builds as one; None when they are nowhere."""
    done = subprocess.run([_TOOLS, "--find", "istio-iptables"], capture_output=True, text=True, check=False)
    if done.returncode == _MISSING:
        return None
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@dataclass(frozen=True, slots=True)
class IstioRules:
    """Istio's side of a Pod's network namespace. ``native``: by nftables of its own, for which it takes the programs."""

    host: Host
    mode: Mode
    native: bool = False

    def install(self) -> None:
        """As istio-init (or the CNI plugin) does, beside whatever is there: by themselves where they are built."""
        program = istio_program()
        if program is None:
            assert not self.native
            self.install_documented()
        elif self.mode is Mode.AMBIENT:
            self.host.run([program, "ambient"])
        else:
            # fmt: off
            self.host.run([
                program, "-p", str(OUTBOUND), "-z", str(INBOUND), "-u", str(ISTIO_ID), "-g", str(ISTIO_ID),
                "-m", self.mode, "-i", "*", "-x", "", "-b", "*", "-d", ",".join(map(str, _OWN_INBOUND)), "--dual-stack",
                *(["--native-nftables"] if self.native else []),
            ])
            # fmt: on

    def install_documented(self) -> None:
        """The same, as they print it."""
        for family, program in _PROGRAMS.items():
            if self._table is not None:
                mark = [_ANSWER, "priority", "32764"] if self.mode is Mode.AMBIENT else [f"0x{ISTIO_ID:x}"]
                self.host.ip(f"-{family}", "rule", "add", "fwmark", *mark, "lookup", self._table)
                self.host.ip(f"-{family}", "route", "add", "local", "default", "dev", "lo", "table", self._table)
            self.host.run([f"{program}-restore", "--noflush"], stdin=rules_of(family, self.mode))
        if self.mode is not Mode.AMBIENT:
            self.host.ip("-6", "address", "add", _SIX[6], "dev", "lo")

    @property
    def _table(self) -> str | None:
        """Of the routes that lead to Envoy by TPROXY, or back to ztunnel."""
        return {Mode.REDIRECT: None, Mode.TPROXY: "133", Mode.AMBIENT: "100"}[self.mode]

    def saved(self) -> str:
        """All rules but those of Podlane, and the policy routes, byte for byte."""
        lines, table = [], ""
        for program in _PROGRAMS.values():
            for line in self.host.run([f"{program}-save"]).stdout.splitlines():
                table = line if line.startswith("*") else table
                # Whoever uses a table first makes its built-in chains, and they stay (iptables-nft).
                if line.startswith(("-A", ":ISTIO")) and "PODLANE" not in line:
                    lines.append(f"{program} {table} {line}")
        if self.native:
            tables = self.host.run(["nft", "--stateless", "list", "ruleset"]).stdout.split("table ")
            lines += (each for each in tables if each.startswith("inet istio-"))
        for family in _PROGRAMS:
            lines += (rule for rule in self.host.ip(f"-{family}", "rule").splitlines() if "15101" not in rule)
            if self._table is not None:
                lines += self.host.ip(f"-{family}", "route", "show", "table", self._table).splitlines()
        # An address of IPv6 is tentative until the kernel has looked for others that have it.
        lines += self.host.ip("address", "show", "dev", "lo").replace(" tentative", "").splitlines()
        return "\n".join(lines)
