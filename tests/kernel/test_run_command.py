"""``podlane run``: the exit codes, what COMMAND finds, the summary, and the way out."""

from __future__ import annotations

import os
import pwd
import re
import socket
import threading
import time
from pathlib import Path

import pytest
from lab import listen, serving
from runs import RunHost

from podlane.netns import Namespace
from podlane.run.state import process_start

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 3", 3), ("kill -TERM $$", 143), ("kill -KILL $$", 137)],
    ids=["success", "failure", "ended by SIGTERM", "ended by SIGKILL"],
)
def test_the_exit_code_is_that_of_the_command(runs: RunHost, script: str, code: int) -> None:
    before = runs.remains()
    done = runs.run(["sh", "-c", script])
    assert done.returncode == code, done.stderr
    assert runs.remains() == before


def test_a_command_that_is_not_found_ends_with_127_before_anything_is_made(runs: RunHost) -> None:
    done = runs.run(["no-such-command"])
    assert done.returncode == 127
    assert "no-such-command: no such command" in done.stderr


@pytest.mark.parametrize("content", ["#!/bin/sh\n", "\x7fnot a program"], ids=["not executable", "not a program"])
def test_a_command_that_cannot_be_executed_ends_with_126(runs: RunHost, tmp_path: Path, content: str) -> None:
    before = runs.remains()
    program = tmp_path / "program"
    program.write_text(content)
    program.chmod(0o755 if "not a" in content else 0o644)
    done = runs.run([str(program)])
    assert done.returncode == 126
    assert str(program) in done.stderr
    assert runs.remains() == before


def test_a_policy_that_cannot_be_used_ends_with_2_and_says_why(runs: RunHost) -> None:
    runs.policy.write_text("total: 10Mbit\nclasses: [{name: a, rate: 20Mbit, match: [{port: [80]}]}]\n")
    done = runs.run(["true"])
    assert done.returncode == 2
    assert "Lower" in done.stderr
    assert str(runs.policy) in done.stderr


def test_a_proxy_that_cannot_start_ends_with_125_and_leaves_nothing(runs: RunHost) -> None:
    before = runs.remains()
    done = runs.run(["true"], env={**os.environ, "PODLANE_OUTBOUND_PORT": "not-a-port"})
    assert done.returncode == 125
    assert "PODLANE_OUTBOUND_PORT" in done.stderr
    assert "could not start" in done.stderr
    assert runs.remains() == before


def test_a_name_in_use_is_refused_and_keeps_its_namespace(runs: RunHost) -> None:
    taken = Namespace(f"podlane-t{os.getpid()}-taken")
    taken.create()
    try:
        done = runs.host.run(runs.command(["true"], name=taken.name.removeprefix("podlane-")), check=False)
        assert done.returncode == 125
        assert "already" in done.stderr
        assert taken.exists()
    finally:
        taken.delete()


def test_the_command_has_the_terminal_streams_and_its_environment(runs: RunHost) -> None:
    script = "cat; echo $GREETING >&2; ip -br link show eth0 | cut -d' ' -f1"
    done = runs.run(["sh", "-c", script], stdin="from stdin\n", env={**os.environ, "GREETING": "from env"})
    assert re.fullmatch(r"from stdin\neth0@if\d+\n", done.stdout)
    assert "from env\n" in done.stderr


def test_the_summary_is_on_standard_error_and_names_every_class(runs: RunHost) -> None:
    with serving(runs.server, _discard, 5001):
        done = runs.run(["sh", "-c", f"head -c 100000 /dev/zero | {_send(runs.server_ipv4, 5001)}"])
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    lines = {line.split()[0]: line for line in done.stderr.splitlines() if line}
    assert {"class", "slow", "web", "default"} <= set(lines)
    assert re.search(r"1 Mbit/s +1 Mbit/s +(9\d|1\d\d)\.\d KiB", lines["slow"])


def test_an_unmodified_program_is_told_apart_by_name(runs: RunHost) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")

    with serving(runs.server, answer, 8080):
        done = runs.run(["curl", "-sS", "-H", "Host: www.example.test", f"http://{runs.server_ipv4}:8080/"])
    assert done.stdout == "hello", done.stderr
    lines = {line.split()[0]: line for line in done.stderr.splitlines() if line}
    assert lines["web"].endswith("1 (1 http1)")


def test_no_summary_when_none_is_wanted(runs: RunHost) -> None:
    done = runs.run(["true"], ["--no-summary"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
def test_the_way_out_is_by_the_host_s_address(runs: RunHost, version: int) -> None:
    before = runs.remains()
    server, uplink = (
        (runs.server_ipv4, f"::ffff:{runs.uplink.a.ipv4}")
        if version == 4
        else (runs.server_ipv6, str(runs.uplink.a.ipv6))
    )
    with serving(runs.server, lambda c: c.sendall(c.getpeername()[0].encode()), 7000):
        done = runs.run(["python3", "-c", _READ, server, "7000"], ["--ipv6"] if version == 6 else [])
    assert done.stdout == uplink, done.stderr
    assert runs.remains() == before


def test_without_forwarding_ipv6_ends_at_the_host(runs: RunHost) -> None:
    done = runs.run(["ip", "-6", "route", "show", "default"])
    assert done.stdout == ""


def test_data_still_on_its_way_when_the_command_ends_arrives_in_its_lane(runs: RunHost) -> None:
    # 150 kB take 1.2 s at 1 Mbit/s; the sender is gone at once, having filled the socket's buffer.
    received: list[tuple[int, float]] = []

    def count(connection: socket.socket) -> None:
        size, began = len(connection.recv(1)), time.monotonic()
        while data := connection.recv(65536):
            size += len(data)
        received.append((size, time.monotonic() - began))
        done.set()

    done = threading.Event()
    with serving(runs.server, count, 5001):
        result = runs.run(["python3", "-c", _SEND_AND_LEAVE, runs.server_ipv4, "5001"])
        assert result.returncode == 0, result.stderr
        assert done.wait(10)
    size, seconds = received[0]
    assert size == 150_000
    assert seconds > 0.9


def test_what_the_command_leaves_in_the_background_is_ended(runs: RunHost) -> None:
    before = runs.remains()
    become = "until [ $(cat /proc/$!/comm) = sleep ]; do :; done"
    done = runs.run(["sh", "-c", f"setsid sleep 1000 >/dev/null 2>&1 & {become}; echo $!"])
    assert process_start(int(done.stdout)) is None
    assert f"sleep ({done.stdout.strip()})" in done.stderr
    assert runs.remains() == before


def test_the_command_runs_as_the_user_who_called_sudo(runs: RunHost) -> None:
    user = pwd.getpwnam("nobody")
    env = {**os.environ, "SUDO_UID": str(user.pw_uid), "SUDO_GID": str(user.pw_gid), "SUDO_USER": "nobody"}
    done = runs.run(["sh", "-c", "id -un; id -G; echo $HOME $USER"], env=env)
    groups = " ".join(map(str, os.getgrouplist("nobody", user.pw_gid)))
    assert done.stdout.splitlines() == ["nobody", groups, f"{user.pw_dir} nobody"], done.stderr


def test_user_chooses_who_the_command_runs_as(runs: RunHost) -> None:
    assert runs.run(["id", "-un"], ["--user", "daemon"]).stdout == "daemon\n"
    assert runs.run(["id", "-un"]).stdout == "root\n"
    unknown = runs.run(["id"], ["--user", "no-such-user"])
    assert unknown.returncode == 2
    assert "no-such-user" in unknown.stderr


def test_a_loopback_resolver_is_replaced_by_the_one_behind_it(runs: RunHost, tmp_path: Path) -> None:
    # A private /run and /etc/resolv.conf, as on a machine with systemd-resolved.
    (tmp_path / "stub").write_text("nameserver 127.0.0.53\n")
    script = (
        f"mount --bind {tmp_path}/stub /etc/resolv.conf && mount -t tmpfs none /run && mkdir -p /run/systemd/resolve && "
        'echo nameserver 192.0.2.53 > /run/systemd/resolve/resolv.conf && exec "$@"'
    )
    command = runs.command(["cat", "/etc/resolv.conf"])
    done = runs.host.run(["unshare", "--mount", "sh", "-c", script, "sh", *command], check=False)
    assert done.stdout == "nameserver 192.0.2.53\n", done.stderr


def test_run_works_where_forwarding_is_dropped_by_default(runs: RunHost) -> None:
    runs.host.run(["iptables", "-P", "FORWARD", "DROP"])
    runs.host.run(["iptables", "-A", "FORWARD", "-i", "docker0", "-j", "ACCEPT"])
    before = runs.remains()
    with serving(runs.server, lambda c: c.sendall(b"through"), 7000):
        done = runs.run(["python3", "-c", _READ, runs.server_ipv4, "7000"])
    assert done.stdout == "through", done.stderr
    assert runs.remains() == before
    assert len(before.firewall) == 2


def test_not_even_an_empty_table_stays_on_the_host(runs: RunHost) -> None:
    assert runs.run(["true"], ["--ipv6"]).returncode == 0
    assert runs.host.run(["iptables-nft-save"]).stdout == ""
    assert runs.host.run(["ip6tables-nft-save"]).stdout == ""


def test_a_table_that_somebody_uses_meanwhile_stays(runs: RunHost) -> None:
    rule = ["FORWARD", "-i", "docker0", "-j", "DROP"]
    done = runs.run(["nsenter", f"--net={runs.host.namespace.path}", "iptables-nft", "-A", *rule])
    assert done.returncode == 0, done.stderr
    saved = runs.host.run(["iptables-nft-save"]).stdout
    assert f"-A {' '.join(rule)}" in saved.splitlines()
    assert "*nat" not in saved


def test_the_host_can_be_reached_at_the_gateway(runs: RunHost) -> None:
    script = 'gateway=$(ip route show default | cut -d" " -f3); exec python3 -c "$0" $gateway 7000'
    with listen(runs.host, port=7000) as listener:
        thread = threading.Thread(target=lambda: listener.accept()[0].sendall(b"host"))
        thread.start()
        done = runs.run(["sh", "-c", script, _READ])
        thread.join()
    assert done.stdout == "host", done.stderr


_READ = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 20) as s, s.makefile("rb") as f:
    print(f.read().decode(), end="")
"""
_SEND_AND_LEAVE = """
import socket, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 300_000)
s.connect((sys.argv[1], int(sys.argv[2])))
s.setblocking(False)
assert s.send(b"x" * 150_000) == 150_000
"""


def _send(address: str, port: int) -> str:
    program = "import socket,sys; s=socket.create_connection((sys.argv[1],int(sys.argv[2]))); s.sendall(sys.stdin.buffer.read())"
    return f"python3 -c '{program}' {address} {port}"


def _discard(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass
