"""The log of each tenant, where it ends, and which requests were carried out."""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TABLES: Final = (
    """
    CREATE TABLE heads (
        tenant TEXT PRIMARY KEY CHECK (tenant <> ''),
        position BIGINT NOT NULL,
        digest TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE events (
        tenant TEXT NOT NULL CHECK (tenant <> ''),
        position BIGINT NOT NULL CHECK (position > 0),
        subject TEXT NOT NULL,
        kind TEXT NOT NULL,
        data TEXT NOT NULL,
        author TEXT NOT NULL,
        address TEXT NOT NULL,
        reason TEXT NOT NULL,
        at BIGINT NOT NULL,
        digest TEXT NOT NULL,
        PRIMARY KEY (tenant, position)
    )
    """,
    """
    CREATE TABLE requests (
        tenant TEXT NOT NULL,
        key TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        first BIGINT NOT NULL,
        last BIGINT NOT NULL,
        PRIMARY KEY (tenant, key)
    )
    """,
)
# Guards against mistakes, not against who owns the database.
_SQLITE_GUARDS: Final = tuple(
    f"CREATE TRIGGER events_{verb.lower()} BEFORE {verb} ON events "
    "BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END"
    for verb in ("UPDATE", "DELETE")
)
_POSTGRESQL_GUARDS: Final = (
    """
    CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'the log is append-only'; END $$
    """,
    """
    CREATE TRIGGER events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
    """,
)


def upgrade() -> None:
    guards = _POSTGRESQL_GUARDS if op.get_bind().dialect.name == "postgresql" else _SQLITE_GUARDS
    for statement in (*_TABLES, *guards):
        op.execute(statement)
