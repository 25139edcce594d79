"""What the supervisor decides, says and prepares, without any process."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from captured_logs import capture_logs

from datapath.netfilter.backend import BackendKind
from datapath.netfilter.fallback import REFUSE, failing_text, without_proxy, without_refusal
from datapath.netfilter.install import Installer
from datapath.netfilter.nfqueue_rules import SHOW
from datapath.netfilter.parse import Installed, InstalledHook, parse
from datapath.netfilter.python_iptables.fallback import changed
from datapath.netfilter.quic import AGAIN, IN_QUIC, QUIC
from datapath.netfilter.render import difference, render
from datapath.netfilter.restore import RestoreBackend, Tools
from datapath.netfilter.rules import Drop, Family, FamilyRules, Nfqueue, Rule, Tproxy
from datapath.netfilter.ruleset import CaptureSettings, build_ruleset
from sidecar.app.fail_closed import refuse
from sidecar.supervisor.argv import without_options
from sidecar.supervisor.commands import Action, run_all
from sidecar.supervisor.heartbeat import CLASSIFIER, LOOP, Heartbeat, new_page
from sidecar.supervisor.ipc import IpcChannel
from sidecar.supervisor.watchdog import HUNG_S, SILENT_S, Restarts, Watchdog
from traffic_policy.marks import ClassIds
from traffic_policy.policy import TrafficPolicy
from traffic_policy.settings import Datapath, OnFailure

BOTH_WAYS = TrafficPolicy.model_validate(
    {
        "total": "1Gbit",
        "classes": [
            {"name": "out", "rate": "8kbit", "match": [{"sni": "a.example"}]},
            {"name": "in", "rate": "8kbit", "match": [{"sni": "b.example", "direction": "inbound"}]},
            {"name": "port", "rate": "8kbit", "match": [{"port": 873}]},
        ],
    }
)
KERNEL_ONLY = TrafficPolicy.model_validate(
    {"total": "1Gbit", "classes": [{"name": "port", "rate": "8kbit", "match": [{"port": 873}]}]}
)
DATAPATHS = [Datapath.RELAY, Datapath.STEP_ASIDE]


def rules(policy: TrafficPolicy, datapath: Datapath = Datapath.RELAY) -> FamilyRules:
    ids = ClassIds.assign(c.name for c in policy.classes)
    return build_ruleset(policy, ids, CaptureSettings(datapath=datapath, interface="eth0")).for_family(Family.V4)


# --- silence ----------------------------------------------------------------------------------------------------------


def looks(last: float, *times: float, kind: int = LOOP) -> list[tuple[bool, bool]]:
    """What a watch says at these times of one whose last sign was at ``last``."""
    watch = Watchdog()
    signs = [0.0, 0.0, 0.0]
    signs[kind] = last
    return [watch.check(now, signs)[:2] for now in times]


@pytest.mark.parametrize("kind", [LOOP, CLASSIFIER], ids=["loop", "judge"])
def test_silence_is_first_told_and_then_deadly(kind: int) -> None:
    at = 100.0
    steps = [at + 0.1 * step for step in range(int(HUNG_S[kind] * 10) + 2)]
    said = looks(at, *steps, kind=kind)
    assert said[0] == (False, False)
    first_silent = next(now for now, (silent, _) in zip(steps, said, strict=True) if silent)
    assert first_silent - at == pytest.approx(SILENT_S[kind], abs=0.11)
    assert not said[-3][1]
    assert said[-1] == (True, True)


def test_who_waits_for_a_cpu_does_not_hang() -> None:
    watch = Watchdog()
    signs = [100.0, 0.0, 0.0]
    said = [watch.check(100.0 + 0.1 * step, signs, queued=0.09 * step)[:2] for step in range(40)]
    assert set(said) == {(False, False)}
    assert watch.check(104.3, signs, queued=3.6).silent
    assert not watch.check(104.4, [104.3, 0.0, 0.0], queued=3.6).silent


def test_nobody_waits_for_a_sign_that_was_never_given() -> None:
    assert Watchdog().check(1e6, [0.0, 0.0, 0.0])[:2] == (False, False)


def test_who_was_stopped_itself_does_not_judge_at_once() -> None:
    """A frozen container: both stood still, and who wakes first must not take the other for dead."""
    watch = Watchdog()
    watch.check(100.0, [100.0, 0.0, 0.0])
    woken = watch.check(500.0, [100.0, 0.0, 0.0])
    assert woken[:2] == (False, False)
    assert watch.check(woken.look_at, [100.0, 0.0, 0.0])[:2] == (True, True)


def test_the_next_look_comes_before_a_second_of_silence_is_over() -> None:
    for age in (0.0, 0.1, 0.3, 0.59):
        at = Watchdog().check(100.0, [100.0 - age, 0.0, 0.0]).look_at
        assert at - (100.0 - age) < 0.9


def test_signs_reach_the_other_side() -> None:
    descriptor = new_page()
    giver, taker = Heartbeat(descriptor), Heartbeat(descriptor)
    os.close(descriptor)
    assert taker.last(CLASSIFIER) == 0
    giver.beat(CLASSIFIER)
    assert taker.last(CLASSIFIER) > 0
    assert taker.last(LOOP) == 0
    giver.close()
    taker.close()


# --- starting again ---------------------------------------------------------------------------------------------------


def test_a_proxy_that_fails_again_and_again_is_started_less_and_less_often() -> None:
    restarts = Restarts()
    pauses = [restarts.pause_after("exit", None) for _ in range(12)]
    assert pauses == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]
    assert restarts.pause_after("kill", 59.0) == 30.0
    assert restarts.pause_after("kill", 61.0) == 0.0
    assert restarts.counts == {"exit": 12, "kill": 2}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["a", "--ready-fd", "4", "b"], ["a", "b"]),
        (["a", "--ready-fd=4", "b"], ["a", "b"]),
        (["--ready-fds", "4"], ["--ready-fds", "4"]),
    ],
    ids=["two words", "one word", "another option"],
)
def test_who_waits_for_the_first_proxy_is_told_once(given: list[str], kept: list[str]) -> None:
    assert without_options(given, ("--ready-fd",)) == kept


# --- messages, programs -----------------------------------------------------------------------------------------------


def test_messages_arrive_with_their_descriptors() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        read, write = os.pipe()
        assert IpcChannel(ours).send("welcome", {"again": True}, [write])
        os.close(write)
        message, (copy,) = IpcChannel(theirs).receive()
        assert message == {"kind": "welcome", "again": True}
        os.write(copy, b"x")
        assert os.read(read, 1) == b"x"
        os.close(copy)
        os.close(read)
        theirs.close()
        assert not IpcChannel(ours).send("resume")
        assert IpcChannel(ours).receive() == (None, [])


def test_prepared_programs_all_run_and_their_words_are_told() -> None:
    shell = ("/bin/sh", "-c")
    failing = Action((*shell, "cat >&2; exit 3"), "for want of a table")
    said = run_all(
        [failing, Action((*shell, "exit 4"), ""), Action(("/no/such/program",), ""), Action((*shell, ":"), "")]
    )
    assert said == "sh: for want of a table; sh: it ended with 4; program: No such file or directory"
    assert run_all([Action((*shell, "read word && test $word = yes"), "yes\n")]) is None
    assert "ended with -9" in (run_all([Action((*shell, "exec sleep 60"), "")], 0.05) or "")


# --- rules ------------------------------------------------------------------------------------------------------------


def as_saved(whole: FamilyRules) -> Installed:
    """What iptables-save would show of rules in an empty table."""
    return parse(re.sub(r"(?m)^-I (\S+) 1 ", r"-A \1 ", render(whole)), Family.V4)


def put_through(policy: TrafficPolicy, way: OnFailure, datapath: Datapath) -> tuple[Installed, str]:
    """The mangle table after the failing text, worked out as iptables-restore does; and that text."""
    whole = rules(policy, datapath)
    text = failing_text(whole, way, datapath)
    assert text is not None
    installed = as_saved(whole)
    changed = parse(text, Family.V4)
    return Installed({**installed.chains, **changed.chains}, installed.hooks), text


@pytest.mark.parametrize("datapath", DATAPATHS)
def test_open_captures_nothing_and_leaves_what_the_kernel_decides(datapath: Datapath) -> None:
    after, text = put_through(BOTH_WAYS, OnFailure.OPEN, datapath)
    whole = rules(BOTH_WAYS, datapath)
    for chain in whole.chains:
        assert after.chains[chain.name] == without_proxy(chain, OnFailure.OPEN)
    # Nothing captures: the draining form of the same policy has the same empty chains.
    drained = build_ruleset(
        BOTH_WAYS, ClassIds.assign(c.name for c in BOTH_WAYS.classes), CaptureSettings(datapath=datapath, interface="eth0"),
        capture=False,
    ).for_family(Family.V4)  # fmt: skip
    assert all(after.chains[c.name] == () for c in drained.chains if not c.rules)
    assert "filter" not in text


@pytest.mark.parametrize("datapath", DATAPATHS)
def test_closed_leads_nowhere_and_refuses(datapath: Datapath) -> None:
    after, text = put_through(BOTH_WAYS, OnFailure.CLOSED, datapath)
    left = [rule for chain in after.chains.values() for rule in chain]
    assert not any(isinstance(getattr(rule, "action", None), Tproxy | Nfqueue) for rule in left)
    refused = [rule for rule in left if isinstance(rule, Rule) and isinstance(rule.action, Drop)]
    # QUIC both ways.
    assert [(rule.quic_initial, rule.to_here) for rule in refused] == [(True, False), (True, True)]
    for chain in rules(BOTH_WAYS, datapath).chains:
        if chain.name not in (QUIC, IN_QUIC):
            kept = () if chain.name in (SHOW, AGAIN) else chain.rules
            assert after.chains[chain.name] == tuple(r for r in kept if not isinstance(r.action, Tproxy))
    assert text.index("REJECT --reject-with tcp-reset") < text.index("*mangle")
    assert ("SYN" in text.split("REJECT")[0]) == (datapath is Datapath.STEP_ASIDE)


@pytest.mark.parametrize("way", OnFailure)
def test_what_captures_nothing_needs_nothing(way: OnFailure) -> None:
    assert failing_text(rules(KERNEL_ONLY), way, Datapath.RELAY) is None


def test_the_refusal_goes_and_nothing_else() -> None:
    table = (
        "*filter\n:INPUT ACCEPT [0:0]\n:PODLANE-REFUSE - [0:0]\n:MINE - [0:0]\n-A INPUT -p tcp -j PODLANE-REFUSE\n"
        "-A INPUT -p tcp -j PODLANE-REFUSE\n-A INPUT -j MINE\n-A PODLANE-REFUSE -p tcp -j REJECT\nCOMMIT\n"
    )
    assert without_refusal(table) == (
        "*filter\n-D INPUT -p tcp -j PODLANE-REFUSE\n-D INPUT -p tcp -j PODLANE-REFUSE\n"
        "-F PODLANE-REFUSE\n-X PODLANE-REFUSE\nCOMMIT\n"
    )
    assert without_refusal("*filter\n:MINE - [0:0]\nCOMMIT\n") is None


def test_what_cannot_be_refused_stays_captured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without REJECT, say: without a listener such connections wait, where without the rules they go direct."""
    # The programs are made up, and with them what this machine's kernel has not.
    monkeypatch.setattr("tc_core.netlink.nftables.tables", lambda _family: None)
    (tmp_path / "mangle").write_text(re.sub(r"(?m)^-I (\S+) 1 ", r"-A \1 ", render(rules(BOTH_WAYS))))
    (tmp_path / "filter").touch()
    save, restore = tmp_path / "save", tmp_path / "restore"
    save.write_text(f'#!/bin/sh\nexec cat {tmp_path}/"$2"\n')
    restore.write_text("#!/bin/sh\necho no chain/target/match >&2\nexit 2\n")
    for program in (save, restore):
        program.chmod(0o755)
    backend = RestoreBackend(BackendKind.NFT, {Family.V4: Tools(str(save), str(restore))})
    with capture_logs() as said:
        assert refuse(Installer(backend), None, None)
    assert [each["error"] for each in said] == ["restore: no chain/target/match"]


@pytest.mark.parametrize("way", OnFailure)
@pytest.mark.parametrize("datapath", DATAPATHS)
def test_the_library_does_the_same_and_loses_nothing_of_others(way: OnFailure, datapath: Datapath) -> None:
    whole = rules(BOTH_WAYS, datapath)
    installed = as_saved(whole)
    assert not difference(whole, installed)
    less = changed(installed, Family.V4, way)
    assert less is not None
    by_program, _ = put_through(BOTH_WAYS, way, datapath)
    ours = {name: left for name, left in by_program.chains.items() if name != REFUSE}
    assert {c.name: c.rules for c in less.chains} == ours
    assert {(h.builtin, h.rule) for h in less.hooks} == {(h.builtin, h.rule) for h in whole.hooks}
    foreign = Installed({**installed.chains, "PODLANE-OUT": ("-m something -j ACCEPT",)}, installed.hooks)
    assert changed(foreign, Family.V4, way) is None
    odd = InstalledHook("OUTPUT", 2, "-m something -j PODLANE-OUT", "PODLANE-OUT")
    assert changed(Installed(installed.chains, (odd,)), Family.V4, way) is None


# --- what the next proxy gets -----------------------------------------------------------------------------------------

PROXY = """
import os, signal, socket, sys
from sidecar.supervisor.ipc import IpcChannel
wire = IpcChannel(socket.socket(fileno=int(sys.argv[-1].partition("=")[2])))
ids = wire.receive()[0]["ids"]
print(ids, flush=True)
if ids is None:
    wire.send("armed", {"actions": [], "ids": {"ids": {"b": 2}, "retired": [1]}, "on_failure": "open", "log_format": "json"})
    wire.send("ready")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_proxy_goes_on_with_the_class_ids_of_one_that_was_killed() -> None:
    command = [sys.executable, "-m", "sidecar.supervisor", sys.executable, "-c", PROXY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.stdout.splitlines() == ["None", "{'ids': {'b': 2}, 'retired': [1]}"]
    assert (done.returncode, "was killed by SIGKILL" in done.stderr) == (0, True)


def test_class_ids_are_told_with_those_that_are_not_to_be_used_again() -> None:
    ids = ClassIds.assign(["a", "b", "c"]).evolve(["b", "c"])
    again = ClassIds.from_document(json.loads(json.dumps(ids.to_document())))
    assert dict(again.evolve(["b", "c", "d"])) == {"b": 2, "c": 3, "d": 4, "default": 255}
