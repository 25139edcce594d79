"""What a policy would change, and who would have waited: at least, never too much."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from control_plane.domain.policy_preview import LaneFate, LaneLimits, PastLane, SelectorRival, preview, rivals

M = 1_000_000
WEB = {"name": "web", "rate": "10Mbit", "ceil": "50Mbit", "match": [{"port": ["443"]}]}
BEFORE = {"total": "100Mbit", "classes": [WEB, {"name": "db", "rate": "5Mbit", "match": [{"port": ["5432"]}]}]}


def test_each_lane_before_and_after() -> None:
    changed = {**WEB, "ceil": "20Mbit", "match": [{"port": ["443"]}, {"port": ["8443"]}]}
    mail = {"name": "mail", "rate": "1Mbit", "match": [{"port": ["25"]}]}
    found = {each.lane: each for each in preview(BEFORE, {"total": "100Mbit", "classes": [changed, mail]}, [])}
    assert {lane: each.fate for lane, each in found.items()} == {
        "": LaneFate.SAME, "web": LaneFate.CHANGED, "mail": LaneFate.ADDED, "db": LaneFate.REMOVED,
        "default": LaneFate.SAME,
    }  # fmt: skip
    assert (found["web"].before, found["web"].after) == (LaneLimits(10 * M, 50 * M, 4), LaneLimits(10 * M, 20 * M, 4))
    assert found["web"].other_matches
    assert found["db"].after is None


def test_what_arrives_has_lanes_of_its_own() -> None:
    after = {**BEFORE, "ingress": {"total": "10Mbit"}}
    found = [(each.direction, each.lane) for each in preview(BEFORE, after, []) if each.fate is LaneFate.ADDED]
    assert found == [("ingress", ""), ("ingress", "default")]


def test_seconds_beyond_the_new_ceil_are_counted() -> None:
    past = [
        PastLane("egress", "web", [10 * M // 8 * 2, 30 * M // 8 * 2, 0, 60 * M // 8], [2, 2, 2, 0]),
        PastLane("egress", "db", [100 * M // 8 * 2] * 4, [2] * 4),
    ]
    found = {each.lane: each for each in preview(BEFORE, {**BEFORE, "classes": [{**WEB, "ceil": "20Mbit"}]}, past)}
    assert (found["web"].waited, round(found["web"].beyond, 3)) == (1, round(20 / (20 + 60 + 60), 3))
    assert found["web"].fate is LaneFate.CHANGED
    assert found["db"].waited == 0
    assert found[""].waited == 3, "110, 130 and 130 of 100 Mbit/s each"


@given(
    st.lists(st.tuples(st.integers(0, 200 * M), st.integers(0, 200 * M)), min_size=1, max_size=20),
    st.integers(1, 100),
)
def test_no_more_than_must_have_waited(sent: list[tuple[int, int]], ceil: int) -> None:
    """Two workloads, of which each is held to the ceil."""
    past = PastLane("egress", "web", [(a + b) // 8 for a, b in sent], [2] * len(sent))
    after = {"total": "100Mbit", "classes": [{**WEB, "rate": "1Mbit", "ceil": f"{ceil}Mbit"}]}
    [web] = [each for each in preview(None, after, [past]) if each.lane == "web"]
    held = [max(0, a - ceil * M) + max(0, b - ceil * M) for a, b in sent]
    assert web.waited <= sum(each > 0 for each in held)
    assert web.beyond * sum(a + b for a, b in sent) <= sum(held) + 16 * len(sent)


def test_of_policies_that_meet_the_more_specific_wins() -> None:
    others = {"all": {}, "shop": {"team": "shop", "tier": "db"}, "other": {"team": "other"}, "a": {"tier": "web"}}
    assert rivals("web", {"team": "shop"}, others) == [
        SelectorRival("a", True), SelectorRival("all", False), SelectorRival("shop", True),
    ]  # fmt: skip
