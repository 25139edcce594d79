"""``/healthz`` and ``/readyz``: short texts, with the status code for machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

READY: Final = "ready"
"""What ``/readyz`` says with status 200: everything is in force."""
NOT_READY: Final = "not ready"
"""What it says with status 503: before, while something that was installed is missing, and while draining."""
_OK: Final = "ok"


@dataclass(frozen=True, slots=True)
class Health:
    """``/healthz``. An answer proves that the proxy's event loop turns."""

    missing_workers: tuple[int, ...] = ()
    """Numbers of the workers that do not answer."""
    lost: tuple[str, ...] = ()
    """What another program has removed of what was installed, and is not there now."""
    notes: tuple[str, ...] = ()
    """What is not as it is wanted, one line each: a refused policy, QUIC without names, warnings."""

    @property
    def status(self) -> int:
        """200, or 503 when a worker or something that was installed is missing."""
        return 503 if self.missing_workers or self.lost else 200

    @property
    def text(self) -> str:
        """``ok`` and each note, or what is missing, on lines of their own."""
        lines = []
        if self.missing_workers:
            lines.append(f"no answer from worker {', '.join(map(str, self.missing_workers))}")
        lines += [f"missing: {each}" for each in self.lost]
        return "\n".join(lines or (_OK, *self.notes))
