"""Starts a program in a network namespace, as a given user, and reports the failure of any step.

subprocess.Popen cannot do this: the steps between fork and exec (entering the namespace, a private mount of
resolv.conf, dropping root, PR_SET_PDEATHSIG) would have to be its ``preexec_fn``, whose errors lose their errno and
stage. Here the child reports both through a close-on-exec pipe; end of file on it means that the program runs. The
calling process must have one thread only (fork(2)).
"""

from __future__ import annotations

import os
import pwd
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

from datapath.network_namespace import CLONE_NEWNET, setns
from podlane.errors import SpawnError
from podlane.netns.namespace import Namespace
from podlane.netns.syscalls import bind, private_mounts
from sidecar.prctl import die_with_parent

_PYTHON_IGNORES: Final = (signal.SIGPIPE, signal.SIGXFSZ)
"""Signals that Python ignores for itself and that a program must find as it expects them."""
EXECUTION: Final = "be executed"
"""The stage of a :class:`SpawnError` that is about the program itself, as env(1) reports with 126 and 127."""
RESOLV_CONF: Final = Path("/etc/resolv.conf")


@dataclass(frozen=True, slots=True)
class UserIdentity:
    """A user that a program runs as."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str

    @classmethod
    def from_passwd(cls, entry: pwd.struct_passwd) -> UserIdentity:
        """The user of a passwd entry, with its supplementary groups."""
        groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid, groups, entry.pw_dir)

    @property
    def environment(self) -> dict[str, str]:
        """What login programs set for the user."""
        return {"HOME": self.home, "USER": self.name, "LOGNAME": self.name}

    def assume(self) -> None:
        """Become this user for good."""
        os.setgroups(self.groups)
        os.setgid(self.gid)
        os.setuid(self.uid)


@dataclass(frozen=True, slots=True)
class ProgramSpec:
    """What to start, and how."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    namespace: Namespace | None = None
    identity: UserIdentity | None = None
    resolv_conf: Path | None = None
    """Mounted over /etc/resolv.conf for the program."""
    detached: bool = False
    """In a session of its own with an empty standard input: the terminal's Ctrl-C does not reach it."""
    inherited: Sequence[int] = field(default=())
    """File descriptors the program gets, by the same numbers."""
    signal_mask: frozenset[signal.Signals] = frozenset()


@dataclass(frozen=True, slots=True)
class Child:
    """A started program: its process id, and a descriptor that becomes readable when it ends (pidfd_open(2))."""

    pid: int
    descriptor: int

    def send(self, number: signal.Signals) -> None:
        """Send a signal; does nothing if the process has ended."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.descriptor, number)

    def reap(self) -> int:
        """Wait for the end: the exit code, or minus the number of the signal that ended it."""
        _, status = os.waitpid(self.pid, 0)
        os.close(self.descriptor)
        return os.waitstatus_to_exitcode(status)


def spawn(program: ProgramSpec) -> Child:
    """Start a program; returns once it runs. Raises :class:`SpawnError` with the stage and errno otherwise."""
    parent = os.getpid()
    reading, writing = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _become(program, parent, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as report:
        said = report.read()
    if not said:
        return Child(pid, os.pidfd_open(pid))
    os.waitpid(pid, 0)
    stage, _, number = said.decode().rpartition(":")
    errno = int(number)
    raise SpawnError(stage, errno, f"{program.argv[0]}: cannot {stage}: {os.strerror(errno)}.")


def _become(program: ProgramSpec, parent: int, report: int) -> NoReturn:
    """In the child: do every step and turn into the program, or say which step failed and end."""
    stage = "start"
    try:
        if program.detached:
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        if program.namespace is not None:
            stage = f"enter the network namespace {program.namespace.name}"
            setns(os.open(program.namespace.path, os.O_RDONLY | os.O_CLOEXEC), CLONE_NEWNET)
        if program.resolv_conf is not None:
            stage = f"show {program.resolv_conf} in the place of {RESOLV_CONF}"
            private_mounts()
            bind(program.resolv_conf, RESOLV_CONF)
        if program.identity is not None:
            stage = f"become user {program.identity.name}"
            program.identity.assume()
        stage = "be bound to podlane's life"
        die_with_parent(parent, signal.SIGKILL)
        for descriptor in program.inherited:
            os.set_inheritable(descriptor, True)
        for number in _PYTHON_IGNORES:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, program.signal_mask)
        stage = EXECUTION
        os.execvpe(program.argv[0], list(program.argv), dict(program.environment))
    except OSError as error:
        os.write(report, f"{stage}:{error.errno or 0}".encode())
    finally:
        os._exit(127)
