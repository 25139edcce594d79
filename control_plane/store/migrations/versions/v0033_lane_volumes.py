"""What went through lanes in each day: what budgets are compared with."""

from __future__ import annotations

from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None

_MINE = "tenant = current_setting('app.tenant', true)"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE lane_volumes (
            tenant TEXT NOT NULL CHECK (tenant <> ''),
            day BIGINT NOT NULL,
            policy TEXT NOT NULL,
            lane TEXT NOT NULL,
            direction TEXT NOT NULL,
            bytes BIGINT NOT NULL,
            PRIMARY KEY (tenant, day, policy, lane, direction)
        )
        """
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE lane_volumes ENABLE ROW LEVEL SECURITY")
        op.execute("ALTER TABLE lane_volumes FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY own_tenant ON lane_volumes USING ({_MINE}) WITH CHECK ({_MINE})")
