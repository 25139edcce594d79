"""Rules by which the marks of a mesh's own proxy count (:mod:`traffic_policy.mesh.istio`), when stepping aside.

    OUTPUT -> PODLANE-OUT       a SYN: forget what was known of the connection
                -j PODLANE-MESH a SYN of the mesh's proxy
              all: priority 0, none of our bits
    PODLANE-MESH                for each class with names: its mark on the SYN decides the connection

* The proxy sets the mark before it connects, so the SYN has it. From there on the connection's mark is what counts, as
  for a decision of the classifier: answers, retransmissions and packets of closed sockets have the class, too, and none
  of the connection's packets is queued.
* A SYN without such a mark goes on as ever, and names are read from first bytes.
* The proxy's marks have the ids that a policy gives its classes anew; ``ids`` are those that live connections of this
  Pod have, which may be others after a change. A mark that no class has decides nothing.
* A program in the Pod that has the group of the mesh's proxy and CAP_NET_RAW can set such a mark, too, as it can get
  past the mesh then.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from datapath.netfilter.capture_settings import CaptureSettings
from datapath.netfilter.rules import CHAIN_PREFIX, Chain, Jump, Rule, SetConnmark
from datapath.stepaside.marks import DECIDED, OURS
from traffic_policy.marks import ClassIds, Mark, class_mark
from traffic_policy.mesh.lanes import marks_of
from traffic_policy.policy import Bound, TrafficPolicy, TransportProtocol

MESH: Final = f"{CHAIN_PREFIX}MESH"
_TCP: Final = TransportProtocol.TCP


def takes_mesh_marks(settings: CaptureSettings) -> bool:
    """Whether there is a proxy that sets them, and how to tell its sockets."""
    return settings.mesh_marks and settings.mesh is not None and settings.mesh.group is not None


def mesh_rule(settings: CaptureSettings) -> Iterator[Rule]:
    """The rule of OUT, before marks are cleared; behind that which forgets what was known of the connection."""
    if takes_mesh_marks(settings):
        assert settings.mesh is not None
        yield Rule(Jump(MESH), protocol=_TCP, syn=True, group=settings.mesh.group)


def mesh_chain(policy: TrafficPolicy, ids: ClassIds) -> Chain:
    """The decisions."""
    marks = marks_of(policy)
    named = dict.fromkeys(name for name, match in policy.rules(Bound.OUTBOUND) if match.needs_content)
    decided = {name: Mark(class_mark(ids[name]).value | DECIDED.value, OURS) for name in named}
    return Chain(MESH, tuple(Rule(SetConnmark(decided[name]), protocol=_TCP, mark=marks[name]) for name in named))
