"""How much of each budget is used, by what is in the database: so it is of all processes, and of before a restart."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock

from control_plane.domain.tenant import Tenant
from control_plane.domain.volume_budget import DAY, BudgetPeriod, BudgetUse, LaneVolume
from control_plane.store.lane_volumes import LaneVolumeTable


class BudgetLedger:
    """Any thread may use it. Blocks, and raises :class:`~control_plane.store.errors.StoreError`."""

    def __init__(self, table: LaneVolumeTable) -> None:
        self._table = table
        self._lock = Lock()
        self._known: dict[str, tuple[int, list[LaneVolume]]] = {}

    def uses(self, tenant: Tenant, now: int, age: int = 0) -> Mapping[str, BudgetUse]:
        """Of each budget, by its name, at ``now`` (Unix seconds). ``age``: what was read so many seconds ago will
        do."""
        if not tenant.budgets:
            return {}
        volumes = self._volumes(tenant.name, now, age)
        return {
            name: BudgetUse(
                budget, budget.used(volumes), budget.period.first_day(now) * DAY, now, budget.period.end(now)
            )
            for name, budget in tenant.budgets.items()
        }

    def _volumes(self, tenant: str, now: int, age: int) -> list[LaneVolume]:
        with self._lock:
            at, known = self._known.get(tenant, (0, []))
        today = BudgetPeriod.DAY.first_day(now)
        if age and now - at <= age and BudgetPeriod.DAY.first_day(at) == today:
            return known
        found = [LaneVolume(*row) for row in self._table.since(tenant, BudgetPeriod.MONTH.first_day(now), today)]
        with self._lock:
            self._known[tenant] = now, found
        return found
