"""Caps of a tenant: the most that its policies may say, whoever in the tenant writes them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from control_plane.domain.errors import InvalidError
from traffic_policy.cluster.caps import CapsOf, Clamp, capped
from traffic_policy.cluster.target import PolicyCaps
from traffic_policy.errors import PolicyError, UnitError
from traffic_policy.policy import MIN_RATE, TrafficPolicy
from traffic_policy.policy_file import policy_from_document
from traffic_policy.units import Rate

_RATES: Final = ("total", "ingress", "ceil")
_MOST_TOLD: Final = 5


def checked_caps(wish: Mapping[str, Any]) -> dict[str, Any]:
    """Caps in their normal form: ``total``, ``ingress`` and ``ceil`` as rates, ``priority`` as a number; what is None
    is left out. Raises :class:`InvalidError`."""
    caps: dict[str, Any] = {}
    for name in _RATES:
        if wish.get(name) is None:
            continue
        try:
            rate = Rate.parse(wish[name])
        except UnitError:
            raise InvalidError(f"{name} is no rate: {str(wish[name])[:70]!r}.", "Write one as 1Gbit.") from None
        if rate < MIN_RATE:
            raise InvalidError(f"{name} is too little to carry packets.", f"Write {MIN_RATE} or more.")
        caps[name] = str(rate)
    priority = wish.get("priority")
    if priority is not None:
        if not 0 <= priority <= 7:
            raise InvalidError(f"There is no priority {priority}.", "Write 0 to 7.")
        caps["priority"] = priority
    return caps


def within(tenant: str, caps: Mapping[str, Any], document: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[Clamp]]:
    """The policy of a document within the caps of a tenant, and what these have lowered; the same document if nothing.

    Raises :class:`InvalidError` where they leave too little to keep its guarantees at all.
    """
    if not caps:
        return document, []
    try:
        lowered, clamps = _capped(tenant, caps, policy_from_document(document))
    except PolicyError as error:
        raise InvalidError(f"The policy cannot be kept within the caps. {error}", _remedy(tenant)) from None
    return (lowered.to_document(), clamps) if clamps else (document, [])


def beyond(tenant: str, clamps: list[Clamp]) -> InvalidError:
    """Why a policy is refused that is beyond the caps."""
    told = " ".join(f"{each.what} is {each.asked}: {each.given} at most." for each in clamps[:_MOST_TOLD])
    more = f" And {len(clamps) - _MOST_TOLD} more." if len(clamps) > _MOST_TOLD else ""
    return InvalidError(f"The policy is beyond the caps of the tenant {tenant}. {told}{more}", _remedy(tenant))


def _capped(tenant: str, caps: Mapping[str, Any], policy: TrafficPolicy) -> tuple[TrafficPolicy, list[Clamp]]:
    lowered, clamps = capped(policy, [CapsOf(f"the tenant {tenant}", PolicyCaps.model_validate(caps))])
    return lowered, list(clamps)


def _remedy(tenant: str) -> str:
    return f"Write less (`podlane tenants caps {tenant}` has the caps), or ask the platform's administrators for more."
