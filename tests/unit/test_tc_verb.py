"""``podlane tc`` as it is called, on a kernel in memory: what it says, what it changes, what it writes down."""

from __future__ import annotations

import errno
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from tc_terminal import ONLY_BACKUP, POLICY, Terminal, terminal
from trees import FW_FQ_CODEL, policy, tree_of

from podlane.main import main
from podlane.tc import sidecar_check
from podlane.tc.command import tc
from podlane.tc.records import Knowledge
from podlane.tc.show import lines, read_interface
from tc_core.apply.execute import apply
from tc_core.fake.kernel import FakeKernel
from tc_core.handles import ROOT, Handle
from tc_core.model import HtbQdisc, Link, Observed, OtherQdisc
from tc_core.stats import ClassStats
from traffic_policy.units import Rate

FOREIGN = Observed(Link("eth0"), (HtbQdisc(Handle(5), 0x10),))


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel("eth0", "lo")


@pytest.fixture
def podlane(kernel: FakeKernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    return terminal(kernel, tmp_path, monkeypatch)


# --- apply, diff, clear ----------------------------------------------------------------------------------------------


def test_apply_prints_its_commands_and_one_sentence(podlane: Terminal) -> None:
    done = podlane("apply", "eth0", "--file", podlane.policy)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith("+ tc qdisc add dev eth0 root handle 1: htb default 1ff")
    assert len(lines) == len(podlane.kernel.applied)
    assert done.stderr == (
        f"podlane: eth0 follows {podlane.policy}: {len(lines)} changes made (change 1 of the history).\n"
    )


def test_a_second_time_nothing_is_left_to_do_or_to_write_down(podlane: Terminal) -> None:
    podlane.applied()
    made = len(podlane.kernel.applied)
    done = podlane("apply", "eth0", "--file", podlane.policy)
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == f"podlane: eth0 follows {podlane.policy}: nothing to change.\n"
    assert len(podlane.kernel.applied) == made
    assert len(podlane.changes()) == 1


def test_programs_of_filters_are_cut_short_for_people_only(podlane: Terminal) -> None:
    arguments = ("diff", "eth0", "--file", podlane.policy)
    [shown] = [line for line in podlane(*arguments).stdout.splitlines() if "bytecode" in line]
    commands = [step["command"] for step in json.loads(podlane(*arguments, "--json").stdout)["commands"]]
    [whole] = [command for command in commands if "bytecode" in command]
    count = shown.partition("bytecode '")[2].partition(",")[0]
    assert shown.endswith(f"bytecode '{count},…'")
    assert len(whole.partition("bytecode '")[2].split(",")) == int(count) + 1


def test_diff_has_the_exit_codes_of_diff(podlane: Terminal) -> None:
    before = podlane("diff", "eth0", "--file", podlane.policy)
    assert before.exit_code == 1
    assert before.stderr == f"podlane: eth0: {len(before.stdout.splitlines())} changes would be made.\n"
    assert podlane.kernel.applied == []
    assert not podlane.history.exists()
    assert podlane.applied().stdout == before.stdout
    after = podlane("diff", "eth0", "--file", podlane.policy)
    assert (after.exit_code, after.stdout, after.stderr) == (0, "", "podlane: eth0: nothing to change.\n")
    assert podlane("diff", "eth1", "--file", podlane.policy).exit_code == 2


def test_signs_tell_what_comes_what_goes_and_what_is_altered(podlane: Terminal) -> None:
    podlane.applied()
    changed = podlane.write("changed.yaml", ONLY_BACKUP.replace("10Mbit", "30Mbit"))
    plain = podlane("diff", "eth0", "--file", changed).stdout
    by_sign = {line[0]: line for line in plain.splitlines()}
    assert by_sign["-"] == "- tc class del dev eth0 classid 1:101"
    assert "class change dev eth0 parent 1:1 classid 1:102" in plain
    assert by_sign["~"].startswith("~ tc ")
    coloured = podlane("diff", "eth0", "--file", changed, color=True).stdout
    assert "\x1b[31m- tc class del" in coloured
    assert "\x1b[33m~ tc class change" in coloured
    assert click.unstyle(coloured) == plain


def test_no_color_is_respected(podlane: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    for arguments in (["diff", "eth0", "--file", podlane.policy], ["show", "eth0"], ["profiles"]):
        assert "\x1b" not in podlane(*arguments, color=True).output


def test_dry_run_only_talks(podlane: Terminal) -> None:
    done = podlane("apply", "eth0", "--file", podlane.policy, "--dry-run")
    assert done.exit_code == 0
    assert done.stdout == podlane("diff", "eth0", "--file", podlane.policy).stdout
    assert podlane.kernel.applied == []
    assert not podlane.history.exists()


def test_apply_as_json(podlane: Terminal) -> None:
    done = podlane("apply", "eth0", "--file", podlane.policy, "--json")
    document = json.loads(done.stdout)
    assert document["result"] == "done"
    assert document["change"] == 1
    assert document["made"] == len(document["commands"]) == len(podlane.kernel.applied)
    again = json.loads(podlane("apply", "eth0", "--file", podlane.policy, "--json").stdout)
    assert (again["result"], again["made"], again["change"]) == ("nothing to change", 0, None)


def test_a_policy_from_standard_input(podlane: Terminal) -> None:
    done = podlane("apply", "eth0", "--file", "-", input=POLICY)
    assert done.exit_code == 0
    assert "eth0 follows standard input" in done.stderr


def test_standard_input_that_is_no_text(podlane: Terminal) -> None:
    done = podlane("apply", "eth0", "--file", "-", input=b"total: \xff")
    assert done.exit_code == 2
    assert "standard input: Not UTF-8 text (byte 7)." in done.stderr


def test_the_total_can_be_replaced(podlane: Terminal) -> None:
    podlane("apply", "eth0", "--file", podlane.policy, "--total", "60Mbit")
    assert podlane.changes()[0]["after"]["policy"]["total"] == "60Mbit"


def test_a_profile_is_applied_for_its_total(podlane: Terminal) -> None:
    done = podlane("apply", "eth0", "--profile", "voip", "--total", "20Mbit")
    assert done.exit_code == 0
    assert "eth0 follows profile voip" in done.stderr
    assert podlane.changes()[0]["after"]["policy"]["total"] == "20Mbit"


def test_clear_takes_ours_away_and_says_so_when_nothing_was_there(podlane: Terminal) -> None:
    podlane.applied(POLICY + "ingress: {total: 50Mbit}\n")
    assert "ifb-eth0" in podlane.kernel.interfaces()
    done = podlane("clear", "eth0")
    assert done.exit_code == 0
    assert "- tc qdisc del dev eth0 root" in done.stdout.splitlines()
    assert "eth0 has no lanes" in done.stderr
    assert "ifb-eth0" not in podlane.kernel.interfaces()
    again = podlane("clear", "eth0")
    assert (again.exit_code, again.stdout) == (0, "")
    assert again.stderr == "podlane: eth0 has no lanes: nothing of Podlane's was there.\n"
    assert [change["action"] for change in podlane.changes()] == ["clear", "apply"]


@pytest.mark.parametrize(("verb", "code"), [("apply", 1), ("diff", 2)])
def test_somebody_elses_root_is_named_with_the_way_out(podlane: Terminal, verb: str, code: int) -> None:
    podlane.kernel.put(FOREIGN)
    done = podlane(verb, "eth0", "--file", podlane.policy)
    assert done.exit_code == code
    assert "root handle 5: htb" in done.stderr
    assert "--replace" in done.stderr
    assert podlane.kernel.applied == []
    assert podlane("clear", "eth0").exit_code == 0
    assert podlane.kernel.observe("eth0") == FOREIGN
    taking_over = podlane(verb, "eth0", "--file", podlane.policy, "--replace")
    assert taking_over.exit_code == {"apply": 0, "diff": 1}[verb]
    assert taking_over.stdout.startswith("- tc qdisc del dev eth0 root\n+ tc qdisc add")
    assert bool(podlane.kernel.applied) == (verb == "apply")


def test_classes_that_stay_keep_their_handles(podlane: Terminal) -> None:
    podlane.applied()
    podlane.applied(ONLY_BACKUP)
    assert podlane.changes()[0]["after"]["ids"]["backup"] == 2
    assert {str(c.handle) for c in podlane.kernel.observe("eth0").classes} == {"1:1", "1:102", "1:1ff"}


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["apply", "eth0"], "Name one policy"),
        (["apply", "eth0", "--file", "x", "--profile", "voip", "--total", "1Mbit"], "Name one policy"),
        (["apply", "eth0", "--profile", "voip"], "--total RATE"),
        (["diff", "eth0", "--file", "x", "--total", "10"], "has no unit"),
        (["apply", "--file", "x"], "Missing argument 'INTERFACE'"),
        (["apply", "eth0", "--profile", "viop", "--total", "1Mbit"], "Did you mean voip?"),
        (["profiles", "nothing"], "There is no profile"),
        (["apply", "eth0", "--file", "/nowhere/policy.yaml"], "cannot be read"),
        (["history", "show", "first"], "'first' is not a valid integer"),
        (["history", "diff", "0"], "0 is not in the range"),
        (["history", "eth0", "--limit", "0"], "0 is not in the range"),
        (["shwo", "eth0"], "No such command 'shwo'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_command_line_that_cannot_be_used(podlane: Terminal, arguments: list[str], words: str) -> None:
    done = podlane(*arguments)
    assert done.exit_code == 2
    assert words in done.stderr
    assert podlane.kernel.applied == []


def test_a_bad_policy_is_refused_with_all_its_problems(podlane: Terminal) -> None:
    bad = podlane.write("bad.yaml", POLICY.replace("rate: 20Mbit", "rate: 200Mbit").replace("10Mbit", "100kbit"))
    for verb in ("apply", "diff"):
        done = podlane(verb, "eth0", "--file", bad)
        assert done.exit_code == 2
        assert f"{bad}: 3 problems" in done.stderr
    assert not podlane.history.exists()


def test_names_need_a_proxy_and_the_error_says_so(podlane: Terminal) -> None:
    names = podlane.write("names.yaml", "total: 1Mbit\nclasses: [{name: a, rate: 100kbit, match: [{sni: a.example}]}]")
    done = podlane("apply", "eth0", "--file", names)
    assert done.exit_code == 2
    assert f"{names}: classes[0].match[0]: sni" in done.stderr
    assert "podlane sidecar" in done.stderr


@pytest.mark.parametrize("verb", [["show"], ["clear"], ["apply", "--file", "-"]], ids=lambda words: words[0])
def test_an_interface_that_is_not_there(podlane: Terminal, verb: list[str]) -> None:
    done = podlane(verb[0], "eth7", *verb[1:], input=POLICY)
    assert done.exit_code == 1
    assert "There is no interface 'eth7'" in done.stderr
    assert "It has: eth0, lo." in done.stderr


def test_a_refusal_half_way_is_told_written_down_and_gone_on_from(podlane: Terminal) -> None:
    podlane.kernel.fail_at(3, errno.EOPNOTSUPP)
    done = podlane("apply", "eth0", "--file", podlane.policy)
    assert done.exit_code == 1
    assert len(done.stdout.splitlines()) == 3
    assert "Change 4 of" in done.stderr
    assert "podlane check" in done.stderr
    [change] = podlane.changes()
    assert (change["result"], change["made"]) == ("failed", 3)
    told = podlane("history", "show", "1").stdout
    assert "stopped half-way" in told
    marks = [line.split()[0] for line in told.partition("Commands\n")[2].partition("\n\n")[0].splitlines()]
    assert marks == ["✓"] * 3 + ["✗"] + ["–"] * (len(change["commands"]) - 4)
    assert "Change 1 (apply) is failed: what it left is not certain" in podlane("show", "eth0").stdout
    assert "goes on from there" in change["error"]
    podlane.applied()
    assert podlane("diff", "eth0", "--file", podlane.policy).exit_code == 0
    assert [change["result"] for change in podlane.changes()] == ["done", "failed"]


def test_a_history_that_cannot_be_written_stops_everything_before_it_begins(podlane: Terminal) -> None:
    podlane.history = Path("/proc/nothing/history.db")
    done = podlane("apply", "eth0", "--file", podlane.policy)
    assert done.exit_code == 1
    assert "/proc/nothing/history.db cannot be used" in done.stderr
    assert "Nothing has been changed" in done.stderr
    assert podlane.kernel.applied == []


def test_a_damaged_history_does_not_keep_anybody_from_looking(podlane: Terminal) -> None:
    podlane.applied()
    podlane.history.write_text("not a database" * 100)
    shown = podlane("show", "eth0")
    assert shown.exit_code == 0
    assert "1:101" in shown.stdout
    assert "cannot be used" in shown.stderr
    assert podlane("history").exit_code == 1


def test_a_damaged_event_does_not_keep_anybody_from_looking_either(podlane: Terminal) -> None:
    podlane.applied()
    podlane.applied(ONLY_BACKUP)
    with closing(sqlite3.connect(podlane.history)) as database, database:
        database.execute("DROP TRIGGER no_update")
        database.execute("UPDATE events SET checksum = 'spoilt' WHERE number = 1")
    assert "Event 1 of the history" in podlane("history", "show", "1").stderr
    assert "Change 3: apply on eth0" in podlane("history", "show", "3").stdout
    shown = podlane("show", "eth0")
    assert shown.exit_code == 0
    assert "Names and policies are not known without it." in shown.stderr
    made = len(podlane.kernel.applied)
    planned = podlane("diff", "eth0", "--file", podlane.policy)
    assert planned.exit_code == 1
    refused = podlane("apply", "eth0", "--file", podlane.policy)
    assert refused.exit_code == 1
    assert "Nothing has been changed. (podlane tc --no-history does without.)" in refused.stderr
    assert len(podlane.kernel.applied) == made


@pytest.mark.parametrize("arguments", [["history"], ["clear", "eth0"]], ids=lambda words: words[0])
def test_a_folder_is_no_history(podlane: Terminal, arguments: list[str]) -> None:
    podlane.history = podlane.directory
    done = podlane(*arguments)
    assert done.exit_code == 1
    assert f"{podlane.directory} is not a regular file. Name another one" in done.stderr


def test_who_is_not_root_is_told_of_roots_history(podlane: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    podlane.applied()
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(podlane.directory / "state"))
    for arguments in (["show", "eth0"], ["history"]):
        done = CliRunner().invoke(main, ["tc", *arguments])
        assert done.exit_code == 0
        assert "Root has a history of its own: try sudo." in done.stderr
        assert "Root has a history" not in podlane(*arguments).stderr


def test_without_a_history_nothing_is_written_and_nothing_known(podlane: Terminal) -> None:
    done = podlane("--no-history", "apply", "eth0", "--file", podlane.policy)
    assert done.exit_code == 0
    assert "of the history" not in done.stderr
    assert not podlane.history.exists()
    assert "does not say from which policy" in podlane("--no-history", "show", "eth0").stdout
    assert podlane("--no-history", "history").exit_code == 1
    podlane.applied(ONLY_BACKUP)
    assert "does not say from which policy" in podlane("--no-history", "show", "eth0").stdout


def test_the_history_can_be_named_by_the_environment(podlane: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = podlane.directory / "mine.db"
    monkeypatch.setenv("PODLANE_HISTORY", str(mine))
    done = CliRunner().invoke(main, ["tc", "apply", "eth0", "--file", podlane.policy])
    assert done.exit_code == 0
    assert mine.exists()


@pytest.mark.parametrize(
    "arguments",
    [["apply", "eth0", "--file", "-"], ["diff", "eth0", "--file", "-"], ["clear", "eth0"]],
    ids=lambda a: a[0],
)
def test_without_the_privilege_it_is_named(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datapath.netfilter.backend.has_net_admin", lambda: False)
    path = tmp_path / "history.db"
    done = CliRunner().invoke(main, ["tc", "--history", str(path), *arguments], input=POLICY)
    assert done.exit_code == (2 if arguments[0] == "diff" else 1)
    assert "CAP_NET_ADMIN" in done.stderr
    assert "sudo" in done.stderr
    assert not path.exists()


# --- beside a sidecar ------------------------------------------------------------------------------------------------


def test_a_sidecar_is_seen_by_its_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    for running, seen in ((True, True), (False, False), (None, True)):  # None: the kernel does not tell
        monkeypatch.setattr(sidecar_check, "instance_running", lambda running=running: running)
        assert sidecar_check.sidecar_runs_here() is seen


@pytest.mark.parametrize("verb", [["clear", "eth0"], ["apply", "eth0", "--file", "-"]], ids=lambda words: words[0])
@pytest.mark.parametrize("classes", [{"api": "1Mbit"}, {}], ids=["classes", "total alone"])
def test_what_a_sidecar_shapes_is_its_business(
    podlane: Terminal, verb: list[str], classes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidecar_check, "sidecar_runs_here", lambda: True)
    apply(podlane.kernel, "eth0", tree_of(policy(**classes), FW_FQ_CODEL))
    before = list(podlane.kernel.applied)
    done = podlane(*verb, input=POLICY)
    assert done.exit_code == 1
    assert "A sidecar shapes eth0 in this network namespace. Change its policy file instead" in done.stderr
    assert podlane.kernel.applied == before
    assert "made by the sidecar that runs here" in podlane("show", "eth0").stdout


@pytest.mark.parametrize("text", [POLICY, "total: 5Mbit"], ids=["classes", "total alone"])
def test_what_a_sidecar_does_not_shape_is_ours(podlane: Terminal, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sidecar_check, "sidecar_runs_here", lambda: True)
    podlane.applied(text)
    assert "as change 1 left it" in podlane("show", "eth0").stdout
    assert podlane("clear", "eth0").exit_code == 0


# --- show ------------------------------------------------------------------------------------------------------------


def test_show_has_names_limits_counters_and_traffic(podlane: Terminal) -> None:
    podlane.applied()
    podlane.kernel.count(Handle(1, 0x101), ClassStats(bytes=3 * 2**20, packets=2345, drops=7))
    podlane.kernel.queue(Handle(1, 0x101), 2048)
    made = len(podlane.kernel.applied)
    said = podlane("show", "eth0").stdout.splitlines()
    assert said[0] == "eth0 sends: Podlane's, as change 1 left it"
    [db] = [line for line in said if "─ db 1:101" in line]
    assert [cell.strip() for cell in db.split("  ") if cell.strip()][1:] == [
        "20 Mbit/s", "50 Mbit/s", "1", "3.0 MiB", "2345", "7", "2.0 KiB", "fq_codel, target 5ms",
    ]  # fmt: skip
    assert "    TCP on port 5432 → db" in said
    assert said[-1] == "eth0 receives: not limited"
    assert len(podlane.kernel.applied) == made


def test_show_of_what_is_received(podlane: Terminal) -> None:
    limited = (
        POLICY.replace("name: db,", "name: db, ingress: {rate: 5Mbit, ceil: 20Mbit},") + "ingress: {total: 50Mbit}\n"
    )
    podlane.applied(limited)
    said = podlane("show", "eth0").stdout
    received = said.partition("eth0 receives: ")[2]
    assert received.startswith("through ifb-eth0, Podlane's\n")
    assert "db 1:101         5 Mbit/s  20 Mbit/s" in received
    assert "→ db\n" in received
    assert "10.0.0.0/8 → default\n" in received  # it does not limit what it receives
    document = json.loads(podlane("show", "eth0", "--json").stdout)
    assert document["receives"]["through"]["device"] == "ifb-eth0"
    assert document["receives"]["filters"][0]["words"] == "everything → ifb-eth0"


@pytest.mark.parametrize(
    ("observed", "words"),
    [
        (FOREIGN, "eth0 sends: not Podlane's: htb"),
        (Observed(Link("eth0"), (OtherQdisc(Handle(0), ROOT, "noqueue"),)), "eth0 sends: the kernel's own choice"),
        (Observed(Link("eth0", is_up=False)), "(the interface is down)"),
        (Observed(Link("eth0"), (OtherQdisc(Handle(7), ROOT, "hfsc"),)), "eth0 sends: not Podlane's: hfsc"),
    ],
    ids=["foreign htb", "default", "down and bare", "unknown kind"],
)
def test_show_of_what_others_made(podlane: Terminal, observed: Observed, words: str) -> None:
    podlane.kernel.put(observed)
    done = podlane("show", "eth0")
    assert done.exit_code == 0
    assert words in done.stdout
    assert json.loads(podlane("show", "eth0", "--json").stdout)["interface"] == "eth0"


def test_show_says_when_somebody_changed_it_by_hand(podlane: Terminal) -> None:
    podlane.applied()
    podlane.kernel.put(FakeKernel("eth0").observe("eth0"))
    assert "what change 1 left is gone: apply it again" in podlane("show", "eth0").stdout
    podlane("--no-history", "apply", "eth0", "--file", podlane.write("b.yaml", ONLY_BACKUP))
    said = podlane("show", "eth0").stdout
    assert "but not as change 1 left it: apply its policy again" in said
    assert "its policy is not recorded" in said


def test_show_as_json_has_everything(podlane: Terminal) -> None:
    podlane.applied()
    document = json.loads(podlane("show", "eth0", "--json").stdout)
    assert document["recorded"]["change"] == 1
    assert document["recorded"]["in_force"] is True
    total = document["sends"]["tree"]["children"][0]
    db = next(child for child in total["children"] if child["name"] == "db")
    assert (db["handle"], db["guaranteed"], db["ceiling"], db["priority"]) == ("1:101", 20_000_000, 50_000_000, 1)
    assert db["queue"]["kind"] == "fq_codel"
    assert db["counters"]["bytes"] == 0
    assert db["now"] is None
    assert document["sends"]["traffic"][-1] == "everything else → default (1:1ff)"


def test_rates_are_the_difference_of_two_readings(podlane: Terminal) -> None:
    podlane.applied()
    handle = Handle(1, 0x102)
    podlane.kernel.count(handle, ClassStats(bytes=1000))

    def a_second_later(seconds: float) -> None:
        assert seconds == 1
        podlane.kernel.count(handle, ClassStats(bytes=126_000))

    shown = read_interface(podlane.kernel, "eth0", Knowledge(), with_rates=True, pause=a_second_later)
    assert shown.sends.root is not None
    assert {str(node.handle): str(node.now) for node in shown.sends.root.walk() if node.now != Rate(0)} == {
        "1:102": "1Mbit"
    }
    assert any(line.endswith("1 Mbit/s  fq_codel, target 5ms") for line in lines(shown))


# --- schema, profiles, help ------------------------------------------------------------------------------------------


def test_schema_is_the_published_one(podlane: Terminal) -> None:
    from traffic_policy.schema import policy_schema

    assert json.loads(podlane("schema").stdout) == policy_schema()


def test_profiles_are_listed_and_printed(podlane: Terminal) -> None:
    from traffic_policy.policy_file import parse_policy
    from traffic_policy.profiles import profiles

    listed = podlane("profiles").stdout.splitlines()
    assert [line.split()[0] for line in listed] == [profile.name for profile in profiles()]
    for profile in profiles():
        printed = podlane("profiles", profile.name).stdout
        assert printed == profile.text
        assert parse_policy(printed) == profile.policy()


def _pages(command: click.Command, words: tuple[str, ...]) -> list[tuple[str, ...]]:
    if not isinstance(command, click.Group):
        return [words]
    return [words, *(page for name, each in command.commands.items() for page in _pages(each, (*words, name)))]


@pytest.mark.parametrize("page", _pages(tc, ()), ids=" ".join)
def test_every_page_of_help_can_be_read(page: tuple[str, ...], podlane: Terminal) -> None:
    done = podlane(*page, "--help")
    assert done.exit_code == 0
    assert "Usage: " in done.output
    assert max(map(len, done.output.splitlines())) <= 110
