"""What each process says of the agents that are connected to it, for the other processes on one PostgreSQL."""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0030"
down_revision = "0023"
branch_labels = None
depends_on = None

_MINE: Final = "tenant = current_setting('app.tenant', true)"
_STATEMENTS: Final = (
    """
    CREATE TABLE processes (
        id TEXT PRIMARY KEY,
        seen BIGINT NOT NULL
    )
    """,
    """
    CREATE TABLE agent_state_heads (
        tenant TEXT NOT NULL CHECK (tenant <> ''),
        process TEXT NOT NULL,
        batch BIGINT NOT NULL,
        PRIMARY KEY (tenant, process)
    )
    """,
    """
    CREATE TABLE agent_states (
        tenant TEXT NOT NULL CHECK (tenant <> ''),
        cluster TEXT NOT NULL,
        node TEXT NOT NULL,
        epoch BIGINT NOT NULL,
        process TEXT NOT NULL,
        batch BIGINT NOT NULL,
        document TEXT NOT NULL,
        PRIMARY KEY (tenant, cluster, node)
    )
    """,
    "CREATE INDEX agent_states_by_batch ON agent_states (tenant, process, batch)",
)


def upgrade() -> None:
    """SQLite has the tables, too, so that both are of one version; nobody uses them there."""
    for statement in _STATEMENTS:
        op.execute(statement)
    if op.get_bind().dialect.name != "postgresql":
        return
    for table in ("agent_state_heads", "agent_states"):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY own_tenant ON {table} USING ({_MINE}) WITH CHECK ({_MINE})")
    # Who looks for what is new needs all of them: names of tenants, and numbers.
    op.execute("CREATE POLICY all_heads ON agent_state_heads FOR SELECT USING (true)")
