"""What an event changes in the tables that queries read. Pure: it makes statements, and runs none.

Statements depend on nothing but the events before, so that tables made again are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from control_plane.domain.events import (
    AgentEnrolled,
    AgentRevoked,
    AlertEvent,
    ClusterAdded,
    ClusterEvent,
    ClusterLabelled,
    ClusterRemoved,
    DraftDiscarded,
    Event,
    JoinTokenIssued,
    JoinTokenRevoked,
    PolicyDrafted,
    PolicyEvent,
    PolicyPublished,
    PolicyRemoved,
    RolloutFinished,
    RolloutPaused,
    RolloutResumed,
    RolloutTakenBack,
    TokenIssued,
    TokenRevoked,
)
from control_plane.domain.rollout import RolloutState
from control_plane.read_models.alert_projection import of_alerts
from control_plane.read_models.statement import Statement
from control_plane.store.chain import canonical

TABLES: Final = (
    "read_policies", "read_revisions", "read_clusters", "read_join_tokens", "read_agents", "read_tokens",
    "read_alert_rules", "read_alert_channels", "read_silences", "read_alerts",
)  # fmt: skip
NEVER: Final = 2**62
"""The end of what has none: after all others."""


def changes(tenant: str, position: int, event: Event) -> Iterator[Statement]:
    """The statements of the event at a position."""
    if isinstance(event, PolicyEvent):
        yield from _of_policy(tenant, position, event)
    elif isinstance(event, ClusterEvent):
        yield from _of_cluster(tenant, position, event)
    elif isinstance(event, AlertEvent):
        yield from of_alerts(tenant, position, event)
    elif isinstance(event, TokenIssued):
        end = NEVER if event.expires_at is None else event.expires_at
        values = (tenant, event.id, event.title, event.role, end)
        yield "INSERT INTO read_tokens (tenant, id, title, role, expires_at) VALUES (?, ?, ?, ?, ?)", values
    elif isinstance(event, TokenRevoked):
        yield "DELETE FROM read_tokens WHERE tenant = ? AND id = ?", (tenant, event.id)


def _of_policy(tenant: str, position: int, event: PolicyEvent) -> Iterator[Statement]:
    about = (tenant, event.policy)
    if isinstance(event, PolicyDrafted):
        yield (
            (
                "INSERT INTO read_policies (tenant, name, version, revision, in_force, drafted, draft_document, "
                "draft_selector, draft_nodes, rollout, rollout_revision) VALUES (?, ?, ?, 0, 0, 1, ?, ?, ?, '', 0) "
                "ON CONFLICT (tenant, name) DO UPDATE SET version = excluded.version, drafted = 1, "
                "draft_document = excluded.draft_document, draft_selector = excluded.draft_selector, "
                "draft_nodes = excluded.draft_nodes"
            ),
            (*about, position, canonical(event.document), canonical(event.selector), canonical(event.nodes)),
        )
        return
    yield "UPDATE read_policies SET version = ? WHERE tenant = ? AND name = ?", (position, *about)
    if isinstance(event, DraftDiscarded):
        yield f"UPDATE read_policies SET {_NO_DRAFT} WHERE tenant = ? AND name = ?", about
    elif isinstance(event, PolicyPublished):
        yield from _supersede(about)
        yield (
            (
                "INSERT INTO read_revisions (tenant, policy, revision, withdrawn, document, selector, nodes) "
                "SELECT tenant, name, revision + 1, 0, draft_document, draft_selector, draft_nodes FROM read_policies "
                "WHERE tenant = ? AND name = ?"
            ),
            about,
        )
        yield f"UPDATE read_policies SET revision = revision + 1, {_NO_DRAFT} WHERE tenant = ? AND name = ?", about
        if event.plan is not None:
            yield from _roll_out(about, RolloutState.RUNNING)
            yield (
                "UPDATE read_policies SET rollout_revision = ? WHERE tenant = ? AND name = ?",
                (event.revision, *about),
            )
        yield _IN_FORCE, (*about, *about)
    elif isinstance(event, PolicyRemoved):
        yield from _supersede(about)
        yield "UPDATE read_revisions SET withdrawn = 1 WHERE tenant = ? AND policy = ?", about
        yield f"UPDATE read_policies SET {_NO_DRAFT} WHERE tenant = ? AND name = ?", about
        yield _IN_FORCE, (*about, *about)
    elif isinstance(event, RolloutTakenBack):
        yield from _roll_out(about, RolloutState.TAKEN_BACK)
        yield (
            "UPDATE read_revisions SET withdrawn = 1 WHERE tenant = ? AND policy = ? AND revision = ?",
            (*about, event.revision),
        )
        yield _IN_FORCE, (*about, *about)
    elif (state := _STATES.get(type(event))) is not None:
        yield from _roll_out(about, state)


_NO_DRAFT: Final = "drafted = 0, draft_document = '', draft_selector = '', draft_nodes = '{}'"
_ACTIVE: Final = f"rollout IN ('{RolloutState.RUNNING}', '{RolloutState.PAUSED}')"
_IN_FORCE: Final = (
    "UPDATE read_policies SET in_force = COALESCE((SELECT MAX(r.revision) FROM read_revisions r "
    "WHERE r.tenant = ? AND r.policy = ? AND r.withdrawn = 0), 0) WHERE tenant = ? AND name = ?"
)
_STATES: Final[dict[type[PolicyEvent], RolloutState]] = {
    RolloutPaused: RolloutState.PAUSED,
    RolloutResumed: RolloutState.RUNNING,
    RolloutFinished: RolloutState.DONE,
}


def _roll_out(about: tuple[str, str], state: RolloutState) -> Iterator[Statement]:
    yield "UPDATE read_policies SET rollout = ? WHERE tenant = ? AND name = ?", (state.value, *about)


def _supersede(about: tuple[str, str]) -> Iterator[Statement]:
    """End what is under way, as the domain does."""
    yield (
        (
            "UPDATE read_revisions SET withdrawn = 1 WHERE tenant = ? AND policy = ? AND revision = "
            f"(SELECT p.rollout_revision FROM read_policies p WHERE p.tenant = ? AND p.name = ? AND p.{_ACTIVE})"
        ),
        (*about, *about),
    )
    yield (
        f"UPDATE read_policies SET rollout = '{RolloutState.SUPERSEDED}' WHERE tenant = ? AND name = ? AND {_ACTIVE}",
        about,
    )


def _of_cluster(tenant: str, position: int, event: ClusterEvent) -> Iterator[Statement]:
    about = (tenant, event.cluster)
    if isinstance(event, ClusterAdded):
        yield (
            "INSERT INTO read_clusters (tenant, name, version, agents, join_tokens) VALUES (?, ?, ?, 0, 0)",
            (*about, position),
        )
        return
    if isinstance(event, ClusterRemoved):
        yield "DELETE FROM read_join_tokens WHERE tenant = ? AND cluster = ?", about
        yield "DELETE FROM read_agents WHERE tenant = ? AND cluster = ?", about
        yield "DELETE FROM read_clusters WHERE tenant = ? AND name = ?", about
        return
    yield "UPDATE read_clusters SET version = ? WHERE tenant = ? AND name = ?", (position, *about)
    match event:
        case ClusterLabelled(_, labels):
            yield "UPDATE read_clusters SET labels = ? WHERE tenant = ? AND name = ?", (canonical(labels), *about)
        case JoinTokenIssued(_, id, _, expires_at, node):
            yield (
                "INSERT INTO read_join_tokens (tenant, cluster, id, expires_at, node) VALUES (?, ?, ?, ?, ?)",
                (*about, id, expires_at, node),
            )
            yield "UPDATE read_clusters SET join_tokens = join_tokens + 1 WHERE tenant = ? AND name = ?", about
        case JoinTokenRevoked(_, id):
            yield from _spend(about, id)
        case AgentEnrolled(_, node, join_token, serial, at):
            if join_token:
                yield from _spend(about, join_token)
            # Before the agent is there: one that enrols again is no second one.
            yield (
                (
                    "UPDATE read_clusters SET agents = agents + 1 WHERE tenant = ? AND name = ? AND NOT EXISTS "
                    "(SELECT 1 FROM read_agents a WHERE a.tenant = ? AND a.cluster = ? AND a.node = ?)"
                ),
                (*about, *about, node),
            )
            yield (
                (
                    "INSERT INTO read_agents (tenant, cluster, node, serial, joined, position) "
                    "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (tenant, cluster, node) DO UPDATE SET "
                    "serial = excluded.serial, joined = excluded.joined, position = excluded.position"
                ),
                (*about, node, serial, at, position),
            )
        case AgentRevoked(_, node):
            yield "DELETE FROM read_agents WHERE tenant = ? AND cluster = ? AND node = ?", (*about, node)
            yield "UPDATE read_clusters SET agents = agents - 1 WHERE tenant = ? AND name = ?", about


def _spend(about: tuple[str, str], id: str) -> Iterator[Statement]:
    yield "DELETE FROM read_join_tokens WHERE tenant = ? AND cluster = ? AND id = ?", (*about, id)
    yield "UPDATE read_clusters SET join_tokens = join_tokens - 1 WHERE tenant = ? AND name = ?", about
