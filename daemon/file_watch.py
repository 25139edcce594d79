"""Detects changes of files: at once by inotify(7), and by checking each once per second.

A path is watched wherever it can change: in each directory that a path component is looked up in (the file's own, and
that of every symbolic link), for renames, replaced links (``..data`` of the kubelet's volumes), deletion and creation;
and the file itself, for writes, also by another name or through a bind mount. After each event the path is resolved
again. The check once per second covers what inotify does not report: network file systems, mmap(2), a replaced
directory.

**Half-written files.** A change in progress is not reported while its end can be detected. A file renamed into place is
complete. A written file is reported when it has been closed, and no event has followed for a moment: scripts open it
again for the next line. If a writer keeps it open, :data:`UNCLOSED_S` without an event suffice. Undetectable cases (a
program killed halfway) are left to the reader, which must refuse such a file; the next event is reported again.
"""

from __future__ import annotations

import errno
import math
import os
import stat
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import trio

from daemon import inotify
from daemon.inotify import Inotify
from daemon.log import Logger

log = Logger()

QUIET_S: Final = 0.05
"""Seconds without an event after which a change is over ..."""
CHANGING_S: Final = 0.2
"""... but from its first event on it may last no longer than this."""
UNCLOSED_S: Final = 0.5
"""Seconds that a file may stay open for writing, without a write, before its content counts."""
WRITING_S: Final = 3.0
"""Maximum seconds of writing from the first byte: an endless writer (a log) must not keep a policy out for ever."""
LOOK_S: Final = 1.0
"""Seconds between two checks. A check is one stat(2) per file."""
LOOK_ONLY_S: Final = 0.25
"""The same if inotify is not available."""

_FOLDER: Final = (
    inotify.CREATE | inotify.MOVED_TO | inotify.MOVED_FROM | inotify.DELETE | inotify.CLOSE_WRITE
    | inotify.DELETE_SELF | inotify.MOVE_SELF | inotify.ONLYDIR
)  # fmt: skip
"""Without MODIFY: writes to other files in that directory, such as a log, would wake this process."""
_FILE: Final = inotify.MODIFY | inotify.CLOSE_WRITE | inotify.ATTRIB | inotify.DELETE_SELF | inotify.MOVE_SELF
_SELF: Final = inotify.DELETE_SELF | inotify.MOVE_SELF | inotify.UNMOUNT | inotify.IGNORED
_LIMITS: Final = frozenset({errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_REMEDY: Final = "Raise fs.inotify.max_user_instances and max_user_watches on the node."
_MOST_LINKS: Final = 40  # path_resolution(7)

Paths = Callable[[], Sequence[Path]]
Signature = tuple[object, ...]


class Settling:
    """Decides when a change in progress is over. Pure: times are passed, in seconds of any clock."""

    def __init__(self) -> None:
        self._first = math.inf
        self._last = math.inf
        self._writing = False
        self._whole = False

    @property
    def due(self) -> float:
        """The time from which on the change counts as over; infinity without a change."""
        if self._whole:
            return self._last
        if self._writing:
            return min(self._last + UNCLOSED_S, self._first + WRITING_S)
        return min(self._last + QUIET_S, self._first + CHANGING_S)

    def note(self, now: float, mask: int, *, created: bool = False) -> None:
        """Record an event of a file. ``created``: it is a new file that its creator still has open."""
        self._first = min(self._first, now)
        self._last = now
        if mask & inotify.MOVED_TO:
            self._writing, self._whole = False, True
        elif mask & inotify.CLOSE_WRITE:
            self._writing = self._whole = False
        elif mask & inotify.MODIFY or created:
            self._writing, self._whole = True, False


def signature(paths: Iterable[Path]) -> Signature:
    """A value that differs once a file has changed; a missing or unreadable file has one, too."""
    return tuple((path, _identity(path)) for path in paths)


def steps(path: Path) -> Iterator[tuple[Path, str]]:
    """The directories in which ``path`` is looked up, each with the name: its own and those of links."""
    here = Path("/")
    names = deque(path.absolute().parts[1:])
    links = 0
    while names:
        name = names.popleft()
        if name == "..":
            here = here.parent
            continue
        try:
            target = Path(os.readlink(here / name))
        except OSError:
            if not names:
                yield here, name
            here /= name
            continue
        yield here, name
        links += 1
        if links > _MOST_LINKS:
            return
        if target.is_absolute():
            here = Path("/")
        names.extendleft(part for part in reversed(target.parts) if part != "/")


async def follow(paths: Paths, changed: Callable[[], None]) -> None:
    """Call ``changed`` once watching has begun, and then after each change of a file, until cancelled.

    ``paths`` returns the files to be watched now; it is called again each time.
    """
    with ExitStack() as stack:
        try:
            watches = _Watches(stack.enter_context(Inotify()), paths)
            watches.arm()
        except OSError as error:
            log.warning(
                "the policy's files are looked at again and again, since inotify cannot be had",
                every=f"{LOOK_ONLY_S:g}s",
                error=error.strerror,
                remedy=_REMEDY,
            )
            await _look(paths, changed)
        else:
            await _listen(watches, paths, changed)


async def _look(paths: Paths, changed: Callable[[], None]) -> None:
    """Without inotify: a change is over when two consecutive checks agree."""
    told = last = None
    while True:
        now = signature(paths())
        if now == last and now != told:
            told = now
            changed()
        last = now
        await trio.sleep(LOOK_ONLY_S)


async def _listen(watches: _Watches, paths: Paths, changed: Callable[[], None]) -> None:
    seen = signature(paths())
    changed()
    settling = Settling()
    next_look = trio.current_time() + LOOK_S
    while True:
        with trio.move_on_at(min(settling.due, next_look)):
            await trio.lowlevel.wait_readable(watches)
        now = trio.current_time()
        watches.take(settling, now)
        if now >= next_look:
            next_look = now + LOOK_S
            if settling.due == math.inf and signature(paths()) != seen:
                watches.arm_again()
                settling.note(now, 0)
        if settling.due <= now:
            settling = Settling()
            seen = signature(paths())
            changed()


class _Watches:
    """The inotify watches for some paths."""

    def __init__(self, kernel: Inotify, paths: Paths) -> None:
        self._kernel = kernel
        self._paths = paths
        self._names: dict[int, dict[str, Path]] = {}
        self._warned = False

    def fileno(self) -> int:
        return self._kernel.fileno()

    def arm(self) -> None:
        """Watch the current resolution of the paths, and nothing else. Raises OSError if a limit is reached."""
        names: dict[int, dict[str, Path]] = defaultdict(dict)
        for path in self._paths():
            for folder, name in steps(path):
                self._add(folder, _FOLDER, names, {name: folder / name})
            self._add(path, _FILE, names, {"": path})
        for gone in self._names.keys() - names.keys():
            self._kernel.remove(gone)
        self._names = names

    def _add(self, path: Path, mask: int, names: dict[int, dict[str, Path]], about: dict[str, Path]) -> None:
        try:
            names[self._kernel.add(path, mask)].update(about)
        except OSError as error:
            # Missing or unwatchable files are left to the check once per second.
            if error.errno in _LIMITS:
                raise

    def take(self, settling: Settling, now: float) -> None:
        """Read the pending events, and record those of these paths."""
        ours = False
        for event in self._kernel.read():
            about = self._names.get(event.watch, {})
            if event.name in about or event.mask & inotify.OVERFLOW or (about and event.mask & _SELF):
                ours = True
                created = bool(event.mask & inotify.CREATE) and _is_open_still(about[event.name])
                settling.note(now, event.mask, created=created)
        if ours:
            self.arm_again()

    def arm_again(self) -> None:
        """The same while running: if a limit is reached, the check once per second has to suffice."""
        try:
            self.arm()
        except OSError as error:
            if not self._warned:
                self._warned = True
                log.warning("changes of the policy's files may be noticed late", error=error.strerror, remedy=_REMEDY)


def _is_open_still(made: Path) -> bool:
    """Whether a new name is a file that its creator still has open: neither a symbolic nor a hard link."""
    try:
        found = os.lstat(made)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1


def _identity(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None  # a pipe is read once
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
