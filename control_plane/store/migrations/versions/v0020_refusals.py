"""Which requests were refused."""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0020"
down_revision = "0011"
branch_labels = None
depends_on = None

_STATEMENTS: Final = (
    """
    CREATE TABLE refusals (
        tenant TEXT NOT NULL CHECK (tenant <> ''),
        number BIGINT NOT NULL CHECK (number > 0),
        at BIGINT NOT NULL,
        author TEXT NOT NULL,
        known BIGINT NOT NULL,
        address TEXT NOT NULL,
        operation TEXT NOT NULL,
        status BIGINT NOT NULL,
        problem TEXT NOT NULL,
        detail TEXT NOT NULL,
        reason TEXT NOT NULL,
        count BIGINT NOT NULL,
        PRIMARY KEY (tenant, number)
    )
    """,
    "CREATE INDEX refusals_by_known ON refusals (tenant, known, number)",
    """
    CREATE TABLE refusal_heads (
        tenant TEXT PRIMARY KEY CHECK (tenant <> ''),
        number BIGINT NOT NULL
    )
    """,
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
