"""What a way to install mangle rules must be able to do, and what all ways share.

There are two implementations of iptables, "nft" and "legacy", and their rules live in different places of the kernel:
each is blind to the other's. Rules split over both are a trap for whoever looks for them, so Podlane goes where the
namespace's rules already are.

There are two ways to them. :mod:`datapath.netfilter.restore` runs the programs ``iptables-save`` and
``iptables-restore``, which exist for both implementations. :mod:`datapath.netfilter.python_iptables` needs no programs,
only their library, and reaches legacy tables. :mod:`datapath.netfilter.select` picks one, and
:class:`~datapath.netfilter.install.Installer` works by either.
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

from datapath.kinds import Datapath
from datapath.netfilter.fallback import Command
from datapath.netfilter.parse import Installed
from datapath.netfilter.rules import Family, FamilyRules
from datapath.on_failure import OnFailure

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
"""Seconds to wait for /run/xtables.lock when somebody else is changing legacy rules; nft needs none."""
_CAP_NET_ADMIN: Final = 12
"""Its bit in a capability set (linux/capability.h)."""


class Way(StrEnum):
    """How mangle rules are to be installed; ``auto``: by the programs where they are, else by the library."""

    AUTO = "auto"
    RESTORE = "restore"
    PYTHON = "python"


class BackendKind(StrEnum):
    """The backends there are, the preferred one first: two implementations of the programs, and python-iptables."""

    NFT = "nft"
    LEGACY = "legacy"
    PYTHON = "python"


class Backend(Protocol):
    """One way to the mangle tables, in the network namespace of whatever thread calls."""

    @property
    def kind(self) -> BackendKind:
        """Which one it is."""

    @property
    def description(self) -> str:
        """What it is, for people: names and versions."""

    @property
    def families(self) -> frozenset[Family]:
        """The address families that it can reach on this system."""

    def installed(self, family: Family) -> Installed:
        """What the mangle table has of ours; a table that does not exist is not made. Raises :class:`RulesetError`."""

    def apply(self, rules: FamilyRules, installed: Installed) -> None:
        """Turn ``installed``, as just read, into ``rules``: whole or not at all, and nothing of others.

        Raises :class:`PrivilegeError`, or :class:`RulesetError` with what was said and what to do.
        """

    def failing(self, rules: FamilyRules, way: OnFailure, datapath: Datapath) -> Command | None:
        """What somebody else can run, when ``rules`` are in force, for new connections to do without the proxy.

        None when they capture nothing, so that there is nothing to do.
        """

    def refuses(self, family: Family) -> bool:
        """Whether such a command has been run, and refuses connections."""

    def lift_refusal(self, family: Family) -> bool:
        """Take away what a command of :meth:`failing` has left beside the mangle table; whether there was anything."""

    def rehearse(self, rules: FamilyRules) -> None:
        """Have ``rules`` checked without applying them; finds unknown targets and matches, not every refusal."""


def has_net_admin() -> bool:
    """Whether the calling thread may change network settings. iptables itself does not always say that this is it."""
    status = Path("/proc/thread-self/status").read_text()
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> _CAP_NET_ADMIN & 1)


def legacy_tables(family: Family) -> tuple[str, ...] | None:
    """The legacy tables in use in this namespace; None when only root may know.

    Asking for a legacy table by name would bring it into being: look here first.
    """
    name = "ip_tables_names" if family is Family.V4 else "ip6_tables_names"
    try:
        return tuple(Path("/proc/thread-self/net", name).read_text().split())
    except FileNotFoundError:
        # The module is not loaded, so nobody has made a table.
        return ()
    except OSError:
        return None
