"""``podlane tc history``: looking back, comparing and restoring, also after a change that was interrupted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from histories import ADA
from histories import done as settled
from tc_terminal import ONLY_BACKUP, Terminal, terminal

from tc_core.fake.kernel import FakeKernel
from tc_core.history import SqliteHistory, this_namespace


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel("eth0", "lo")


@pytest.fixture
def podlane(kernel: FakeKernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    return terminal(kernel, tmp_path, monkeypatch)


def test_history_lists_newest_first(podlane: Terminal) -> None:
    podlane.applied()
    podlane("clear", "eth0")
    listed = podlane("history").stdout.splitlines()
    assert listed[0].split() == ["number", "when", "who", "interface", "action", "result", "changes"]
    assert [line.split()[0] for line in listed[1:]] == ["3", "1"]
    assert "eth0       clear   done" in listed[1]
    assert podlane("history", "eth0", "--limit", "1").stdout.splitlines() == listed[:2]
    assert podlane("history", "list", "eth0").stdout.splitlines() == listed
    assert "Nothing was recorded for lo" in podlane("history", "lo").stderr


def test_history_before_anything_happened(podlane: Terminal) -> None:
    done = podlane("history")
    assert done.exit_code == 0
    assert "Nothing was recorded" in done.stderr
    assert json.loads(podlane("history", "--json").stdout) == []
    shown = podlane("history", "show", "1")
    assert shown.exit_code == 1
    assert f"There is no change 1 in the history {podlane.history}. None was recorded yet." in shown.stderr
    assert not podlane.history.exists()


def test_history_show_has_who_when_what_before_and_after(podlane: Terminal) -> None:
    podlane.applied()
    podlane.applied(ONLY_BACKUP)
    said = podlane("history", "show", "3").stdout
    assert "Change 3: apply on eth0" in said
    assert "  ✓ tc class del dev eth0 classid 1:101" in said
    before, after = said.partition("\nBefore")[2].split("\nAfter")
    assert "name: db" in before
    assert "name: db" not in after
    record = json.loads(podlane("history", "show", "3", "--json").stdout)
    assert record["made"] == len(record["commands"])
    assert record["who"]["pid"] > 0
    missing = podlane("history", "show", "9")
    assert missing.exit_code == 1
    assert f"There is no change 9 in the history {podlane.history}. The newest is 3" in missing.stderr


def test_history_diff_compares_states(podlane: Terminal) -> None:
    podlane.applied()
    podlane.applied(ONLY_BACKUP)
    between = podlane("history", "diff", "1", "3")
    assert between.exit_code == 1
    assert between.stdout.startswith("--- after change 1\n+++ after change 3\n")
    assert "-- name: db" in between.stdout.splitlines()
    now = podlane("history", "diff", "1")
    assert now.stdout == between.stdout.replace("after change 3", "eth0 now")
    same = podlane("history", "diff", "3")
    assert (same.exit_code, same.stdout) == (0, "")
    assert podlane("history", "diff", "1", "99").exit_code == 2


def test_history_restore_brings_an_earlier_state_back(podlane: Terminal) -> None:
    podlane.applied()
    first = podlane.kernel.observe("eth0")
    podlane.applied(ONLY_BACKUP)
    rehearsed = podlane("history", "restore", "1", "--dry-run")
    assert rehearsed.exit_code == 0
    assert len(podlane.changes()) == 2
    done = podlane("history", "restore", "1")
    assert done.exit_code == 0
    assert done.stdout == rehearsed.stdout
    assert "eth0 is as change 1 left it" in done.stderr
    assert podlane("diff", "eth0", "--file", podlane.policy).exit_code == 0
    assert {c.handle for c in first.classes} == {c.handle for c in podlane.kernel.observe("eth0").classes}
    newest = podlane.changes()[0]
    assert (newest["action"], newest["result"]) == ("restore", "done")
    assert newest["after"]["policy"] == podlane.changes()[2]["after"]["policy"]


def test_history_restore_of_a_cleared_interface_clears(podlane: Terminal) -> None:
    podlane.applied()
    podlane("clear", "eth0")
    podlane.applied()
    done = podlane("history", "restore", "3")
    assert done.exit_code == 0
    assert podlane.kernel.observe("eth0").classes == ()
    assert podlane.changes()[0]["action"] == "restore"


def test_what_a_failed_change_left_cannot_be_restored(podlane: Terminal) -> None:
    podlane.kernel.fail_at(2)
    podlane("apply", "eth0", "--file", podlane.policy)
    done = podlane("history", "restore", "1")
    assert done.exit_code == 1
    assert "Change 1 is failed" in done.stderr


def test_another_namespaces_state_is_restored_with_a_word_about_it(podlane: Terminal) -> None:
    podlane.applied()
    after = podlane.changes()[0]["after"]
    with SqliteHistory(podlane.history) as log:
        number = settled(log, namespace="boot/net:[1]/1", before=None, after=after, commands=()).number
    podlane("clear", "eth0")
    listed = podlane("history").stdout
    assert "eth0 *" in listed
    assert "*: in another network namespace" in listed
    done = podlane("history", "restore", str(number))
    assert done.exit_code == 0
    assert "was made in another network namespace" in done.stderr
    assert podlane("diff", "eth0", "--file", podlane.policy).exit_code == 0


@pytest.fixture
def interrupted(podlane: Terminal) -> Terminal:
    """After a change that was done, one whose process is gone."""
    podlane.applied(ONLY_BACKUP)
    record = podlane.changes()[0]
    with SqliteHistory(podlane.history) as log:
        log.start(
            interface="eth0", namespace=this_namespace(), action="apply", who=ADA,
            before=record["after"], after={"policy": {"total": "1Mbit"}, "ids": {"default": 255}}, commands=["tc qdisc ..."],
        )  # fmt: skip
    return podlane


def test_an_interrupted_change_is_shown_as_such_with_the_remedy(interrupted: Terminal) -> None:
    listed = interrupted("history").stdout
    assert listed.splitlines()[1].split()[-4:] == ["interrupted", "?", "of", "1"]
    assert "Change 3 was interrupted" in listed
    assert "podlane tc apply eth0" in listed
    assert "  ? tc qdisc ..." in interrupted("history", "show", "3").stdout
    shown = interrupted("show", "eth0").stdout
    assert "as change 1 left it" in shown  # which is what the kernel says
    assert "! Change 3 (apply) is interrupted: what it left is not certain." in shown
    assert "Change 3 is interrupted" in interrupted("history", "diff", "1").stderr


def test_applying_again_settles_it(interrupted: Terminal) -> None:
    path = interrupted.write("again.yaml", ONLY_BACKUP)
    done = interrupted("apply", "eth0", "--file", path)
    assert (done.exit_code, done.stdout) == (0, "")
    assert "nothing to change, now written down (change 4 of the history)" in done.stderr
    assert "not certain" not in interrupted("show", "eth0").stdout
    assert "nothing to change.\n" in interrupted("apply", "eth0", "--file", path).stderr
