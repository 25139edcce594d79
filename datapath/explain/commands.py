"""The commands that a policy equals: iptables-restore input, policy routing, tc; with comments saying why. Pure.

The texts can be pasted into a root shell line by line or whole. They are what ``podlane sidecar`` puts in force, which
does it by netlink and in transactions of its own; for a policy that the sidecar cannot use, what ``podlane tc`` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from datapath.netfilter import inbound, nfqueue_rules, quic
from datapath.netfilter import ruleset as rules
from datapath.netfilter.foreign_marks import OWN_PACKETS
from datapath.netfilter.render import render, render_route
from datapath.netfilter.rules import CHAIN_PREFIX, Family, FamilyRules
from datapath.netfilter.ruleset import EMPTY_RULESET, CaptureSettings, build_ruleset
from tc_core.compile.mark_tree import compile_policy
from tc_core.compile.packet_tree import compile_ingress, lanes_of
from tc_core.probe.capability import ALL_FEATURES
from tc_core.render import lanes_commands
from tc_core.trees import Lanes
from traffic_policy.marks import ClassIds
from traffic_policy.policy import TrafficPolicy
from traffic_policy.scope import beyond_marks, beyond_packets
from traffic_policy.settings import Datapath

_RESTORE: Final = {Family.V4: "iptables-restore", Family.V6: "ip6tables-restore"}
_IP: Final = {Family.V4: "ip", Family.V6: "ip -6"}
_CHAINS: Final = {
    rules.OUT: "Everything sent: the proxy's own, other interfaces, replies and what is excluded are left as they are; "
    "marks and priorities that programs have set are cleared.",
    OWN_PACKETS: "The proxy's own packets: their mark counts.",
    rules.CLASSES: "The policy's matches in order. -g: decided here. -j: the first bytes must be read.",
    rules.ANY_PORT: "Names do not decide where the server speaks first, unless the match names the port.",
    rules.CAPTURE: "New connections that content may decide: mark the connection, so that its later packets follow.",
    inbound.REPLIES: "Answers to connections that others opened: the inbound matches in order, seen from behind.",
    inbound.IN: "What clients send: captured connections go to the proxy's inbound listener.",
    inbound.IN_SYN: "New connections of clients: what is excluded is left as it is.",
    inbound.IN_CLASSES: "The inbound matches in order. RETURN: no content needed. -j: the first bytes must be read.",
    inbound.IN_ANY_PORT: "Names do not decide where the server speaks first, unless the match names the port.",
    inbound.IN_CAPTURE: "If the connection is for a program here that listens: mark it, so that its packets follow.",
    nfqueue_rules.SHOW: "First packets, for the classifier; without one they go on in the class of their port.",
    nfqueue_rules.SAVE: "What the classifier wrote into a packet's mark becomes the connection's, and its packets'.",
    nfqueue_rules.IN_SAVE: "The same for what clients open; its answers leave by SAVE.",
    quic.QUIC: "UDP that a name could decide: its flow is to be shown to the classifier, or is refused (quic: block).",
    quic.AGAIN: "Another QUIC connection begins on a flow that had one: for the classifier, in the class it has.",
    quic.IN_UDP: "UDP flows of clients of which nothing is known: what is excluded is left as it is.",
    quic.IN_QUIC: "If the flow is for a program here: show it to the classifier.",
    rules.PRE: "What comes in: over lo, where the mark led it, to the proxy's listener; from clients, to IN.",
}
_ASIDE_CHAINS: Final = {
    **_CHAINS,
    inbound.IN: "What clients send: first packets of connections that content may decide go to the classifier.",
    rules.PRE: "What comes in.",
}
"""The same names for what is done in another way."""
_STOCK: Final = (
    "For a stock kernel: fw filters and fq_codel queues. Without fw, podlane has a small BPF program read the mark;",
    "without fq_codel, a FIFO sized in time and a smaller gso_max_size keep queues short (see podlane check).",
)


_PROGRAMS: Final = (
    "# None: an eBPF program at the egress hook of the interface writes the class into the priority of each packet,",
    "# which HTB obeys, and into its mark. `podlane sidecar` loads it; no command does.",
)


@dataclass(frozen=True, slots=True)
class Commands:
    """What a policy equals. ``rules`` and ``tc`` are commented shell lines, ``restore`` the bare rules by family."""

    rules: tuple[str, ...]
    tc: tuple[str, ...]
    restore: dict[Family, str]


def commands_for(policy: TrafficPolicy, interface: str, settings: CaptureSettings | None = None) -> Commands:
    """All commands for a checked policy on ``interface``."""
    if beyond_marks(policy):
        return _for_packets(policy, interface)
    settings = settings or CaptureSettings(interface=interface)
    ids = ClassIds.assign(c.name for c in policy.classes)
    programs = settings.datapath is Datapath.EBPF
    ruleset = EMPTY_RULESET if programs else build_ruleset(policy, ids, settings)
    families = [ruleset.for_family(family) for family in Family]
    restore = {each.family: render(each) for each in families if each.chains}
    tree = compile_policy(policy, ALL_FEATURES, ids)
    lanes = Lanes(tree, compile_ingress(policy, interface, ALL_FEATURES, ids), ids)
    return Commands(
        rules=_PROGRAMS if programs else tuple(_rules_lines(families, restore, ids, settings)),
        tc=(*(f"# {line}" for line in _STOCK), *lanes_commands(lanes, interface)),
        restore=restore,
    )


def _for_packets(policy: TrafficPolicy, interface: str) -> Commands:
    """Commands for a policy that the sidecar cannot use."""
    if beyond_packets(policy):
        none = ("# None: this policy cannot be used as it is.",)
        return Commands(rules=none, tc=none, restore={})
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
        if any(chain.name == OWN_PACKETS for family in families for chain in family.chains):
            yield f"# A sidecar asks in addition for the random group of its sockets, before it goes to {OWN_PACKETS}."
        if any(chain.name == nfqueue_rules.SHOW for family in families for chain in family.chains):
            yield f"# QUIC: the classifier reads NFQUEUE {settings.outbound_port}; 0x1000 undecided, 0x2000 decided."
    ports = sorted({port for family in families for port in _listeners(family, settings)})
    if ports:
        where = f"port {ports[0]}" if len(ports) == 1 else f"ports {ports[0]} and {ports[1]}"
        yield f"# Captured connections need the proxy on {where}; without it they get no answer."
    for family in families:
        if family.family not in restore:
            yield f"# {family.family}: none."
            continue
        yield ""
        yield f"# {family.family}"
        yield f"{_RESTORE[family.family]} --noflush <<'RULES'"
        yield from _commented(restore[family.family], ids, settings.datapath)
        yield "RULES"
        ip = _IP[family.family]
        for route in family.routes:
            yield (
                "# Programs here answer the proxy, which speaks to them from the client's address: that stays on lo."
                if route.mark is None
                else "# Captured packets are routed to lo: TPROXY works only on what comes in."
            )
            yield f"{ip} rule add {render_route(route, family.family)}"
        for table in sorted({route.table for route in family.routes}):
            yield f"{ip} route add local default dev lo table {table}"


def _listeners(family: FamilyRules, settings: CaptureSettings) -> Iterator[int]:
    for route in family.routes:
        yield settings.outbound_port if route.mark is not None else settings.inbound_port


def _commented(text: str, ids: ClassIds, datapath: Datapath) -> Iterator[str]:
    """The rules with a comment ahead of each chain; iptables-restore skips such lines."""
    chain = None
    for line in text.splitlines():
        words = line.split()
        if words[0] == "-A" and words[1] != chain:
            chain = words[1]
            yield f"# {_chain_words(chain, ids, datapath)}"
        yield line


def _chain_words(chain: str, ids: ClassIds, datapath: Datapath) -> str:
    known = _ASIDE_CHAINS if datapath is Datapath.STEP_ASIDE else _CHAINS
    if chain in known:
        return known[chain]
    return f"Class {ids.name_of(int(chain.removeprefix(f'{CHAIN_PREFIX}C')))}"
