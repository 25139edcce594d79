"""Which datapath suits a policy, in one sentence with the reason. Pure."""

from __future__ import annotations

from typing import Final

from traffic_policy.policy import DEFAULT_CLASS, TrafficPolicy
from traffic_policy.scope import beyond_ebpf, beyond_step_aside, needs_names
from traffic_policy.settings import Datapath

_STEP_ASIDE: Final = (
    "Recommended datapath: step-aside (--datapath step-aside). Nothing here needs a relay, so it is enough to look at "
    "each connection's first packets, which costs a fraction; those travel in the class of their port."
)
_EBPF: Final = (
    "Recommended datapath: ebpf (--datapath ebpf) where `podlane check` says that it works, else step-aside. Programs "
    "in the kernel read the first bytes, so that nothing has to go through user space. What they cannot read in one "
    "segment, and QUIC, they show there, and it goes by its port until there is an answer."
)
_RELAY_ALONE: Final = "Recommended datapath: relay. Stepping aside cannot do all that this policy asks for."
_RELAY_RECEIVES: Final = (
    "Recommended datapath: relay. It keeps the limits for what arrives on every kernel; stepping aside needs one that "
    "can copy marks of connections (act_connmark)."
)
_RELAY: Final = (
    "Recommended datapath: relay. Stepping aside, connections begin in the class of their port, and the default class "
    "is held to {ceil}; with the relay even their first packet is in the right class."
)


def recommend(policy: TrafficPolicy) -> tuple[Datapath, str] | None:
    """The datapath to take and a sentence that says why; None where no content decides, and both are the same.

    Stepping aside lets a connection begin in the class of its port, which is the default class for most. That is no
    place to begin when the default class is held short: then every new connection would wait there.
    """
    if not any(match.needs_content for _, match in policy.rules()):
        return None
    if needs_names(policy):
        return Datapath.RELAY, _RELAY_RECEIVES
    if beyond_step_aside(policy):
        return Datapath.RELAY, _RELAY_ALONE
    rest = next(c for c in policy.resolved() if c.name == DEFAULT_CLASS)
    if 2 * rest.ceil.bits_per_second < policy.total.bits_per_second:
        return Datapath.RELAY, _RELAY.format(ceil=rest.ceil.human)
    if not beyond_ebpf(policy):
        return Datapath.EBPF, _EBPF
    return Datapath.STEP_ASIDE, _STEP_ASIDE
