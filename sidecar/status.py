"""What the admin server tells about classes, policy and connections, as plain data. Pure; every key names its unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pod_policy.settings import Datapath
from sidecar.admin import Query, QueryError
from sidecar.explanation import ClassWords, explain_policy
from sidecar.live_connections import DEFAULT_SHOWN, MOST_SHOWN, LiveConnection, Order, Shown
from sidecar.netfilter.ruleset import CaptureSettings
from sidecar.receive_limits import ReceiveLimits
from sidecar.shaping import ClassSnapshot, Received
from sidecar.tallies import ClassConnections
from tc_core.compile import leaf_handle
from tc_core.handles import Handle
from tc_core.marks import ClassIds, class_mark
from tc_core.model import HtbClass
from tc_core.policy import DEFAULT_CLASS, Match, ResolvedClass, TrafficPolicy
from tc_core.tellers import TELLERS, Teller
from tc_core.units import Rate

POLICY_SOURCES: Final = ("policy", "annotations", "shared_policy")
"""The settings that name what the policy is read from."""
BY_KERNEL_RULE: Final = "kernel rule"
BY_DEFAULT: Final = "default"


@dataclass(frozen=True, slots=True)
class Process:
    """What ``/classes`` says of the sidecar itself.

    ``read_at``: when the counters were read, in seconds of a clock that only goes forward; ``uptime`` is in seconds.
    """

    datapath: Datapath
    uptime: float
    workers: int
    read_at: float | None


@dataclass(frozen=True, slots=True)
class Arriving:
    """What ``/policy`` says of what arrives, beside the policy: the classes that the ifb has now, and who holds what.

    ``limits`` are those that the relay keeps; None: it keeps none.
    """

    kernel: Mapping[Handle, HtbClass] = field(default_factory=dict)
    teller: Teller | None = None
    limits: ReceiveLimits | None = None


# --- /classes --------------------------------------------------------------------------------------------------------


def classes_document(
    interface: str,
    total: Rate,
    snapshots: Iterable[ClassSnapshot],
    connections: Mapping[str, ClassConnections],
    process: Process,
    received: Received | None = None,
) -> dict[str, object]:
    """Limits, counters and connections of all classes in policy order, the default class last.

    ``received`` is null unless the policy limits what arrives.
    """
    return {
        "interface": interface,
        "total_bits_per_second": total.bits_per_second,
        "datapath": process.datapath.value,
        "workers": process.workers,
        "uptime_seconds": round(process.uptime, 3),
        "read_at_seconds": process.read_at,
        "classes": [_class(s, connections.get(s.name, ClassConnections())) for s in snapshots],
        "received": received and _received(received),
    }


def _received(received: Received) -> dict[str, object]:
    """The classes that limit what they receive, and the default class for the rest."""
    return {
        "device": received.device,
        "names_told_by": received.teller,
        "total_bits_per_second": received.total.bits_per_second,
        "classes": [_counted(s) for s in received.classes],
    }


def _class(s: ClassSnapshot, connections: ClassConnections) -> dict[str, object]:
    return {
        **_counted(s),
        "connections": {
            "active": connections.active,
            "total": connections.total,
            "by_protocol": dict(connections.by_protocol),
        },
    }


def _counted(s: ClassSnapshot) -> dict[str, object]:
    return {
        "name": s.name,
        "id": s.class_id,
        "handle": str(s.handle),
        "rate_bits_per_second": s.rate.bits_per_second,
        "ceil_bits_per_second": s.ceil.bits_per_second,
        "priority": s.priority,
        "bytes": s.stats.bytes,
        "packets": s.stats.packets,
        "drops": s.stats.drops,
        "overlimits": s.stats.overlimits,
        "lended": s.stats.lended,
        "borrowed": s.stats.borrowed,
        "backlog_bytes": s.stats.backlog_bytes,
        "backlog_packets": s.stats.backlog_packets,
        "current_rate_bits_per_second": s.current_rate.bits_per_second,
        "peak_rate_bits_per_second": s.peak_rate.bits_per_second,
    }


# --- /policy ---------------------------------------------------------------------------------------------------------


def policy_document(
    interface: str,
    source: Mapping[str, str],
    policy: TrafficPolicy,
    ids: ClassIds,
    kernel: Mapping[Handle, HtbClass],
    settings: CaptureSettings,
    arriving: Arriving | None = None,
) -> dict[str, object]:
    """The policy in force, and for each class how it is found, its limits as asked and in the kernel, and why.

    Limits have the units of the policy grammar. ``source`` names the files that the policy was read from; ``kernel``
    are the classes that the interface has now, and a class that it has not is null in ``in_force``. ``received`` is
    null where nothing limits what arrives.
    """
    explanation = explain_policy(policy, settings)
    words = {each.name: each for each in explanation.classes}
    arriving = arriving or Arriving()
    limits = received.resolved() if (received := policy.received()) is not None else ()
    arrives = {each.name: _arriving(each, ids[each.name], arriving) for each in limits}
    return {
        "interface": interface,
        "datapath": settings.datapath.value,
        "source": dict(source),
        "summary": explanation.headline,
        "policy": policy.to_document(),
        "classes": [
            {
                **_effective(each, words[each.name], ids[each.name], kernel, settings.datapath, explanation.rest),
                "received": arrives.get(each.name),
            }
            for each in policy.resolved()
        ],
        "received": received and _received_in_all(received, arriving),
        "sharing": explanation.sharing,
        "captured": explanation.captured,
        "recommended_datapath": explanation.datapath,
        "notes": list(explanation.notes),
    }


def _effective(
    resolved: ResolvedClass,
    words: ClassWords,
    class_id: int,
    kernel: Mapping[Handle, HtbClass],
    datapath: Datapath,
    rest: str,
) -> dict[str, object]:
    handle = leaf_handle(class_id)
    there = kernel.get(handle)
    matches = [
        {
            "match": match.model_dump(mode="json", exclude_defaults=True),
            "traffic": traffic.traffic,
            "found_by": _found_by(match, datapath),
        }
        for match, traffic in zip(resolved.match, words.matches, strict=True)
    ]
    is_default = resolved.name == DEFAULT_CLASS
    return {
        "name": resolved.name,
        "id": class_id,
        "handle": str(handle),
        "mark": str(class_mark(class_id)),
        "found_by": [BY_DEFAULT] if is_default else list(dict.fromkeys(_found_by(m, datapath) for m in resolved.match)),
        "matches": matches,
        "asked": _limits(resolved.rate, resolved.ceil, resolved.priority),
        "in_force": None if there is None else _limits(there.rate, there.ceil, there.prio),
        "reason": f"{resolved.name} {words.sentence}",
        "notes": [*words.details, *([rest] if is_default else [])],
    }


def _received_in_all(received: TrafficPolicy, arriving: Arriving) -> dict[str, object]:
    teller = arriving.teller
    return {
        "total": str(received.total),
        "names_told_by": teller,
        "names_told": None if teller is None else TELLERS[teller],
    }


def _arriving(resolved: ResolvedClass, class_id: int, arriving: Arriving) -> dict[str, object]:
    """Limits of a class for what it receives: as asked, those of its packets in the kernel, those of the relay."""
    there = arriving.kernel.get(leaf_handle(class_id))
    lanes = arriving.limits.lanes if arriving.limits is not None else ()
    rate = Rate.from_bytes_per_second
    lane = next((each for each in lanes if each.class_id == class_id), None)
    return {
        "asked": _limits(resolved.rate, resolved.ceil, resolved.priority),
        "in_force": None if there is None else _limits(there.rate, there.ceil, there.prio),
        "in_relay": None if lane is None else _limits(rate(lane.rate), rate(lane.ceil), lane.priority),
    }


def _found_by(match: Match, datapath: Datapath) -> str:
    return datapath.value if match.needs_content else BY_KERNEL_RULE


def _limits(rate: Rate, ceil: Rate, priority: int) -> dict[str, object]:
    return {"rate": str(rate), "ceil": str(ceil), "priority": priority}


# --- /connections ----------------------------------------------------------------------------------------------------


def connections_asked(query: Query) -> tuple[int, Order]:
    """How many connections are asked for, and which first. Raises :class:`~sidecar.admin.QueryError`."""
    if unknown := query.keys() - {"limit", "order"}:
        raise QueryError(f"There is no {min(unknown)} to ask for. Ask with limit=NUMBER, and order=newest or largest.")
    limit, order = query.get("limit", str(DEFAULT_SHOWN)), query.get("order", Order.NEWEST)
    if not limit.isdecimal() or len(limit) > 9 or not 1 <= int(limit) <= MOST_SHOWN:
        raise QueryError(f"limit={limit} is not a number of connections. Write one from 1 to {MOST_SHOWN}.")
    if order not in list(Order):
        raise QueryError(f"order={order} is not known. Write order=newest or order=largest.")
    return int(limit), Order(order)


def connections_document(shown: Shown, order: Order) -> dict[str, object]:
    """Some of the connections that are alive, by ``order``; what the datapath cannot tell of one is null."""
    return {
        "active": shown.active,
        "order": order.value,
        "connections": [_connection(each) for each in shown.connections],
    }


def _connection(each: LiveConnection) -> dict[str, object]:
    return {
        "class": each.class_name,
        "client": _end(each.client),
        "destination": _end(each.destination),
        "direction": each.direction,
        "name": each.name,
        "protocol": each.protocol,
        "state": each.state,
        "age_seconds": None if each.age is None else round(each.age, 3),
        "bytes_up": each.bytes_up,
        "bytes_down": each.bytes_down,
    }


def _end(address: tuple[str, int]) -> dict[str, object]:
    return {"address": address[0], "port": address[1]}
