"""What each process on one PostgreSQL wants to know of the others' agents, and says of its own."""

from __future__ import annotations

from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None

_MINE = "tenant = current_setting('app.tenant', true)"


def upgrade() -> None:
    """SQLite has the table, too, so that both are of one version; nobody uses it there."""
    shared = op.get_bind().dialect.name == "postgresql"
    # Who wants to know something says so again each second: no log is written of it.
    op.execute(
        f"""
        CREATE {"UNLOGGED " if shared else ""}TABLE agent_sights (
            tenant TEXT NOT NULL CHECK (tenant <> ''),
            process TEXT NOT NULL,
            wish TEXT NOT NULL,
            says TEXT NOT NULL,
            PRIMARY KEY (tenant, process)
        )
        """
    )
    if not shared:
        return
    op.execute("ALTER TABLE agent_sights ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE agent_sights FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY own_tenant ON agent_sights USING ({_MINE}) WITH CHECK ({_MINE})")
