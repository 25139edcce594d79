"""The rules of the step-aside datapath, beside those of :mod:`sidecar.netfilter.ruleset`.

    OUTPUT -> PODLANE-OUT       exemptions; packets of decided connections -> FOLLOW; then the walk; then -> SHOW
              PODLANE-FOLLOW    the connection's mark, class bits and "decided", becomes the packet's
              PODLANE-CLASSES   as for the relay; it gives undecided packets the class of their port, too
                -j PODLANE-CAPTURE  SYNs whose class only content can tell: the connection's mark says so
              PODLANE-SHOW      packets with data of such connections: to the classifier
    PREROUTING -> PODLANE-PRE -> PODLANE-IN      the same for what clients open: see :mod:`sidecar.netfilter.inbound`
    POSTROUTING -> PODLANE-SAVE a decision that the classifier wrote into a packet's mark becomes the connection's
    INPUT -> PODLANE-SAVE       the same behind PREROUTING

* An accepting verdict ends the packet's walk through the mangle chain that showed it, so the decision is saved at the
  next one: what leaves, in POSTROUTING; what comes in, in INPUT. (A mark for the connection in the verdict itself,
  NFQA_CT, is ignored by some kernels.)
* Of connections that clients open the client's packets are shown, and the answers follow. What is decided is saved
  before the program gets the packet, so there is no answer to it yet.
* SHOW tells the classifier which packet is the first of its connection. See :mod:`sidecar.stepaside.marks`.
* ``--queue-bypass``: without a classifier packets go on as they are, in the class of their port.
* Packets of connections that conntrack does not track have no connection's mark: they go by port.
* A packet without data tells nothing and is not shown; its way through user space would only cost time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from sidecar.netfilter.rules import (
    CHAIN_PREFIX,
    Chain,
    Direction,
    Goto,
    Hook,
    Jump,
    Queue,
    RestoreMark,
    Rule,
    SaveMark,
    SetConnmark,
    SetMark,
)
from sidecar.stepaside.marks import DECIDED, FIRST, OPEN, OURS, SHOWN, UNDECIDED_ASIDE
from tc_core.policy import TransportProtocol

FOLLOW: Final = f"{CHAIN_PREFIX}FOLLOW"
SHOW: Final = f"{CHAIN_PREFIX}SHOW"
SAVE: Final = f"{CHAIN_PREFIX}SAVE"
_TCP: Final = TransportProtocol.TCP


def follow_rule(direction: Direction | None = None) -> Rule:
    """In front of the walk: what was decided holds. Answers have a walk of their own."""
    return Rule(Goto(FOLLOW), protocol=_TCP, connmark=DECIDED, direction=direction)


def show_rule() -> Rule:
    """What content may still decide, is shown; what we send, behind the walk."""
    return Rule(Goto(SHOW), protocol=_TCP, connmark=OPEN, carries_data=True)


def undecided_rule() -> Rule:
    """What CAPTURE does to a SYN."""
    return Rule(SetConnmark(UNDECIDED_ASIDE))


def aside_chains(queue: int, protocols: Iterable[TransportProtocol] = (_TCP,)) -> Iterator[Chain]:
    """The chains of this datapath alone; ``queue`` is the classifier's, ``protocols`` are what it is shown."""
    yield Chain(FOLLOW, (Rule(RestoreMark(OURS)),))
    yield Chain(
        SHOW,
        (
            Rule(SetMark(FIRST), connmark=UNDECIDED_ASIDE),
            Rule(SetConnmark(SHOWN)),
            Rule(Queue(queue)),
        ),
    )
    yield Chain(SAVE, save_rules(protocols))


def save_rules(protocols: Iterable[TransportProtocol]) -> tuple[Rule, ...]:
    """What SAVE does; relayed connections have no such rule."""
    return tuple(Rule(SaveMark(OURS), protocol=each, mark=DECIDED, connmark=OPEN) for each in protocols)


def save_hooks(*, outbound: bool, inbound: bool) -> Iterator[Hook]:
    """Where decisions are saved, for connections opened either way."""
    if outbound:
        yield Hook("POSTROUTING", Rule(Jump(SAVE)))
    if inbound:
        yield Hook("INPUT", Rule(Jump(SAVE)))
