"""``podlane run`` from start to end: namespace, proxy, COMMAND, and the removal of everything.

Signals: termination signals are blocked from the first step to the last and read from a signalfd while waiting, so no
step is interrupted and no signal is missed. COMMAND stays in the terminal's foreground process group: Ctrl-C, Ctrl-\\
and a hang-up reach it from the terminal itself. A signal sent to this process alone (kill, systemd) is passed on to
COMMAND. In both cases COMMAND's end ends the run.

Failures: after SIGKILL the kernel kills proxy and COMMAND (PR_SET_PDEATHSIG), and the next run cleans up. A proxy that
crashes takes its connections with it; its rules are removed, new connections go direct, and COMMAND continues.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Final

import click

from daemon.documents.classes import Classes
from podlane.console import NOT_EXECUTABLE, NOT_FOUND, say, signalled
from podlane.errors import SpawnError
from podlane.netns.namespace import Namespace
from podlane.netns.spawn import EXECUTION, ProgramSpec, UserIdentity, spawn
from podlane.netns.syscalls import read_signal, signal_descriptor
from podlane.run.outside import RUN_VARIABLE, close_namespace, end_processes, open_namespace
from podlane.run.proxy import Proxy
from podlane.run.resolver import choose_resolver
from podlane.run.state import RunRecord
from podlane.run.summary import summary_lines
from traffic_policy.errors import PodlaneError
from traffic_policy.units import ByteCount, Rate

_TCP_LISTEN: Final = 0x0A
"""linux/tcp_states.h: in this state the queue's length is the backlog's limit."""
_HANDLED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_INTERRUPTED: Final = tuple(signalled(number) for number in (*_HANDLED, signal.SIGKILL))
"""Exit codes of a COMMAND that was stopped by the user, who does not want to wait for unsent data."""
_DELIVERY_PATIENCE: Final = 60.0
"""Seconds to wait for data that COMMAND sent and its class still delays; 7.5 MB at 1 Mbit/s."""
_DELIVERY_LOOK: Final = 0.05
"""Seconds between two checks of the sockets: the kernel has no event for that."""
_TELL_AFTER: Final = 2.0
"""Seconds of waiting after which the user is informed."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What to run, and how. ``proxy_options`` are those of ``podlane sidecar``."""

    argv: Sequence[str]
    name: str
    proxy_options: Sequence[str]
    identity: UserIdentity | None = None
    ipv6: bool = False
    summary: bool = True


class StoppedError(Exception):
    """A signal arrived while COMMAND was not running. ``number`` is the signal's."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number
        super().__init__(number.name)


def run(plan: RunPlan, environment: Mapping[str, str]) -> int:
    """Run everything; return the exit code. Raises PodlaneError if the namespace or the proxy cannot be started."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    signals = signal_descriptor(_HANDLED)
    try:
        return _Run(plan, environment, signals, frozenset(signal.Signals(number) for number in mask)).run()
    except StoppedError as stopped:
        return signalled(stopped.number)
    finally:
        os.close(signals)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class _Run:
    def __init__(
        self, plan: RunPlan, environment: Mapping[str, str], signals: int, mask: frozenset[signal.Signals]
    ) -> None:
        self._plan = plan
        self._signals = signals
        self._mask = mask
        self._environment = {**environment, RUN_VARIABLE: plan.name}

    def run(self) -> int:
        record, swept = open_namespace(self._plan.name, ipv6=self._plan.ipv6)
        with ExitStack() as steps:
            steps.callback(self._close, record)
            for sentence in swept:
                say(sentence)
            proxy = Proxy.start(Namespace(record.name), self._plan.proxy_options, self._environment, self._signals)
            steps.callback(proxy.stop)
            if not proxy.wait_ready():
                raise StoppedError(read_signal(self._signals).number)
            began = time.monotonic()
            code = self._run_command(proxy)
            self._wind_up(proxy, time.monotonic() - began, hasty=code in _INTERRUPTED)
            return code

    def _close(self, record: RunRecord) -> None:
        """Remove the namespace. If that fails, COMMAND's exit code is still the one to report."""
        try:
            close_namespace(record)
        except PodlaneError as error:
            say(f"Not everything could be removed; the next run will try again. {error}", error=True)

    def _run_command(self, proxy: Proxy) -> int:
        """Run COMMAND, handling signals and the proxy's end; return its exit code."""
        resolver = choose_resolver()
        if resolver.warning:
            say(resolver.warning)
        identity = self._plan.identity
        program = ProgramSpec(
            self._plan.argv,
            {**self._environment, **(identity.environment if identity else {})},
            namespace=proxy.namespace,
            identity=identity,
            resolv_conf=resolver.replacement,
            signal_mask=self._mask,
        )
        try:
            command = spawn(program)
        except SpawnError as error:
            if error.stage != EXECUTION:
                raise
            say(str(error), error=True)
            return NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE
        while True:
            watched = [command.descriptor, self._signals, *([] if proxy.ended else [proxy.child.descriptor])]
            readable, _, _ = select.select(watched, [], [])
            if self._signals in readable:
                arrived = read_signal(self._signals)
                if not arrived.from_terminal:
                    command.send(arrived.number)
            if command.descriptor in readable:
                status = command.reap()
                return status if status >= 0 else signalled(-status)
            if proxy.child.descriptor in readable:
                self._go_direct(proxy)

    def _go_direct(self, proxy: Proxy) -> None:
        """The proxy has ended unexpectedly: let new connections go direct."""
        how = proxy.reap()
        if proxy.remove_leftovers():
            say(f"The proxy {how}. COMMAND goes on; new connections go direct and are not shaped.", error=True)
        else:
            say(
                f"The proxy {how}, and its rules could not be removed: connections that they capture fail. "
                f"Look with `ip netns exec {proxy.namespace.name} iptables-save -t mangle`.",
                error=True,
            )

    def _wind_up(self, proxy: Proxy, seconds: float, *, hasty: bool) -> None:
        """After COMMAND's end: end its remaining processes, let sent data arrive, stop the proxy, print the summary."""
        if left := end_processes(proxy.namespace, but=proxy.child.pid):
            names = ", ".join(f"{process.program} ({process.pid})" for process in left)
            say(f"Ended what COMMAND left running in the background: {names}.")
        if not hasty:
            hasty = not self._wait_for_delivery(proxy.namespace)
        document = proxy.stop(hurry=hasty)
        if not hasty:
            self._wait_for_delivery(proxy.namespace)
        if self._plan.summary and document is not None:
            self._print_summary(document, seconds)

    def _wait_for_delivery(self, namespace: Namespace) -> bool:
        """Wait until all sent data is acknowledged; False if a signal or the time limit ended the wait."""
        began = time.monotonic()
        told = False
        while unsent := unsent_in(namespace):
            waited = time.monotonic() - began
            if waited > _DELIVERY_PATIENCE:
                say(f"{ByteCount(unsent).human} could not be delivered within {_DELIVERY_PATIENCE:g} s.", error=True)
                return False
            if waited > _TELL_AFTER and not told:
                say(f"COMMAND has ended; {ByteCount(unsent).human} that it sent are still on their way (Ctrl-C: drop).")
                told = True
            if select.select([self._signals], [], [], _DELIVERY_LOOK)[0]:
                read_signal(self._signals)
                return False
        return True

    def _print_summary(self, document: Classes, seconds: float) -> None:
        total = Rate(document.total_bits_per_second)
        say(f"{seconds:.1f} s, {total.human} in all")
        headings, *rows = summary_lines(document, seconds)
        click.echo(click.style(headings, bold=True), err=True)
        for row in rows:
            click.echo(row, err=True)


def unsent_in(namespace: Namespace) -> int:
    """Unacknowledged TCP bytes of all sockets in the namespace, IPv4 and IPv6.

    A program may end right after its last write; the kernel then continues to send. At a low rate that takes a while,
    and deleting the namespace would cut it off: data that an ordinary run of the program would have delivered.
    """
    total = 0
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(FileNotFoundError):  # a kernel without IPv6
            total += unsent_bytes(namespace.read(table))
    return total


def unsent_bytes(table: str) -> int:
    """Bytes that sockets hold and the peer has not acknowledged, from the text of /proc/net/tcp or tcp6 (proc(5))."""
    rows = [line.split() for line in table.splitlines()[1:]]
    return sum(int(row[4].partition(":")[0], 16) for row in rows if int(row[3], 16) != _TCP_LISTEN)
