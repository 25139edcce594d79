"""The tables that queries read: what the log says, at once, in pieces and made again; lists in every order; at any time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, count
from threading import Event as Flag
from typing import Any, get_args

import pytest
from domain_commands import (
    CA,
    DIGEST,
    NOW,
    URL,
    alert_channels,
    alert_rules,
    any_command,
    contents,
    ids,
    nodes,
    plans,
    silences,
)  # fmt: skip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control_plane.domain import commands as c
from control_plane.domain.access import Role
from control_plane.domain.alert_channels import AlertChannel, AlertMatcher, AlertSilence, ChannelKind
from control_plane.domain.alert_rules import AlertKind, AlertRule
from control_plane.domain.checked_policy import CheckedPolicy
from control_plane.domain.errors import RefusedError
from control_plane.domain.events import Event
from control_plane.domain.quota import TenantQuota
from control_plane.domain.tenant import Tenant
from control_plane.domain.volume_budget import VolumeBudget
from control_plane.read_models.listing import Listing, begins, equal
from control_plane.read_models.lists import (
    AGENTS,
    ALERT_CHANNELS,
    ALERT_RULES,
    ALERTS,
    CLUSTERS,
    EVENTS,
    JOIN_TOKENS,
    POLICIES,
    REVISIONS,
    SILENCES,
    TOKENS,
)
from control_plane.read_models.projection import NEVER, TABLES
from control_plane.service import Circumstances, ControlPlane
from control_plane.store.event_store import EventStore, open_store

BY = Circumstances("test")
ALL = 10_000
_numbers = count()


@pytest.fixture
def plane(database_url: str) -> Iterator[ControlPlane]:
    store = open_store(database_url)
    yield ControlPlane(store, lambda: NOW)
    store.close()


def tables(store: EventStore, tenant: str) -> dict[str, list[tuple[Any, ...]]]:
    with store.database.reading() as execute:
        return {name: sorted(execute(f"SELECT * FROM {name} WHERE tenant = ?", (tenant,))) for name in TABLES}


def listed(plane: ControlPlane, listing: Listing, tenant: str, order: str, *filters: Any) -> list[dict[str, Any]]:
    rows = plane.lists.page(listing, tenant, filters=filters, order=order, limit=ALL)
    return [dict(zip(listing.columns, row, strict=True)) for row in rows]


def content(*parts: str) -> tuple[Any, ...]:
    return tuple(map(json.loads, parts))


def as_listed(plane: ControlPlane, name: str) -> dict[str, Any]:
    """A tenant as the lists have it."""
    clusters = {}
    for row in listed(plane, CLUSTERS, name, "name"):
        cluster = equal("cluster", row["name"])
        clusters[row["name"]] = {
            "version": row["version"],
            "agents": {
                each["node"]: (each["serial"], each["joined"]) for each in listed(plane, AGENTS, name, "node", cluster)
            },
            "tokens": {
                each["id"]: (each["expires_at"], each["node"])
                for each in listed(plane, JOIN_TOKENS, name, "id", cluster)
            },
            "counts": (row["agents"], row["join_tokens"]),
            "labels": json.loads(row["labels"]),
        }
    policies = {}
    for row in listed(plane, POLICIES, name, "name"):
        revisions = listed(plane, REVISIONS, name, "revision", equal("policy", row["name"]))
        assert [each["revision"] for each in revisions] == list(range(1, row["revision"] + 1))
        policies[row["name"]] = {
            "version": row["version"],
            "draft": content(row["draft_document"], row["draft_selector"], row["draft_nodes"])
            if row["drafted"]
            else None,
            "in_force": content(row["document"], row["selector"], row["nodes"]) if row["in_force"] else None,
            "number": row["in_force"],
            "rollout": row["rollout"],
            "revisions": [content(each["document"], each["selector"], each["nodes"]) for each in revisions],
        }
    tokens = {
        row["id"]: (row["title"], row["role"], row["expires_at"] if row["expires_at"] != NEVER else None)
        for row in listed(plane, TOKENS, name, "id")
    }
    return {"clusters": clusters, "policies": policies, "tokens": tokens, "alerts": alerts_as_listed(plane, name)}


def alerts_as_listed(plane: ControlPlane, name: str) -> dict[str, Any]:
    def documents(listing: Listing, key: str) -> dict[str, tuple[int, Any]]:
        rows = listed(plane, listing, name, key)
        return {row[key]: (row["version"], json.loads(row["document"])) for row in rows}

    return {
        "rules": documents(ALERT_RULES, "name"),
        "channels": documents(ALERT_CHANNELS, "name"),
        "silences": documents(SILENCES, "id"),
        "alerts": {
            row["id"]: (row["rule"], row["state"], json.loads(row["labels"]), row["at"], row["ended"], row["reason"])
            for row in listed(plane, ALERTS, name, "at")
        },
    }


def alerts_as_folded(tenant: Tenant) -> dict[str, Any]:
    def documents(about: str, contents: Any) -> dict[str, tuple[int, Any]]:
        return {
            name: (tenant.version(f"{about}/{name}"), json.loads(json.dumps(content.to_document())))
            for name, content in contents.items()
        }

    book = tenant.alerts
    return {
        "rules": documents("alert-rule", book.rules),
        "channels": documents("alert-channel", book.channels),
        "silences": documents("silence", book.silences),
        "alerts": {
            id: (alert.rule, alert.state, alert.labels, alert.at, alert.ended, alert.reason)
            for id, alert in book.alerts.items()
        },
    }


def as_folded(tenant: Tenant) -> dict[str, Any]:
    """The same, as the domain has it."""

    def parts(of: Any) -> tuple[Any, ...] | None:
        return None if of is None else (dict(of.document), dict(of.selector), dict(of.nodes))

    return {
        "clusters": {
            name: {
                "version": tenant.version(f"cluster/{name}"),
                "agents": {node: (agent.serial, agent.at) for node, agent in cluster.agents.items()},
                "tokens": {id: (token.expires_at, token.node) for id, token in cluster.join_tokens.items()},
                "counts": (len(cluster.agents), len(cluster.join_tokens)),
                "labels": dict(cluster.labels),
            }
            for name, cluster in tenant.clusters.items()
        },
        "policies": {
            name: {
                "version": tenant.version(f"policy/{name}"),
                "draft": parts(policy.draft),
                "in_force": parts(policy.in_force),
                "number": policy.revision,
                "rollout": "" if policy.rollout is None else policy.rollout.state,
                "revisions": [parts(each) for each in policy.revisions],
            }
            for name, policy in tenant.policies.items()
        },
        "tokens": {id: (token.title, token.role, token.expires_at) for id, token in tenant.tokens.items()},
        "alerts": alerts_as_folded(tenant),
    }


def next_step(plane: ControlPlane, name: str, policy: str) -> c.Command:
    """That of the policy's rollout, if there is one."""
    with plane.reading(name) as tenant:
        found = tenant.policies.get(policy)
        rollout = found.rollout if found else None
        return c.AdvanceRollout(policy, rollout.revision, rollout.stage + 1) if rollout else c.DiscardDraft(policy)


def alerts_of(place: str, id: str, rule: Any, channel: Any, silence: Any) -> list[c.Command]:
    fire = c.FireAlert(place, id, {"severity": "info"}, {"summary": "slow"}, 0.5, NOW)
    return [
        c.SetAlertChannel("east", channel),
        c.SetAlertRule(place, rule),
        c.SetSilence(id, silence),
        fire,
        c.TellAlerts("east", {id: "firing"}),
        c.ResolveAlert(place, id, "good"),
        fire,
        c.EndSilence(id),
        c.RemoveAlertRule(place),
        c.RemoveAlertChannel("east"),
    ]


FREE = [c.SetCaps({}), c.LimitTenant(TenantQuota())]
"""Else what earlier steps have set would leave few rollouts."""
places = st.sampled_from(["east", "west"])
turns = st.sampled_from(
    [(c.PauseRollout,), (c.PauseRollout, c.ResumeRollout), (c.TakeBackRollout,), (str,), (str, str, str, str)]
)
steps = st.one_of(
    any_command.map(lambda command: [command]),
    st.tuples(places, ids, nodes).map(
        lambda t: [
            c.AddCluster(t[0]),
            c.IssueJoinToken(t[0], t[1], DIGEST, NOW + 50),
            c.EnrolAgent(t[0], t[2], t[1], DIGEST, "1f"),
        ]
    ),
    st.tuples(places, contents).map(lambda t: [c.DraftPolicy(t[0], t[1]), c.PublishPolicy(t[0])]),
    st.tuples(places, nodes).map(lambda t: [c.RevokeAgent(t[0], n) for n in ("n1", "n2")] + [c.RemoveCluster(t[0])]),
    st.tuples(places, contents, plans, st.lists(turns, max_size=3).map(chain.from_iterable)).map(
        lambda t: [*FREE, c.DraftPolicy(t[0], t[1]), c.PublishPolicy(t[0], t[2]), *(turn(t[0]) for turn in t[3])]
    ),
    st.tuples(places, contents, plans).map(
        lambda t: [*FREE, c.DraftPolicy(t[0], t[1]), c.PublishPolicy(t[0], t[2]), c.TakeBackRollout(t[0], "worse")]
    ),
    st.tuples(places, ids).map(
        lambda t: [c.AddCluster(t[0]), c.IssueJoinToken(t[0], t[1], DIGEST, NOW + 50), c.RevokeJoinToken(t[0], t[1])]
    ),
    st.tuples(places, nodes).map(
        lambda t: [c.TrustCluster(t[0], URL, CA, "a/b"), c.EnrolReviewedAgent(t[0], t[1], URL, "a/b", "2f")]
    ),
    st.tuples(places, contents).map(lambda t: [c.DraftPolicy(t[0], t[1]), c.DiscardDraft(t[0])]),
    places.map(lambda name: [c.SetBudget(name, VolumeBudget(5)), c.RemoveBudget(name)]),
    st.tuples(places, st.sampled_from(["a", "b"])).map(
        lambda t: [c.AddCluster(t[0]), c.LabelCluster(t[0], {"zone": t[1]})]
    ),
    st.tuples(places, ids, alert_rules, alert_channels, silences, st.integers(4, 11)).map(
        lambda t: alerts_of(*t[:5])[: t[5]]
    ),
    st.just([c.GrantGroup("/ops", Role.VIEWER), c.RevokeGrant("/ops")]),
    ids.map(lambda id: [c.IssueToken(id, "ci", Role.VIEWER, DIGEST), c.RevokeToken(id)]),
    st.just("read"),
)


@pytest.mark.timeout(300)
def test_tables_are_what_the_log_says_however_they_were_made(plane: ControlPlane) -> None:
    seen: set[str] = set()

    @given(st.lists(steps, min_size=25, max_size=40))
    @settings(max_examples=100, suppress_health_check=list(HealthCheck))
    def any_sequence(sequence: list[Any]) -> None:
        name = f"t{next(_numbers)}"
        plane.carry_out(name, c.CreateTenant(), BY)
        for step in sequence:
            if step == "read":
                plane.lists.catch_up(name)
                continue
            for command in step:
                if isinstance(command, str):
                    command = next_step(plane, name, command)
                try:
                    seen.update(type(event).__name__ for event in plane.carry_out(name, command, BY).events)
                except RefusedError:
                    continue
        with plane.reading(name) as tenant:
            expected = as_folded(tenant)
        assert as_listed(plane, name) == expected
        pieces = tables(plane.store, name)
        assert plane.lists.rebuild(name) == plane.store.heads()[name].position
        assert tables(plane.store, name) == pieces
        assert as_listed(plane, name) == expected

    any_sequence()
    unseen = {kind.__name__ for kind in get_args(Event)} - seen
    assert unseen <= {"TenantCreated", "TenantClosed"}, unseen


def fill(plane: ControlPlane, name: str) -> None:
    """Agents, policies, tokens: enough that orders differ, with equal values among those that may be."""
    plane.carry_out(name, c.CreateTenant(), BY)
    for cluster, agents in (("east", 9), ("north-1", 0), ("north", 2), ("west", 2)):
        plane.carry_out(name, c.AddCluster(cluster), BY)
        for number in (n * 7 % 11 for n in range(agents)):
            token = f"{cluster}{number}"
            plane.carry_out(name, c.IssueJoinToken(cluster, token, DIGEST, NOW + 1), BY)
            plane.carry_out(name, c.EnrolAgent(cluster, f"n-{number}.b", token, DIGEST, "1f"), BY)
    for number in range(5):
        plane.carry_out(name, c.IssueJoinToken("east", f"z{number}", DIGEST, NOW + 5 + number % 2), BY)
    for number, title in enumerate(["ci", "Öl", "ci", "a-b", "a b"]):
        end = None if number % 2 else NOW + 9 - number
        plane.carry_out(name, c.IssueToken(str(number), title, list(Role)[number % 3], DIGEST, end), BY)
    channel = AlertChannel(ChannelKind.WEBHOOK, "https://alerts.example.com/")
    for number, rule in enumerate(("slow", "away", "a")):
        plane.carry_out(name, c.SetAlertChannel(f"c{rule}", channel), BY)
        plane.carry_out(name, c.SetAlertRule(rule, AlertRule(AlertKind.THROTTLED, 0.5)), BY)
        silence = AlertSilence((AlertMatcher("policy", "web"),), NOW, NOW + 9 - number % 2, "x")
        plane.carry_out(name, c.SetSilence(f"a{number}", silence), BY)
        for id in ("1", "2"):
            plane.carry_out(name, c.FireAlert(rule, f"{rule}{id}", {"severity": "info"}, {}, 0.5, NOW), BY)
    for policy in ("web", "a", "a-b", "ab", "backup"):
        for total in ("5Mbit", "6Mbit"):
            document = CheckedPolicy.from_document({"total": total, "classes": []})
            plane.carry_out(name, c.DraftPolicy(policy, document), BY)
            plane.carry_out(name, c.PublishPolicy(policy), BY)
    plane.carry_out(name, c.DraftPolicy("a", CheckedPolicy.from_document({"total": "7Mbit", "classes": []})), BY)


OF = {
    "read_agents": equal("cluster", "east"),
    "read_join_tokens": equal("cluster", "east"),
    "read_revisions": equal("policy", "a"),
}


def test_lists_are_sorted_and_paged_as_asked(plane: ControlPlane) -> None:
    fill(plane, "shop")
    fill(plane, "other")
    lengths: dict[str, int] = {}
    for listing in (
        POLICIES,
        REVISIONS,
        CLUSTERS,
        JOIN_TOKENS,
        AGENTS,
        TOKENS,
        EVENTS,
        ALERT_RULES,
        ALERT_CHANNELS,
        SILENCES,
        ALERTS,
    ):
        filters = [OF[listing.table]] if listing.table in OF else []
        page: Callable[..., list[Any]] = plane.lists.log_page if listing is EVENTS else plane.lists.page
        for order in listing.orders:
            whole = page(listing, "shop", filters=filters, order=order, limit=ALL)
            lengths[listing.table.rpartition(" ")[2]] = len(whole)
            in_order = sorted(whole, key=lambda row: listing.place(order, row), reverse=order.startswith("-"))
            assert whole == in_order, (listing.table, order)
            for limit in (1, 3):
                found: list[Any] = []
                while part := page(
                    listing,
                    "shop",
                    filters=filters,
                    order=order,
                    after=listing.place(order, found[-1]) if found else (),
                    limit=limit,
                ):
                    found += part
                assert found == whole, (listing.table, order, limit)
    assert lengths.pop("events") == plane.store.heads()["shop"].position
    assert lengths == {
        "policies": 5, "read_revisions": 2, "read_clusters": 4, "read_join_tokens": 5, "read_agents": 9, "read_tokens": 5,
        "read_alert_rules": 3, "read_alert_channels": 3, "read_silences": 3, "read_alerts": 6,
    }  # fmt: skip


def test_filters_leave_what_they_should(plane: ControlPlane) -> None:
    fill(plane, "shop")
    names = [row["name"] for row in listed(plane, POLICIES, "shop", "name", begins("name", "a"))]
    assert names == ["a", "a-b", "ab"]
    assert [row["name"] for row in listed(plane, POLICIES, "shop", "name", equal("drafted", 1))] == ["a"]
    nodes_1 = [
        row["node"] for row in listed(plane, AGENTS, "shop", "node", equal("cluster", "east"), begins("node", "n-1"))
    ]
    assert nodes_1 == ["n-1.b", "n-10.b"]
    assert listed(plane, AGENTS, "nobody", "node") == []


def test_an_order_stands_while_the_list_changes(plane: ControlPlane) -> None:
    """Nothing twice and nothing left out of what is there all the time."""
    fill(plane, "shop")
    first = listed(plane, TOKENS, "shop", "title")
    plane.carry_out("shop", c.RevokeToken(first[0]["id"]), BY)
    plane.carry_out("shop", c.IssueToken("9", "a", Role.VIEWER, DIGEST), BY)
    after = (first[1]["title"], first[1]["id"])
    rest = plane.lists.page(TOKENS, "shop", order="title", after=after, limit=ALL)
    assert [row[0] for row in rest] == [row["id"] for row in first[2:]]


def test_whoever_has_written_sees_it_also_while_all_is_made_again(plane: ControlPlane, database_url: str) -> None:
    """Four write and read by two stores, as two processes would, while a third makes the tables again and again."""
    other_store, third = open_store(database_url), open_store(database_url)
    planes = (plane, ControlPlane(other_store, lambda: NOW))
    plane.carry_out("shop", c.CreateTenant(), BY)
    done, rebuilt = Flag(), count()

    def write(number: int) -> None:
        mine, theirs = planes[number % 2], planes[1 - number % 2]
        for step in range(15):
            name = f"c{number}-{step}"
            mine.carry_out("shop", c.AddCluster(name), BY)
            for each in (mine, theirs):
                names = {row["name"] for row in listed(each, CLUSTERS, "shop", "name", begins("name", f"c{number}-"))}
                assert names == {f"c{number}-{earlier}" for earlier in range(step + 1)}

    def rebuild() -> None:
        again = ControlPlane(third, lambda: NOW)
        while not done.is_set():
            again.lists.rebuild("shop")
            next(rebuilt)

    with ThreadPoolExecutor(5) as threads:
        rebuilding = threads.submit(rebuild)
        try:
            list(threads.map(write, range(4)))
        finally:
            done.set()
        rebuilding.result()
    assert next(rebuilt) > 1
    with plane.reading("shop") as tenant:
        assert as_listed(plane, "shop") == as_folded(tenant)
    other_store.close()
    third.close()


def test_what_an_older_version_wrote_is_listed(plane: ControlPlane, database_url: str) -> None:
    """It knows of no tables to fill: more than one batch, with events that were there before the tables."""
    plane.carry_out("shop", c.CreateTenant(), BY)
    for number in range(1100):
        plane.carry_out("shop", c.RetitleTenant(str(number)), BY)
    plane.carry_out("shop", c.AddCluster("east"), BY)
    again = ControlPlane(open_store(database_url), lambda: NOW)
    assert [row["name"] for row in listed(again, CLUSTERS, "shop", "name")] == ["east"]
    again.store.close()
