"""Who made a change and where: names that are never given twice."""

from __future__ import annotations

import os
import pwd
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from histories import ADA

from tc_core.errors import HistoryError
from tc_core.history import Who, default_path, describe_self, identity, this_namespace
from tc_core.history.identity import lives, process_identity


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives until its standard input ends; its name is one to trip over."""
    script = "printf ') Z 1' > /proc/$$/comm; echo named; read -r line"
    with subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"named\n"
        yield process
        process.kill()


def test_this_process_tells_who_it_is() -> None:
    who = describe_self()
    assert (who.uid, who.pid) == (os.getuid(), os.getpid())
    assert who.user == pwd.getpwuid(os.getuid()).pw_name
    assert who.command.startswith(shlex.quote(sys.orig_argv[0]))
    assert lives(who)
    assert describe_self() == who


def test_an_argument_with_blanks_stays_one() -> None:
    code = "from tc_core.history import describe_self; print(describe_self().command)"
    printed = subprocess.run([sys.executable, "-c", code, "a b", ""], check=True, capture_output=True, text=True).stdout
    assert printed.rstrip().endswith("'a b' ''")


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)
    who = describe_self()
    assert (who.user, str(who)) == ("", "2147483641")


@pytest.mark.parametrize(("user", "sudo_user", "expected"), [
    ("ada", "", "ada"),
    ("root", "ada", "ada as root"),
    ("root", "root", "root"),
])  # fmt: skip
def test_who_in_words(monkeypatch: pytest.MonkeyPatch, user: str, sudo_user: str, expected: str) -> None:
    monkeypatch.setenv("SUDO_USER", sudo_user)
    assert str(replace(describe_self(), user=user)) == expected


def test_a_process_lives_until_it_is_dead(child: subprocess.Popen[bytes]) -> None:
    who = replace(ADA, pid=child.pid, process=process_identity(child.pid) or "")
    assert lives(who)
    child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and a corpse that keeps its pid
    assert not lives(who)
    child.wait()
    assert not lives(who)


def test_another_process_of_the_same_pid_is_another(child: subprocess.Popen[bytes]) -> None:
    ours = describe_self()
    assert process_identity(child.pid) not in (None, ours.process)
    assert not lives(replace(ours, pid=child.pid))


@pytest.mark.parametrize("process", ["", "no identity"])
def test_a_process_without_identity_is_not_taken_for_living(process: str) -> None:
    assert not lives(Who(0, "root", "", os.getpid(), "podlane", process))


def test_a_namespace_keeps_its_name_and_shares_it_with_no_other_boot(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = this_namespace()
    assert here == this_namespace()
    assert f"/{os.readlink('/proc/self/ns/net')}" in here
    boot = tmp_path / "boot_id"
    boot.write_text("another boot\n")
    monkeypatch.setattr(identity, "_BOOT_ID", boot)
    assert this_namespace() == here.replace(here.split("/")[0], "another boot")


def test_a_kernel_without_cookies_has_the_inode(monkeypatch: pytest.MonkeyPatch) -> None:
    here = this_namespace()
    monkeypatch.setattr(identity, "_SO_NETNS_COOKIE", 9999)
    assert here.startswith(this_namespace())
    assert this_namespace().endswith("]")


def test_without_proc_there_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(identity, "_BOOT_ID", tmp_path / "missing")
    for ask in (this_namespace, describe_self):
        with pytest.raises(HistoryError, match="Mount /proc"):
            ask()


@pytest.mark.parametrize(("uid", "environment", "expected"), [
    pytest.param(0, {"XDG_STATE_HOME": "/state"}, "/var/lib/podlane/history.db", id="root"),
    pytest.param(1000, {"XDG_STATE_HOME": "/state"}, "/state/podlane/history.db", id="a user with a state directory"),
    pytest.param(1000, {"HOME": "/home/ada"}, "/home/ada/.local/state/podlane/history.db", id="a user"),
    pytest.param(1000, {"HOME": "/home/ada", "XDG_STATE_HOME": "state"}, "/home/ada/.local/state/podlane/history.db", id="relative: ignored"),
])  # fmt: skip
def test_where_the_history_is_kept(
    monkeypatch: pytest.MonkeyPatch, uid: int, environment: dict[str, str], expected: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert default_path() == Path(expected)


def test_a_user_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 2**31 - 7)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    with pytest.raises(HistoryError, match="Set XDG_STATE_HOME or HOME"):
        default_path()
