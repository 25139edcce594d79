"""What a kernel can do for us, as plain data: :mod:`tc_core.probe.features` finds it out,
:mod:`tc_core.compile.mark_tree` uses it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final

from tc_core.errors import MissingFeatureError


class MarkClassifier(StrEnum):
    """The ways in which a packet's mark can select its class."""

    FW = "fw"
    CLASSIC_BPF = "classic bpf"


@dataclass(frozen=True, slots=True)
class Feature:
    """One thing that was tried. ``reason`` says what was found, ``errno`` what the kernel answered when it refused."""

    name: str
    available: bool
    reason: str = ""
    remedy: str = ""
    errno: int | None = None


HTB: Final = "HTB classes (sch_htb)"
FW: Final = "fw filter (cls_fw)"
CLASSIC_BPF: Final = "classic BPF filter (cls_bpf)"
FQ_CODEL: Final = "fq_codel queues (sch_fq_codel)"
BFIFO: Final = "bfifo queues"
GSO_MAX_SIZE: Final = "settable gso_max_size"
TBF: Final = "token buckets (sch_tbf)"
SFQ: Final = "sfq queues (sch_sfq)"
CAKE: Final = "CAKE (sch_cake)"
PRIO: Final = "strict priorities (sch_prio)"
NETEM: Final = "network emulation (sch_netem)"
CLSACT: Final = "filters for what arrives (clsact, sch_ingress)"
IFB: Final = "intermediate devices (ifb)"
REDIRECT: Final = "redirection (act_mirred)"
CONNMARK: Final = "marks of connections for what arrives (act_connmark)"
SOCKETS: Final = "look-up of sockets for what arrives (eBPF, bpf_sk_lookup_tcp)"

REMEDIES: Final = {
    HTB: "Load it on the node (modprobe sch_htb), or use a kernel with CONFIG_NET_SCH_HTB.",
    FW: "Load it on the node (modprobe cls_fw), or use a kernel with CONFIG_NET_CLS_FW.",
    CLASSIC_BPF: "Load it on the node (modprobe cls_bpf), or use a kernel with CONFIG_NET_CLS_BPF.",
    FQ_CODEL: "Load it on the node (modprobe sch_fq_codel), or use a kernel with CONFIG_NET_SCH_FQ_CODEL.",
    BFIFO: "Use a kernel with CONFIG_NET_SCHED; every one that has it has bfifo.",
    GSO_MAX_SIZE: "Use Linux 4.16 or later, which lets it be set.",
    TBF: "Load it on the node (modprobe sch_tbf), or use a kernel with CONFIG_NET_SCH_TBF.",
    SFQ: "Load it on the node (modprobe sch_sfq), or use a kernel with CONFIG_NET_SCH_SFQ.",
    CAKE: "Load it on the node (modprobe sch_cake), or use Linux 4.19 or later with CONFIG_NET_SCH_CAKE.",
    PRIO: "Load it on the node (modprobe sch_prio), or use a kernel with CONFIG_NET_SCH_PRIO.",
    NETEM: "Load it on the node (modprobe sch_netem), or use a kernel with CONFIG_NET_SCH_NETEM.",
    CLSACT: "Load it on the node (modprobe sch_ingress), or use a kernel with CONFIG_NET_SCH_INGRESS.",
    IFB: "Load it on the node (modprobe ifb), or use a kernel with CONFIG_IFB.",
    REDIRECT: "Load them on the node (modprobe -a act_mirred cls_bpf), or use a kernel with CONFIG_NET_ACT_MIRRED.",
    CONNMARK: "Load it on the node (modprobe act_connmark), or use a kernel with CONFIG_NET_ACT_CONNMARK, or "
    "datapath: relay, which can do without.",
    SOCKETS: "Give the process CAP_BPF as well as CAP_NET_ADMIN (in a Pod: add BPF to the capabilities of the "
    "sidecar's container), and use Linux 5.8 or later with CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_BPF.",
}

USES: Final = {
    TBF: "`shaper: tbf` and `shaper: prio`",
    SFQ: "`queue: sfq`",
    CAKE: "`shaper: cake` and `queue: cake`",
    PRIO: "`shaper: prio`",
    NETEM: "`rehearsal`",
    CLSACT: "`ingress`",
    IFB: "`ingress`",
    REDIRECT: "`ingress`",
    CONNMARK: "`ingress` of classes that names tell apart and sockets do not",
    SOCKETS: "`ingress` of relayed classes that names tell apart",
}
"""What a policy has to ask for to need it; features that are not here serve every policy."""


def present(name: str, reason: str = "") -> Feature:
    """A feature that is there."""
    return Feature(name, True, reason)


def absent(name: str, reason: str, errno: int | None = None) -> Feature:
    """A feature that is not, with its usual remedy."""
    return Feature(name, False, reason, REMEDIES.get(name, ""), errno)


@dataclass(frozen=True, slots=True)
class Features:
    """Everything that was tried, in the order in which a report should show it. Iterates over its features.

    Those from ``tbf`` on are for policies that ask for them (:data:`USES`).
    """

    htb: Feature
    fw: Feature
    classic_bpf: Feature
    fq_codel: Feature
    bfifo: Feature
    gso_max_size: Feature
    tbf: Feature
    sfq: Feature
    cake: Feature
    prio: Feature
    netem: Feature
    clsact: Feature
    ifb: Feature
    redirect: Feature
    connmark: Feature
    sockets: Feature

    def __iter__(self) -> Iterator[Feature]:
        for each in fields(self):
            yield getattr(self, each.name)

    @property
    def classifier(self) -> MarkClassifier:
        """How marks will select classes: fw, else classic BPF.

        Raises :class:`MissingFeatureError`, naming what is missing, when there is no way at all.
        """
        if self.fw.available:
            return MarkClassifier.FW
        if self.classic_bpf.available:
            return MarkClassifier.CLASSIC_BPF
        raise MissingFeatureError(
            f"This kernel has no filter that can read packet marks: {self.fw.name}: {self.fw.reason}; "
            f"{self.classic_bpf.name}: {self.classic_bpf.reason}.",
            "Load one of them on the node (modprobe cls_fw or modprobe cls_bpf), or use a kernel with "
            "CONFIG_NET_CLS_FW or CONFIG_NET_CLS_BPF.",
        )

    def require_shaping(self) -> None:
        """Raise :class:`MissingFeatureError` unless bandwidth can be shaped at all."""
        if not self.htb.available:
            raise MissingFeatureError(f"This kernel cannot shape: {self.htb.name}: {self.htb.reason}.", self.htb.remedy)


ALL_FEATURES: Final = Features(*map(present, REMEDIES))
"""A stock kernel, as distributions ship it: it has everything. For explaining policies away from one."""
