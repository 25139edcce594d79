"""The commands that a policy equals: iptables-restore input, policy routing, tc; with comments saying why. Pure.

The texts can be pasted into a root shell line by line or whole. They are what ``podlane sidecar`` puts in force, which
does it by netlink and in transactions of its own; for a policy that the sidecar cannot use, what ``podlane tc`` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sidecar.datapath import Datapath
from sidecar.netfilter import aside
from sidecar.netfilter import ruleset as rules
from sidecar.netfilter.rules import CHAIN_PREFIX, Family, FamilyRules
from sidecar.netfilter.ruleset import CaptureSettings, build_ruleset
from sidecar.netfilter.text import render
from tc_core.capability import ALL_FEATURES
from tc_core.compile import compile_policy
from tc_core.lanes import lanes_of
from tc_core.marks import ClassIds
from tc_core.policy import TrafficPolicy
from tc_core.policy_scope import beyond_packets, beyond_sidecar
from tc_core.render import lanes_commands, tc_commands

_RESTORE: Final = {Family.V4: "iptables-restore", Family.V6: "ip6tables-restore"}
_IP: Final = {Family.V4: "ip", Family.V6: "ip -6"}
_CHAINS: Final = {
    rules.OUT: "Everything sent: the proxy's own, other interfaces, replies and what is excluded are left as they are.",
    rules.CLASSES: "The policy's matches in order. -g: decided here. -j: the first bytes must be read.",
    rules.ANY_PORT: "Names do not decide where the server speaks first, unless the match names the port.",
    rules.CAPTURE: "New connections that content may decide: mark the connection, so that its later packets follow.",
    aside.FOLLOW: "What the classifier has decided: the connection's mark becomes the packet's.",
    aside.SHOW: "First packets, for the classifier; without one they go on in the class of their port.",
    aside.SAVE: "What the classifier wrote into a packet's mark becomes the connection's.",
    rules.PRE: "The mark leads back in through lo, and from there to the proxy's listener.",
}
_STOCK: Final = (
    "For a stock kernel: fw filters and fq_codel queues. Without fw, podlane has a small BPF program read the mark;",
    "without fq_codel, a FIFO sized in time and a smaller gso_max_size keep queues short (see podlane check).",
)


@dataclass(frozen=True, slots=True)
class Commands:
    """What a policy equals. ``rules`` and ``tc`` are commented shell lines, ``restore`` the bare rules by family."""

    rules: tuple[str, ...]
    tc: tuple[str, ...]
    restore: dict[Family, str]


def commands_for(policy: TrafficPolicy, interface: str, settings: CaptureSettings | None = None) -> Commands:
    """All commands for a checked policy on ``interface``."""
    if beyond_sidecar(policy):
        return _for_packets(policy, interface)
    settings = settings or CaptureSettings(interface=interface)
    ids = ClassIds.assign(c.name for c in policy.classes)
    ruleset = build_ruleset(policy, ids, settings)
    restore = {family: render(ruleset.of(family)) for family in Family if ruleset.of(family).chains}
    tree = compile_policy(policy, ALL_FEATURES, ids)
    return Commands(
        rules=tuple(_rules_lines([ruleset.of(family) for family in Family], restore, ids, settings)),
        tc=(*(f"# {line}" for line in _STOCK), *tc_commands(tree, interface)),
        restore=restore,
    )


def _for_packets(policy: TrafficPolicy, interface: str) -> Commands:
    """Commands for a policy that the sidecar cannot use."""
    if beyond_packets(policy):
        nobody = ("# None: nobody can use this policy as it is.",)
        return Commands(rules=nobody, tc=nobody, restore={})
    lanes = lanes_of(policy, interface, ALL_FEATURES)
    return Commands(
        rules=("# None: podlane tc needs no rules. A program in a filter tells packets apart (see the tc commands).",),
        tc=("# For a kernel that has all qdiscs and filters (see podlane check).", *lanes_commands(lanes, interface)),
        restore={},
    )


def _rules_lines(
    families: list[FamilyRules], restore: dict[Family, str], ids: ClassIds, settings: CaptureSettings
) -> Iterator[str]:
    if not restore:
        yield "# None: everything goes to the default class, and that needs no mark."
        return
    if settings.datapath is Datapath.STEP_ASIDE:
        yield "# Marks: the top byte is the class, 0x1000 means that content may decide it, 0x2000/0x3000 decided."
        yield f"# The classifier reads NFQUEUE {settings.outbound_port}; without it ports and networks decide."
    else:
        yield "# Marks: the top byte is the class, 0x1000 means on its way to the proxy, 0x2000 sent by the proxy."
    if any(family.route for family in families):
        yield f"# Captured connections need the proxy on port {settings.outbound_port}; without it they get no answer."
    for family in families:
        if family.family not in restore:
            yield f"# {family.family}: none."
            continue
        yield ""
        yield f"# {family.family}"
        yield f"{_RESTORE[family.family]} --noflush <<'RULES'"
        yield from _commented(restore[family.family], ids)
        yield "RULES"
        if (route := family.route) is not None:
            ip = _IP[family.family]
            yield "# Captured packets are routed to lo: TPROXY works only on what comes in."
            yield f"{ip} rule add pref {route.preference} fwmark {route.mark} lookup {route.table}"
            yield f"{ip} route add local default dev lo table {route.table}"


def _commented(text: str, ids: ClassIds) -> Iterator[str]:
    """The rules with a comment ahead of each chain; iptables-restore skips such lines."""
    chain = None
    for line in text.splitlines():
        words = line.split()
        if words[0] == "-A" and words[1] != chain:
            chain = words[1]
            yield f"# {_chain_words(chain, ids)}"
        yield line


def _chain_words(chain: str, ids: ClassIds) -> str:
    if chain in _CHAINS:
        return _CHAINS[chain]
    return f"Class {ids.name_of(int(chain.removeprefix(f'{CHAIN_PREFIX}C')))}"
