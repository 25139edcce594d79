"""The supervisor's own process, with proxies that are scripts of a few lines: faults that are hard to have from real ones."""

from __future__ import annotations

import os
import select
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

import pytest
from waiting import until

from sidecar.errors import SupervisorError
from sidecar.supervisor import control
from sidecar.supervisor.argv import open_descriptors
from sidecar.supervisor.commands import Action, run_all

PATIENCE_S = 20.0
DRIVER = """
import sys
from sidecar.supervisor import control, program
control.DIRECTORIES = (sys.argv.pop(1),)
program.main()
"""
PRELUDE = """
import os, pathlib, signal, socket, sys, time
folder = pathlib.Path(sys.argv[1])

def say(word):
    os.write(1, f"{word}\\n".encode())

if "--cleanup" in sys.argv:
    say("cleanup")
    sys.exit()
from sidecar.prctl import die_with_parent
from sidecar.supervisor.heartbeat import Heartbeat
from sidecar.supervisor.ipc import IpcChannel

die_with_parent(os.getppid(), signal.SIGKILL)
with (folder / "starts").open("a+") as starts:
    starts.write("x")
    starts.flush()
    me = starts.tell()
wire = IpcChannel(socket.socket(fileno=int(sys.argv[-1].partition("=")[2])))
_, [page] = wire.receive()
beats = Heartbeat(page)

def arm(*actions):
    prepared = [{"argv": ["/bin/sh", "-c", each], "input": ""} for each in actions]
    ids = {"ids": {}, "retired": []}
    wire.send("armed", {"actions": prepared, "ids": ids, "on_failure": "open", "log_format": "console"})

def ready():
    wire.send("ready")
    say(f"ready {me}")

def stay():
    # Not pause(2): a signal just before it would be seen only after the next one.
    wake, told = socket.socketpair()
    told.setblocking(False)
    signal.set_wakeup_fd(told.fileno())
    while True:
        wake.recv(1)

"""


@dataclass
class Run:
    """A supervisor with its scripts."""

    process: subprocess.Popen[str]
    python: Path
    directory: str
    log: Path

    def hear(self, *words: str) -> None:
        """The next things that proxies say."""
        for word in words:
            assert self.process.stdout is not None
            assert self.process.stdout.readline().rstrip() == word, self.log.read_text()

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Starter]:
    with ExitStack() as stack:
        yield Starter(tmp_path, stack)


@dataclass
class Starter:
    folder: Path
    stack: ExitStack

    def __call__(self, script: str, option: str = "--ready-fd", descriptor: int = -1) -> Run:
        """``script``: what each proxy does, the first of which ``me`` is 1; a descriptor that the first one gets."""
        python = self.folder / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        directory = self.stack.enter_context(TemporaryDirectory())  # a socket's path may have 107 characters
        log = self.folder / "log"
        more = [option, str(descriptor)] if descriptor >= 0 else []
        process = self.stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", DRIVER, directory, str(python), "-c", PRELUDE + script, str(self.folder), *more],
                pass_fds=[descriptor] if more else [], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.stack.enter_context(log.open("w")), text=True,
            )
        )  # fmt: skip
        self.stack.callback(process.kill)
        watchdog = Thread(target=_kill_late, args=[process], daemon=True)
        watchdog.start()
        return Run(process, python, directory, log)


def _kill_late(process: subprocess.Popen[str]) -> None:
    """What is awaited does not come: end the wait."""
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()


# --- its program ------------------------------------------------------------------------------------------------------


def test_a_program_that_is_missing_ends_nothing(run: Starter, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "crash")
    script = """
arm("echo done >>" + str(folder / "without"))
ready()
if me == 1:
    (folder / "crash").open().read()
    os.kill(os.getpid(), signal.SIGKILL)
stay()
"""
    started = run(script)
    started.hear("ready 1")
    away = started.python.rename(tmp_path / "away")
    (tmp_path / "crash").write_text("now")
    until("a try", lambda: "the proxy cannot be started" in started.log.read_text())
    assert f"{started.python}: No such file or directory" in started.log.read_text()
    assert (tmp_path / "without").read_text() == "done\n"
    away.rename(started.python)
    started.hear("ready 2")
    assert started.end() == 0


def test_a_program_that_was_never_there_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sidecar.supervisor", str(tmp_path / "no-such-program")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "no-such-program: No such file or directory" in done.stderr


# --- told to end while another one starts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "left"),
    [("arm()\n    ready()", ["ready 1"]), ("arm('true')", []), ("pass", None)],
    ids=["one was ready", "one had something installed", "nothing was ever there"],
)
def test_told_to_end_by_a_proxy_that_had_not_begun_it_removes_what_the_last_one_left(
    run: Starter, before: str, left: list[str] | None
) -> None:
    """Until it follows signals, a proxy that imports ends at once with exit code 0, and has removed nothing."""
    script = f"""
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
if me == 1:
    {before}
    os.kill(os.getpid(), signal.SIGKILL)
say("imports")
stay()
"""
    started = run(script)
    started.hear(*(left or ()), "imports")
    assert started.end() == 0
    started.hear("" if left is None else "cleanup")


# --- small things -----------------------------------------------------------------------------------------------------


def test_who_asks_whether_it_is_alive_or_ready_is_answered(run: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    started = run("arm()\nready()\nsys.stdin.readline()\nbeats.ready = True\nsay('in force')\nstay()\n")
    started.hear("ready 1")
    monkeypatch.setattr(control, "DIRECTORIES", ("$PODLANE_IS_NOT_SET/podlane", started.directory))
    assert control.request(control.PING, PATIENCE_S) == control.OK
    assert control.request("dance", PATIENCE_S) == "There is no dance."
    assert control.request(control.READY, PATIENCE_S) == "Not everything is in force."
    assert started.process.stdin is not None
    started.process.stdin.write("\n")
    started.process.stdin.flush()
    started.hear("in force")
    assert control.request(control.READY, PATIENCE_S) == control.READY
    assert stat.S_IMODE(os.stat(started.directory).st_mode) == 0o700
    assert started.end() == 0
    assert os.listdir(started.directory) == []
    with pytest.raises(SupervisorError, match="There is no supervisor"):
        control.request(control.PING, PATIENCE_S)


def test_silent_clients_do_not_keep_probes_out(run: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    started = run("arm()\nready()\nstay()\n")
    started.hear("ready 1")
    monkeypatch.setattr(control, "DIRECTORIES", (started.directory,))
    [name] = os.listdir(started.directory)
    with ExitStack() as silent:
        for _ in range(20):
            client = silent.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            client.connect(f"{started.directory}/{name}")
        assert control.request(control.PING, PATIENCE_S) == control.OK
    assert started.end() == 0


def test_a_socket_that_a_killed_supervisor_left_is_replaced(run: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "DIRECTORIES", (run.stack.enter_context(TemporaryDirectory()),))
    poll = select.poll()
    ended, running, other = (control.Control(poll, lambda word: word) for _ in range(3))
    assert ended.open() is None
    assert ended._listener is not None
    ended._listener.close()
    assert running.open() is None
    assert running._listener is not None
    assert other.open() is None
    assert other._listener is None, "another one listens"
    running.close()


def test_no_directory_for_the_socket_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(control, "DIRECTORIES", (f"{tmp_path}/file", f"{tmp_path}/none/podlane"))
    problem = control.Control(select.poll(), str).open()
    assert problem is not None
    assert "it is not a directory of this user" in problem
    assert "No such file or directory" in problem


def test_programs_that_cannot_be_run_for_want_of_descriptors_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", none_left)
    assert run_all([Action(("/bin/sh", "-c", "exec sleep 60"), "")]) == "sh: it ended with -9"
    monkeypatch.setattr(os, "memfd_create", none_left)
    assert run_all([Action(("/bin/sh", "-c", ":"), "")]) == "sh: Too many open files"


def test_who_waits_for_the_first_proxy_sees_its_end_too(run: Starter) -> None:
    read, write = os.pipe()
    started = run("arm()\nready()\nos.close(int(sys.argv[3]))\nstay()\n", "--ready-fd", write)
    os.close(write)
    with os.fdopen(read) as stream:
        assert stream.read() == ""
    assert started.end() == 0


def test_only_what_was_given_is_closed() -> None:
    read, write = os.pipe()
    given = ["a", "--ready-fd", str(write), "--other-fd", str(read), "--ready-fd=1", "--ready-fd=9999"]
    assert open_descriptors(given, ["--ready-fd"]) == [write]
    os.close(read)
    os.close(write)
