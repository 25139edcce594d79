"""On-disk records of what running ``podlane run`` processes have created on this host, for clean-up by the next run.

``/run/podlane/net-N/NAME.json`` is one run, in the host's network namespace number N (a container that shares /run has
another); ``host.json`` in the same directory holds kernel settings and their values before the first run changed them.
A record is written before what it records is created. Readers and writers hold the lock, which is flock(2) on the
directory itself: this needs no file that would have to stay. A run is dead when no process has its pid and start time
any more.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from podlane.errors import NotPermittedError
from podlane.netns.namespace import sysctl_path

STATE: Final = Path("/run/podlane")
_SO_NETNS_COOKIE: Final = 71
"""A number that is unique per network namespace until the next boot (linux/socket.h, since 5.14)."""
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_HOST: Final = "host.json"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run: its process, and what it created."""

    name: str
    pid: int
    started: int
    interface: str
    ipv4: str
    ipv6: str

    @property
    def alive(self) -> bool:
        return process_start(self.pid) == self.started


def process_start(pid: int) -> int | None:
    """The start time of a process, in clock ticks since boot (proc(5), /proc/PID/stat); None if it does not exist."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is the program's name in brackets and may contain any character.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


class RunState:
    """The records of this network namespace; get one from :func:`locked_state`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def runs(self) -> list[RunRecord]:
        """All recorded runs, live and dead."""
        return [
            RunRecord(**document)
            for path in sorted(self._folder.glob("*.json"))
            if path.name != _HOST and (document := _read(path)) is not None
        ]

    def write(self, record: RunRecord) -> None:
        """Record a run."""
        self._folder.mkdir(parents=True, exist_ok=True)
        _write(self._folder / f"{record.name}.json", asdict(record))

    def forget(self, record: RunRecord) -> list[str]:
        """Delete a run's record. With the last one, restore the kernel settings that runs changed.

        Return then the names passed to :meth:`note_new`; nothing while other runs exist.
        """
        (self._folder / f"{record.name}.json").unlink(missing_ok=True)
        if self.runs():
            return []
        new: list[str] = self._host()["new"]
        self._restore_settings()
        return new

    def note_new(self, names: Iterable[str]) -> None:
        """Record by name the objects that exist only since the first of the present runs."""
        document = self._host()
        document["new"] = sorted({*document["new"], *names})
        _write(self._folder / _HOST, document)

    def set_setting(self, key: str, value: str) -> None:
        """Set a kernel setting of the host until the last run ends."""
        path = sysctl_path(key)
        before = path.read_text().strip()
        if before == value:
            return
        document = self._host()
        document["settings"].setdefault(key, {"before": before, "during": value})
        _write(self._folder / _HOST, document)
        path.write_text(value)

    def _restore_settings(self) -> None:
        for key, change in self._host()["settings"].items():
            path = sysctl_path(key)
            # A later change by another program stays.
            if path.exists() and path.read_text().strip() == change["during"]:
                path.write_text(change["before"])
        (self._folder / _HOST).unlink(missing_ok=True)

    def _host(self) -> dict[str, Any]:
        boot = _BOOT_ID.read_text().strip()
        document = _read(self._folder / _HOST)
        if document is None or document.get("boot") != boot:
            return {"boot": boot, "settings": {}, "new": []}
        return document


@contextmanager
def locked_state(root: Path = STATE) -> Iterator[RunState]:
    """Hold the lock on the records of the caller's network namespace. Leaves no empty directory behind."""
    descriptor = _lock(root)
    folder = root / f"net-{_network_namespace()}"
    try:
        yield RunState(folder)
    finally:
        for path in (folder, root):
            # It does not exist, or is still in use.
            with suppress(OSError):
                path.rmdir()
        os.close(descriptor)


def _lock(root: Path) -> int:
    while True:
        try:
            root.mkdir(mode=0o755, exist_ok=True)
            descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # removed by another run in between
        except OSError as error:
            raise NotPermittedError(
                f"{root} cannot be used: {error.strerror}. Run as root, with /run writable."
            ) from None
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            if os.stat(root).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except FileNotFoundError:
            pass
        # The previous holder removed the directory; the lock is on one that no other process can find.
        os.close(descriptor)


def _network_namespace() -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            return int.from_bytes(probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), "little")
        except OSError:
            return os.stat("/proc/thread-self/ns/net").st_ino


def _read(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def _write(path: Path, document: object) -> None:
    """Replace a file atomically, so that a reader or a crash never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(document, indent=2) + "\n")
    new.replace(path)
