"""How rtnetlink lays out traffic control messages: pyroute2's layouts, completed.

pyroute2 has none for cls_bpf with its actions and for the 64-bit packet counter; those of qdiscs are in
:mod:`tc_core.qdisc_layouts`.
"""

# mypy: allow-subclassing-any
# pyroute2 has no type information.

from __future__ import annotations

from typing import Any, Final

from pyroute2.netlink import nla, rtnl
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from tc_core.qdisc_layouts import QDISC_OPTIONS

EGRESS_REDIRECT: Final = 1
"""TCA_EGRESS_REDIR of linux/tc_act/tc_mirred.h: out by another device, rather than in by it or a copy of the packet."""


class _FwOptions(nla):
    nla_map = (
        ("TCA_FW_UNSPEC", "none"),
        ("TCA_FW_CLASSID", "uint32"),
        ("TCA_FW_POLICE", "cdata"),
        ("TCA_FW_INDEV", "cdata"),
        ("TCA_FW_ACT", "cdata"),
        ("TCA_FW_MASK", "uint32"),
    )


class _MirredOptions(nla):
    """linux/tc_act/tc_mirred.h"""

    nla_map = (("TCA_MIRRED_UNSPEC", "none"), ("TCA_MIRRED_TM", "cdata"), ("TCA_MIRRED_PARMS", "parms"))

    class parms(nla):  # noqa: N801 - pyroute2 finds layouts by these names
        """struct tc_mirred."""

        fields = (
            ("index", "I"),
            ("capab", "I"),
            ("action", "i"),
            ("refcnt", "i"),
            ("bindcnt", "i"),
            ("eaction", "i"),
            ("ifindex", "I"),
        )


class _ConnmarkOptions(nla):
    """linux/tc_act/tc_connmark.h"""

    nla_map = (("TCA_CONNMARK_UNSPEC", "none"), ("TCA_CONNMARK_PARMS", "parms"), ("TCA_CONNMARK_TM", "cdata"))

    class parms(nla):  # noqa: N801
        """struct tc_connmark, which ends on a whole word."""

        fields = (
            ("index", "I"),
            ("capab", "I"),
            ("action", "i"),
            ("refcnt", "i"),
            ("bindcnt", "i"),
            ("zone", "H"),
            ("_padding", "H"),
        )


_ACTION_OPTIONS: Final[dict[str, type[Any]]] = {"mirred": _MirredOptions, "connmark": _ConnmarkOptions}


class _Actions(nla):
    """The actions of a filter, in order, from 1 on (linux/pkt_cls.h). Ours have one or two."""

    nla_map = (("TCA_ACT_PRIO_0", "none"), ("TCA_ACT_PRIO_1", "action"), ("TCA_ACT_PRIO_2", "action"))

    class action(nla):  # noqa: N801
        """One action: its kind, and options that depend on the kind."""

        nla_map = (
            ("TCA_ACT_UNSPEC", "none"),
            ("TCA_ACT_KIND", "asciiz"),
            ("TCA_ACT_OPTIONS", "get_options"),
        )

        @staticmethod
        def get_options(self: Any, *_arguments: Any, **_named: Any) -> Any:
            """The layout of TCA_ACT_OPTIONS, by the kind that comes before it."""
            return _ACTION_OPTIONS.get(self.get_attr("TCA_ACT_KIND"), nla.cdata)


class _BpfOptions(nla):
    nla_map = (
        ("TCA_BPF_UNSPEC", "none"),
        ("TCA_BPF_ACT", "actions"),
        ("TCA_BPF_POLICE", "cdata"),
        ("TCA_BPF_CLASSID", "uint32"),
        ("TCA_BPF_OPS_LEN", "uint16"),
        ("TCA_BPF_OPS", "cdata"),
        ("TCA_BPF_FD", "uint32"),
        ("TCA_BPF_NAME", "asciiz"),
    )
    actions = _Actions


class _Stats2(nla):
    """TCA_STATS2 (linux/gen_stats.h)."""

    nla_map = (
        ("TCA_STATS_UNSPEC", "none"),
        ("TCA_STATS_BASIC", "basic"),
        ("TCA_STATS_RATE_EST", "cdata"),
        ("TCA_STATS_QUEUE", "queue"),
        ("TCA_STATS_APP", "cdata"),
        ("TCA_STATS_RATE_EST64", "cdata"),
        ("TCA_STATS_PAD", "none"),
        ("TCA_STATS_BASIC_HW", "cdata"),
        ("TCA_STATS_PKT64", "uint64"),
    )

    class basic(nla):  # noqa: N801
        """struct gnet_stats_basic."""

        fields = (("bytes", "Q"), ("packets", "I"))

    class queue(nla):  # noqa: N801
        """struct gnet_stats_queue."""

        fields = (("qlen", "I"), ("backlog", "I"), ("drops", "I"), ("requeues", "I"), ("overlimits", "I"))


_OPTIONS: Final[dict[str, type[Any]]] = {
    **QDISC_OPTIONS,
    "fw": _FwOptions,
    "bpf": _BpfOptions,
}


class TcMessage(tcmsg):
    """struct tcmsg with our layouts of its options and statistics."""

    nla_map = (
        ("TCA_UNSPEC", "none"),
        ("TCA_KIND", "asciiz"),
        ("TCA_OPTIONS", "get_options"),
        ("TCA_STATS", "cdata"),
        ("TCA_XSTATS", "cdata"),
        ("TCA_RATE", "cdata"),
        ("TCA_FCNT", "cdata"),
        ("TCA_STATS2", "stats2"),
        ("TCA_STAB", "cdata"),
    )
    stats2 = _Stats2

    @staticmethod
    def get_options(self: Any, *_arguments: Any, **_named: Any) -> Any:
        """The layout of TCA_OPTIONS, by the kind that comes before it."""
        return _OPTIONS.get(self.get_attr("TCA_KIND"), nla.cdata)


LAYOUTS: Final[dict[int, type[Any]]] = {
    rtnl.RTM_NEWQDISC: TcMessage,
    rtnl.RTM_NEWTCLASS: TcMessage,
    rtnl.RTM_NEWTFILTER: TcMessage,
}
"""For pyroute2's parser: what arrives under these message types."""
