"""Tables that queries read, made from the events, and how far they are; and indexes of the log for the audit.

A later change of what is in them empties ``read_checkpoints`` and the tables: they are filled again by the next query.
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0010"
down_revision = "0001"
branch_labels = None
depends_on = None

# {text}: compared byte by byte on both databases, so that both sort alike, whatever PostgreSQL's locale is.
_STATEMENTS: Final = (
    "CREATE TABLE read_checkpoints (tenant TEXT PRIMARY KEY, position BIGINT NOT NULL)",
    """
    CREATE TABLE read_policies (
        tenant TEXT NOT NULL,
        name {text} NOT NULL,
        version BIGINT NOT NULL,
        revision BIGINT NOT NULL,
        in_force BIGINT NOT NULL,
        drafted BIGINT NOT NULL,
        draft_document TEXT NOT NULL,
        draft_selector TEXT NOT NULL,
        rollout TEXT NOT NULL,
        rollout_revision BIGINT NOT NULL,
        PRIMARY KEY (tenant, name)
    )
    """,
    """
    CREATE TABLE read_revisions (
        tenant TEXT NOT NULL,
        policy {text} NOT NULL,
        revision BIGINT NOT NULL,
        withdrawn BIGINT NOT NULL,
        document TEXT NOT NULL,
        selector TEXT NOT NULL,
        PRIMARY KEY (tenant, policy, revision)
    )
    """,
    """
    CREATE TABLE read_clusters (
        tenant TEXT NOT NULL,
        name {text} NOT NULL,
        version BIGINT NOT NULL,
        agents BIGINT NOT NULL,
        join_tokens BIGINT NOT NULL,
        PRIMARY KEY (tenant, name)
    )
    """,
    """
    CREATE TABLE read_join_tokens (
        tenant TEXT NOT NULL,
        cluster {text} NOT NULL,
        id {text} NOT NULL,
        expires_at BIGINT NOT NULL,
        node TEXT NOT NULL,
        PRIMARY KEY (tenant, cluster, id)
    )
    """,
    """
    CREATE TABLE read_agents (
        tenant TEXT NOT NULL,
        cluster {text} NOT NULL,
        node {text} NOT NULL,
        serial TEXT NOT NULL,
        joined BIGINT NOT NULL,
        position BIGINT NOT NULL,
        PRIMARY KEY (tenant, cluster, node)
    )
    """,
    "CREATE INDEX read_agents_position ON read_agents (tenant, position)",
    """
    CREATE TABLE read_tokens (
        tenant TEXT NOT NULL,
        id {text} NOT NULL,
        title {text} NOT NULL,
        role TEXT NOT NULL,
        expires_at BIGINT NOT NULL,
        PRIMARY KEY (tenant, id)
    )
    """,
    "CREATE INDEX events_author ON events (tenant, author, position)",
    "CREATE INDEX events_subject ON events (tenant, subject, position)",
)


def upgrade() -> None:
    text = 'TEXT COLLATE "C"' if op.get_bind().dialect.name == "postgresql" else "TEXT"
    for statement in _STATEMENTS:
        op.execute(statement.format(text=text))
