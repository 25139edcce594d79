"""Who we are and where: the process, its user, its network namespace, and where its history is kept. Reads /proc.

Pids and namespace inodes are used again, after a reboot from the start. What is written down here is not:

* A process is its boot, its pid namespace, and its start in clock ticks since boot (proc_pid_stat(5), field 22).
* A network namespace is its boot, its inode as lsns(8) shows it, and its cookie (SO_NETNS_COOKIE, Linux 5.14), a
  counter that gives no number twice in a boot. Older kernels have no cookie: there, a namespace made after another was
  removed may get its inode and be taken for it.
"""

from __future__ import annotations

import os
import pwd
import shlex
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from tc_core.errors import HistoryError
from tc_core.history.events import Who

_T = TypeVar("_T")
_SO_NETNS_COOKIE: Final = 71
"""asm-generic/socket.h; a number of 64 bits."""
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_FILE: Final = Path("podlane/history.db")
_STATE_AFTER_NAME: Final = 0
_START_AFTER_NAME: Final = 19
"""Fields 3 and 22 of /proc/PID/stat, counted from the one behind the program's name: that may contain blanks."""


def default_path() -> Path:
    """Where the history is kept unless told otherwise.

    /var/lib/podlane/history.db for root, else podlane/history.db under $XDG_STATE_HOME or ~/.local/state (XDG Base
    Directory Specification; a relative $XDG_STATE_HOME is to be ignored). Raises :class:`HistoryError` for a user
    without a home.
    """
    if os.geteuid() == 0:
        return Path("/var/lib") / _FILE
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    if state.is_absolute():
        return state / _FILE
    try:
        return Path.home() / ".local/state" / _FILE
    except RuntimeError:
        raise HistoryError(
            f"User {os.geteuid()} has no home to keep a history in. Set XDG_STATE_HOME or HOME, or name a file."
        ) from None


def this_namespace() -> str:
    """The calling thread's network namespace, as text that no other one ever has; see the head of this module.

    After a reboot even the first namespace has another name, and rightly: what was in force there is gone. Raises
    :class:`HistoryError` without /proc.
    """
    inode = _look(lambda: os.readlink("/proc/thread-self/ns/net"))
    # A socket belongs to the namespace of the thread that makes it; unix ones there are in every kernel.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        try:
            cookie = int.from_bytes(ours.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
        except OSError:
            return f"{_boot()}/{inode}"
    return f"{_boot()}/{inode}/{cookie}"


def describe_self() -> Who:
    """This process and its user. Raises :class:`HistoryError` without /proc."""
    uid = os.getuid()
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:  # usual in containers
        user = ""
    arguments = _look(lambda: Path("/proc/self/cmdline").read_bytes()).removesuffix(b"\0").split(b"\0")
    pid = os.getpid()
    return Who(
        uid=uid,
        user=user,
        sudo_user=os.environ.get("SUDO_USER", ""),
        pid=pid,
        command=shlex.join(os.fsdecode(argument) for argument in arguments),
        process=process_identity(pid) or "",
    )


def lives(who: Who) -> bool:
    """Whether that very process is to be seen from here and runs.

    False also for one in another pid namespace, or one that a /proc mounted with hidepid does not show.
    """
    return bool(who.process) and process_identity(who.pid) == who.process


def process_identity(pid: int) -> str | None:
    """What tells a process from all others; None when there is none of that pid, or only its corpse."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 1 :].split()
    if fields[_STATE_AFTER_NAME] in (b"Z", b"X", b"x"):
        return None
    namespace = _look(lambda: os.readlink("/proc/self/ns/pid"))
    return f"{_boot()}/{namespace}/{fields[_START_AFTER_NAME].decode('ascii')}"


def _boot() -> str:
    return _look(lambda: _BOOT_ID.read_text("ascii").strip())


def _look(read: Callable[[], _T]) -> _T:
    try:
        return read()
    except OSError as error:
        raise HistoryError(
            f"The kernel does not say who and where this process is: {error}. Mount /proc, and let it be read."
        ) from None
