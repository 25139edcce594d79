"""What is done about new connections when the proxy is gone, as programs that somebody else can run. Pure.

``open``: the chains that capture are emptied, by which the walk goes on to the class of the port.

In both ways no packet is shown any more: a classifier that is stopped would hold it. So with QUIC, beside the relay
too; what begins anew on a decided flow is in the default class meanwhile.

``closed``: connections that only the proxy could tell are refused with RST. Only the filter table has REJECT, so for
that time there is a chain in it, for what is marked as captured; and TPROXY rules go, which without a listener would
drop what comes in before anybody could refuse it. The refusal comes first: were TPROXY gone alone, captured SYNs would
be received here, where a program may listen on the same port. Of QUIC the packets that begin a connection are dropped,
as ``quic: block`` has it (:mod:`datapath.netfilter.quic`).

A transaction of mangle rules puts the rest back (:mod:`datapath.netfilter.install`); :func:`without_refusal` removes
the chain in the filter table.
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
    """A program with its arguments, and what it reads from standard input."""

    argv: tuple[str, ...]
    input: str


def captures(rules: FamilyRules) -> bool:
    """Whether there is anything to be done when these rules are in force."""
    return any(chain.name in _LEAD_TO_THE_PROXY for chain in rules.chains)


def without_proxy(chain: Chain, way: OnFailure) -> tuple[Rule, ...]:
    """What is left of a chain's rules while there is no proxy."""
    if way is OnFailure.CLOSED:
        return _closed(chain)
    return () if chain.name in _LEAD_TO_THE_PROXY else chain.rules


def refusal(family: Family, datapath: Datapath) -> FamilyRules:
    """What ``closed`` puts into the filter table."""
    # Stepping aside, connections that are there need nobody and go on.
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
    """Chains that are made or filled anew, and the hooks that lead there."""
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
    """Input that takes the refusal out of a filter table, given as iptables-save text; None: there is none in it."""
    lines = filter_table.splitlines()
    if not any(line.startswith(f":{REFUSE} ") for line in lines):
        return None
    hooks = [line for line in lines if line.startswith("-A ") and line.endswith(f" -j {REFUSE}")]
    deleted = [f"-D {line.removeprefix('-A ')}" for line in hooks]
    return "\n".join(["*filter", *deleted, f"-F {REFUSE}", f"-X {REFUSE}", "COMMIT", ""])
