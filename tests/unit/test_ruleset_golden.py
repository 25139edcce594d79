"""Whole policies against the iptables-restore text they become; PODLANE_UPDATE_GOLDEN=1 writes the files anew."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from datapath.mesh.types import ISTIO, ISTIO_AMBIENT, LINKERD
from datapath.netfilter.parse import parse
from datapath.netfilter.render import difference, render, render_route
from datapath.netfilter.rules import Family
from datapath.netfilter.ruleset import CaptureSettings, Ruleset, build_ruleset
from traffic_policy.marks import ClassIds
from traffic_policy.policy import PortRange, Quic, TrafficPolicy
from traffic_policy.settings import Datapath

GOLDEN = Path(__file__).parent.parent / "golden" / "ruleset"

EXAMPLE = [
    {"sni": ["api.example.com", "*.api.example.com"]},
    {"host": ["api.example.com"], "port": [80, "8000-8100"]},
]
BACKUP = [{"cidr": ["10.0.0.0/8"], "port": [873]}]


def policy(**classes: object) -> TrafficPolicy:
    return TrafficPolicy.model_validate(
        {"total": "100Mbit", "classes": [{"name": n, "rate": "1Mbit", "match": m} for n, m in classes.items()]}
    )


def ruleset(traffic: TrafficPolicy, settings: CaptureSettings | None = None, **options: bool) -> Ruleset:
    ids = ClassIds.assign(c.name for c in traffic.classes)
    return build_ruleset(traffic, ids, settings or CaptureSettings(), **options)


INBOUND = policy(
    api=[
        {"sni": "api.example.com", "direction": "inbound"},
        {"host": "api.example.com", "port": 80, "direction": "both"},
    ],
    ssh=[{"port": 22, "direction": "inbound"}, {"protocol": "udp", "port": ["500-600", 4500], "direction": "inbound"}],
    office=[{"source": ["192.0.2.0/24", "2001:db8::/32"], "direction": "inbound"}],
    backup=BACKUP,
)
ASIDE = CaptureSettings(
    datapath=Datapath.STEP_ASIDE, interface="eth0", exclude_outbound_ports=(PortRange(15012, 15012),)
)
CASES = {
    "example": ruleset(policy(api=EXAMPLE, backup=BACKUP)),
    "own-group": ruleset(policy(api=EXAMPLE, backup=BACKUP), CaptureSettings(own_group=123456789)),
    "own-group-inbound": ruleset(INBOUND, CaptureSettings(own_group=123456789, interface="eth0", connmark=True)),
    "without-classify": ruleset(policy(api=EXAMPLE), CaptureSettings(resets_priority=False)),
    "example-draining": ruleset(policy(api=EXAMPLE, backup=BACKUP), capture=False),
    "no-content": ruleset(policy(backup=BACKUP, web=[{"port": [80, 443], "protocol": "tcp"}])),
    "no-content-keep-captured": ruleset(policy(backup=BACKUP), keep_captured=True),
    "nothing": ruleset(policy()),
    "udp": ruleset(policy(voice=[{"protocol": "udp", "port": ["16384-32767"]}], dns=[{"port": 53}])),
    "many-ports": ruleset(
        policy(
            many=[{"port": [*range(1000, 1040, 2), "2000-2010", 2011]}],
            few=[{"host": "a.example", "port": [*range(1, 60, 3)]}],
        )
    ),
    "v6": ruleset(
        policy(
            v6=[{"cidr": ["fd00::/8", "2001:db8::/33", "2001:db8:8000::/33"]}],
            both=[{"cidr": ["192.0.2.1", "2001:db8::1"], "protocol": ["tcp", "udp"]}],
        )
    ),
    "sources": ruleset(
        policy(
            v4=[{"source": ["10.0.0.0/9", "10.128.0.0/9", "192.0.2.1"], "cidr": ["198.51.100.0/24", "fd00::/8"]}],
            v6=[{"source": ["fd00::/8"], "port": [443], "protocol": "tcp"}],
            neither=[{"source": ["10.0.0.0/8"], "cidr": ["fd00::/8"]}],
            names=[
                {"sni": ["a.example"], "source": ["10.0.0.0/8", "fd00::/8"], "cidr": ["0.0.0.0/0", "2001:db8::/32"]}
            ],
        )
    ),
    "icmp": ruleset(
        policy(
            ping=[{"protocol": "icmp"}, {"protocol": ["tcp", "icmp"], "cidr": ["192.0.2.0/24"]}],
            web=[{"protocol": ["tcp", "icmp"], "port": 80}, {"port": 81}],
        )
    ),
    "applications": ruleset(
        policy(ops=[{"application": ["ssh", "dns", "rsync"]}], web=[{"application": "https", "sni": "a.example"}])
    ),
    "everywhere": ruleset(policy(all=[{"cidr": ["0.0.0.0/0"], "port": 22}], rest=[{"protocol": "udp"}])),
    "step-aside": ruleset(policy(api=EXAMPLE, backup=BACKUP), ASIDE),
    "step-aside-draining": ruleset(policy(api=EXAMPLE, backup=BACKUP), ASIDE, capture=False),
    "step-aside-no-content": ruleset(policy(backup=BACKUP), ASIDE),
    "inbound": ruleset(INBOUND, CaptureSettings(interface="eth0")),
    "inbound-draining": ruleset(INBOUND, capture=False),
    "inbound-kept": ruleset(policy(backup=BACKUP), keep_inbound=True),
    "inbound-settings": ruleset(
        policy(web=[{"host": "a.example", "direction": "inbound"}], ssh=[{"port": 22, "direction": "both"}]),
        CaptureSettings(
            inbound_port=25106,
            silent_ports=(),
            exclude_inbound_ports=(PortRange(15020, 15021), PortRange(15109, 15109)),
            exclude_inbound_cidrs=(ipaddress.ip_network("192.0.2.1"), ipaddress.ip_network("fd00:ec2::/32")),
        ),
    ),
    "step-aside-inbound": ruleset(INBOUND, ASIDE),
    "step-aside-inbound-alone": ruleset(
        policy(web=[{"host": "a.example", "direction": "inbound"}], ssh=[{"port": 22, "direction": "inbound"}]),
        CaptureSettings(
            datapath=Datapath.STEP_ASIDE,
            exclude_inbound_ports=(PortRange(15109, 15109),),
            exclude_inbound_cidrs=(ipaddress.ip_network("192.0.2.1"),),
        ),
    ),
    "step-aside-inbound-draining": ruleset(INBOUND, ASIDE, capture=False),
    "step-aside-inbound-kept": ruleset(policy(backup=BACKUP), ASIDE, keep_inbound=True),
    "quic": ruleset(
        policy(
            h3=[{"sni": ["a.example"], "port": [443, "8443-8450"], "cidr": ["192.0.2.0/24", "2001:db8::/32"]}],
            web=[{"port": 443}],
            other=[{"alpn": "h3", "protocol": "udp", "source": ["10.0.0.0/8"]}, {"host": "b.example", "port": 443}],
        ),
        CaptureSettings(interface="eth0", exclude_outbound_ports=(PortRange(8444, 8444),)),
    ),
    "quic-block": ruleset(policy(api=EXAMPLE, backup=BACKUP).model_copy(update={"quic": Quic.BLOCK})),
    "quic-inbound-alone": ruleset(
        policy(h3=[{"sni": ["a.example"], "protocol": "udp", "direction": "inbound"}]),
        CaptureSettings(interface="eth0", exclude_inbound_cidrs=(ipaddress.ip_network("192.0.2.1"),)),
    ),
    "quic-silent": ruleset(policy(api=EXAMPLE), CaptureSettings(silent_ports=(443,))),
    "quic-without-queue": ruleset(policy(api=EXAMPLE, backup=BACKUP), CaptureSettings(quic=False)),
    "istio": ruleset(policy(api=EXAMPLE, backup=BACKUP), CaptureSettings(interface="eth0", mesh=ISTIO)),
    "istio-ambient": ruleset(policy(api=EXAMPLE), CaptureSettings(interface="eth0", mesh=ISTIO_AMBIENT)),
    "istio-step-aside": ruleset(INBOUND, replace(ASIDE, mesh=ISTIO)),
    "istio-draining": ruleset(policy(api=EXAMPLE), CaptureSettings(interface="eth0", mesh=ISTIO), capture=False),
    "linkerd": ruleset(policy(api=EXAMPLE), CaptureSettings(interface="eth0", mesh=LINKERD)),
    "settings": ruleset(
        policy(api=EXAMPLE),
        CaptureSettings(
            outbound_port=25101,
            silent_ports=(),
            exclude_outbound_ports=(PortRange(15012, 15012), PortRange(15443, 15450)),
            exclude_outbound_cidrs=(ipaddress.ip_network("169.254.0.0/16"), ipaddress.ip_network("fd00:ec2::/32")),
            route_table=25101,
            rule_preference=99,
            interface="eth0",
        ),
    ),
}


def as_text(rules: Ruleset) -> str:
    parts = []
    for family in rules.families:
        parts.append(f"# {family.family}")
        if not family.chains:
            parts.append("# nothing")
            continue
        parts.append(render(family).rstrip())
        parts += [f"# ip rule add {render_route(route, family.family)}" for route in family.routes]
    return "\n".join(parts) + "\n"


@pytest.mark.parametrize("name", CASES)
def test_a_policy_becomes_these_rules(name: str) -> None:
    path = GOLDEN / f"{name}.txt"
    text = as_text(CASES[name])
    if os.environ.get("PODLANE_UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


def test_every_golden_file_has_its_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("family", Family, ids=str)
def test_what_is_written_reads_back_as_the_same_data(name: str, family: Family) -> None:
    rules = CASES[name].for_family(family)
    as_saved = re.sub(r"(?m)^-I (\w+) 1 ", r"-A \1 ", render(rules))
    installed = parse(as_saved, family)
    assert {chain.name: chain.rules for chain in rules.chains} == installed.chains
    assert difference(rules, installed) == []
