"""python-iptables without a kernel: fitting it to libxtables, refusing rules, and what is said when it is missing."""

from __future__ import annotations

import ctypes
import ipaddress
import sys
from itertools import takewhile
from typing import Any

import click
import pytest

from datapath.errors import RulesetError
from datapath.netfilter.features import python_iptables as python_iptables_check
from datapath.netfilter.python_iptables import backend as python_backend
from datapath.netfilter.python_iptables.rules import check as check_rules
from datapath.netfilter.python_iptables.xtables_compat import address_of, is_since_1_8_11, stride_of, walk
from datapath.netfilter.rules import Chain, Family, FamilyRules, Hook, Jump, Return, Rule, Tproxy
from datapath.netfilter.select import detect_backend, has_python_iptables
from podlane.check.command import check
from podlane.check.findings import Status, findings
from podlane.run.command import run
from podlane.sidecar import sidecar
from sidecar.config.settings import load_settings
from tc_core.errors import MissingFeatureError
from traffic_policy.errors import ConfigError
from traffic_policy.marks import DIVERT
from traffic_policy.policy import PortRange, TransportProtocol
from traffic_policy.settings import IptablesSetting

_FIELDS: list[tuple[str, Any]] = [
    ("name", ctypes.c_char_p),
    ("type", ctypes.c_int),
    ("id", ctypes.c_uint),
    ("excl", ctypes.c_uint),
    ("also", ctypes.c_uint),
    ("flags", ctypes.c_uint),
    ("ptroff", ctypes.c_uint),
    ("size", ctypes.c_size_t),
    ("min", ctypes.c_uint),
    ("max", ctypes.c_uint),
]


class Before(ctypes.Structure):
    """struct xt_option_entry of include/xtables.h up to iptables 1.8.10."""

    _fields_ = _FIELDS


class Since(ctypes.Structure):
    """The same from 1.8.11 on."""

    _fields_ = [*_FIELDS, ("base", ctypes.c_uint)]


NAMES = ctypes.create_string_buffer(b"on-port\0on-ip\0tproxy-mark")
"""As in the file of an extension: one behind the other."""


def options_of(layout: Any) -> Any:
    """The options of TPROXY in one of the layouts, up to the one without a name."""
    at = ctypes.addressof(NAMES)
    return (layout * 4)(*(layout(at + offset, id=number) for number, offset in enumerate((0, 8, 14))), layout())


@pytest.mark.parametrize(("layout", "size"), [(Before, 48), (Since, 56)], ids=["before 1.8.11", "since 1.8.11"])
def test_all_options_are_found_whatever_the_library(layout: Any, size: int) -> None:
    assert ctypes.sizeof(layout) == size
    options = options_of(layout)
    stride = stride_of(address_of(options))
    assert stride == size
    assert is_since_1_8_11(stride) is (layout is Since)
    # As python-iptables has it: a pointer to entries of the smaller form.
    pointer = ctypes.cast(options, ctypes.POINTER(Before))
    assert [(e.name, e.id) for e in walk(Before, pointer, stride)] == [
        (b"on-port", 0),
        (b"on-ip", 1),
        (b"tproxy-mark", 2),
    ]


class Later(ctypes.Structure):
    """What a later release may come to."""

    _fields_ = [*_FIELDS, ("base", ctypes.c_uint), ("more", ctypes.c_void_p)]


def test_a_library_of_an_unknown_form_is_refused_before_anything_is_read_by_a_wrong_one() -> None:
    with pytest.raises(RulesetError, match=r"does not know this release of libxtables\. Use the iptables programs"):
        stride_of(address_of(options_of(Later)))


LOCAL = ipaddress.ip_address("127.0.0.1")
TCP, UDP, ICMP = TransportProtocol.TCP, TransportProtocol.UDP, TransportProtocol.ICMP
REFUSED: dict[str, tuple[Rule, str]] = {
    "ports of anything": (Rule(Return(), ports=(PortRange(1, 1),)), "ports need the protocol tcp or udp"),
    "ports of ICMP": (Rule(Return(), protocol=ICMP, ports=(PortRange(1, 1),)), "ports need the protocol"),
    "too many ports": (
        Rule(Return(), protocol=TCP, ports=tuple(PortRange(i, i + 1) for i in range(1, 24, 3))),
        "more than 15 ports, where a range counts as two",
    ),
    "QUIC of TCP": (Rule(Return(), protocol=TCP, quic_initial=True), "telling QUIC needs the protocol udp"),
    "SYN of UDP": (Rule(Return(), protocol=UDP, syn=True), "SYN needs the protocol tcp"),
    "destination of IPv6": (Rule(Return(), destination=ipaddress.ip_network("fd00::/8")), "other family"),
    "source of IPv6": (Rule(Return(), source=ipaddress.ip_network("fd00::/8")), "other family"),
    "long interface name": (Rule(Return(), in_interface="a234567890123456"), "an interface name has 1 to 15 bytes"),
    "no interface name": (Rule(Return(), not_out_interface=""), "an interface name has 1 to 15 bytes"),
    "TPROXY of anything": (Rule(Tproxy(LOCAL, 15101, DIVERT)), "TPROXY needs the protocol tcp or udp"),
    "TPROXY to IPv6": (Rule(Tproxy(ipaddress.ip_address("::1"), 1, DIVERT), protocol=TCP), "other family"),
    "TPROXY to no port": (Rule(Tproxy(LOCAL, 0, DIVERT), protocol=TCP), "a port is a number from 1 to 65535"),
}


@pytest.mark.parametrize(("rule", "why"), REFUSED.values(), ids=REFUSED)
def test_a_rule_that_the_library_would_refuse_never_gets_there(rule: Rule, why: str) -> None:
    for rules in (
        FamilyRules(Family.V4, (Chain("PODLANE-OUT", (Rule(Return()), rule)),)),
        FamilyRules(Family.V4, hooks=(Hook("OUTPUT", rule),)),
    ):
        with pytest.raises(RulesetError, match=f"This IPv4 rule cannot be: .*{why}"):
            check_rules(rules)


def test_a_rule_that_can_be_is_let_through() -> None:
    ports = tuple(PortRange(i, i) for i in range(1, 30, 2))
    rules = (
        Rule(Jump("PODLANE-C1"), protocol=TCP, syn=True, ports=ports, in_interface="abcdefghijklmno"),
        Rule(Return(), protocol=UDP, ports=(PortRange(1, 65535),)),
        Rule(Tproxy(LOCAL, 65535, DIVERT), protocol=TCP),
    )
    check_rules(FamilyRules(Family.V4, (Chain("PODLANE-OUT", rules),)))


# --- the setting -----------------------------------------------------------------------------------------------------


def test_the_way_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings({"policy": "p"}).iptables is IptablesSetting.AUTO
    assert load_settings({"policy": "p", "iptables": "restore"}).iptables is IptablesSetting.RESTORE
    monkeypatch.setenv("PODLANE_IPTABLES", "python")
    assert load_settings({"policy": "p"}).iptables is IptablesSetting.PYTHON


def test_a_way_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ConfigError, match=r"--iptables: .*'auto', 'restore' or 'python'.*'nft'"):
        load_settings({"policy": "p", "iptables": "nft"})


@pytest.fixture
def _no_python_iptables(monkeypatch: pytest.MonkeyPatch) -> None:
    # The import system's own way to say that there is no such module.
    monkeypatch.setitem(sys.modules, "iptc", None)
    monkeypatch.setattr(python_backend, "_loaded", None)
    monkeypatch.setattr("datapath.netfilter.select.has_net_admin", lambda: True)


@pytest.mark.usefixtures("_no_python_iptables")
def test_what_is_not_installed_is_named_with_the_extra() -> None:
    assert not has_python_iptables()
    with pytest.raises(MissingFeatureError, match=r"not installed\. .*pip install 'podlane\[python-iptables\]'"):
        detect_backend(IptablesSetting.PYTHON)


@pytest.mark.usefixtures("_no_python_iptables")
@pytest.mark.parametrize(
    ("way", "both"), [(IptablesSetting.AUTO, True), (IptablesSetting.RESTORE, False)], ids=["auto", "restore"]
)
def test_without_either_the_remedy_is_for_what_was_asked(
    way: IptablesSetting, both: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("datapath.netfilter.restore._SBIN", "")
    with pytest.raises(MissingFeatureError, match="programs are not installed") as error:
        detect_backend(way)
    assert "Install the package iptables" in str(error.value)
    assert ("python-iptables" in str(error.value)) is both


@pytest.mark.parametrize(
    ("way", "here", "status"),
    [
        (IptablesSetting.AUTO, True, Status.NOTE),
        (IptablesSetting.AUTO, False, Status.MISSING),
        (IptablesSetting.PYTHON, False, Status.NOTE),
        (IptablesSetting.RESTORE, True, Status.MISSING),
    ],
    ids=str,
)
def test_podlane_check_accepts_python_iptables_in_the_place_of_the_programs(
    way: IptablesSetting, here: bool, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("podlane.netns.tools.find_tool", lambda _name: None)
    monkeypatch.setattr("datapath.netfilter.select.has_python_iptables", lambda: here)
    found = {f.name: f for f in takewhile(lambda f: f.group in ("Privileges", "Commands"), findings(way))}
    for name in ("iptables-restore", "ip6tables-restore"):
        assert found[name].status is status
        assert ("python-iptables is to do without" in found[name].detail) is (status is Status.NOTE)
    assert found["nsenter"].status is Status.MISSING


@pytest.mark.usefixtures("_no_python_iptables")
def test_podlane_check_says_that_it_is_not_installed() -> None:
    found = python_iptables_check()
    assert (found.available, found.name) == (False, "python-iptables")
    assert found.reason == "not installed; needed only where there is no iptables-restore"
    assert "pip install" in found.remedy


@pytest.mark.parametrize("verb", [sidecar, run, check], ids=lambda verb: verb.name)
def test_every_verb_that_installs_or_checks_rules_takes_every_way(verb: click.Command) -> None:
    (option,) = (p for p in verb.params if p.name == "iptables")
    assert isinstance(option.type, click.Choice)
    assert list(option.type.choices) == [str(way) for way in IptablesSetting]
    assert option.envvar == "PODLANE_IPTABLES"
