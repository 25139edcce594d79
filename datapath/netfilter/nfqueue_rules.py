"""The rules of the step-aside datapath, in addition to those of :mod:`datapath.netfilter.ruleset`.

    OUTPUT -> PODLANE-OUT       exemptions; packets of decided connections end here; then the walk; then -> SHOW
              PODLANE-CLASSES   as for the relay; it gives undecided packets the class of their port, too
                -j PODLANE-CAPTURE  SYNs whose class needs content: sets the connection's mark to "undecided"
              PODLANE-SHOW      packets with data of such connections: to the classifier
    PREROUTING -> PODLANE-PRE -> PODLANE-IN      the same for inbound connections: :mod:`datapath.netfilter.inbound`
    POSTROUTING -> PODLANE-SAVE a decision that the classifier wrote into a packet's mark becomes the connection's;
                                the class of a connection that is decided, or chosen, becomes the packet's
    INPUT -> PODLANE-IN-SAVE    decisions made in PREROUTING become the connection's

* An accept verdict ends the packet's walk through the mangle chain that queued it, so the decision is saved in the next
  one: for sent packets in POSTROUTING, for received ones in INPUT. (A connection mark in the verdict itself, NFQA_CT,
  is ignored by some kernels.)
* Every packet of a decided connection traverses these rules, so they are few and early. Its mark is written after
  OUTPUT, since a packet whose mark changes there is routed again (ip_route_me_harder() in net/ipv4/netfilter.c).
* For inbound connections the client's packets are queued, and the replies follow. The decision is saved before the
  program receives the packet, so there is no reply yet.
* SHOW marks the first packet of a connection for the classifier. See :mod:`datapath.stepaside.marks`.
* ``--queue-bypass``: without a classifier packets continue unchanged, in the class of their port. Without it, as with
  ``closed`` of the node agent, those of connections without a class are dropped: TCP sends again, and the classifier
  takes the first one that it is shown for the first one, though the kernel had marked another.
* A connection whose class is **chosen** has it, and its packets with data are still queued, since what comes may make
  it stricter. Such a packet comes with the connection's class. Without a classifier it stays so, also if closed.
* Untracked packets have no connection mark and are classified by port.
* A packet without data has no content and is not queued; the way through user space would only cost time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
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
from datapath.stepaside.marks import (
    CHOSEN,
    CHOSEN_OR_DECIDED,
    DECIDED,
    FIRST,
    OPEN,
    OURS,
    SHOWN,
    UNCLASSED,
    UNDECIDED_ASIDE,
)
from traffic_policy.marks import CLASS_MASK
from traffic_policy.policy import TransportProtocol

SHOW: Final = f"{CHAIN_PREFIX}SHOW"
SAVE: Final = f"{CHAIN_PREFIX}SAVE"
IN_SAVE: Final = f"{CHAIN_PREFIX}IN-SAVE"
_TCP: Final = TransportProtocol.TCP


def follow_rule(protocol: TransportProtocol = _TCP, direction: ConntrackDirection | None = None) -> Rule:
    """Rule before the walk: a decided connection keeps its class; SAVE writes the mark."""
    return Rule(Return(), protocol=protocol, connmark=DECIDED, direction=direction)


def show_rule() -> Rule:
    """Queues packets that content may still decide; for sent packets, after the walk."""
    return Rule(Goto(SHOW), protocol=_TCP, connmark=OPEN, carries_data=True)


def undecided_rule() -> Rule:
    """Rule of CAPTURE for a SYN: marks the connection as undecided."""
    return Rule(SetConnmark(UNDECIDED_ASIDE))


def aside_chains(
    queue: int, protocols: Collection[TransportProtocol] = (_TCP,), *, inbound: bool = False, bypass: bool = True
) -> Iterator[Chain]:
    """The chains that only this datapath has; ``queue`` is the classifier's, ``protocols`` are those queued to it.

    ``inbound``: for inbound connections as well. Without ``bypass`` connections without a class need a classifier.
    """
    first = (Rule(SetMark(FIRST), connmark=UNDECIDED_ASIDE), Rule(SetConnmark(SHOWN)))
    begins = Nfqueue(queue, bypass)
    again = (Rule(RestoreMark(CLASS_MASK)), Rule(SetMark(CHOSEN)), Rule(Nfqueue(queue)))
    chosen = (Rule(begins, connmark=UNCLASSED), *again)
    yield Chain(SHOW, (*first, *(chosen if _TCP in protocols else (Rule(begins),))))
    saved = save_rules(protocols)
    followed = (Rule(RestoreMark(CLASS_MASK), protocol=each, connmark=CHOSEN_OR_DECIDED) for each in protocols)
    yield Chain(SAVE, (*saved, Rule(Return(), connmark=UNCLASSED), *followed))
    if inbound:
        yield Chain(IN_SAVE, saved)


def save_rules(protocols: Collection[TransportProtocol]) -> tuple[Rule, ...]:
    """Rules of SAVE before it copies marks to packets; relayed connections have none."""
    decided = (Rule(SaveMark(OURS), protocol=each, mark=DECIDED, connmark=OPEN) for each in protocols)
    chosen = (Rule(SaveMark(CLASS_MASK), protocol=_TCP, mark=CHOSEN, connmark=OPEN),) if _TCP in protocols else ()
    return (*decided, *chosen)


def save_hooks(protocols: Sequence[TransportProtocol], interface: str | None, *, inbound: bool) -> Iterator[Hook]:
    """The hooks where decisions are saved and applied. Replies, too, leave by POSTROUTING.

    What arrives by another interface than the shaped one was not queued; a program may have put it on lo with a mark.
    """
    only = protocols[0] if len(protocols) == 1 else None  # in the relay datapath TCP packets skip the hook
    yield Hook("POSTROUTING", Rule(Jump(SAVE), protocol=only))
    if inbound:
        yield Hook("INPUT", Rule(Jump(IN_SAVE), protocol=only, in_interface=interface))
