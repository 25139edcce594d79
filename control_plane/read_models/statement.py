"""What a projection makes."""

from __future__ import annotations

from control_plane.store.database import Value

Statement = tuple[str, tuple[Value, ...]]
"""SQL with ``?`` for its values."""
