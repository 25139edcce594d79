"""Change history: who changed what, when, from what to what, and how it ended, on an append-only log.

A change is two events. :class:`Started` is on disk before the kernel is touched, :class:`Finished` follows when it is
done or has failed. A process that dies in between leaves the first without the second, and the log shows that change as
interrupted: nothing that was done to the kernel is ever missing here. The package knows nothing of policies or netlink;
states before and after are JSON objects.

The ``eventsourcing`` library is not used: its recorder stores Python class paths and bytes, so that author, time and
outcome cannot be asked for in SQL, and it would take one INSERT off our hands.
"""

from __future__ import annotations

from tc_core.history.events import ChangeRecord, Event, Finished, Outcome, Result, Standing, Started, Who
from tc_core.history.identity import default_path, describe_self, this_namespace
from tc_core.history.log import History
from tc_core.history.sqlite import MemoryHistory, SqliteHistory

__all__ = [
    "ChangeRecord",
    "Event",
    "Finished",
    "History",
    "MemoryHistory",
    "Outcome",
    "Result",
    "SqliteHistory",
    "Standing",
    "Started",
    "Who",
    "default_path",
    "describe_self",
    "this_namespace",
]
