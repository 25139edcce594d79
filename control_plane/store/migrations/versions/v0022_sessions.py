"""Who has logged in by the identity provider, with a browser."""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

_TABLE: Final = """
    CREATE TABLE sessions (
        id TEXT PRIMARY KEY,
        document TEXT NOT NULL,
        sealed TEXT NOT NULL,
        fresh_until BIGINT NOT NULL,
        ends_at BIGINT NOT NULL
    )
"""


def upgrade() -> None:
    op.execute(_TABLE)
    op.execute("CREATE INDEX sessions_by_end ON sessions (ends_at)")
