"""``podlane explain`` as it is called: sections, commands that can be pasted, errors, JSON."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from podlane.explain import explain

POLICY = """
total: 100Mbit
classes:
  - {name: api, rate: 20Mbit, ceil: 80Mbit, priority: 1, match: [{sni: [api.example.com]}]}
  - {name: backup, rate: 1Mbit, ceil: 10Mbit, match: [{cidr: [10.0.0.0/8], port: [873]}]}
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(explain, [str(a) for a in arguments])


def test_words_rules_and_commands_come_in_this_order(policy: Path) -> None:
    result = run("--policy", policy)
    assert result.exit_code == 0
    marks = [
        "shared by 2 classes and the default one",
        "  api ",
        "iptables-restore",
        "ip rule add",
        "ip6tables-restore",
        "tc qdisc add dev eth0",
    ]
    places = [result.output.index(mark) for mark in marks]
    assert places == sorted(places)


def test_output_in_a_pipe_is_plain_and_commands_are_whole(policy: Path) -> None:
    result = run("--policy", policy)
    assert "\x1b" not in result.output
    tproxy = [line for line in result.output.splitlines() if "TPROXY --on-port" in line]
    assert len(tproxy) == 2
    assert all(line.endswith("--tproxy-mark 0x1000/0x3000") and len(line) > 100 for line in tproxy)


@pytest.mark.parametrize("section", ["rules", "tc"])
def test_command_sections_are_valid_shell(policy: Path, section: str) -> None:
    script = run("--policy", policy, "--only", section).output
    assert script.strip()
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)


def test_the_interface_is_the_named_one(policy: Path) -> None:
    commands = [
        line
        for line in run("--policy", policy, "--interface", "ens3", "--only", "tc").output.splitlines()
        if line.startswith("tc ")
    ]
    assert commands
    assert all(" dev ens3 " in f"{line} " for line in commands)


def introductions(lines: list[str]) -> list[tuple[str, str]]:
    """The line before each chain's first rule, with that rule."""
    return [
        (before, line)
        for before, line in itertools.pairwise(lines)
        if line.startswith("-A") and not before.startswith(" ".join(line.split()[:2]) + " ")
    ]


def test_every_chain_is_introduced_by_a_comment(policy: Path) -> None:
    lines = run("--policy", policy, "--only", "rules").output.splitlines()
    firsts = introductions(lines)
    assert len(firsts) >= 6
    assert all(before.startswith("#") for before, _ in firsts)
    assert "# Class backup" in lines


@pytest.mark.parametrize(("datapath", "where"), [("relay", "listener"), ("step-aside", "classifier")])
def test_the_chains_of_both_directions_are_introduced_as_what_they_are(
    tmp_path: Path, datapath: str, where: str
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "total: 10Mbit\nclasses: [{name: a, rate: 1Mbit, match: {sni: a.example, direction: both}},"
        " {name: ssh, rate: 1Mbit, match: {port: 22, direction: inbound}}]"
    )
    lines = run("--policy", path, "--only", "rules", "--datapath", datapath).output.splitlines()
    said = {line.split()[1]: before for before, line in introductions(lines)}
    assert all(before.startswith("#") for before in said.values()), said
    assert {"PODLANE-PRE", "PODLANE-IN", "PODLANE-IN-SYN", "PODLANE-IN-CLASSES", "PODLANE-REPLIES"} <= said.keys()
    assert where in said["PODLANE-IN"]
    assert any("listener" in before for before in said.values()) == (datapath == "relay")


def test_programs_need_no_rules(policy: Path) -> None:
    said = run("--policy", policy, "--datapath", "ebpf").output
    assert "an eBPF program at the egress hook" in said
    assert "PODLANE-" not in said


@pytest.mark.parametrize("datapath", ["relay", "step-aside"])
def test_what_is_excluded_is_in_the_rules_and_in_words(policy: Path, datapath: str) -> None:
    said = run(
        "--policy", policy, "--datapath", datapath, "--exclude-outbound-ports", "25,9000-9100",
        "--exclude-outbound-cidrs", "10.96.0.0/12,fd00::/8",
    ).output  # fmt: skip
    words = " ".join(said.split())
    assert "What goes to port 25 or 9000-9100 (TCP and UDP) is left alone: it is in the default class" in words
    assert "What goes to an address in 10.96.0.0/12 or fd00::/8 is left alone: it is in the default class" in words
    lines = said.splitlines()
    for rule in ("-d 10.96.0.0/12", "-d fd00::/8", "-p tcp -m multiport --dports 25,9000:9100"):
        excluded = lines.index(f"-A PODLANE-OUT {rule} -j RETURN")
        assert "-A PODLANE-OUT -j PODLANE-CLASSES" in lines[excluded : excluded + 5]


def test_a_policy_that_needs_no_marks_has_no_rule_that_writes_one(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("total: 10Mbit")
    output = run("--policy", path).output
    assert "the default class alone" in output
    assert "MARK" not in output
    assert "-A PODLANE-OUT -j CLASSIFY --set-class 0:0" in output
    assert "tc class add" in output


PACKETS = """
total: 100Mbit
ingress: {total: 50Mbit}
classes:
  - {name: ops, rate: 20Mbit, queue: low-latency, ingress: {rate: 5Mbit}, match: [{application: ssh}, {mark: 0x10/0xff}]}
  - {name: slow, rate: 1Mbit, rehearsal: {delay: 50ms, loss: 1%}, match: [{protocol: icmp}]}
"""
STRICT = """
total: 10Mbit
shaper: prio
classes: [{name: voip, priority: 0, match: [{protocol: udp, source: 10.0.0.0/8}]}]
"""


@pytest.mark.parametrize(
    ("text", "said", "commands"),
    [
        (
            PACKETS,
            [
                "Only podlane tc can use this policy",
                "ssh (port 22, TCP)",
                "with the packet mark 0x10/0xff",
                "Low latency",
                "Of what arrives, it is guaranteed 5 Mbit/s",
                "each packet leaves 50ms later",
                "held to 50 Mbit/s",
            ],
            ["netem", "ifb-eth0", "mirred egress redirect"],
        ),
        (
            STRICT,
            ["Only podlane tc can use this policy", "Strict priority: first voip", "UDP from 10.0.0.0/8"],
            ["tbf rate 10Mbit", "prio bands 2"],
        ),
        ("total: 10Mbit\nshaper: cake", ["shared fairly (CAKE)", "Everything."], ["cake bandwidth 10Mbit"]),
    ],
    ids=["marks and ingress", "strict priority", "cake"],
)
def test_a_policy_for_tc_alone_is_explained_with_its_commands(
    tmp_path: Path, text: str, said: list[str], commands: list[str]
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    output = " ".join(run("--policy", path).output.split())
    assert [words for words in said if words not in output] == []
    assert "guaranteed 0" not in output
    assert "iptables-restore" not in output
    tc = run("--policy", path, "--only", "tc").output
    subprocess.run(["sh", "-n"], input=tc, text=True, check=True)
    assert [command for command in commands if command not in tc] == []


def test_a_policy_that_nobody_can_use_is_explained_without_commands(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("total: 10Mbit\nclasses: [{name: a, rate: 1Mbit, match: [{sni: a.test, mark: 3}]}]")
    result = run("--policy", path)
    assert result.exit_code == 0
    assert "Nobody can use this policy as it is" in result.output
    assert "tc qdisc" not in result.output
    document = json.loads(run("--policy", path, "--json").output)
    assert (document["for_sidecar"], document["for_tc"]) == (False, False)
    assert len(document["use"]) == 3


def test_total_replaces_the_policys_own(policy: Path) -> None:
    assert "50 Mbit/s on eth0" in run("--policy", policy, "--total", "50Mbit").output
    assert "cut to 50 Mbit/s" in run("--policy", policy, "--total", "50Mbit").output


def test_json_holds_the_same(policy: Path) -> None:
    document = json.loads(run("--policy", policy, "--json").output)
    assert [c["name"] for c in document["classes"]] == ["api", "backup", "default"]
    assert document["classes"][0]["ceil_bits_per_second"] == 80_000_000
    assert document["iptables_restore"].keys() == {"ipv4", "ipv6"}
    assert document["iptables_restore"]["ipv4"].startswith("*mangle\n")
    assert any(line.startswith("tc qdisc add") for line in document["tc"])


def test_a_policy_that_cannot_be_used_exits_with_2_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("total: 10Mbit\nclasses: [{name: a, rate: 20Mbit, match: [{port: 80}]}]")
    result = run("--policy", path)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Lower the rate" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--interface", "an-interface-too-long"], "is not an interface's name"),
        (["--interface", "eth0;reboot"], "is not an interface's name"),
        (["--total", "50"], "has no unit"),
        (["--exclude-outbound-ports", "80;81"], "'80;81' is not a port"),
        (["--exclude-outbound-cidrs", "10.0.0.1/8"], "Write 10.0.0.0/8"),
        (["--only", "nothing"], "nothing"),
    ],
    ids=["long interface", "strange interface", "total without unit", "port", "network", "unknown section"],
)
def test_wrong_options_exit_with_2(policy: Path, arguments: list[str], words: str) -> None:
    result = run("--policy", policy, *arguments)
    assert result.exit_code == 2
    assert words in result.stderr


def test_a_missing_file_exits_with_2() -> None:
    result = run("--policy", "/nonexistent/policy.yaml")
    assert result.exit_code == 2
    assert "cannot be read" in result.stderr


@pytest.mark.parametrize(
    ("mesh", "criterion"),
    [("istio", "-m owner --gid-owner 1337"), ("linkerd", "-m owner --uid-owner 2102"), ("none", "")],
)
def test_the_rules_beside_a_mesh_are_shown(policy: Path, mesh: str, criterion: str) -> None:
    shown = run("--policy", policy, "--only", "rules", "--mesh", mesh).stdout
    assert criterion in shown
    assert ("-m owner" in shown) is bool(criterion)
