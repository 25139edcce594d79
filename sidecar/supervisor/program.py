"""The supervisor's process: one loop around poll(2). See :mod:`sidecar.supervisor` for its purpose.

``podlane sidecar`` executes it in its own place, so the pid stays the same.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic
from typing import Final, NoReturn

from sidecar.supervisor.argv import open_descriptors, without_options
from sidecar.supervisor.child import ProxyProcess
from sidecar.supervisor.commands import Action, run_all
from sidecar.supervisor.control import OK, PING, READY, Control
from sidecar.supervisor.ipc import Message
from sidecar.supervisor.logging import StderrLog, end_of, reason_of
from sidecar.supervisor.watchdog import START_S, Restarts, Watchdog

_FORWARDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_ONCE: Final = ("--ready-fd",)
"""Options of the first proxy alone: their reader is notified once."""
_AGAIN_S: Final = 1.0
"""Seconds to the next attempt if the fallback failed."""
_CLEANUP_S: Final = 30.0


class Supervisor:
    """Keeps a proxy running until signalled to stop. :meth:`run` returns the exit code."""

    def __init__(self, argv: Sequence[str]) -> None:
        """``argv``: the proxy's command, to which options are added."""
        self._argv = list(argv)
        self._log = StderrLog()
        self._proxy: ProxyProcess | None = None
        self._watchdog = Watchdog()
        self._restarts = Restarts()
        self._actions: tuple[Action, ...] = ()
        self._ids: Message | None = None
        """The class ids in force, opaque here: the next proxy continues with them."""
        self._held: list[socket.socket] = []
        """Listeners of the proxy, for the next one."""
        self._open = True
        self._tripped = False
        """Capture was removed, or refuses connections, as there is no proxy."""
        self._stopping = False
        self._was_ready = False
        self._start_at: float | None = monotonic()
        self._check_at = 0.0
        self._try_at: float | None = None
        self._status: int | None = None
        self._poll = select.poll()
        self._control = Control(self._poll, self._answer)
        self._once = open_descriptors(self._argv, _ONCE)

    def run(self) -> int:
        """Run until the end; return the exit code."""
        woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (*_FORWARDED, signal.SIGCHLD):
            signal.signal(number, _noted)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)  # blocked by the program that executed this one
        self._poll.register(woken, select.POLLIN)
        if problem := self._control.open():
            self._log.warning("`podlane ready` gets no answer", error=problem, remedy="make /run writable")
        while self._status is None:
            self._turn(woken)
        self._control.close()
        return self._status

    def _turn(self, woken: int) -> None:
        """Wait for the next event or deadline, and handle it."""
        if self._start_at is not None and monotonic() >= self._start_at:
            self._start()
            if self._status is not None:
                return
        deadlines = [at for at in (self._start_at, self._try_at, self._check_due()) if at is not None]
        wait = None if not deadlines else max(0.0, min(deadlines) - monotonic())
        events = self._poll.poll(None if wait is None else wait * 1000 + 1)
        ready = {descriptor for descriptor, _ in events}
        while self._proxy is not None and self._proxy.pending():  # before other descriptors
            self._read_messages(self._proxy)
        self._control.serve(ready)
        if self._proxy is None:
            self._turn_away(ready)
        if woken in ready:
            for number in os.read(woken, 512):
                self._signalled(number)
            self._reap()
        if self._proxy is not None and not self._proxy.hung:
            self._check_heartbeats(self._proxy)
        if self._try_at is not None and monotonic() >= self._try_at:
            self._apply_fallback()

    # --- start and end of the proxy ---------------------------------------------------------------------------------

    def _start(self) -> None:
        self._start_at = None
        try:
            self._proxy = self._spawn()
        except OSError as error:
            self._not_started(reason_of(error))
            return
        self._watchdog = Watchdog()
        self._check_at = monotonic()

    def _not_started(self, why: str) -> None:
        """Its program does not exist, or there is no memory, or no room for another process."""
        if not self._was_ready:
            self._log.error("the proxy cannot be started", error=why)
            self._status = 1
            return
        self._apply_fallback()
        pause = self._restarts.pause_after("exit", None)
        self._start_at = monotonic() + pause
        self._log.error("the proxy cannot be started", error=why, again_in=f"{pause:g}s", new_connections=self._fate())

    def _spawn(self) -> ProxyProcess:
        known = {"restarts": self._restarts.counts, "again": self._was_ready, "ids": self._ids}
        proxy = ProxyProcess.spawn(self._argv, known, [each.fileno() for each in self._held])
        for each in self._held:
            with suppress(KeyError):  # at the first start it is not there
                self._poll.unregister(each)
        self._argv = without_options(self._argv, _ONCE)
        while self._once:
            os.close(self._once.pop())  # the reader at the other end must see the proxy's end
        self._poll.register(proxy.channel.fileno(), select.POLLIN)
        return proxy

    def _reap(self) -> None:
        """Reap every child that has ended. As pid 1 of a container, these include orphans."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if self._proxy is not None and pid == self._proxy.pid:
                self._ended(self._proxy, os.waitstatus_to_exitcode(status))

    def _ended(self, proxy: ProxyProcess, code: int) -> None:
        self._forget(proxy)
        self._proxy = None
        for each in self._held:
            self._poll.register(each, select.POLLIN)
        if self._stopping:
            self._stopped(proxy, code)
        elif code == 0 or (code > 0 and not self._was_ready):
            # It was signalled to end, or cannot work here and has logged why.
            self._status = code
        else:
            self._apply_fallback()
            reason = "hang" if proxy.hung else "kill" if code < 0 else "exit"
            ready_for = None if proxy.ready_at is None else monotonic() - proxy.ready_at
            pause = self._restarts.pause_after(reason, ready_for)
            self._start_at = monotonic() + pause
            self._log.error(
                f"the proxy {end_of(code)}", pid=proxy.pid, again_in=f"{pause:g}s", new_connections=self._fate()
            )

    def _forget(self, proxy: ProxyProcess) -> None:
        """Forget the proxy after its end, having received its last messages."""
        while proxy.pending():
            self._read_messages(proxy)
        if proxy.listened:
            self._poll.unregister(proxy.channel.fileno())
        proxy.close()

    def _stopped(self, proxy: ProxyProcess, code: int) -> None:
        """The proxy was signalled to stop. If it failed, remove what it had installed."""
        # Before it has armed it handles no signals, and ends without removing anything.
        nothing_there = not self._actions and not self._was_ready
        if (code == 0 and proxy.armed) or (code in (0, -signal.SIGTERM) and nothing_there):
            self._status = 0
            return
        if code == 0:
            self._log.info("removing what an earlier proxy has left", pid=proxy.pid)
        else:
            self._log.error("the proxy did not end well; removing what it has left", pid=proxy.pid, exit_code=code)
        self._clean_up()

    def _clean_up(self) -> None:
        # Rules and classes of any kind: the only step here that is not prepared, and not urgent.
        action = Action((*without_options(self._argv, (*_ONCE, "--summary-fd")), "--cleanup"), "")
        problem = run_all([action], _CLEANUP_S)
        if problem:
            self._log.error("not all was removed; `podlane sidecar --cleanup` tries again", error=problem)
        self._status = 1 if problem else 0

    # --- messages ---------------------------------------------------------------------------------------------------

    def _read_messages(self, proxy: ProxyProcess) -> None:
        message, descriptors = proxy.channel.receive()
        if message is None:
            # It is about to end, which SIGCHLD will report, or its missing heartbeats.
            self._poll.unregister(proxy.channel.fileno())
            proxy.listened = False
            return
        match message["kind"]:
            case "armed":
                self._log.format = message["log_format"]
                self._actions = tuple(Action(tuple(each["argv"]), each["input"]) for each in message["actions"])
                self._ids = message["ids"]
                self._open = message["on_failure"] == "open"
                self._tripped = False  # the rules it installs next capture again
                self._try_at = None
                proxy.armed = True
                self._control.open()  # another supervisor, which was about to end, may have listened before
            case "hold":
                self._hold(descriptors)
            case "ready":
                proxy.ready_at = monotonic()
                if self._was_ready:
                    self._log.info("the proxy is ready again", pid=proxy.pid)
                self._was_ready = True
            case "not-ready":
                self._was_ready = False

    def _hold(self, descriptors: Sequence[int]) -> None:
        while self._held:
            self._held.pop().close()
        # They go on listening when the proxy has ended, so that no other program can take the port.
        self._held = [socket.socket(fileno=each) for each in descriptors]
        for each in self._held:
            each.setblocking(False)

    def _turn_away(self, ready: set[int]) -> None:
        """Close the connections to the admin server, for which there is no proxy."""
        for each in self._held:
            if each.fileno() in ready:
                with suppress(OSError):  # it has gone
                    each.accept()[0].close()

    def _signalled(self, number: int) -> None:
        if number not in _FORWARDED:
            return
        if number != signal.SIGHUP:
            first, self._stopping = not self._stopping, True
            if self._proxy is None and first:
                self._start_at = self._try_at = None
                self._clean_up()
                return
        elif self._proxy is not None and not self._proxy.armed:
            return  # the policy is still being read
        if self._proxy is not None:
            self._proxy.send(number)

    def _answer(self, word: str) -> str:
        """The answer to a request at the control socket."""
        if word == PING:
            return OK
        if word != READY:
            return f"There is no {word}."
        proxy = self._proxy
        if proxy is None:
            return "There is no proxy, and new connections " + self._fate() + "."
        if proxy.silent or proxy.hung:
            return "The proxy does not answer, and new connections " + self._fate() + "."
        return READY if proxy.in_force() else "Not everything is in force."

    # --- without a proxy --------------------------------------------------------------------------------------------

    def _check_due(self) -> float | None:
        if self._proxy is None or self._proxy.hung:
            return None
        return self._check_at

    def _check_heartbeats(self, proxy: ProxyProcess) -> None:
        now = monotonic()
        if now < self._check_at:
            return
        verdict = self._watchdog.check(now, proxy.heartbeats(), proxy.cpu_wait())
        self._check_at = verdict.look_at
        if verdict.hung or (proxy.ready_at is None and now - proxy.began > START_S):
            self._log.error("the proxy hangs, and is killed", pid=proxy.pid)
            proxy.hung = True
            proxy.kill()
        elif verdict.silent and not proxy.silent:
            proxy.silent = True
            proxy.channel.send("bypass")  # first: the proxy may run, and must not take this for a loss
            self._apply_fallback()
            self._log.warning("the proxy does not answer", pid=proxy.pid, new_connections=self._fate())
        elif proxy.silent and not verdict.silent:
            proxy.silent = False
            self._log.info("the proxy answers again", pid=proxy.pid)
            proxy.channel.send("resume")

    def _apply_fallback(self) -> None:
        """Make new connections independent of the proxy, by its prepared fallback."""
        self._try_at = None
        if self._tripped or self._stopping or not self._actions:
            return
        problem = run_all(self._actions)
        self._tripped = problem is None
        if problem is not None:
            self._try_at = monotonic() + _AGAIN_S
            self._log.error("new connections still wait for the proxy", error=problem)

    def _fate(self) -> str:
        if not self._actions:
            return "not affected"
        return ("go direct" if self._open else "are refused") if self._tripped else "wait"


def _noted(_number: int, _frame: object) -> None:
    """The wake-up descriptor reports the signal; without a handler it would end this process, or be lost."""


def main() -> NoReturn:
    """``python -m sidecar.supervisor COMMAND ...``: supervise the proxy that COMMAND starts."""
    try:
        code = Supervisor(sys.argv[1:]).run()
    finally:
        for number in _FORWARDED:
            signal.signal(number, signal.SIG_IGN)
    sys.exit(code)
