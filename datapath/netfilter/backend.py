"""The interface of the backends that install mangle rules, and their shared parts.

iptables has two implementations, "nft" and "legacy", which keep their rules in different kernel tables; neither shows
the other's. Rules split over both are hard to find, so Podlane uses the one that has the namespace's rules.

There are two kinds of backends. :mod:`datapath.netfilter.restore` runs ``iptables-save`` and ``iptables-restore``,
which exist for both implementations. :mod:`datapath.netfilter.python_iptables` needs only libxtables and libiptc, no
programs, and reaches legacy tables. :mod:`datapath.netfilter.select` chooses one, and
:class:`~datapath.netfilter.install.Installer` works with either.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Protocol, Self

from datapath.netfilter.fallback import Command
from datapath.netfilter.parse import Installed
from datapath.netfilter.rules import Family, FamilyRules
from tc_core.netlink import nftables
from tc_core.netlink.nftables import Generation
from traffic_policy.settings import Datapath, OnFailure

NET_ADMIN_REMEDY: Final = "Changing mangle rules takes CAP_NET_ADMIN: run as root, or add the capability."
LOAD_TABLES_REMEDY: Final = (
    "Load the kernel modules on the node: modprobe -a nf_tables nft_compat, or iptable_mangle ip6table_mangle."
)
LOAD_EXTENSIONS_REMEDY: Final = (
    "The kernel lacks a match or target. Load the modules on the node: "
    "modprobe -a xt_TPROXY xt_mark xt_connmark xt_conntrack xt_multiport."
)
LOCK_REMEDY: Final = (
    "Make /run writable, name another place in XTABLES_LOCKFILE, or stop the program that holds the lock."
)
LOCK_WAIT: Final = 10
"""Seconds to wait for /run/xtables.lock while another program changes legacy rules; nft has no such lock."""
_CAP_NET_ADMIN: Final = 12
"""Its bit in a capability set (linux/capability.h)."""


class BackendKind(StrEnum):
    """The backends in order of preference: the two implementations of the programs, and python-iptables."""

    NFT = "nft"
    LEGACY = "legacy"
    PYTHON = "python"


@dataclass(frozen=True, slots=True)
class Seal:
    """Says that rules were found in force: those with this ``digest``, by this backend, in this state of the tables."""

    kind: BackendKind
    generation: Generation
    digest: str

    def to_document(self) -> dict[str, Any]:
        """Plain data."""
        return {"kind": self.kind.value, "generation": list(self.generation), "digest": self.digest}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_document`. Raises KeyError, TypeError or ValueError for anything else."""
        return cls(BackendKind(document["kind"]), Generation(*document["generation"]), str(document["digest"]))


class Backend(Protocol):
    """Access to the mangle tables in the network namespace of the calling thread."""

    @property
    def kind(self) -> BackendKind:
        """The kind of this backend."""

    @property
    def description(self) -> str:
        """Names and versions, for people."""

    @property
    def families(self) -> frozenset[Family]:
        """The address families that it supports on this system."""

    def generation(self) -> Generation | None:
        """While it is the same, nobody has changed the tables; None if the kernel does not tell."""

    def installed(self, family: Family) -> Installed:
        """Our part of the mangle table; does not create a missing table. Raises :class:`RulesetError`."""

    def apply(self, rules: FamilyRules, installed: Installed) -> None:
        """Turn ``installed``, as just read, into ``rules``, atomically; foreign rules are not touched.

        Raises :class:`PrivilegeError`, or :class:`RulesetError` with the backend's message and a remedy.
        """

    def failing(self, rules: FamilyRules, way: OnFailure, datapath: Datapath) -> Command | None:
        """The command that makes new connections bypass the proxy while ``rules`` are in force.

        Any process can run it. None when the rules capture nothing.
        """

    def refuses(self, family: Family) -> bool:
        """Whether a command of :meth:`failing` was run and refuses connections."""

    def lift_refusal(self, family: Family) -> bool:
        """Remove what :meth:`failing` left outside the mangle table; returns whether there was anything."""

    def rehearse(self, rules: FamilyRules) -> None:
        """Check ``rules`` without applying them; finds unknown targets and matches, not every possible error."""


def has_net_admin() -> bool:
    """Whether the calling thread has CAP_NET_ADMIN. iptables does not always report that it is missing."""
    status = Path("/proc/thread-self/status").read_text()
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> _CAP_NET_ADMIN & 1)


def untouched() -> bool:
    """Whether nobody has written any rule in this namespace: then none has to be read to know that there are none."""
    nft = nftables.generation()
    return nft is not None and nft.untouched and all(legacy_tables(family) == () for family in Family)


def legacy_tables(family: Family) -> tuple[str, ...] | None:
    """The legacy tables in use in this namespace; None when only root may read them.

    Reading a legacy table by name creates it, so check here first.
    """
    name = "ip_tables_names" if family is Family.V4 else "ip6_tables_names"
    try:
        return tuple(Path("/proc/thread-self/net", name).read_text().split())
    except FileNotFoundError:
        # The module is not loaded, so there is no table.
        return ()
    except OSError:
        return None
