"""The checks of `podlane check`: each with its result, and the remedy.

Features are probed in a scratch network namespace, which is removed afterwards.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tc_core.probe.capability import Features
    from traffic_policy.settings import IptablesSetting


class Status(StrEnum):
    """The status of a finding."""

    OK = "ok"
    NOTE = "note"
    """Works, but not as well as it could."""
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. ``group`` is its heading, ``remedy`` the action unless all is well."""

    group: str
    name: str
    status: Status
    detail: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class _Capability:
    name: str
    bit: int
    purpose: str
    required: bool = True


_CAPABILITIES: Final = (
    _Capability("CAP_NET_ADMIN", 12, "classes, rules, marks and the transparent listener"),
    _Capability("CAP_SYS_ADMIN", 21, "network namespaces, which `podlane run` and `podlane demo` make"),
    _Capability("CAP_SETGID", 6, "telling the relay's sockets from others with the same mark", required=False),
    _Capability("CAP_BPF", 39, "limits for what arrives by the socket, and datapath: ebpf", required=False),
    _Capability("CAP_PERFMON", 38, "datapath: ebpf", required=False),
)
"""Bits of linux/capability.h."""
_CONNECTIONS: Final = 10_000
"""The sidecar's default for --max-connections."""


def findings(way: IptablesSetting) -> Iterator[Finding]:
    """Run all checks, in the order of the report; ``way`` is how rules would be installed."""
    yield from capabilities(Path("/proc/self/status").read_text())
    yield from _commands(way)
    yield from _shaping()
    yield from _capture(way)
    yield from _limits()
    yield from _network()


def capabilities(status: str) -> Iterator[Finding]:
    """The capabilities of the process, from the text of /proc/self/status (capabilities(7))."""
    line = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    effective = int(line.split()[1], 16)
    for capability in _CAPABILITIES:
        held = bool(effective >> capability.bit & 1)
        absent = Status.MISSING if capability.required else Status.NOTE
        yield Finding(
            "Privileges",
            capability.name,
            Status.OK if held else absent,
            f"for {capability.purpose}",
            f"Use sudo; in a container add {capability.name.removeprefix('CAP_')} to securityContext.capabilities "
            "(docker: --cap-add).",
        )


def _commands(way: IptablesSetting) -> Iterator[Finding]:
    from datapath.netfilter.select import may_be_python
    from podlane.netns.tools import PACKAGES, find_tool

    for name, purpose in (
        ("iptables-restore", "to install the capture rules"),
        ("ip6tables-restore", "the same for IPv6"),
        ("ip", "for `podlane run` and `podlane demo`"),
        ("nsenter", "for `podlane demo`"),
    ):
        path = find_tool(name)
        remedy = f"apt-get install {PACKAGES.get(name, 'iptables')}"
        if path:
            yield Finding("Commands", name, Status.OK, str(path))
        elif name.endswith("-restore") and may_be_python(way):
            detail = "not installed; python-iptables is to do without, see below"
            yield Finding("Commands", name, Status.NOTE, detail, remedy)
        else:
            yield Finding("Commands", name, Status.MISSING, purpose, remedy)


def _shaping() -> Iterator[Finding]:
    from datapath.netfilter.backend import has_net_admin
    from tc_core.probe import features

    remedy = "Run as root, or add the capability."
    if not has_net_admin():
        yield Finding("Shaping", "HTB", Status.MISSING, "nothing can be tried without CAP_NET_ADMIN", remedy)
        return
    yield from shaping(features.probe())


def shaping(features: Features) -> Iterator[Finding]:
    """The kernel's features for shaping; only HTB, a filter for marks and a queue are required."""
    from tc_core.compile.ingress_classifier import INGRESS_CLASSIFIERS, best_ingress_classifier
    from tc_core.errors import MissingFeatureError
    from tc_core.probe.capability import USES

    try:
        classifier = f"{features.classifier} is used"
    except MissingFeatureError as error:
        yield Finding("Shaping", "mark classifier", Status.MISSING, error.feature, error.remedy)
        classifier = ""
    queues = features.fq_codel.available or features.bfifo.available
    substitutes = {
        features.fw.name: classifier,
        features.classic_bpf.name: classifier,
        features.fq_codel.name: "FIFOs sized in time are used, with more delay in a full class" if queues else "",
        features.bfifo.name: "fq_codel is used" if queues else "",
        features.gso_max_size.name: "large packets delay others in a full class",
        **{name: f"used only by {use} in a policy" for name, use in USES.items()},
    }
    for feature in features:
        substitute = substitutes.get(feature.name, "")
        if feature.available:
            yield Finding("Shaping", feature.name, Status.OK, feature.reason or "works")
        elif substitute:
            yield Finding("Shaping", feature.name, Status.NOTE, f"{feature.reason}; {substitute}", feature.remedy)
        else:
            yield Finding("Shaping", feature.name, Status.MISSING, feature.reason, feature.remedy)
    if features.clsact.available and features.ifb.available and features.redirect.available:
        relayed = INGRESS_CLASSIFIERS[best_ingress_classifier(features)]
        yield Finding("Shaping", "classes by name of what arrives", Status.OK, f"found, with the relay, {relayed}")


def _capture(way: IptablesSetting) -> Iterator[Finding]:
    from datapath.ebpf import features as ebpf
    from datapath.netfilter import features
    from datapath.netfilter.capture_settings import OWNER_PART, PRIORITY_PART
    from datapath.stepaside import features as aside

    for part in features.probe(way):
        # Without IPv6 there is no IPv6 capture; not every policy has names for inbound traffic; not every Pod has a
        # mesh, or programs with CAP_NET_RAW.
        dispensable = (features.INBOUND_PART, OWNER_PART, PRIORITY_PART)
        optional = part.name.startswith("IPv6") or part.name in dispensable
        absent = Status.NOTE if optional else Status.MISSING
        yield Finding("Capture", part.name, Status.OK if part.available else absent, part.reason, part.remedy)
    # The relay needs none of the first two. If the second is needed and missing, "iptables" above reports it.
    for part in (aside.probe(way), ebpf.probe(), features.python_iptables()):
        status = Status.OK if part.available else Status.NOTE
        yield Finding("Capture", part.name, status, part.reason, part.remedy)


def _limits() -> Iterator[Finding]:
    from sidecar.proxy.server import DESCRIPTORS_PER_CONNECTION, RESERVED_DESCRIPTORS

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _CONNECTIONS * DESCRIPTORS_PER_CONNECTION + RESERVED_DESCRIPTORS
    is_unlimited = hard == resource.RLIM_INFINITY
    enough = is_unlimited or hard >= needed
    detail = "not limited" if is_unlimited else f"at most {hard}"
    detail += "" if enough else f"; {_CONNECTIONS} connections need {needed}"
    remedy = f"Raise the hard limit (ulimit -Hn {needed}, LimitNOFILE=), or lower --max-connections."
    yield Finding("Limits", "open files", Status.OK if enough else Status.NOTE, detail, remedy)
    pages = _read("/proc/sys/fs/pipe-user-pages-soft")
    unbounded = os.geteuid() == 0 or pages == "0"
    detail = "not limited" if unbounded else f"{pages} pages for this user, then small pipes"
    remedy = "Bulk transfers copy more often with small pipes: sysctl fs.pipe-user-pages-soft=0, or run as root."
    yield Finding("Limits", "pipe buffers", Status.OK if unbounded else Status.NOTE, detail, remedy)


def _network() -> Iterator[Finding]:
    from podlane.run.resolver import choose_resolver

    yield _nat()
    forwarding = _read("/proc/sys/net/ipv4/ip_forward")
    state = "on" if forwarding == "1" else "off; `podlane run` turns it on while it runs"
    yield Finding("Network", "IPv4 forwarding", Status.OK, state)
    resolver = choose_resolver()
    works = f"{resolver.replacement} is shown to COMMAND" if resolver.replacement else "works in `podlane run` too"
    status = Status.NOTE if resolver.warning else Status.OK
    yield Finding("Network", "name resolution", status, resolver.warning or works)


def _nat() -> Finding:
    """Try the host's rules of a run in a scratch namespace."""
    from podlane.errors import ToolMissingError
    from podlane.run.addresses import Networks
    from podlane.run.nat import Firewall, HostRules
    from tc_core.probe.scratch import in_scratch_namespace
    from traffic_policy.errors import PodlaneError

    rules = HostRules("podlane-check", Networks.number(0).ipv4, "eth0")
    remedy = "`podlane run` needs it: modprobe -a xt_MASQUERADE xt_conntrack xt_comment iptable_nat iptable_filter"
    try:
        in_scratch_namespace(lambda: Firewall(4).add(rules))
    except PermissionError:
        detail = "could not be tried: making a scratch namespace takes CAP_SYS_ADMIN"
        return Finding("Network", "address translation", Status.MISSING, detail, "Use sudo.")
    except ToolMissingError as error:
        return Finding("Network", "address translation", Status.MISSING, str(error))
    except (PodlaneError, OSError) as error:
        return Finding("Network", "address translation", Status.MISSING, str(error), remedy)
    return Finding("Network", "address translation", Status.OK, "works")


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
