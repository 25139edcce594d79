"""The supervisor's process: one loop around poll(2). What it is for is said in :mod:`sidecar.supervisor`.

It is executed by ``podlane sidecar`` in its own place, so the process id is that which was started.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Sequence
from time import monotonic
from typing import Final, NoReturn

from sidecar.supervisor.argv import open_descriptors, without_options
from sidecar.supervisor.child import Child
from sidecar.supervisor.commands import Action, run_all
from sidecar.supervisor.control import OK, PING, UPGRADE, Answer, Control
from sidecar.supervisor.ipc import Message
from sidecar.supervisor.logging import Speech, end_of, reason_of
from sidecar.supervisor.watchdog import START_S, Restarts, Watch

_FORWARDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_ONCE: Final = ("--ready-fd",)
"""Options of the first proxy alone: whoever waits for it hears of it once."""
_AGAIN_S: Final = 1.0
"""Seconds to the next try when what should be done without a proxy could not be."""
_CLEANUP_S: Final = 30.0
_LEAVE_S: Final = 30.0
"""Seconds for an earlier proxy to begin its drain; and, as it says then, the grace period for its connections."""
_LATER_S: Final = 10.0
"""How much longer than that its end may take, on a busy machine."""
_HASTE_S: Final = 3.0
"""For its end when it was told to cut its connections."""


class Supervisor:
    """Keeps a proxy alive until told to stop. :meth:`run` gives the exit code."""

    def __init__(self, argv: Sequence[str]) -> None:
        """``argv``: the proxy's command, to which this adds what it needs."""
        self._argv = list(argv)
        self._speech = Speech()
        self._proxy: Child | None = None
        self._watch = Watch()
        self._restarts = Restarts()
        self._actions: tuple[Action, ...] = ()
        self._ids: Message | None = None
        """The class ids in force, which mean nothing here: the next proxy goes on with them."""
        self._open = True
        self._tripped = False
        """Capture is gone, or refuses, since there is nobody to lead to."""
        self._stopping = False
        self._was_ready = False
        self._start_at: float | None = monotonic()
        self._look_at = 0.0
        self._try_at: float | None = None
        self._status: int | None = None
        self._poll = select.poll()
        self._control = Control(self._poll, self._asked)
        self._handover: Handover | None = None
        self._standby: Child | None = None
        """Takes the place of the proxy that has ended."""
        self._leaving: list[Child] = []
        """Earlier proxies, whose connections still run."""
        self._hurried = False
        """Told to end more than once: connections are not to be waited for."""
        self._clean_later = False
        """Remove what is installed as soon as no earlier proxy is there, which has the instance lock."""
        self._once = open_descriptors(self._argv, _ONCE)

    def run(self) -> int:
        """Until the end; gives the exit code."""
        woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (*_FORWARDED, signal.SIGCHLD):
            signal.signal(number, _noted)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)  # blocked until here by who executed this program
        self._poll.register(woken, select.POLLIN)
        while self._status is None:
            self._turn(woken)
        if self._standby is not None:
            self._standby.dismiss()
        return self._status

    def _turn(self, woken: int) -> None:
        """Wait for something to happen, or for the next thing to do, and do it."""
        start_at = None if self._leaving else self._start_at  # an earlier proxy has the instance lock
        if start_at is not None and monotonic() >= start_at:
            self._start()
            if self._status is not None:
                return
            start_at = self._start_at
        given = self._handover.deadline if self._handover is not None else None
        due = (start_at, self._try_at, self._look_due(), given, *(proxy.due for proxy in self._ending()))
        deadlines = [at for at in due if at is not None]
        wait = None if not deadlines else max(0.0, min(deadlines) - monotonic())
        events = self._poll.poll(None if wait is None else wait * 1000 + 1)
        ready = {descriptor for descriptor, _ in events}
        heir = self._handover.heir if self._handover is not None else None
        for proxy in (self._proxy, heir, *self._leaving):
            while proxy is not None and proxy.pending():  # before others ask about it
                self._hear(proxy)
        self._control.serve(ready)
        if woken in ready:
            for number in os.read(woken, 512):
                self._signalled(number)
            self._bury()
        if self._proxy is not None and self._proxy.watched:
            self._look(self._proxy)
        if self._try_at is not None and monotonic() >= self._try_at:
            self._do_without()
        if self._handover is not None and monotonic() >= self._handover.deadline:
            self._give_up("It was not ready in time.")
        for proxy in self._ending():
            if proxy.due is not None and monotonic() >= proxy.due:
                self._speech.error("the earlier proxy does not end, and is killed", pid=proxy.pid)
                proxy.due = None
                proxy.kill()

    def _ending(self) -> list[Child]:
        """Proxies that have made way for another, or are about to."""
        return self._leaving if self._proxy is None or not self._proxy.leaves else [*self._leaving, self._proxy]

    # --- the proxy's beginning and end ------------------------------------------------------------------------------

    def _start(self) -> None:
        self._start_at = None
        self._control.open()
        try:
            self._follow(self._spawn(fresh=False))
        except OSError as error:
            self._not_started(reason_of(error))

    def _not_started(self, why: str) -> None:
        """Its program is gone, or there is no memory, or no room for another process."""
        if not self._was_ready:
            self._speech.error("the proxy cannot be started", error=why)
            self._status = 1
            return
        self._do_without()
        pause = self._restarts.pause_after("exit", None)
        self._start_at = monotonic() + pause
        self._speech.error(
            "the proxy cannot be started", error=why, again_in=f"{pause:g}s", new_connections=self._fate()
        )

    def _spawn(self, heirloom: Message | None = None, descriptors: Sequence[int] = (), *, fresh: bool = True) -> Child:
        """``fresh``: its program as it is on disk now, even where a standby waits."""
        standby, self._standby = self._standby, None
        if standby is not None and (fresh or not standby.is_ours()):
            standby.dismiss()
            standby = None
        if standby is not None:
            self._speech.info("its standby takes its place", pid=standby.pid)
        proxy = standby or Child.spawn(self._argv)
        self._argv = without_options(self._argv, _ONCE)
        while self._once:
            os.close(self._once.pop())  # whoever waits at the other end is to see the proxy's end
        self._poll.register(proxy.wire.fileno(), select.POLLIN)
        known = {"restarts": self._restarts.counts, "again": self._was_ready, "ids": self._ids}
        proxy.welcome({**known, "heirloom": heirloom}, descriptors)
        return proxy

    def _follow(self, proxy: Child) -> None:
        """From now on this is the proxy."""
        self._proxy = proxy
        self._watch = Watch()
        self._look_at = monotonic()

    def _bury(self) -> None:
        """See to every child that has ended. As pid 1 of a container it has those of others, too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            code = os.waitstatus_to_exitcode(status)
            if self._proxy is not None and pid == self._proxy.pid:
                self._ended(self._proxy, code)
            elif self._handover is not None and self._handover.heir is not None and pid == self._handover.heir.pid:
                self._handover.heir.buried = True
                self._give_up(f"It {end_of(code)}; the log says more.")
            else:
                for proxy in [proxy for proxy in self._leaving if proxy.pid == pid]:
                    self._left(proxy, code)
                    self._go_on()

    def _ended(self, proxy: Child, code: int) -> None:
        self._forget(proxy)
        self._proxy = None
        self._standby = proxy.release_standby(code)
        how = end_of(code)
        if self._handover is not None and self._handover.after and code == 0 and not self._stopping:
            try:
                self._handover.heir = self._spawn()
            except OSError as error:
                self._give_up(reason_of(error))
            return
        if self._handover is not None:
            self._give_up(f"The one that was to be replaced {how} meanwhile.")
        if self._stopping:
            self._stopped(proxy, code)
        elif (code == 0 and not proxy.leaves) or (code > 0 and not self._was_ready):
            # Somebody asked it to end, or it cannot work here and has said why.
            self._status = code
        else:
            self._do_without()
            reason = "hang" if proxy.hung else "kill" if code < 0 else "exit"
            ready_for = None if proxy.ready_at is None else monotonic() - proxy.ready_at
            pause = self._restarts.pause_after(reason, ready_for)
            self._start_at = monotonic() + pause
            self._speech.error(f"the proxy {how}", pid=proxy.pid, again_in=f"{pause:g}s", new_connections=self._fate())
            self._hasten()

    def _forget(self, proxy: Child) -> None:
        """It has ended. Its last words are heard."""
        while proxy.pending():
            self._hear(proxy)
        if proxy.listened:
            self._poll.unregister(proxy.wire.fileno())
        proxy.close()

    def _stopped(self, proxy: Child, code: int) -> None:
        """It was told to end. If that did not go well somebody must remove what it had installed."""
        if proxy.leaves and code == 0:
            self._speech.info("no other proxy comes; removing what this one has left for it", pid=proxy.pid)
            self._clean_up()
            return
        # Before it has armed it follows no signals, and ends without having seen to what is there.
        nothing_there = not self._actions and not self._was_ready
        if (code == 0 and proxy.armed) or (code in (0, -signal.SIGTERM) and nothing_there):
            self._status = 0
            return
        if code == 0:
            self._speech.info("removing what an earlier proxy has left", pid=proxy.pid)
        else:
            self._speech.error("the proxy did not end well; removing what it has left", pid=proxy.pid, exit_code=code)
        self._clean_up()

    def _clean_up(self) -> None:
        if self._leaving:
            self._clean_later = True
            self._hasten()
            return
        # Rules and classes of any kind: the one thing here that is not prepared, and has time.
        action = Action((*without_options(self._argv, (*_ONCE, "--summary-fd")), "--cleanup"), "")
        problem = run_all([action], _CLEANUP_S)
        if problem:
            self._speech.error("not all was removed; `podlane sidecar --cleanup` tries again", error=problem)
        self._status = 1 if problem else 0

    # --- what it says, and what it is told --------------------------------------------------------------------------

    def _hear(self, proxy: Child) -> None:
        message, descriptors = proxy.wire.receive()
        if message is not None and message["kind"] == "lent" and self._handover is not None:
            self._begin_heir(self._handover, proxy, message, descriptors)
        elif message is not None and message["kind"] == "standby" and descriptors:
            proxy.offers(message["pid"], descriptors.pop())
        for descriptor in descriptors:
            os.close(descriptor)
        if message is None:
            # It is about to end, which SIGCHLD will tell, or its silence.
            self._poll.unregister(proxy.wire.fileno())
            proxy.listened = False
            return
        self._obey(proxy, message)

    def _obey(self, proxy: Child, message: Message) -> None:
        match message["kind"]:
            case "armed":
                self._speech.format = message["log_format"]
                self._actions = tuple(Action(tuple(each["argv"]), each["input"]) for each in message["actions"])
                self._ids = message["ids"]
                self._open = message["on_failure"] == "open"
                self._tripped = False  # what it installs next captures again
                self._try_at = None
                proxy.armed = True
            case "lent":
                proxy.leaves = message["heirloom"] is None and message["problem"] is None
                proxy.due = monotonic() + _LEAVE_S if proxy.leaves else None
                if proxy.leaves:
                    proxy.dismiss_standby()  # what comes after it is the program as it is on disk now
            case "leaving":
                proxy.due = monotonic() + message["grace"] + _LATER_S
            case "ready":
                proxy.ready_at = monotonic()
                if self._handover is not None and proxy is self._handover.heir:
                    self._take_over(self._handover, proxy)
                    return
                if self._was_ready:
                    self._speech.info("the proxy is ready again", pid=proxy.pid)
                self._was_ready = True
            case "not-ready":
                self._was_ready = False

    def _asked(self, word: str, answer: Answer) -> None:
        if word == PING:
            answer(OK)
        elif word != UPGRADE:
            answer(f"There is no {word}.")
        elif self._proxy is None or self._proxy.ready_at is None or self._stopping:
            answer("No proxy is ready that another could take over from. Wait until `podlane ready` succeeds.")
        elif self._handover is not None or self._leaving:
            answer("The last one is not over: connections of an earlier proxy still run. Wait until they have ended.")
        else:
            self._handover = Handover(answer, monotonic() + START_S)
            self._proxy.wire.send("lend")

    # --- another takes over -----------------------------------------------------------------------------------------

    def _begin_heir(self, handover: Handover, proxy: Child, message: Message, descriptors: Sequence[int]) -> None:
        if proxy is not self._proxy or handover.heir is not None:
            return
        if message["problem"] is not None:
            self._give_up(message["problem"])
        elif message["heirloom"] is None:
            handover.after = True  # it is about to end: _ended starts the other
        else:
            try:
                handover.heir = self._spawn(message["heirloom"], descriptors)
            except OSError as error:
                self._give_up(reason_of(error))

    def _take_over(self, handover: Handover, heir: Child) -> None:
        """The heir serves beside its predecessor, which may go."""
        self._handover = None
        if self._proxy is not None:
            self._leaving.append(self._proxy)
            self._proxy.dismiss_standby()
            self._proxy.due = monotonic() + _LEAVE_S
            self._proxy.wire.send("leave")
        self._follow(heir)
        self._restarts.counts["upgrade"] = self._restarts.counts.get("upgrade", 0) + 1
        self._try_at = None
        if self._tripped:
            heir.wire.send("resume")  # capture was taken away while the other one was silent: also what is the heir's
        if handover.reread:
            heir.send(signal.SIGHUP)  # it may have read the policy before
        self._speech.info("another proxy has taken over", pid=heir.pid)
        handover.answer(OK)

    def _give_up(self, why: str) -> None:
        """The heir is not to be had: the old proxy goes on as if nothing had been, if it is still there."""
        handover, self._handover = self._handover, None
        if handover is None:
            return
        if handover.heir is not None:
            handover.heir.end()
            self._forget(handover.heir)
            handover.heir.dismiss_standby()
        if self._proxy is not None and not handover.after:
            self._proxy.wire.send("resume")  # to be as it was before the heir touched anything, and go on
        self._speech.error("no other proxy has taken over", reason=why)
        if self._stopping or (self._proxy is None and not handover.after):
            handover.answer(f"No other proxy has taken over. {why}")
        elif not handover.after:
            handover.answer(f"No other proxy has taken over, and the old one goes on. {why}")
        else:
            if self._proxy is None:
                self._start_at = monotonic()
                self._do_without()
            handover.answer(
                "No other proxy has taken over, and the old one does not go on. Another is tried again and again; "
                f"until one is ready new connections that names decide {self._fate()}. {why}"
            )

    def _left(self, proxy: Child, code: int) -> None:
        self._forget(proxy)
        self._leaving.remove(proxy)
        self._speech.info("the earlier proxy has ended", pid=proxy.pid, exit_code=code)
        if self._leaving or self._proxy is None:
            return
        self._proxy.wire.send("alone")
        if self._stopping:
            self._proxy.send(signal.SIGTERM)

    def _go_on(self) -> None:
        """An earlier proxy has ended: do what had to wait for all of them."""
        if self._leaving:
            return
        if self._clean_later:
            self._clean_later = False
            self._clean_up()
        elif self._hurried and self._proxy is not None:
            self._proxy.send(signal.SIGINT)  # the second signal, which is not merged with the first

    def _hasten(self) -> None:
        """Have earlier proxies end, whose connections end with them: another cannot begin, or clean up, beside them."""
        for proxy in self._leaving:
            proxy.send(signal.SIGTERM)
            proxy.due = monotonic() + _HASTE_S
            self._speech.warning("connections of the earlier proxy are cut, since another has to begin", pid=proxy.pid)

    def _signalled(self, number: int) -> None:
        if number not in _FORWARDED:
            return
        if number != signal.SIGHUP:
            first, self._stopping = not self._stopping, True
            self._give_up("The sidecar was told to end.")
            if self._proxy is None and first:
                self._start_at = self._try_at = None
                self._clean_up()
                return
            if self._leaving:
                if not first:
                    self._hurried = True
                    for proxy in self._leaving:
                        proxy.send(number)
                return  # their connections need the rules: see _left
            if first and self._proxy is not None and self._proxy.leaves:
                return  # it lets its connections end already; told so by a signal, it would cut them
        elif self._proxy is not None and not self._proxy.armed:
            return  # the policy is still to be read
        elif self._handover is not None:
            self._handover.reread = True
        if self._proxy is not None:
            self._proxy.send(number)

    # --- while there is nobody --------------------------------------------------------------------------------------

    def _look_due(self) -> float | None:
        if self._proxy is None or not self._proxy.watched:
            return None
        return self._look_at

    def _look(self, proxy: Child) -> None:
        now = monotonic()
        if now < self._look_at:
            return
        verdict = self._watch.look(now, proxy.signs(), proxy.queued())
        self._look_at = verdict.look_at
        if verdict.hung or (proxy.ready_at is None and now - proxy.began > START_S):
            self._speech.error("the proxy hangs, and is killed", pid=proxy.pid)
            proxy.hung = True
            proxy.kill()
        elif verdict.silent and not proxy.silent:
            proxy.silent = True
            self._do_without()
            self._speech.warning("the proxy does not answer", pid=proxy.pid, new_connections=self._fate())
        elif proxy.silent and not verdict.silent:
            proxy.silent = False
            self._speech.info("the proxy answers again", pid=proxy.pid)
            if self._handover is None:  # else rules are another's, which is told; or this one, when that has failed
                proxy.wire.send("resume")

    def _do_without(self) -> None:
        """Have new connections do without the proxy, as it has prepared."""
        self._try_at = None
        if self._tripped or self._stopping or not self._actions:
            return
        problem = run_all(self._actions)
        self._tripped = problem is None
        if problem is not None:
            self._try_at = monotonic() + _AGAIN_S
            self._speech.error("new connections still wait for the proxy", error=problem)

    def _fate(self) -> str:
        if not self._actions:
            return "not affected"
        return ("go direct" if self._open else "are refused") if self._tripped else "wait"


class Handover:
    """Another proxy is to take over. ``answer``: who wants to know; ``deadline``: by when."""

    def __init__(self, answer: Answer, deadline: float) -> None:
        self.answer = answer
        self.deadline = deadline
        self.heir: Child | None = None
        self.after = False
        """The heir comes when the old one has ended."""
        self.reread = False
        """Somebody wants the policy to be read again meanwhile."""


def _noted(_number: int, _frame: object) -> None:
    """The wake-up descriptor tells; without a handler the signal would end this process, or not be told."""


def main() -> NoReturn:
    """``python -m sidecar.supervisor COMMAND ...``: supervise the proxy that COMMAND starts."""
    try:
        code = Supervisor(sys.argv[1:]).run()
    finally:
        for number in _FORWARDED:
            signal.signal(number, signal.SIG_IGN)
    sys.exit(code)
