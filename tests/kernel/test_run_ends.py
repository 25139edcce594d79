"""The ends of a ``podlane run``: signals, the terminal, killed processes. Nothing stays, whatever happens."""

from __future__ import annotations

import os
import pty
import signal
import subprocess

import pytest
from lab import serving
from runs import RunHost
from waiting import until

from podlane.run.state import process_start

pytestmark = pytest.mark.root


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_a_signal_is_passed_on_and_nothing_stays(runs: RunHost, number: signal.Signals) -> None:
    before = runs.remains()
    process = runs.start(f"trap 'echo {number.name}; exit 7' {number.name[3:]}; echo up; while :; do sleep 0.1; done")
    assert runs.remains() != before
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (7, f"{number.name}\n"), err
    assert runs.remains() == before


def test_a_command_ended_by_a_signal_gives_its_number(runs: RunHost) -> None:
    before = runs.remains()
    process = runs.start("echo up; exec sleep 1000")
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert runs.remains() == before


def test_a_signal_before_the_command_starts_stops_the_run(runs: RunHost) -> None:
    before = runs.remains()
    process = runs.host.popen(runs.command(["echo", "ran"]), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until("the namespace", runs.namespace.exists)
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (128 + signal.SIGTERM, ""), err
    assert runs.remains() == before


def test_ctrl_c_reaches_the_command_once(runs: RunHost) -> None:
    # COMMAND counts interrupts until it is told to end: one from the terminal, and none passed on on top of it.
    before = runs.remains()
    program = (
        "import signal, sys\n"
        "count = 0\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})\n"
        "print('up', flush=True)\n"
        "while signal.sigwait({signal.SIGINT, signal.SIGTERM}) == signal.SIGINT:\n"
        "    count += 1\n"
        "    print('interrupted', flush=True)\n"
        "print(count, 'in all', flush=True)\n"
    )
    terminal, theirs = pty.openpty()
    try:
        command = runs.host.namespace.command(["setsid", "--ctty", *runs.command(["python3", "-c", program])])
        process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        said = _read_terminal(terminal, "up")
        os.write(terminal, b"\x03")
        said += _read_terminal(terminal, "interrupted")
        process.terminate()
        said += _read_terminal(terminal, "in all")
        said += _read_terminal(terminal, None)
        assert process.wait(30) == 0, said
    finally:
        os.close(terminal)
    assert "1 in all" in said
    assert runs.remains() == before


def test_after_sigkill_its_processes_are_gone_and_the_next_run_sweeps(runs: RunHost) -> None:
    before = runs.remains()
    process = runs.start("echo up $$; sleep 1000 & exec sleep 1000")
    inside = runs.namespace.pids()
    proxy = runs.proxy_pid()
    process.kill()
    process.wait(30)
    until("the proxy's end", lambda: process_start(proxy) is None)
    killed = f"podlane-{runs.names[-1]}"
    assert killed in runs.remains().namespaces

    done = runs.run(["ip", "-br", "link"])
    assert done.returncode == 0, done.stderr
    assert f"{killed} had left behind" in done.stderr
    assert all(process_start(pid) is None for pid in inside)
    assert runs.remains() == before


def test_a_killed_proxy_does_not_end_the_command(runs: RunHost) -> None:
    before = runs.remains()
    reader = (
        "import socket, sys\n"
        "print('up', flush=True)\n"
        "sys.stdin.readline()\n"
        "with socket.create_connection((sys.argv[1], 7000), 20) as s, s.makefile('rb') as f:\n"
        "    print(f.read().decode())\n"
        "sys.exit(5)\n"
    )
    with serving(runs.server, lambda c: c.sendall(b"direct"), 7000):
        process = runs.host.popen(
            runs.command(["python3", "-c", reader, runs.server_ipv4]),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "up\n"
        os.kill(runs.proxy_pid(), signal.SIGKILL)
        assert "The proxy was killed by SIGKILL" in process.stderr.readline()
        inside = runs.namespace.run(["iptables-save"]).stdout
        out, err = process.communicate("go\n", timeout=30)
    assert "PODLANE" not in inside
    assert (process.returncode, out) == (5, "direct\n"), err
    assert runs.remains() == before


def test_two_runs_at_once_do_not_disturb_each_other(runs: RunHost) -> None:
    before = runs.remains()
    with serving(runs.server, lambda c: c.sendall(b"answer"), 7000):
        first = runs.start("echo up; read line")
        second = runs.start(f"echo up; read line; exec python3 -c '{_READ}' {runs.server_ipv4}")
        first.communicate("end\n", timeout=30)
        assert first.returncode == 0
        assert runs.host.read("/proc/sys/net/ipv4/ip_forward") == "1\n"
        out, err = second.communicate("go\n", timeout=30)
    assert (second.returncode, out) == (0, "answer"), err
    assert runs.remains() == before


def test_a_setting_that_somebody_else_turned_on_stays_on(runs: RunHost) -> None:
    runs.host.namespace.write_sysctl("net.ipv4.ip_forward", "1")
    before = runs.remains()
    assert runs.run(["true"]).returncode == 0
    assert runs.remains() == before


def test_a_shell_that_somebody_opened_inside_is_left_alone(runs: RunHost) -> None:
    process = runs.start("echo up; read line")
    visitor = runs.namespace.popen(["sleep", "1000"])
    try:
        process.communicate("end\n", timeout=30)
        assert visitor.poll() is None
    finally:
        visitor.kill()
        visitor.wait()


_READ = 'import socket, sys; print(socket.create_connection((sys.argv[1], 7000), 20).makefile().read(), end="")'


def _read_terminal(terminal: int, text: str | None) -> str:
    """Read what programs write to a terminal until ``text`` is among it, or (None) until they have all left."""
    said = ""
    while text is None or text not in said:
        try:
            data = os.read(terminal, 4096)
        except OSError:  # EIO: the last program has closed it
            data = b""
        if not data:
            assert text is None, f"{text!r} never came, but:\n{said}"
            return said
        said += data.decode()
    return said
