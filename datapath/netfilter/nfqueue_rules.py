"""The rules of the step-aside datapath, beside those of :mod:`datapath.netfilter.ruleset`.

    OUTPUT -> PODLANE-OUT       exemptions; packets of decided connections are done; then the walk; then -> SHOW
              PODLANE-CLASSES   as for the relay; it gives undecided packets the class of their port, too
                -j PODLANE-CAPTURE  SYNs whose class only content can tell: the connection's mark says so
              PODLANE-SHOW      packets with data of such connections: to the classifier
    PREROUTING -> PODLANE-PRE -> PODLANE-IN      the same for what clients open: see :mod:`datapath.netfilter.inbound`
    POSTROUTING -> PODLANE-SAVE a decision that the classifier wrote into a packet's mark becomes the connection's;
                                the mark of a decided connection, class bits and "decided", becomes the packet's
    INPUT -> PODLANE-IN-SAVE    decisions behind PREROUTING become the connection's

* An accepting verdict ends the packet's walk through the mangle chain that showed it, so the decision is saved at the
  next one: what leaves, in POSTROUTING; what comes in, in INPUT. (A mark for the connection in the verdict itself,
  NFQA_CT, is ignored by some kernels.)
* Every packet of a decided connection passes these rules, so they are few and early. Its mark is written behind OUTPUT,
  since a packet whose mark changes there is routed once more (ip_route_me_harder() in net/ipv4/netfilter.c).
* Of connections that clients open the client's packets are shown, and the answers follow. What is decided is saved
  before the program gets the packet, so there is no answer to it yet.
* SHOW tells the classifier which packet is the first of its connection. See :mod:`datapath.stepaside.marks`.
* ``--queue-bypass``: without a classifier packets go on as they are, in the class of their port.
* Packets of connections that conntrack does not track have no connection's mark: they go by port.
* A packet without data tells nothing and is not shown; its way through user space would only cost time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Final

from datapath.netfilter.rules import (
    CHAIN_PREFIX,
    Chain,
    ConntrackDirection,
    Goto,
    Hook,
    Jump,
    Nfqueue,
    RestoreMark,
    Return,
    Rule,
    SaveMark,
    SetConnmark,
    SetMark,
)
from datapath.stepaside.marks import DECIDED, FIRST, OPEN, OURS, SHOWN, UNDECIDED_ASIDE
from traffic_policy.policy import TransportProtocol

SHOW: Final = f"{CHAIN_PREFIX}SHOW"
SAVE: Final = f"{CHAIN_PREFIX}SAVE"
IN_SAVE: Final = f"{CHAIN_PREFIX}IN-SAVE"
_TCP: Final = TransportProtocol.TCP


def follow_rule(protocol: TransportProtocol = _TCP, direction: ConntrackDirection | None = None) -> Rule:
    """In front of the walk: what was decided holds, so that SAVE will write the mark."""
    return Rule(Return(), protocol=protocol, connmark=DECIDED, direction=direction)


def show_rule() -> Rule:
    """What content may still decide, is shown; what we send, behind the walk."""
    return Rule(Goto(SHOW), protocol=_TCP, connmark=OPEN, carries_data=True)


def undecided_rule() -> Rule:
    """What CAPTURE does to a SYN."""
    return Rule(SetConnmark(UNDECIDED_ASIDE))


def aside_chains(
    queue: int, protocols: Iterable[TransportProtocol] = (_TCP,), *, inbound: bool = False
) -> Iterator[Chain]:
    """The chains of this datapath alone; ``queue`` is the classifier's, ``protocols`` are what it is shown.

    ``inbound``: of what clients open, too.
    """
    yield Chain(
        SHOW,
        (
            Rule(SetMark(FIRST), connmark=UNDECIDED_ASIDE),
            Rule(SetConnmark(SHOWN)),
            Rule(Nfqueue(queue)),
        ),
    )
    saved = save_rules(protocols)
    followed = (Rule(RestoreMark(OURS), protocol=each, connmark=DECIDED) for each in protocols)
    yield Chain(SAVE, tuple(chain.from_iterable(zip(saved, followed, strict=True))))
    if inbound:
        yield Chain(IN_SAVE, saved)


def save_rules(protocols: Iterable[TransportProtocol]) -> tuple[Rule, ...]:
    """What SAVE does before it copies marks to packets; relayed connections have no such rule."""
    return tuple(Rule(SaveMark(OURS), protocol=each, mark=DECIDED, connmark=OPEN) for each in protocols)


def save_hooks(protocols: Sequence[TransportProtocol], *, inbound: bool) -> Iterator[Hook]:
    """Where decisions are saved and followed. Answers, too, leave by POSTROUTING."""
    only = protocols[0] if len(protocols) == 1 else None  # beside the relay, whose packets need not look
    yield Hook("POSTROUTING", Rule(Jump(SAVE), protocol=only))
    if inbound:
        yield Hook("INPUT", Rule(Jump(IN_SAVE), protocol=only))
