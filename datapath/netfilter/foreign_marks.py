"""Rules that keep programs in the Pod from choosing a class themselves, in OUTPUT before the walk.

SO_MARK and SO_PRIORITY take CAP_NET_RAW, which container runtimes give by default. HTB obeys a packet's priority before
it asks any filter (htb_classify() in net/sched/sch_htb.c), and a mark with our bits looks like one that we have set. So
the priority of packets is reset and our bits are cleared, except in the packets of the proxy's own sockets. Those are
told by the group of the socket (:mod:`datapath.own_group`)::

    OUTPUT -> PODLANE-OUT       a SYN: forget what was known of the connection
                -g PODLANE-OWN  OWN, and a socket of the proxy's group: the mark counts
              OWN, and nobody's socket, of a connection that the proxy began or has accepted: the mark counts
              all others: priority 0, none of our bits

* A closed socket with data still queued has no owner, and neither has TIME_WAIT. So the SYN of the proxy's socket marks
  the connection (OWNED), and ownerless packets of such a connection keep their mark. A raw socket that copies their
  addresses has an owner, so it gains nothing.
* An ownerless packet of an untracked connection goes on in the class of its port, as does the kernel's RST for a
  connection that it does not know.
* Packets of packet sockets (AF_PACKET) do not pass these rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from datapath.netfilter.capture_settings import CaptureSettings
from datapath.netfilter.rules import (
    CHAIN_PREFIX,
    Action,
    Chain,
    ConntrackDirection,
    Goto,
    ResetPriority,
    Return,
    Rule,
    SaveMark,
    SetConnmark,
    SetMark,
)
from traffic_policy.marks import CLASS_MASK, DIVERT, OWN, STATE_MASK, Mark
from traffic_policy.policy import TransportProtocol

OWN_PACKETS: Final = f"{CHAIN_PREFIX}OWN"
OWNED: Final = Mark(OWN.value, STATE_MASK)
"""In a connection's mark, with the relay: the proxy has opened it."""
CLEARED: Final = Mark(0, CLASS_MASK | STATE_MASK)
_TCP: Final = TransportProtocol.TCP

clean_rule: Final = Rule(SetConnmark(CLEARED), protocol=_TCP, syn=True)
"""Every SYN starts clean: conntrack may still have the decision for an earlier attempt, or for an earlier connection
with the same addresses and ports."""


def own_rules(settings: CaptureSettings) -> Iterator[Rule]:
    """Packets of the relay's sockets keep their mark, after :data:`clean_rule`."""
    if settings.own_group is None:
        yield Rule(Goto(OWN_PACKETS), protocol=_TCP, mark=OWN)
        return
    yield Rule(Goto(OWN_PACKETS), protocol=_TCP, mark=OWN, group=settings.own_group)
    yield Rule(Return(), protocol=_TCP, mark=OWN, connmark=OWNED, ownerless=True)
    accepted = ConntrackDirection.REPLY
    yield Rule(Return(), protocol=_TCP, mark=OWN, connmark=DIVERT, direction=accepted, ownerless=True)


def own_chain(settings: CaptureSettings) -> Chain:
    """The chain for packets whose mark counts. With ``connmark`` answers find their class by the connection's mark."""
    actions: list[Rule] = []
    if settings.own_group is not None:
        actions.append(Rule(SetConnmark(OWNED), protocol=_TCP, syn=True))
    if settings.connmark:
        # The other bits are those of captured connections.
        actions.append(Rule(SaveMark(CLASS_MASK), protocol=_TCP))
    return Chain(OWN_PACKETS, tuple(actions))


def clearing_rules(settings: CaptureSettings, *, marks: bool) -> Iterator[Rule]:
    """All other packets: priority 0, and with ``marks`` none of our bits. They change nothing of ordinary packets."""
    actions: list[Action] = [ResetPriority()] if settings.resets_priority else []
    actions += [SetMark(CLEARED)] if marks else []
    yield from map(Rule, actions)
