"""The lists that there are. No column is ever null, so that an order is the same on both databases."""

from __future__ import annotations

from typing import Final

from control_plane.read_models.listing import Listing

_OF_REVISION: Final = (
    "(SELECT r.{0} FROM read_revisions r "
    "WHERE r.tenant = p.tenant AND r.policy = p.name AND r.revision = p.in_force) AS {0}"
)
_POLICIES: Final = (
    "(SELECT tenant, name, version, revision, in_force, drafted, draft_document, draft_selector, "
    f"draft_nodes, rollout, {_OF_REVISION.format('document')}, {_OF_REVISION.format('selector')}, "
    f"{_OF_REVISION.format('nodes')} FROM read_policies p) AS policies"
)

POLICIES: Final = Listing(
    _POLICIES,
    (
        "name",
        "version",
        "revision",
        "in_force",
        "document",
        "selector",
        "nodes",
        "drafted",
        "draft_document",
        "draft_selector",
        "draft_nodes",
        "rollout",
    ),
    {"name": ("name",), "version": ("version",)},
    frozenset({"version"}),
)
REVISIONS: Final = Listing(
    "read_revisions",
    ("revision", "document", "selector", "nodes"),
    {"revision": ("revision",)},
    frozenset({"revision"}),
)
CLUSTERS: Final = Listing(
    "read_clusters",
    ("name", "version", "agents", "join_tokens", "labels"),
    {"name": ("name",), "agents": ("agents", "name")},
    frozenset({"agents"}),
)
JOIN_TOKENS: Final = Listing(
    "read_join_tokens",
    ("id", "expires_at", "node"),
    {"id": ("id",), "expires_at": ("expires_at", "id")},
    frozenset({"expires_at"}),
)
AGENTS: Final = Listing(
    "read_agents",
    ("cluster", "node", "serial", "joined", "position"),
    {"node": ("cluster", "node"), "joined": ("position",)},
    frozenset({"position"}),
)
TOKENS: Final = Listing(
    "read_tokens",
    ("id", "title", "role", "expires_at"),
    {"id": ("id",), "title": ("title", "id"), "expires_at": ("expires_at", "id")},
    frozenset({"expires_at"}),
)
ALERT_RULES: Final = Listing(
    "read_alert_rules",
    ("name", "version", "kind", "severity", "document"),
    {"name": ("name",), "version": ("version",)},
    frozenset({"version"}),
)
ALERT_CHANNELS: Final = Listing(
    "read_alert_channels",
    ("name", "version", "kind", "document"),
    {"name": ("name",)},
)
SILENCES: Final = Listing(
    "read_silences",
    ("id", "version", "ends_at", "document"),
    {"id": ("id",), "ends_at": ("ends_at", "id")},
    frozenset({"ends_at"}),
)
ALERTS: Final = Listing(
    "read_alerts",
    ("id", "rule", "state", "severity", "labels", "annotations", "value", "since", "at", "ended", "reason"),
    {"at": ("at", "id"), "rule": ("rule", "id")},
    frozenset({"at"}),
)
EVENTS: Final = Listing(
    "events",
    ("tenant", "position", "subject", "kind", "data", "author", "address", "reason", "at", "digest"),
    {"position": ("position",)},
    frozenset({"position"}),
)
"""The log is a list as it is: its columns are those of :class:`~control_plane.store.records.StoredEvent`."""
