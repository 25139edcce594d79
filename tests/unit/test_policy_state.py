"""What is said of the policy in force, and of one that is not used."""

from __future__ import annotations

import pytest

from sidecar.config.reload_status import ReloadResult, ReloadStatus
from sidecar.observability.metrics import Metrics, Workers


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000_000.0

    def __call__(self) -> float:
        return self.now


def samples(state: ReloadStatus) -> set[str]:
    lines = Metrics(lambda: (), Workers, state).render().decode().splitlines()
    return {line.removeprefix("podlane_policy_") for line in lines if line.startswith("podlane_policy_")}


def begun() -> tuple[ReloadStatus, Clock]:
    clock = Clock()
    state = ReloadStatus(clock)
    state.begin("aa")
    clock.now += 60
    return state, clock


NOTHING_YET = {
    'reloads_total{result="applied"} 0.0', 'reloads_total{result="refused"} 0.0', 'reloads_total{result="failed"} 0.0',
}  # fmt: skip


def test_the_policy_of_the_start() -> None:
    state, _ = begun()
    assert state.problem is None
    assert samples(state) >= NOTHING_YET | {
        'info{hash="aa"} 1.0', "in_force_timestamp_seconds 1000000000.0", "refused 0.0",
    }  # fmt: skip


def test_a_policy_that_is_refused_leaves_the_old_one() -> None:
    state, _ = begun()
    state.refused("total: 5 has no unit.", ReloadResult.REFUSED)
    assert state.problem == (
        "The policy read at 2001-09-09T01:47:40Z is not used, that of 2001-09-09T01:46:40Z stays in force: "
        "total: 5 has no unit."
    )
    assert samples(state) >= {
        'info{hash="aa"} 1.0', "in_force_timestamp_seconds 1000000000.0", "refused 1.0", 'reloads_total{result="refused"} 1.0',
    }  # fmt: skip


@pytest.mark.parametrize(
    ("digest", "since"), [("bb", "1000000060.0"), ("aa", "1000000000.0")], ids=["another", "the same again"]
)
def test_the_next_policy_in_force_ends_the_trouble(digest: str, since: str) -> None:
    state, _ = begun()
    state.refused("The port is taken.", ReloadResult.FAILED)
    state.applied(digest)
    assert state.problem is None
    assert samples(state) >= {
        f'info{{hash="{digest}"}} 1.0', f"in_force_timestamp_seconds {since}", "refused 0.0",
        'reloads_total{result="failed"} 1.0', 'reloads_total{result="applied"} 1.0',
    }  # fmt: skip
