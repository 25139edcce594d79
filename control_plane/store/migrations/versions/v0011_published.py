"""Up to which position each log was handed to Kafka."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE TABLE published (tenant TEXT PRIMARY KEY, position BIGINT NOT NULL)")
