"""The supervisor's own process, with proxies that are scripts of a few lines: faults that are hard to have from real ones."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pytest
from waiting import until

from sidecar.supervisor import control
from sidecar.supervisor.argv import open_descriptors
from sidecar.supervisor.client import Guard
from sidecar.supervisor.commands import Action, run_all
from sidecar.supervisor.handover import Heirloom
from sidecar.supervisor.heartbeat import Beats, new_page
from sidecar.supervisor.ipc import MOST_DESCRIPTORS, Wire

PATIENCE_S = 20.0
DRIVER = """
import sys
from sidecar.prctl import adopt_orphans
from sidecar.supervisor import control, program
control.NAME = "\\0" + sys.argv.pop(1)
if sys.argv.pop(1) == "adopt":
    adopt_orphans()
program._LATER_S = 0.3
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
from sidecar.supervisor.heartbeat import LOOP, Beats
from sidecar.supervisor.ipc import Wire

die_with_parent(os.getppid(), signal.SIGKILL)
with (folder / "starts").open("a+") as starts:
    starts.write("x")
    starts.flush()
    me = starts.tell()
wire = Wire(socket.socket(fileno=int(sys.argv[-1].partition("=")[2])))
welcome, (page, *given) = wire.receive()
beats = Beats(page)

def arm(*actions):
    prepared = [{"argv": ["/bin/sh", "-c", each], "input": ""} for each in actions]
    ids = {"ids": {}, "retired": []}
    wire.send("armed", {"actions": prepared, "ids": ids, "on_failure": "open", "log_format": "console"})

def await_word(kind):
    while True:
        message, _ = wire.receive()
        if message is None:
            sys.exit(3)
        if message["kind"] == kind:
            return

def lend(heirloom, descriptors=(), problem=None):
    await_word("lend")
    wire.send("lent", {"heirloom": heirloom, "problem": problem}, descriptors)

def lock():
    taken = socket.socket(socket.AF_UNIX)
    taken.bind("\\0" + str(folder))
    return taken

def ready():
    wire.send("ready")
    say(f"ready {me}")

def end(*_):
    say(f"end {me}")
    os._exit(0)

def stay():
    # Not pause(2): a signal just before it would be seen only after the next one.
    wake, told = socket.socketpair()
    told.setblocking(False)
    signal.set_wakeup_fd(told.fileno())
    while True:
        wake.recv(1)

born = "started"

def keep_standby():
    # As sidecar.standby does: whoever is told to begin returns from here, and has one, too.
    global wire, beats, me, born
    while True:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid:
            wire.send("standby", {"pid": pid}, [ours.fileno()])
            ours.close()
            theirs.close()
            return
        ours.close()
        wire.close()
        wire = Wire(theirs)
        welcome, descriptors = wire.receive()
        if welcome is None:
            say(f"standby of {me} ends")
            os._exit(0)
        die_with_parent(os.getppid(), signal.SIGKILL)
        beats, me, born = Beats(descriptors[0]), me + 1, "copied"

"""


@dataclass
class Run:
    """A supervisor with its scripts."""

    process: subprocess.Popen[str]
    python: Path
    name: str
    log: Path

    def hear(self, *words: str) -> None:
        """The next things that proxies say."""
        for word in words:
            assert self.heard() == word, self.log.read_text()

    def heard(self) -> str:
        """The next one, whatever it is."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip()

    def upgrade(self, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setattr(control, "NAME", f"\0{self.name}")
        return control.request(control.UPGRADE, PATIENCE_S)

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

    def __call__(self, script: str, option: str = "--ready-fd", descriptor: int = -1, *, orphans: str = "adopt") -> Run:
        """``script``: what each proxy does, the first of which ``me`` is 1; a descriptor that the first one gets.

        ``orphans``: ``adopt`` has those among its descendants come to the supervisor.
        """
        python = self.folder / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        name = f"podlane-test/{os.getpid()}/{self.folder.name}"
        log = self.folder / "log"
        more = [option, str(descriptor)] if descriptor >= 0 else []
        process = self.stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", DRIVER, name, orphans, str(python), "-c", PRELUDE + script, str(self.folder), *more],
                pass_fds=[descriptor] if more else [], stdout=subprocess.PIPE, stderr=self.stack.enter_context(log.open("w")), text=True,
            )
        )  # fmt: skip
        self.stack.callback(process.kill)
        watchdog = Thread(target=_kill_late, args=[process], daemon=True)
        watchdog.start()
        return Run(process, python, name, log)


def _kill_late(process: subprocess.Popen[str]) -> None:
    """What is awaited does not come: end the wait."""
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()


# --- another takes over, and fails ------------------------------------------------------------------------------------

HEIRS = """
signal.signal(signal.SIGTERM, end)
if me == 1:
    held = lock()
    arm()
    ready()
    lend({}, [held.fileno()])
    await_word("leave")
    wire.send("leaving", {"grace": 60})
elif me == 2:
    held, = [socket.socket(fileno=each) for each in given]
    arm()
    ready()
    (folder / "crash").open().read()
    os.kill(os.getpid(), signal.SIGKILL)
else:
    held = lock()
    arm()
    ready()
stay()
"""


def test_an_heir_that_is_killed_has_a_successor_though_its_predecessor_drains(
    run: Starter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The earlier one has the instance lock, so it ends, and its connections with it."""
    os.mkfifo(tmp_path / "crash")
    started = run(HEIRS)
    started.hear("ready 1")
    assert started.upgrade(monkeypatch) == "ok"
    started.hear("ready 2")
    (tmp_path / "crash").write_text("now")
    started.hear("end 1", "ready 3")
    assert "connections of the earlier proxy are cut" in started.log.read_text()
    assert started.end() == 0
    started.hear("end 3")


def test_told_twice_to_end_it_waits_for_no_connection(run: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    started = run(HEIRS.replace('(folder / "crash").open().read()', "stay()"))
    started.hear("ready 1")
    assert started.upgrade(monkeypatch) == "ok"
    started.hear("ready 2")
    started.process.send_signal(signal.SIGTERM)
    assert started.upgrade(monkeypatch) != "ok"  # the first one is heard
    assert started.end() == 0
    started.hear("end 1", "end 2")


def test_an_earlier_proxy_that_does_not_end_is_killed(run: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    heirs = HEIRS.replace('{"grace": 60})', '{"grace": 0})\n    signal.signal(signal.SIGTERM, signal.SIG_IGN)')
    started = run(heirs.replace('(folder / "crash").open().read()', "stay()"))
    started.hear("ready 1")
    assert started.upgrade(monkeypatch) == "ok"
    started.hear("ready 2")
    assert started.end() == 0
    started.hear("end 2")
    assert "does not end, and is killed" in started.log.read_text()


def test_capture_that_was_taken_away_for_its_predecessor_comes_back_with_the_heir(
    run: Starter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "gone")
    script = """
signal.signal(signal.SIGTERM, end)
arm("echo >" + str(folder / "gone"))
if me == 1:
    beats.give(LOOP)
    ready()
    lend({}, [0])
else:
    (folder / "gone").open().read()
    ready()
    await_word("resume")
    say("resumed")
stay()
"""
    started = run(script)
    started.hear("ready 1")
    assert started.upgrade(monkeypatch) == "ok"
    started.hear("ready 2", "resumed")


def test_a_program_that_is_missing_ends_nothing(run: Starter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "crash")
    script = """
signal.signal(signal.SIGTERM, end)
arm()
ready()
if me == 1:
    lend({}, [0])
    await_word("lend")
    wire.send("lent", {"heirloom": {}, "problem": None}, [0])
    (folder / "crash").open().read()
    os.kill(os.getpid(), signal.SIGKILL)
stay()
"""
    started = run(script)
    started.hear("ready 1")
    away = started.python.rename(tmp_path / "away")
    for _ in range(2):
        said = started.upgrade(monkeypatch)
        assert said.startswith("No other proxy has taken over, and the old one goes on.")
        assert said.endswith(f"{started.python}: No such file or directory")
    (tmp_path / "crash").write_text("now")
    until("a try", lambda: "the proxy cannot be started" in started.log.read_text())
    away.rename(started.python)
    started.hear("ready 2")
    assert started.end() == 0


HELD = """
if me == 1:
    arm()
    ready()
    lend({}, [0])
    await_word("resume")
    say("resumed")
else:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    arm()
    say("read")
    (folder / "ready").open().read()
    ready()
    signal.sigwait([signal.SIGHUP])
    say("told to read")
stay()
"""


def test_an_heir_reads_again_what_was_to_be_read_before_it_was_there(
    run: Starter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "ready")
    started = run("signal.signal(signal.SIGHUP, lambda *_: say(f'told {me}'))\n" + HELD)
    started.hear("ready 1")
    asking = Thread(target=started.upgrade, args=[monkeypatch])
    asking.start()
    started.hear("read")
    started.process.send_signal(signal.SIGHUP)
    started.hear("told 1")
    (tmp_path / "ready").write_text("now")
    started.hear("ready 2", "told to read")
    asking.join(PATIENCE_S)


def test_who_has_lent_for_nothing_is_told(run: Starter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also when no heir has come to be."""
    started = run(HELD)
    started.hear("ready 1")
    started.python.rename(tmp_path / "away")
    assert "the old one goes on" in started.upgrade(monkeypatch)
    started.hear("resumed")


def test_a_program_that_was_never_there_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sidecar.supervisor", str(tmp_path / "no-such-program")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "no-such-program: No such file or directory" in done.stderr


# --- the old one goes first -------------------------------------------------------------------------------------------

AFTER = """
arm("echo done >" + str(folder / "without"))
if me == 1:
    ready()
    lend(None)
    say("lent")
    (folder / "end").open().read()
    sys.exit(0)
"""


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_told_to_end_between_two_proxies_it_removes_what_was_left(
    run: Starter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, times: int
) -> None:
    """The proxy lets its connections end already: a signal would cut them, for which it takes a second one."""
    os.mkfifo(tmp_path / "end")
    started = run("signal.signal(signal.SIGTERM, lambda *_: say('cut'))" + AFTER)
    started.hear("ready 1")
    asking = Thread(target=started.upgrade, args=[monkeypatch])
    asking.start()
    started.hear("lent")
    started.process.send_signal(signal.SIGTERM)
    asking.join(PATIENCE_S)
    if times == 2:
        started.process.send_signal(signal.SIGTERM)
        started.hear("cut")
    (tmp_path / "end").write_text("now")
    started.hear("cleanup")
    assert started.process.wait(PATIENCE_S) == 0


def test_who_comes_after_the_old_one_is_the_new_program_whatever_happens(
    run: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the copy that the old one had."""
    script = AFTER.replace('(folder / "end").open().read()\n    sys.exit(0)', "os._exit(3)")
    started = run("keep_standby()\nsay(f'{born} {me}')\n" + script + "ready()\nstay()\n")
    started.hear("started 1", "ready 1")
    assert "ended with exit code 3 meanwhile" in started.upgrade(monkeypatch)
    said = {started.heard() for _ in range(3)}
    if "standby of 1 ends" in said:  # it may be ended before it can say so
        said.add(started.heard())
    assert said - {"standby of 1 ends"} == {"lent", "ready 2", "started 2"}


def test_one_that_is_to_go_first_and_does_not_is_killed(run: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    script = AFTER.replace('(folder / "end").open().read()', 'wire.send("leaving", {"grace": 0})\n    stay()')
    started = run(script + "ready()\nstay()\n")
    started.hear("ready 1")
    assert "was killed by SIGKILL meanwhile" in started.upgrade(monkeypatch)
    started.hear("lent", "ready 2")


def test_an_heir_that_cannot_begin_after_the_old_one_is_no_secret(
    run: Starter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Somebody must see to new connections meanwhile, and whoever asked must know."""
    script = AFTER.replace('    (folder / "end").open().read()\n', "")
    started = run(script + "if me == 2:\n    sys.exit(2)\nready()\nstay()\n")
    started.hear("ready 1")
    said = started.upgrade(monkeypatch)
    assert "the old one does not go on" in said
    assert "new connections that names decide go direct. It ended with exit code 2" in said
    assert (tmp_path / "without").read_text() == "done\n"
    started.hear("lent", "ready 3")


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


# --- a standby --------------------------------------------------------------------------------------------------------

STANDBY = """
signal.signal(signal.SIGTERM, end)
keep_standby()
arm()
say(f"{born} {me}")
say(os.getpid())
if born == "copied" and (folder / "broken").exists():
    os._exit(3)
ready()
if (folder / "lends").exists() and me == 1:
    lend({}, [0])
    await_word("leave")
    wire.send("leaving", {"grace": 0})
    await_word("never")
stay()
"""


def test_a_standby_takes_the_place_of_a_proxy_that_is_killed(run: Starter) -> None:
    started = run(STANDBY)
    pids = []
    for number, born in enumerate(("started", "copied", "copied", "copied"), 1):
        started.hear(f"{born} {number}")
        pids.append(int(started.heard()))
        started.hear(f"ready {number}")
        if number < 4:
            os.kill(pids[-1], signal.SIGKILL)
    assert len(set(pids)) == 4
    assert started.log.read_text().count("its standby takes its place") == 3
    waits = Path(f"/proc/{pids[-1]}/task/{pids[-1]}/children").read_text().strip()
    assert started.end() == 0
    started.hear("end 4")
    assert not Path(f"/proc/{waits}").exists()


def test_the_copy_of_one_that_failed_before_it_was_ready_is_not_trusted(run: Starter, tmp_path: Path) -> None:
    """It may be what is wrong."""
    started = run(STANDBY)
    started.hear("started 1")
    proxy = int(started.heard())
    started.hear("ready 1")
    (tmp_path / "broken").touch()
    os.kill(proxy, signal.SIGKILL)
    started.hear("copied 2")
    started.heard()
    assert "started 2" in (started.heard(), started.heard()), "after the last word of another copy, perhaps"


def test_a_standby_that_does_not_come_to_the_supervisor_ends(run: Starter) -> None:
    started = run(STANDBY, orphans="leave")
    started.hear("started 1")
    proxy = int(started.heard())
    started.hear("ready 1")
    os.kill(proxy, signal.SIGKILL)
    said = sorted(started.heard() for _ in range(4))
    assert said[1:] == ["ready 2", "standby of 1 ends", "started 2"]


def test_an_heir_has_a_standby_of_its_own(run: Starter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """That of its predecessor is as old as that."""
    (tmp_path / "lends").touch()
    started = run(STANDBY)
    started.hear("started 1")
    earlier = int(started.heard())
    started.hear("ready 1")
    assert started.upgrade(monkeypatch) == "ok"
    said = sorted(started.heard() for _ in range(4))
    heir = int(said[0])
    assert said[1:] == ["ready 2", "standby of 1 ends", "started 2"]
    os.kill(earlier, signal.SIGKILL)
    until("its burial", lambda: not Path(f"/proc/{earlier}").exists())
    os.kill(heir, signal.SIGKILL)
    started.hear("copied 3")


# --- small things -----------------------------------------------------------------------------------------------------


def test_too_many_sockets_to_inherit_are_a_reason_not_to_upgrade() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    page = new_page()
    beats = Beats(page)
    os.close(page)
    with ours, theirs:
        guard = Guard(Wire(theirs), beats, {}, again=True)
        for count, lent in ((MOST_DESCRIPTORS - 1, True), (MOST_DESCRIPTORS, False)):
            guard._hand_over(Heirloom.of(of_many(count), [os.dup(ours.fileno()) for _ in range(count)]))
            message, descriptors = Wire(ours).receive()
            for each in descriptors:
                os.close(each)
            assert message is not None
            assert (message["heirloom"] is not None, message["problem"] is None) == (lent, lent)
            assert len(descriptors) == (count if lent else 0)
    beats.close()
    assert "fewer workers" in message["problem"]


def of_many(count: int) -> dict[str, object]:
    return {"ids": {}, "admin": 0, "groups": [count - 1], "reserved": [], "captured": True, "captured_inbound": False}


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
