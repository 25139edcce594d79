"""Commands that handle new connections without the proxy; another process can run them. Pure.

``open``: the capturing chains are emptied, so that the walk continues to the class of the port.

``closed``: connections that need the proxy for their class are refused with RST. Only the filter table has REJECT, so
a chain is added there for packets marked as captured. TPROXY rules are removed: without a listener they would drop
incoming packets before the REJECT. The refusal is installed first: with TPROXY alone removed, captured SYNs would be
delivered locally, where a program may listen on the same port. QUIC packets that begin a connection are dropped, as
with ``quic: block`` (:mod:`datapath.netfilter.quic`).

Both modes stop queueing packets, since a stopped classifier would hold them. This includes QUIC in the relay datapath;
until the proxy is back, a new connection on a decided flow is in the default class.

A mangle transaction restores the other rules (:mod:`datapath.netfilter.install`); :func:`without_refusal` removes the
chain in the filter table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from datapath.netfilter.inbound import IN_CAPTURE
from datapath.netfilter.nfqueue_rules import SHOW
from datapath.netfilter.quic import AGAIN, IN_QUIC, QUIC
from datapath.netfilter.render import render_rule
from datapath.netfilter.rules import (
    CHAIN_PREFIX,
    Chain,
    ConntrackDirection,
    Drop,
    Family,
    FamilyRules,
    Hook,
    Jump,
    Reject,
    Rule,
    Tproxy,
)
from datapath.netfilter.ruleset import CAPTURE
from traffic_policy.marks import DIVERT
from traffic_policy.policy import TransportProtocol
from traffic_policy.settings import Datapath, OnFailure

REFUSE: Final = f"{CHAIN_PREFIX}REFUSE"
_LEAD_TO_THE_PROXY: Final = (CAPTURE, IN_CAPTURE, QUIC, IN_QUIC, AGAIN, SHOW)
_TCP: Final = TransportProtocol.TCP
_UDP: Final = TransportProtocol.UDP


@dataclass(frozen=True, slots=True)
class Command:
    """A program with its arguments and its standard input."""

    argv: tuple[str, ...]
    input: str


def captures(rules: FamilyRules) -> bool:
    """Whether these rules capture anything, so that a fallback is needed."""
    return any(chain.name in _LEAD_TO_THE_PROXY for chain in rules.chains)


def without_proxy(chain: Chain, way: OnFailure) -> tuple[Rule, ...]:
    """The rules that remain in a chain without the proxy."""
    if way is OnFailure.CLOSED:
        return _closed(chain)
    return () if chain.name in _LEAD_TO_THE_PROXY else chain.rules


def refusal(family: Family, datapath: Datapath) -> FamilyRules:
    """The rules that ``closed`` adds to the filter table."""
    # When stepping aside, existing connections do not depend on a server.
    only_new = datapath is Datapath.STEP_ASIDE
    refused = Rule(Reject(), protocol=_TCP, syn=only_new, connmark=DIVERT, direction=ConntrackDirection.ORIGINAL)
    hooks = (Hook(builtin, Rule(Jump(REFUSE), protocol=_TCP)) for builtin in ("INPUT", "OUTPUT"))
    return FamilyRules(family, (Chain(REFUSE, (refused,)),), tuple(hooks))


def failing_text(rules: FamilyRules, way: OnFailure, datapath: Datapath) -> str | None:
    """Input for ``iptables-restore --noflush`` when ``rules`` are in force; None when they capture nothing."""
    if not captures(rules):
        return None
    lines = []
    if way is OnFailure.CLOSED:
        lines = ["*filter", *_written(refusal(rules.family, datapath)), "COMMIT"]
    changed = {c.name: left for c in rules.chains if (left := without_proxy(c, way)) != c.rules}
    lines += ["*mangle", *(f":{name} - [0:0]" for name in changed)]
    lines += [f"-A {name} {render_rule(rule, rules.family)}" for name, left in changed.items() for rule in left]
    return "\n".join([*lines, "COMMIT", ""])


def _written(rules: FamilyRules) -> Iterator[str]:
    """Chains that are created or rewritten, and the hooks that jump to them."""
    for chain in rules.chains:
        yield f":{chain.name} - [0:0]"
        yield from (f"-A {chain.name} {render_rule(rule, rules.family)}" for rule in chain.rules)
    yield from (f"-I {hook.builtin} 1 {render_rule(hook.rule, rules.family)}" for hook in rules.hooks)


def _closed(chain: Chain) -> tuple[Rule, ...]:
    """A chain's rules when connections are refused."""
    if chain.name in (SHOW, AGAIN):
        return ()
    if chain.name in (QUIC, IN_QUIC):
        return tuple(replace(rule, action=Drop(), protocol=_UDP, quic_initial=True) for rule in chain.rules)
    return tuple(rule for rule in chain.rules if not isinstance(rule.action, Tproxy))


def without_refusal(filter_table: str) -> str | None:
    """Input that removes the refusal from a filter table, given as iptables-save text; None if it has none."""
    lines = filter_table.splitlines()
    if not any(line.startswith(f":{REFUSE} ") for line in lines):
        return None
    hooks = [line for line in lines if line.startswith("-A ") and line.endswith(f" -j {REFUSE}")]
    deleted = [f"-D {line.removeprefix('-A ')}" for line in hooks]
    return "\n".join(["*filter", *deleted, f"-F {REFUSE}", f"-X {REFUSE}", "COMMIT", ""])
