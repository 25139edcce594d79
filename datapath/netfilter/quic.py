"""The rules for QUIC in both datapaths, in addition to those of :mod:`datapath.netfilter.ruleset`.

No UDP goes through the proxy: the first datagrams of a flow are queued to the classifier, as in the step-aside datapath
(:mod:`datapath.netfilter.nfqueue_rules`), and the flow's mark classifies the others::

    OUTPUT -> PODLANE-OUT       packets of decided flows end here, or -> AGAIN; the walk; open ones -> SHOW
              PODLANE-CLASSES   unchanged; every packet has the class of its port until a name is known
                -j PODLANE-QUIC   UDP that a name could decide, of a flow not seen before: becomes open
              PODLANE-AGAIN     a new connection begins on a decided flow: to the classifier, in its present class
    PREROUTING -> PODLANE-PRE -> PODLANE-IN -> PODLANE-IN-UDP   the same for inbound flows

* UDP has no SYN. A flow is new when its conntrack entry is new. This includes a flow that was silent for longer than
  its entry lives (nf_conntrack_udp_timeout_stream, 120 s): the classifier still knows its class, and is sent the first
  packet, whatever that is.
* One socket may open connections to one server for several names, one after the other. So packets that begin a
  connection (:mod:`datapath.netfilter.packet_filters`) are queued on decided flows, too: two or three per connection.
  The newest connection decides; the classifier writes its decision by ctnetlink, since SAVE is for open flows.
* With ``quic: block`` the packets that begin a connection are dropped in OUTPUT, where the client notices without a
  timeout: its sendmsg(2) fails with EPERM. REJECT, which would answer by ICMP, exists in the filter table only. Other
  UDP passes, and so do established connections.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from datapath.netfilter.capture_settings import CaptureSettings
from datapath.netfilter.match_compiler import ends, networks_of, return_on_ports
from datapath.netfilter.nfqueue_rules import SHOW, follow_rule, undecided_rule
from datapath.netfilter.rules import (
    CHAIN_PREFIX,
    Chain,
    ConntrackDirection,
    Drop,
    Family,
    Goto,
    Jump,
    Nfqueue,
    RestoreMark,
    Return,
    Rule,
    SetConnmark,
    port_groups,
)
from datapath.stepaside.marks import DECIDED, OPEN, OURS, UNDECIDED_ASIDE
from traffic_policy.marks import UNDECIDED
from traffic_policy.policy import Match, Quic, TrafficPolicy, TransportProtocol

QUIC: Final = f"{CHAIN_PREFIX}QUIC"
AGAIN: Final = f"{CHAIN_PREFIX}AGAIN"
IN_UDP: Final = f"{CHAIN_PREFIX}IN-UDP"
IN_QUIC: Final = f"{CHAIN_PREFIX}IN-QUIC"
_UDP: Final = TransportProtocol.UDP


def treatment(policy: TrafficPolicy, settings: CaptureSettings) -> Quic | None:
    """How the rules treat QUIC that a name could decide; None: not at all."""
    return None if policy.quic is Quic.CLASSIFY and not settings.quic else policy.quic


def quic_rules(
    family: Family, match: Match, settings: CaptureSettings, quic: Quic | None, chain: str
) -> Iterator[Rule]:
    """Rules of a match that needs content: UDP that meets its other criteria goes to ``chain``."""
    silenced = not match.port and any(port in ports for ports in match.quic_ports for port in settings.silent_ports)
    if quic is None or not match.quic_ports or silenced:
        return
    blocks = quic is Quic.BLOCK
    for source, destination in ends(family, match):
        for ports in port_groups(match.quic_ports):
            yield Rule(
                Jump(chain),
                protocol=_UDP,
                source=source,
                destination=destination,
                ports=ports,
                connmark=None if blocks else UNDECIDED,
                quic_initial=blocks,
            )


def quic_chain(quic: Quic | None, *, capture: bool) -> Chain:
    """The chain for such QUIC; without ``capture`` packets continue as if no name could decide."""
    rule = Rule(Drop()) if quic is Quic.BLOCK else undecided_rule()
    return Chain(QUIC, (rule,) if capture else ())


def follow_rules(direction: ConntrackDirection | None = None) -> Iterator[Rule]:
    """Rules before the walk: a decided flow keeps its class until a new connection begins. Replies begin none."""
    if direction is None:
        yield again_rule()
    yield follow_rule(_UDP, direction)


def again_rule() -> Rule:
    """Rule for a new connection on a decided flow."""
    return Rule(Goto(AGAIN), protocol=_UDP, connmark=DECIDED, quic_initial=True)


def show_rule() -> Rule:
    """Queues packets that content may still decide."""
    return Rule(Goto(SHOW), protocol=_UDP, connmark=OPEN)


def again_chain(queue: int, *, bypass: bool = True) -> Chain:
    """The chain AGAIN; ``queue`` is the classifier's."""
    return Chain(AGAIN, (Rule(RestoreMark(OURS)), Rule(Nfqueue(queue, bypass))))


# --- inbound flows ---------------------------------------------------------------------------------------------------


def arriving_rules() -> Iterator[Rule]:
    """Rules of PODLANE-IN for packets of clients."""
    yield again_rule()
    yield Rule(Goto(IN_UDP), protocol=_UDP, connmark=UNDECIDED)
    yield show_rule()


def arriving_chains(family: Family, settings: CaptureSettings, classes: str, *, capture: bool) -> Iterator[Chain]:
    """New flows walk the chain ``classes``. Only those with a local socket become open."""
    yield Chain(
        IN_UDP,
        (
            *(Rule(Return(), source=network) for network in networks_of(family, settings.exclude_inbound_cidrs)),
            *return_on_ports(settings.exclude_inbound_ports, _UDP),
            Rule(Jump(classes)),
            show_rule(),
        ),
    )
    opened = Rule(SetConnmark(UNDECIDED_ASIDE), protocol=_UDP, to_here=True, has_socket=True)
    yield Chain(IN_QUIC, (opened,) if capture else ())
