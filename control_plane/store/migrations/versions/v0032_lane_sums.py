"""What went through lanes in each of the last seconds, as each process on one PostgreSQL has heard it."""

from __future__ import annotations

from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

_MINE = "tenant = current_setting('app.tenant', true)"


def upgrade() -> None:
    """SQLite has the table, too, so that both are of one version; nobody uses it there."""
    shared = op.get_bind().dialect.name == "postgresql"
    # What a crash of the database takes is of the last minute, and nobody asks for it again: no log is written of it.
    op.execute(
        f"""
        CREATE {"UNLOGGED " if shared else ""}TABLE lane_sums (
            tenant TEXT NOT NULL CHECK (tenant <> ''),
            process TEXT NOT NULL,
            second BIGINT NOT NULL,
            document TEXT NOT NULL,
            PRIMARY KEY (tenant, process, second)
        )
        """
    )
    if not shared:
        return
    op.execute("ALTER TABLE lane_sums ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE lane_sums FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY own_tenant ON lane_sums USING ({_MINE}) WITH CHECK ({_MINE})")
