"""The contract of every way to install rules, in real namespaces: install, adopt, repair, remove, and what goes wrong.

The ways are iptables-restore on nft and on legacy tables, and python-iptables.
"""

from __future__ import annotations

import errno
import ipaddress
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from netfilter_pod import Pod, installed_backends, ruleset

from datapath.errors import RulesetError
from datapath.mesh.types import ISTIO, ISTIO_AMBIENT, LINKERD
from datapath.netfilter.backend import BackendKind
from datapath.netfilter.features import probe
from datapath.netfilter.ports import release, reserve
from datapath.netfilter.render import difference
from datapath.netfilter.restore import RestoreBackend, Tools, installed_programs
from datapath.netfilter.rules import Chain, Family, Rule, Tproxy
from datapath.netfilter.ruleset import EMPTY_RULESET, CaptureSettings, Ruleset
from datapath.netfilter.select import detect_backend, why_not
from podlane.netns import Lab
from traffic_policy.marks import DIVERT, MAX_CLASSES
from traffic_policy.policy import PortRange, TransportProtocol
from traffic_policy.settings import Datapath

pytestmark = [pytest.mark.root, pytest.mark.covering]

CONTENT = {"sni": ["api.example.com"]}
RULES = ruleset(
    CONTENT, {"host": "h.example", "port": [80, "8000-8100"]}, {"port": [22, 873], "cidr": ["10.0.0.0/8", "fd00::/8"]},
    {"sni": ["shop.example.com"], "direction": "inbound"}, {"port": [22, 2222], "direction": "inbound"},
)  # fmt: skip
KERNEL_ONLY = ruleset({"port": 22}, {"protocol": "udp"})
STEP_ASIDE = CaptureSettings(datapath=Datapath.STEP_ASIDE, interface="eth0")
INWARDS = {"sni": ["shop.example.com"], "direction": "inbound"}
ASIDE = ruleset(
    CONTENT, {"host": "h.example", "port": [80, "8000-8100"]}, {"port": 22}, INWARDS, {"port": 22, "direction": "inbound"},
    settings=STEP_ASIDE,
)  # fmt: skip


BACKENDS = installed_backends()
PROGRAMS = {kind: backend for kind, backend in BACKENDS.items() if isinstance(backend, RestoreBackend)}


@pytest.fixture(params=list(BACKENDS), ids=str)
def pod(request: pytest.FixtureRequest, lab: Lab) -> Iterator[Pod]:
    backend = BACKENDS[request.param]
    if reason := why_not(backend):
        pytest.skip(reason)
    made = Pod(lab.host("pod"), backend)
    yield made
    print(made.describe())  # shown with the report of a failed test


def add_foreign_rules(pod: Pod) -> None:
    """What a mesh, a firewall and a user may have here; some of it looks a little like ours."""
    for family in Family:
        pod.iptables(family, "-t mangle -A OUTPUT -p tcp --dport 9 -m mark --mark 0x1000/0x3000 -j ACCEPT")
        pod.iptables(family, "-t mangle -N PODLANES")
        pod.iptables(family, "-t mangle -A PREROUTING -i lo -j PODLANES")
        pod.iptables(family, "-t nat -N ISTIO_OUTPUT")
        pod.iptables(family, "-t nat -A OUTPUT -p tcp -j ISTIO_OUTPUT")
        pod.iptables(family, "-t filter -A INPUT -p tcp --dport 7 -j DROP")
    for version in ("-4", "-6"):
        pod.host.ip(version, "rule", "add", "pref", "15101", "fwmark", "1337", "lookup", "133")
        pod.host.ip(version, "rule", "add", "pref", "40", "fwmark", "0x1000/0x3000", "iif", "lo", "lookup", "134")
        loopback = "127.0.0.0/8" if version == "-4" else "::1"
        pod.host.ip(version, "rule", "add", "pref", "41", "from", loopback, "iif", "lo", "lookup", "134")
        pod.host.ip(version, "route", "add", "local", "default", "dev", "lo", "table", "133")
        pod.host.ip(version, "route", "add", "unreachable", "default", "table", "15101", "metric", "4000")


def fresh_state(pod: Pod, lab: Lab) -> dict[str, str]:
    """The state of a namespace of its own in which nothing but RULES was installed."""
    other = Pod(lab.host("fresh"), pod.backend)
    other.install(RULES)
    return other.snapshot()


@pytest.mark.parametrize(
    "rules",
    [
        RULES,
        ruleset(CONTENT, {"port": 22}, capture=False),
        KERNEL_ONLY,
        ruleset({"port": 22}, keep_captured=True),
        ruleset({"port": list(range(1, 200, 3))}, {"host": "h.example", "port": ["1-9", *range(100, 160, 2)]}),
        ruleset({"cidr": ["0.0.0.0/0"], "protocol": "tcp"}, {"cidr": ["::/0"]}, {"port": "1-65535"}),
        ruleset(*({"port": [i, 20_000 + i]} for i in range(1, MAX_CLASSES + 1))),
        ruleset(
            {"protocol": "icmp"},
            {"source": ["10.0.0.0/8", "fd00::/8"], "cidr": ["192.0.2.0/25", "2001:db8::/33"], "port": 22},
            {"source": ["192.0.2.1/32", "::1/128"], "sni": ["api.example.com"]},
        ),
        ruleset(
            CONTENT,
            settings=CaptureSettings(
                exclude_outbound_ports=tuple(PortRange(port, port) for port in range(1, 80, 2)),
                exclude_outbound_cidrs=tuple(map(ipaddress.ip_network, ("10.96.0.0/12", "192.0.2.1/32", "fd00::/8"))),
                interface="eth0",
                route_table=7777,
                rule_preference=5,
            ),
        ),
        ruleset({"host": "a.example", "direction": "both"}, capture=False),
        ruleset({"port": 22}, keep_inbound=True),
        ruleset(
            {
                "host": "a.example",
                "port": [80, "8000-8100"],
                "source": ["10.0.0.0/8", "fd00::/8"],
                "direction": "inbound",
            },
            {"port": [22, "5000-6000"], "direction": "inbound"},
            {"protocol": "icmp", "direction": "inbound"},
            settings=CaptureSettings(
                inbound_port=7106,
                silent_ports=(),
                exclude_inbound_ports=tuple(PortRange(port, port) for port in range(1, 80, 2)),
                exclude_inbound_cidrs=tuple(map(ipaddress.ip_network, ("10.96.0.0/12", "fd00::/8"))),
                interface="eth0",
                route_table=7777,
                rule_preference=5,
                connmark=True,
            ),
        ),
        ASIDE,
        ruleset(CONTENT, {"port": 22}, settings=STEP_ASIDE, capture=False),
        ruleset({"port": 22}, settings=STEP_ASIDE),
        ruleset(CONTENT, settings=STEP_ASIDE),
        ruleset(INWARDS, settings=CaptureSettings(datapath=Datapath.STEP_ASIDE, silent_ports=())),
        ruleset(CONTENT, INWARDS, settings=STEP_ASIDE, capture=False),
        ruleset({"port": 22}, settings=STEP_ASIDE, keep_inbound=True),
        ruleset({"sni": "a.example", "direction": "both"}, {"alpn": "h3", "port": [443, 8443], "protocol": "udp"}),
        ruleset({"sni": "a.example", "direction": "both"}, {"alpn": "h3", "port": [443, 8443]}, quic="block"),
        ruleset(CONTENT, {"port": [22, "80-90"], "direction": "inbound"}, settings=CaptureSettings(mesh=ISTIO)),
        ruleset(CONTENT, settings=CaptureSettings(mesh=ISTIO_AMBIENT)),
        ruleset(CONTENT, settings=CaptureSettings(mesh=LINKERD)),
    ],
    ids=[
        "example",
        "draining",
        "kernel only",
        "keep captured",
        "many ports",
        "everything",
        "all classes",
        "sources",
        "settings",
        "inbound draining",
        "inbound kept",
        "inbound settings",
        "step-aside",
        "step-aside draining",
        "step-aside, kernel only",
        "step-aside, outbound alone",
        "step-aside, inbound alone",
        "step-aside, both draining",
        "step-aside, inbound kept",
        "QUIC",
        "QUIC blocked",
        "beside Istio",
        "beside Istio in ambient mode",
        "beside Linkerd",
    ],
)
def test_what_is_installed_reads_back_as_what_was_wanted(pod: Pod, rules: Ruleset) -> None:
    assert pod.install(rules).changed
    with pod.host.namespace.entered():
        for family in Family:
            assert difference(rules.for_family(family), pod.installer.installed(family)) == []
    routes = rules.for_family(Family.V4).routes
    for version, loopback in (("-4", "127.0.0.0/8"), ("-6", "::1")):
        wanted = {
            f"{r.preference}:\tfrom {f'{loopback} iif lo' if r.mark is None else f'all fwmark {r.mark}'} lookup {r.table}"
            for r in routes
        }
        assert {
            line for line in pod.host.ip(version, "rule").splitlines() if "fwmark" in line or "iif" in line
        } == wanted
        for table in {route.table for route in routes}:
            assert pod.host.ip(version, "route", "show", "table", str(table)).startswith("local default dev lo")


@pytest.mark.parametrize(("first", "second"), [(RULES, ASIDE), (ASIDE, RULES)], ids=["to step-aside", "to relay"])
def test_one_datapath_replaces_the_other(pod: Pod, first: Ruleset, second: Ruleset) -> None:
    pod.install(first)
    pod.restart()
    report = pod.install(second)
    assert (report.changed, report.adopted) == (True, True)
    with pod.host.namespace.entered():
        for family in Family:
            assert difference(second.for_family(family), pod.installer.installed(family)) == []
    for version in ("-4", "-6"):
        assert ("fwmark 0x1000/0x3000" in pod.host.ip(version, "rule")) == (second is RULES)


def test_the_second_time_nothing_is_written(pod: Pod) -> None:
    pod.install(RULES)
    with pod.client(Family.V4, socket.SOCK_DGRAM) as client:
        client.sendto(b"counted", ("127.0.0.1", 9))
    before = [pod.save(family, counters=True) for family in Family]
    assert any("] -A PODLANE-OUT -o lo" in line and not line.startswith("[0:0]") for line in before[0].splitlines())
    report = pod.install(RULES)
    assert not report.changed
    assert [pod.save(family, counters=True) for family in Family] == before


def test_a_restarted_process_adopts_what_is_there(pod: Pod) -> None:
    first = pod.install(RULES)
    assert (first.changed, first.adopted) == (True, False)
    pod.restart()
    again = pod.install(RULES)
    assert (again.changed, again.adopted) == (False, True)
    assert not pod.install(RULES).adopted


def test_the_rules_of_another_policy_are_replaced(pod: Pod, lab: Lab) -> None:
    many = ruleset(
        CONTENT, *({"port": i} for i in range(1, 100)), settings=CaptureSettings(route_table=99, rule_preference=98)
    )
    pod.install(many)
    pod.restart()
    report = pod.install(RULES)
    assert (report.changed, report.adopted) == (True, True)
    assert pod.snapshot() == fresh_state(pod, lab)
    assert "lookup 99" not in pod.host.ip("rule")
    assert "table 99" not in pod.host.ip("route", "show", "table", "all")


def test_from_capture_to_none_and_to_nothing_at_all(pod: Pod) -> None:
    before = pod.snapshot()
    pod.install(RULES)
    pod.install(KERNEL_ONLY)
    assert "TPROXY" not in pod.save(Family.V4)
    assert "fwmark" not in pod.host.ip("rule")
    pod.install(EMPTY_RULESET)
    assert not pod.present()
    assert {key: value for key, value in pod.snapshot().items() if key.startswith("ip ")} == {
        key: value for key, value in before.items() if key.startswith("ip ")
    }


DAMAGES = {
    "hook gone": "iptables -t mangle -D OUTPUT -j PODLANE-OUT",
    "hook twice": "iptables -t mangle -A OUTPUT -j PODLANE-OUT",
    "hook not first": "iptables -t mangle -I OUTPUT 1 -p sctp -j ACCEPT",
    "hook elsewhere": "iptables -t mangle -A POSTROUTING -p tcp -j PODLANE-CLASSES",
    "chain empty": "iptables -t mangle -F PODLANE-OUT",
    "rule gone": "iptables -t mangle -D PODLANE-CLASSES 1",
    "rule too many": "iptables -t mangle -I PODLANE-OUT 1 -p tcp --sport 22 -j ACCEPT",
    "chain too many": "iptables -t mangle -N PODLANE-LEFT",
    "IPv6 hook gone": "ip6tables -t mangle -D PREROUTING -j PODLANE-PRE",
    "ip rule gone": "ip -4 rule del pref 15101 fwmark 0x1000/0x3000",
    "ip rule twice": "ip -4 rule add pref 15100 fwmark 0x1000/0x3000 lookup 15101",
    "ip rule elsewhere": "ip -6 rule add pref 7 fwmark 0x1000/0x3000 lookup 77",
    "route gone": "ip -6 route del local default dev lo table 15101",
    "everything but the hook": "iptables -t mangle -F PODLANE-CLASSES",
}


def damage(pod: Pod, how: str) -> None:
    program, *arguments = DAMAGES[how].split()
    if program == "ip":
        pod.host.ip(*arguments)
    else:
        pod.iptables(Family.V6 if program == "ip6tables" else Family.V4, " ".join(arguments))


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_installation_is_repaired(pod: Pod, how: str) -> None:
    pod.install(RULES)
    whole = pod.snapshot()
    damage(pod, how)
    assert pod.snapshot() != whole
    pod.restart()
    assert pod.install(RULES).changed
    repaired = pod.snapshot()
    if how == "hook not first":
        # The rule that stood before ours is somebody else's: it stays, behind.
        repaired["IPv4 rules"] = repaired["IPv4 rules"].replace("-A OUTPUT -p sctp -j ACCEPT\n", "")
    assert repaired == whole
    assert not pod.install(RULES).changed


@pytest.mark.parametrize("how", [None, *DAMAGES])
def test_removing_leaves_no_trace_and_touches_nothing_else(pod: Pod, how: str | None) -> None:
    add_foreign_rules(pod)
    before = pod.snapshot()
    pod.install(RULES)
    assert pod.present()
    if how is not None:
        damage(pod, how)
    if how == "hook not first":
        pod.iptables(Family.V4, "-t mangle -D OUTPUT -p sctp -j ACCEPT")
    pod.restart()
    assert pod.remove()
    assert pod.snapshot() == before
    assert not pod.present()
    assert not pod.remove()
    assert pod.snapshot() == before


def test_foreign_rules_stay_while_ours_come_change_and_go(pod: Pod) -> None:
    add_foreign_rules(pod)
    foreign = [line for line in pod.save(Family.V4).splitlines() if line.startswith("-A")]
    for rules in (RULES, KERNEL_ONLY, RULES):
        pod.install(rules)
        kept = [line for line in pod.save(Family.V4).splitlines() if line.startswith("-A") and "PODLANE-" not in line]
        assert kept == foreign


def test_nothing_is_written_where_nothing_was(pod: Pod) -> None:
    before = pod.snapshot()
    assert not pod.remove()
    assert not pod.present()
    assert not pod.install(EMPTY_RULESET).changed
    assert pod.snapshot() == before


# --- trouble --------------------------------------------------------------------------------------------------------


def with_restore_script(pod: Pod, path: Path, script: str) -> None:
    """Let the installer use a script in the place of iptables-restore; ``{restore}`` in it is the real one."""
    real = pod.programs.tools[Family.V4]
    path.write_text("#!/bin/sh\n" + script.format(restore=real.restore) + "\n")
    path.chmod(0o755)
    pod.backend = replace(pod.programs, tools={**pod.programs.tools, Family.V4: Tools(real.save, str(path))})
    pod.restart()


with_programs = pytest.mark.parametrize("pod", list(PROGRAMS), ids=str, indirect=True)


@with_programs
def test_a_rule_that_did_not_arrive_is_noticed_and_shown(pod: Pod, tmp_path: Path) -> None:
    with_restore_script(pod, tmp_path / "restore", 'grep -v "dports 80,8000:8100" | {restore} "$@"')
    with pytest.raises(RulesetError, match=r"(?s)reading them back.*\n  --A PODLANE-CLASSES .*80,8000:8100"):
        pod.install(RULES)
    assert pod.remove()


def test_without_privileges_the_error_names_the_capability(pod: Pod) -> None:
    program = (
        "from datapath.errors import PrivilegeError\n"
        "from traffic_policy.settings import IptablesSetting\n"
        "from datapath.netfilter.backend import BackendKind\n"
        "from datapath.netfilter.select import detect_backend, python_backend\n"
        "from datapath.netfilter.features import probe\n"
        "from datapath.netfilter.parse import Installed\n"
        "from datapath.netfilter.restore import installed_programs\n"
        "from datapath.netfilter.rules import Chain, Family, FamilyRules, PolicyRoute\n"
        "from datapath.netfilter.routes import install\n"
        "from traffic_policy.marks import DIVERT\n"
        f"kind = BackendKind('{pod.backend.kind}')\n"
        "backend = python_backend() if kind is BackendKind.PYTHON else installed_programs()[kind]\n"
        "way = IptablesSetting.PYTHON if kind is BackendKind.PYTHON else IptablesSetting.AUTO\n"
        "for act in (\n"
        "    lambda: detect_backend(way),\n"
        "    lambda: backend.apply(FamilyRules(Family.V4, (Chain('PODLANE-OUT', ()),)), Installed()),\n"
        "    lambda: install(Family.V4, [PolicyRoute(DIVERT, 15101, 15101)]),\n"
        "):\n"
        "    try:\n"
        "        act()\n"
        "    except PrivilegeError as error:\n"
        "        print('CAP_NET_ADMIN' in str(error))\n"
        "print([(check.name, check.available) for check in probe()])\n"
    )
    done = pod.host.run(
        ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", sys.executable, "-c", program]
    )
    assert done.stdout.splitlines() == ["True", "True", "True", "[('iptables', False)]"]


@with_programs
def test_what_iptables_refuses_is_shown_and_changes_nothing(pod: Pod, tmp_path: Path) -> None:
    pod.install(KERNEL_ONLY)
    before = pod.save(Family.V4)
    with_restore_script(pod, tmp_path / "restore", 'sed "s/-j PODLANE-PRE/-j NOWHERE/" | {restore} "$@"')
    with pytest.raises(RulesetError, match=r"(?s)NOWHERE.*(podlane check|modprobe)"):
        pod.install(RULES)
    assert pod.save(Family.V4) == before


def refused(family: Family) -> Ruleset:
    """RULES with one more in the middle that the kernel refuses in one family: TPROXY on the way out."""
    families = []
    for rules in RULES.families:
        if rules.family is family:
            address = ipaddress.ip_address("127.0.0.1" if family is Family.V4 else "::1")
            rule = Rule(Tproxy(address, 15101, DIVERT), protocol=TransportProtocol.TCP)
            out, *others = rules.chains
            rules = replace(rules, chains=(Chain(out.name, (*out.rules[:2], rule, *out.rules[2:])), *others))
        families.append(rules)
    return replace(RULES, families=tuple(families))


@pytest.mark.parametrize("family", list(Family), ids=str)
def test_a_failure_in_the_middle_leaves_the_old_rules(pod: Pod, family: Family) -> None:
    pod.install(KERNEL_ONLY)
    add_foreign_rules(pod)
    before = pod.save(family)
    with pytest.raises(RulesetError, match=r"podlane check|modprobe"):
        pod.install(refused(family))
    assert pod.save(family) == before
    assert pod.install(RULES).changed
    assert pod.remove()
    assert "PODLANE-" not in pod.save(Family.V4) + pod.save(Family.V6)


def test_a_rule_that_others_put_into_our_chain_is_shown(pod: Pod) -> None:
    pod.install(RULES)
    pod.iptables(Family.V6, "-t mangle -A PODLANE-CLASSES -s fd00::1 -p tcp --sport 22 -j ACCEPT")
    with pod.host.namespace.entered():
        shown = difference(RULES.for_family(Family.V6), pod.installer.installed(Family.V6))
    assert len(shown) == 1
    assert re.fullmatch(r"\+-A PODLANE-CLASSES .*-j ACCEPT.*", shown[0])


def test_what_others_change_at_the_same_time_is_kept(pod: Pod) -> None:
    wanted = [f"-A OUTPUT -p udp -m udp --dport {port} -j ACCEPT" for port in range(1, 16)]

    def change() -> None:
        for rule in wanted:
            pod.iptables(Family.V4, f"-t mangle {rule}")

    with ThreadPoolExecutor() as pool:
        others = pool.submit(change)
        while not others.done():
            pod.install(RULES)
            pod.install(KERNEL_ONLY)
        others.result()
    assert [line for line in pod.save(Family.V4).splitlines() if "--dport" in line and "OUTPUT" in line] == wanted
    pod.install(RULES)
    assert not pod.install(RULES).changed


def test_a_loopback_that_is_down_is_named(pod: Pod) -> None:
    pod.host.ip("link", "set", "lo", "down")
    with pytest.raises(RulesetError, match="ip link set lo up"):
        pod.install(RULES)


def test_without_ipv6_there_is_a_note_and_no_rule(pod: Pod) -> None:
    for name in ("all", "default", "lo"):
        pod.host.namespace.write_sysctl(f"net.ipv6.conf.{name}.disable_ipv6", "1")
    report = pod.install(RULES)
    assert any("disable_ipv6" in note for note in report.notes)
    assert "PODLANE" in pod.save(Family.V4)
    assert "PODLANE" not in pod.save(Family.V6)
    assert pod.remove()
    assert not pod.present()


def test_what_was_installed_before_ipv6_was_switched_off_is_removed(pod: Pod) -> None:
    pod.install(RULES)
    pod.host.namespace.write_sysctl("net.ipv6.conf.all.disable_ipv6", "1")
    pod.restart()
    assert pod.remove()
    assert not pod.present()


# --- which implementation -------------------------------------------------------------------------------------------


@pytest.fixture
def both(lab: Lab) -> dict[BackendKind, Pod]:
    if len(PROGRAMS) < 2 or any(why_not(backend) for backend in PROGRAMS.values()):
        pytest.skip("needs both iptables-nft and iptables-legacy")
    host = lab.host("pod")
    return {kind: Pod(host, backend) for kind, backend in PROGRAMS.items()}


def detected(pod: Pod) -> BackendKind:
    with pod.host.namespace.entered():
        return detect_backend().kind


def test_nft_is_preferred_where_there_are_no_rules(both: dict[BackendKind, Pod]) -> None:
    assert detected(both[BackendKind.NFT]) is BackendKind.NFT
    # Looking must not bring a legacy table into being: tools warn about both being in use from then on.
    assert both[BackendKind.LEGACY].save(Family.V4) == ""


def test_legacy_is_used_where_somebody_has_legacy_rules(both: dict[BackendKind, Pod]) -> None:
    legacy = both[BackendKind.LEGACY]
    legacy.iptables(Family.V6, "-t filter -A INPUT -p tcp --dport 7 -j DROP")
    assert detected(legacy) is BackendKind.LEGACY


@pytest.mark.parametrize("kind", list(PROGRAMS), ids=str)
def test_where_our_rules_are_we_stay(both: dict[BackendKind, Pod], kind: BackendKind) -> None:
    both[kind].install(RULES)
    for pod in both.values():
        pod.iptables(Family.V4, "-t filter -A INPUT -p tcp --dport 7 -j DROP")
    assert detected(both[kind]) is kind


@pytest.mark.parametrize("kind", list(PROGRAMS), ids=str)
def test_programs_without_the_implementation_in_their_name_say_which_they_are(
    kind: BackendKind, tmp_path: Path
) -> None:
    real = PROGRAMS[kind]
    assert installed_programs(str(tmp_path)) == {}
    for plain in ("iptables-save", "iptables-restore"):
        (tmp_path / plain).symlink_to(Path(real.tools[Family.V4].save).resolve())
    found = installed_programs(str(tmp_path))
    assert list(found) == [kind]
    assert list(found[kind].tools) == [Family.V4]


def test_a_container_that_has_only_net_admin_finds_its_way(pod: Pod) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed (package util-linux)")
    pod.install(RULES)
    program = (
        "from datapath.netfilter.features import probe\n"
        "from datapath.netfilter.install import Installer, IptablesSetting, detect_backend\n"
        f"installer = Installer(detect_backend(IptablesSetting.{'PYTHON' if pod.backend.kind is BackendKind.PYTHON else 'AUTO'}))\n"
        "print(installer.backend.kind, installer.remove(), all(check.available for check in probe()))\n"
    )
    limits = ["--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    done = pod.host.run(["setpriv", *limits, sys.executable, "-c", program])
    assert done.stdout.splitlines()[-1] == f"{pod.backend.kind} True True"
    assert not pod.present()


def test_probing_finds_everything_capture_needs_and_changes_nothing(both: dict[BackendKind, Pod]) -> None:
    pod = both[BackendKind.NFT]
    before = pod.snapshot()
    with pod.host.namespace.entered():
        checks = {check.name: check for check in probe()}
    assert [check for check in checks.values() if not check.available] == []
    assert {"iptables", "TPROXY target", "connmark match", "IPv6", "IPv4 policy routing"} <= set(checks)
    assert pod.snapshot() == before


def test_probing_says_that_there_is_no_ipv6(both: dict[BackendKind, Pod]) -> None:
    pod = both[BackendKind.NFT]
    for name in ("all", "default", "lo"):
        pod.host.namespace.write_sysctl(f"net.ipv6.conf.{name}.disable_ipv6", "1")
    with pod.host.namespace.entered():
        ipv6 = next(check for check in probe() if check.name == "IPv6")
    assert not ipv6.available
    assert "disable_ipv6" in ipv6.reason
    assert ipv6.remedy


# --- ports ----------------------------------------------------------------------------------------------------------


def test_a_reserved_port_is_not_given_to_outgoing_sockets(lab: Lab) -> None:
    host = lab.host("pod")
    host.namespace.write_sysctl("net.ipv4.ip_local_port_range", "15100 15103")
    with host.namespace.entered():
        reservation = reserve([15101])
        assert reservation.added == (15101,)
        given = []
        for _ in range(3):
            made = socket.create_server(("127.0.0.1", 0))
            given.append(made)
        assert {made.getsockname()[1] for made in given} == {15100, 15102, 15103}
        with pytest.raises(OSError, match="in use") as error:
            socket.create_server(("127.0.0.1", 0))
        assert error.value.errno == errno.EADDRINUSE
        # Asked for by number, it is there.
        with closing(socket.create_server(("127.0.0.1", 15101))):
            pass
        for made in given:
            made.close()
        release(reservation)
        assert Path("/proc/sys/net/ipv4/ip_local_reserved_ports").read_text().strip() == ""
