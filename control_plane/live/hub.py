"""What is sent to viewers, made once for all who look at the same."""

from __future__ import annotations

import json
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from control_plane.domain.access import Operation
from control_plane.domain.errors import (
    InvalidError,
    NotAllowedError,
    StateConflictError,
    TooManyError,
    UnknownSubjectError,
)
from control_plane.fleet.agent_status import AgentState, FleetStatus
from control_plane.fleet.figures import FIELDS, SECONDS, LaneSeries
from control_plane.http.documents import EventDocument
from control_plane.live.messages import MOST_COLUMNS, LiveScope, Subscribe, Topic
from control_plane.live.topics import WINDOWS, Picture, SeenAgent, TenantView
from control_plane.service import Caller, ControlPlane
from control_plane.store.errors import StoreError

_EVENTS: Final = 100
"""Of one frame. Each may be 500 kB, but hardly any is."""
_MOST_AGENTS: Final = 20_000
"""Of a heat map."""
_SHARE: Final = 10
_KEPT: Final = 5.0
"""Seconds for which what nobody has asked for again is kept."""
_MOST_WATCHED: Final = 64
"""Agents of a tenant that tell of their workloads at once: each report may be 256 KiB."""
_WATCHED_S: Final = 5.0
_PLACES: Final = {AgentState.IN_SYNC: 0.0, AgentState.BEHIND: 1.0, AgentState.FAILED: 2.0, AgentState.AWAY: 3.0}
HEAT: Final[dict[str, Callable[[SeenAgent], float]]] = {
    "state": lambda each: _PLACES[each.state],
    "workloads": lambda each: each.status.workloads,
    "failures": lambda each: each.status.failed,
    "bytes": lambda each: each.traffic.bytes,
    "dropped": lambda each: each.traffic.dropped,
    "throttled": lambda each: each.traffic.throttled,
    "memory": lambda each: each.status.memory,
}


@dataclass(slots=True)
class Subscription:
    """What a viewer looks at, and what was sent of it. ``cursor``: as in frames. ``more``: there is more right now."""

    wish: Subscribe
    cursor: int | None = None
    sent: object = None
    roster: object = None
    more: bool = False


@dataclass(slots=True)
class _Moment:
    """What was made of a tenant at one moment, by what it was made for. ``cost``: of all that, in processor seconds."""

    second: int
    view: TenantView
    cost: float
    began: float = field(default_factory=time.monotonic)
    made: dict[Any, Any] = field(default_factory=dict)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What ``make`` makes, made once."""
        if key not in self.made:
            before = time.thread_time()
            self.made[key] = make()
            self.cost += time.thread_time() - before
        return self.made[key]

    @property
    def due(self) -> float:
        """In how many seconds something new may be made of the tenant: it is to cost a tenth of the time at most."""
        return self.began + min(_SHARE * self.cost, 1.0) - time.monotonic()


class LiveHub:
    """One thread at a time may use it, apart from :meth:`happened`. Blocks."""

    def __init__(self, plane: ControlPlane, fleet: FleetStatus) -> None:
        self._plane = plane
        self._fleet = fleet
        self._moments: dict[str, _Moment] = {}
        self._news: set[str] = set()

    def happened(self, tenant: str) -> bool:
        """Something of a tenant is on disk: the next frames are to have it. Whether that is news. Any thread."""
        if tenant in self._news:
            return False
        self._news.add(tenant)
        return True

    def _watch(self, wish: Subscribe, moment: _Moment) -> None:
        """Have the agent tell of its workloads for a while. Raises :class:`TooManyError`."""
        key, watched, now = (wish.scope.cluster, wish.scope.node), moment.view.agents.watched, moment.view.now
        if key not in watched and sum(until > now for until in list(watched.values())) >= _MOST_WATCHED:
            raise TooManyError(f"Workloads of {_MOST_WATCHED} agents are looked at.", 10)
        if key in moment.view.agents.agents:
            watched[key] = now + _WATCHED_S

    def due(self, tenants: Iterable[str]) -> float:
        """In how many seconds frames can have what has happened since the last ones; 1.0 if nothing has. Any thread."""
        waits = [1.0]
        for name in self._news.intersection(tenants):
            moment = self._moments.get(name)
            waits.append(moment.due if moment is not None else 0.0)
        return max(0.0, min(waits))

    def begin(self, wish: Subscribe, caller: Caller) -> Subscription:
        """Raises :class:`NotAllowedError`, :class:`UnknownSubjectError`, :class:`InvalidError`,
        :class:`StateConflictError`."""
        self.check(wish, caller)
        window = WINDOWS.get(wish.topic)
        if window is not None:
            _check_word("sort", wish.sort.removeprefix("-"), ("", *window.sorts))
            _check_word("filter.state", wish.filter.state, ("", *window.states))
        elif wish.topic is not Topic.EVENTS:
            for name in wish.fields:
                _check_word("fields", name, FIELDS if wish.topic is Topic.SERIES else HEAT)
        if wish.topic is Topic.WORKLOADS and not (wish.scope.cluster and wish.scope.node):
            raise InvalidError("Whose workloads?", "Name cluster and node in scope.")
        subscription = Subscription(wish, wish.after)
        try:
            moment = self._moment(wish.tenant)
        except StoreError:
            return subscription  # its first frame comes when the database is back
        if wish.topic is Topic.WORKLOADS:
            self._watch(wish, moment)
        elif wish.topic is Topic.EVENTS and wish.after is None:
            subscription.cursor = moment.view.picture.position
        return subscription

    def check(self, wish: Subscribe, caller: Caller) -> None:
        """Raises :class:`NotAllowedError`."""
        if not caller.may(Operation.READ, wish.tenant):
            raise NotAllowedError(
                f"{caller.author} may not look at {wish.tenant[:70]}.", "Ask an administrator for a role there."
            )

    def frame(self, subscription: Subscription) -> str | bytes | None:
        """What is to be sent now; None: nothing new. Raises :class:`UnknownSubjectError`,
        :class:`StateConflictError`, :class:`~control_plane.store.errors.StoreError`."""
        moment = self._moment(subscription.wish.tenant)
        match subscription.wish.topic:
            case Topic.EVENTS:
                return self._events(subscription, moment)
            case Topic.SERIES:
                return _series(subscription, moment)
            case Topic.HEAT:
                _look(moment)
                return _heat(subscription, moment)
            case Topic.WORKLOADS:
                self._watch(subscription.wish, moment)
                return _window(subscription, moment)
            case _:
                if subscription.wish.topic is Topic.AGENTS:
                    _look(moment)
                return _window(subscription, moment)

    def _moment(self, name: str) -> _Moment:
        now = self._plane.now_ms / 1000
        held = self._moments.get(name)
        if held is not None and held.second == int(now) and (name not in self._news or held.due > 0):
            return held
        before = time.thread_time()
        self._news.discard(name)
        self._forget(now)
        with self._plane.reading(name) as tenant:
            if not tenant.open:
                self._moments.pop(name, None)
                raise UnknownSubjectError(f"There is no tenant {name[:70]}.", "Look at GET /v1/tenants.")
            known = held.view.picture if held is not None else None
            picture = (
                known if known is not None and known.position == tenant.position else Picture.from_tenant(tenant, known)
            )
        view = TenantView(picture, now, self._fleet.agents(name))
        moment = self._moments[name] = _Moment(int(now), view, time.thread_time() - before)
        return moment

    def _forget(self, now: float) -> None:
        for name in [name for name, each in self._moments.items() if now - each.view.now > _KEPT]:
            del self._moments[name]

    def _events(self, subscription: Subscription, moment: _Moment) -> str | None:
        end = moment.view.picture.position
        after = end if subscription.cursor is None else subscription.cursor
        subscription.cursor = after
        if after > end:
            raise StateConflictError(
                f"The log ends at {end}: what you have seen beyond was lost when a backup was restored.",
                "Read it anew, from after: 0.",
            )
        if after == end:
            return None
        events = self._plane.store.read(subscription.wish.tenant, after, _EVENTS)
        subscription.cursor = events[-1].position
        subscription.more = subscription.cursor < end
        body = {"cursor": subscription.cursor, "events": [EventDocument.describe(each).model_dump() for each in events]}
        return _headed("events", subscription, moment, _json(body)[1:])


def _look(moment: _Moment) -> None:
    """Have other processes tell of the traffic of their agents for a while."""
    moment.view.agents.looked_at = moment.view.now + _WATCHED_S


def _window(subscription: Subscription, moment: _Moment) -> str | None:
    wish, topic, view = subscription.wish, WINDOWS[subscription.wish.topic], moment.view
    scoped = (wish.topic, wish.scope)
    items = moment.once(scoped, lambda: topic.items(view, wish.scope))
    totals = moment.once((*scoped, "totals"), lambda: _json(topic.totals(view, wish.scope, items)))
    wanted = (*scoped, wish.filter, wish.sort)

    def ordered() -> Sequence[Any]:
        text, state = wish.filter.text, wish.filter.state
        found: Sequence[Any] = items
        if text or (state and topic.state):
            found = [
                each
                for each in items
                if text in topic.name(each) and (not state or topic.state is None or topic.state(each) == state)
            ]
        first, name = next(iter(topic.sorts)), wish.sort.removeprefix("-")
        if name in ("", first) and not wish.sort.startswith("-"):
            return found  # as it came
        return sorted(found, key=topic.sorts[name or first], reverse=wish.sort.startswith("-"))

    def body() -> str:
        found = moment.once(wanted, ordered)
        rows = [topic.row(view, each) for each in found[wish.offset : wish.offset + wish.limit]]
        # Rows beyond the end: the list has become shorter meanwhile.
        return (
            f'"position":{view.picture.position},"total":{len(found)},"offset":{wish.offset},'
            f'"rows":{_json(rows)},"totals":{totals}}}'
        )

    made: str = moment.once((*wanted, wish.offset, wish.limit), body)
    if made == subscription.sent:
        return None
    subscription.sent = made
    return _headed("window", subscription, moment, made)


def _series(subscription: Subscription, moment: _Moment) -> bytes | None:
    wish = subscription.wish
    until = moment.view.figures(wish.scope).settled(moment.second)
    first = until - wish.seconds if subscription.cursor is None else subscription.cursor + 1
    gap = first < until - SECONDS
    first = max(first, until - SECONDS)
    if first >= until:
        return None
    lanes, left_out, values = moment.once(
        (wish.topic, wish.scope, wish.fields, first), lambda: _lanes(moment.view, wish.scope, wish.fields, first, until)
    )
    subscription.cursor = until - 1
    head = {
        "type": "series", "id": wish.id, "from": first, "seconds": until - first, "cursor": until - 1, "gap": gap,
        "fields": wish.fields, "lanes": lanes, "left_out": left_out,
    }  # fmt: skip
    return _binary(head, values)


def _lanes(
    view: TenantView, scope: LiveScope, fields: Sequence[str], first: int, until: int
) -> tuple[list[tuple[str, str, str]], int, bytes]:
    found: list[LaneSeries] = [
        each
        for each in view.figures(scope).window(until, until - first, scope.policy or None)
        if scope.lane in ("", each.lane) and scope.direction in ("", each.direction)
    ]
    found.sort(key=lambda each: -sum(each.values["bytes"]))
    sent = found[: MOST_COLUMNS // len(fields)]
    values = _floats(value for each in sent for name in fields for value in each.values[name])
    return [(each.policy, each.lane, each.direction) for each in sent], len(found) - len(sent), values


def _heat(subscription: Subscription, moment: _Moment) -> bytes | None:
    wish, view = subscription.wish, moment.view
    agents: list[SeenAgent] = moment.once(
        (Topic.AGENTS, wish.scope), lambda: WINDOWS[Topic.AGENTS].items(view, wish.scope)
    )
    shown = agents[:_MOST_AGENTS]
    values = moment.once(
        (wish.topic, wish.scope, wish.fields),
        lambda: _floats(HEAT[name](each) for name in wish.fields for each in shown),
    )
    roster = view.picture.roster
    if values == subscription.sent and roster is subscription.roster:
        return None
    names = None if roster is subscription.roster else [(each.cluster, each.node) for each in shown]
    subscription.sent, subscription.roster = values, roster
    head = {
        "type": "heat", "id": wish.id, "at": round(view.now, 3), "fields": wish.fields, "agents": names,
        "left_out": len(agents) - len(shown),
    }  # fmt: skip
    return _binary(head, values)


def _headed(kind: str, subscription: Subscription, moment: _Moment, rest: str) -> str:
    """What each viewer has of its own, before what many share."""
    return f'{{"type":"{kind}","id":{subscription.wish.id},"at":{moment.view.now:.3f},{rest}'


def _json(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"))


def _floats(values: Iterable[float]) -> bytes:
    found = array("f", values)
    if sys.byteorder == "big":
        found.byteswap()
    return found.tobytes()


def _binary(head: dict[str, Any], values: bytes) -> bytes:
    text = _json(head).encode()
    text += b" " * (-len(text) % 4)
    return len(text).to_bytes(4, "little") + text + values


def _check_word(key: str, word: str, known: Iterable[str]) -> None:
    if word not in known:
        there = ", ".join(each for each in known if each)
        raise InvalidError(f"{key} cannot be {word[:30]!r} here.", f"Write one of: {there or 'nothing'}.")
