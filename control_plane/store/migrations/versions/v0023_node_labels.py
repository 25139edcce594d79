"""Labels of nodes: those that policies are for, and those that clusters have. What was written before has none, so that
tables need not be filled again."""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

_COLUMNS: Final = (("read_policies", "draft_nodes"), ("read_revisions", "nodes"), ("read_clusters", "labels"))


def upgrade() -> None:
    for table, column in _COLUMNS:
        op.execute(f"ALTER TABLE {table} ADD COLUMN {column} TEXT NOT NULL DEFAULT '{{}}'")
