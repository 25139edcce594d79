"""``/policy``: the policy in force, and for each class how it is found, its limits, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a class, in the units of the policy grammar, as in 20Mbit."""

    rate: str
    """Guaranteed rate."""
    ceil: str
    """Most that it may borrow up to."""
    priority: int
    """Who is lent to first: 0 before 7."""


@dataclass(frozen=True, slots=True)
class MatchFound:
    """One match of a class."""

    match: Mapping[str, object]
    """As in the policy."""
    traffic: str
    """In words."""
    found_by: str
    """kernel rule (port, network, protocol), relay or step-aside (names)."""


@dataclass(frozen=True, slots=True)
class ReceivedLimits:
    """Limits of what a class receives."""

    asked: Limits
    """By the policy."""
    in_force: Limits | None
    """In the kernel, now. Null: the class is not there."""
    in_relay: Limits | None
    """Those that the relay keeps by pacing what it reads. Null: it keeps none."""


@dataclass(frozen=True, slots=True)
class EffectiveClass:
    """How a class comes about."""

    name: str
    """As in the policy."""
    id: int
    """Number of the class, from 1 to 255; the default class has 255."""
    handle: str
    """Its HTB class, MAJOR:MINOR, hexadecimal."""
    mark: str
    """Of its packets, MARK/MASK, hexadecimal."""
    found_by: tuple[str, ...]
    """Who finds its traffic: kernel rule, relay, step-aside; default for the rest of the traffic."""
    matches: tuple[MatchFound, ...]
    """In the order of the policy."""
    asked: Limits
    """By the policy."""
    in_force: Limits | None
    """In the kernel, now. Null: the class is not there."""
    reason: str
    """The limits in words."""
    notes: tuple[str, ...]
    """What else there is to know, in words."""
    received: ReceivedLimits | None
    """Null where nothing limits what it receives."""


@dataclass(frozen=True, slots=True)
class ReceivedTotal:
    """What arrives, all together."""

    total: str
    """Its limit, as in 50Mbit."""
    names_told_by: str | None
    """Who tells its classes by name: sockets, connmark or pacing. Null: ports and networks decide."""
    names_told: str | None
    """The same in words."""


@dataclass(frozen=True, slots=True)
class EffectivePolicy:
    """The policy in force."""

    interface: str
    """The one that is shaped."""
    datapath: str
    """How the first bytes of connections are seen: relay or step-aside."""
    source: Mapping[str, str]
    """Files that it was read from: policy, annotations, shared_policy."""
    summary: str
    """In one sentence."""
    policy: Mapping[str, object]
    """In the grammar of policy files; can be used as one."""
    classes: tuple[EffectiveClass, ...]
    """In the order of the policy; the default class is the last one."""
    received: ReceivedTotal | None
    """Null where nothing limits what arrives."""
    sharing: str
    """What happens to unused bandwidth, in words."""
    captured: str
    """Which connections the proxy sees, in words."""
    recommended_datapath: str
    """Which datapath fits the policy, in words."""
    notes: tuple[str, ...]
    """What else there is to know, in words."""
