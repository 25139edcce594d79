"""Keeps a record of the cluster's policies in a control plane, as long as this operator leads.

The objects are what is true, and what agents read; the control plane has the history, the audit log and the view of the
fleet. So a record that somebody has changed there is put right, and one whose object is gone is removed. A change takes
two requests (draft, publish), and all records are read again once a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import trio

from cluster_operator.fleet_client import FleetAwayError, FleetPlane, FleetRecord, NotTakenError, OutdatedError
from cluster_operator.fleet_wish import FleetWish, NotExpressibleError, fleet_wish, prefix_of, record_name
from cluster_operator.record_status import RecordState
from daemon.log import Logger
from traffic_policy.cluster.objects import PolicyObject

_AGAIN_S: Final = 60.0
"""Seconds between two readings of all records."""
_SPACING_S: Final = 0.5
_PAUSE_S: Final = 5.0
"""Seconds before a control plane that did not answer is asked again."""
_GONE_S: Final = 15.0
"""Seconds for which an object must be gone before its record is removed: longer than an API server that has just
started may say that it knows no such objects."""

log = Logger()
log_some = Logger(spacing=60.0)


@dataclass(frozen=True, slots=True)
class _Mine:
    """A policy of the cluster: its record, or why it has none. Neither: agents cannot honour it, so that its record, if
    there is one, stays as it is."""

    generation: int
    name: str
    wish: FleetWish | None = None
    problem: str = ""


class FleetRecords:
    """Those of one cluster. :meth:`run` writes them."""

    def __init__(self, plane: FleetPlane, cluster: str) -> None:
        self._plane = plane
        self._cluster = cluster
        self._mine: dict[str, _Mine] = {}
        self._told = False
        self._states: dict[str, tuple[int, RecordState]] = {}
        self._known: dict[str, FleetRecord] | None = None
        self._gone: dict[str, float] = {}
        self._refused: dict[str, tuple[FleetWish, RecordState]] = {}
        self._changed = trio.Event()

    def state(self, uid: str) -> RecordState | None:
        """Of the policy with this UID; None: it is not known yet."""
        found = self._states.get(uid)
        return None if found is None else found[1]

    def want(self, policies: Mapping[str, tuple[PolicyObject, str, str]]) -> None:
        """These are all policies that there are, by UID, each with what is wrong with it, and who has changed it
        last."""
        mine = {uid: self._one(*each) for uid, each in policies.items()}
        if mine != self._mine or not self._told:
            self._mine, self._told = mine, True
            self._changed.set()

    def _one(self, policy: PolicyObject, problem: str, user: str) -> _Mine:
        before = self._mine.get(policy.uid)
        if before is not None and before.generation == policy.generation:
            return before
        name = record_name(self._cluster, policy)
        if problem:
            return _Mine(policy.generation, name)
        try:
            return _Mine(policy.generation, name, fleet_wish(policy, self._cluster, user))
        except NotExpressibleError as error:
            return _Mine(policy.generation, name, problem=str(error))

    async def run(self, stirred: Callable[[], None]) -> None:
        """Until cancelled. ``stirred`` is called when a state has changed."""
        read_at = -_AGAIN_S
        self._known = None
        while True:
            if trio.current_time() >= read_at + _AGAIN_S:
                self._known = None
            if self._told:
                self._changed, before = trio.Event(), dict(self._states)
                try:
                    if self._known is None:
                        self._known = await self._plane.records(prefix_of(self._cluster))
                        self._refused.clear()
                        read_at = trio.current_time()
                    await self._write(self._known)
                    pause = _SPACING_S
                except OutdatedError:
                    self._known, pause = None, _SPACING_S
                except (FleetAwayError, NotTakenError) as error:
                    log_some.warning("the control plane has not all policies", error=str(error))
                    self._cannot(str(error))
                    self._known, pause = None, _PAUSE_S
                if before != self._states:
                    stirred()
                await trio.sleep(pause)
            if self._known is not None or not self._told:
                with trio.move_on_after(min(_AGAIN_S, _GONE_S) if self._gone else _AGAIN_S):
                    await self._changed.wait()

    async def _write(self, known: dict[str, FleetRecord]) -> None:
        """Make records what they are to be."""
        mine = dict(self._mine)
        for uid in self._states.keys() - mine.keys():
            del self._states[uid]
        for uid, each in mine.items():
            if each.problem:
                self._states[uid] = each.generation, RecordState(False, "NotExpressible", each.problem)
            elif each.wish is not None:
                self._states[uid] = each.generation, await self._record(each.wish, known)
        # One that can no more be said there would say something old.
        kept = {each.name for each in mine.values() if not each.problem}
        unsaid = {each.name for each in mine.values() if each.problem}
        extra = {name: record for name, record in known.items() if record.content and name not in kept}
        await self._remove(extra, unsaid)

    async def _record(self, wish: FleetWish, known: dict[str, FleetRecord]) -> RecordState:
        record = known.get(wish.name)
        if record is None or record.content != wish.content:
            refused = self._refused.get(wish.name)
            if refused is not None and refused[0] == wish:
                return refused[1]
            try:
                record = known[wish.name] = await self._plane.publish(wish, record)
            except NotTakenError as error:
                state = RecordState(False, "Refused", f"{self._plane.url} does not take it: {error}")
                self._refused[wish.name] = wish, state
                return state
            log.info("recorded", policy=wish.name, revision=record.revision, reason=wish.reason)
        return RecordState(
            True, "Recorded", f"It is revision {record.revision} of {wish.name} in {self._plane.url}.", record.revision
        )

    async def _remove(self, extra: Mapping[str, FleetRecord], unsaid: set[str]) -> None:
        now = trio.current_time()
        self._gone = {name: self._gone.get(name, now) for name in extra}
        for name, record in extra.items():
            if name in unsaid or now >= self._gone[name] + _GONE_S:
                await self._plane.remove(record, f"source: kubernetes, cluster {self._cluster}: the object is gone")
                log.info("removed", policy=name)
                self._known = None  # its version is another now

    def _cannot(self, why: str) -> None:
        """For those that are not recorded; what is recorded stays so."""
        for uid, each in self._mine.items():
            generation, state = self._states.get(uid, (0, None))
            if each.problem:
                self._states[uid] = each.generation, RecordState(False, "NotExpressible", each.problem)
            elif each.wish is not None and not (state is not None and state.recorded and generation == each.generation):
                revision = 0 if state is None else state.revision
                self._states[uid] = each.generation, RecordState(False, "Unreachable", why, revision)
