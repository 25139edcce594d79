"""The host's rules for one run: source NAT to the outside, and permission to forward.

The rules are in the built-in chains and carry a comment with the run's name, by which they are found and removed: no
chain of ours has to be shared, counted or synchronized between runs. They are inserted at the head, because a FORWARD
chain that drops by policy or by a rule at its end (Docker, firewalls) would stop the namespace's traffic. Each table
changes by one ``iptables-restore --noflush``, which is atomic and works with the nft and the legacy backend.
"""

from __future__ import annotations

import shlex
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from podlane.errors import LabError
from podlane.netns.tools import find_tool, run_tool
from podlane.run.addresses import AnyNetwork
from podlane.run.nftables import delete_empty_chain, delete_empty_table

_TABLES: Final = ("nat", "filter")
_CHAINS: Final = (("nat", "POSTROUTING"), ("filter", "FORWARD"))
_LOCK_PATIENCE: Final = "10"
"""Seconds to wait for the xtables lock (legacy backend)."""
_LEGACY_TABLES: Final = {4: Path("/proc/net/ip_tables_names"), 6: Path("/proc/net/ip6_tables_names")}


@dataclass(frozen=True, slots=True)
class HostRules:
    """The rules of one run, as (table, chain, rule) in the syntax of iptables(8)."""

    tag: str
    network: AnyNetwork
    interface: str

    def rules(self) -> list[tuple[str, str, str]]:
        """In the order of insertion, each at its chain's head."""
        mark = f"-m comment --comment {self.tag}"
        replies = "-m conntrack --ctstate RELATED,ESTABLISHED"
        return [
            ("nat", "POSTROUTING", f"-s {self.network} ! -o {self.interface} {mark} -j MASQUERADE"),
            ("filter", "FORWARD", f"-o {self.interface} {replies} {mark} -j ACCEPT"),
            ("filter", "FORWARD", f"-i {self.interface} {mark} -j ACCEPT"),
        ]

    def restore_text(self) -> str:
        """The rules as input for ``iptables-restore --noflush``."""
        lines: list[str] = []
        for table in _TABLES:
            inserts = [f"-I {chain} 1 {rule}" for where, chain, rule in self.rules() if where == table]
            lines += [f"*{table}", *inserts, "COMMIT"]
        return "\n".join(lines) + "\n"


def removal_text(table: str, saved: str, tag: str) -> str | None:
    """Input for ``iptables-restore --noflush`` that deletes the rules with ``tag`` in the output of ``iptables-save``.

    None if there are none.
    """
    deletes = [f"-D{line[2:]}" for line in saved.splitlines() if line.startswith("-A ") and _tag_of(line) == tag]
    return "\n".join([f"*{table}", *deletes, "COMMIT", ""]) if deletes else None


def _tag_of(line: str) -> str | None:
    words = shlex.split(line)
    return words[words.index("--comment") + 1] if "--comment" in words[:-1] else None


class Firewall:
    """The host's iptables for one family (4 or 6), with the backend that the host uses."""

    def __init__(self, version: int) -> None:
        self._version = version
        self._prefix = ("ip6tables" if version == 6 else "iptables") + _variant(version)

    def add(self, rules: HostRules) -> None:
        """Insert the rules; raises :class:`LabError`."""
        self._restore(rules.restore_text())

    def remove(self, tag: str) -> None:
        """Remove every rule with the tag, if any; raises :class:`LabError`."""
        for table in _TABLES:
            try:
                saved = run_tool([f"{self._prefix}-save", "-t", table])
            except LabError:
                continue  # the kernel has no such table, so it has no rules of ours
            if text := removal_text(table, saved, tag):
                self._restore(text)

    def absent_tables(self) -> list[str]:
        """The tables needed by our rules that do not exist yet."""
        # For a table given by name, iptables-save prints it whether it exists or not.
        try:
            saved = run_tool([f"{self._prefix}-save"]).splitlines()
        except LabError:
            return list(_TABLES)
        return [table for table in _TABLES if f"*{table}" not in saved]

    def tidy(self, table: str) -> None:
        """Delete a table, and its built-in chains, that our rules created, if it is otherwise empty.

        In the nft backend these chains are hooks that every packet of the host passes, with connection tracking behind
        them. In the legacy backend an empty table stays until its module is unloaded.
        """
        with suppress(LabError, OSError):
            saved = run_tool([f"{self._prefix}-save", "-t", table])
            for where, chain in _CHAINS:
                if where == table and f":{chain} ACCEPT" in saved:
                    delete_empty_chain(self._version, table, chain)
            delete_empty_table(self._version, table)

    def _restore(self, text: str) -> None:
        run_tool([f"{self._prefix}-restore", "-w", _LOCK_PATIENCE, "--noflush"], stdin=text)


def _variant(version: int) -> str:
    """``-legacy`` if the host's rules are in the legacy backend, else the default ``iptables``.

    Reading a legacy table loads its module, so the kernel's list of tables in use is read first.
    """
    name = "ip6tables" if version == 6 else "iptables"
    if not find_tool(f"{name}-legacy-save") or not _text(_LEGACY_TABLES[version]).split():
        return ""
    return "-legacy" if _has_rules(f"{name}-legacy-save") and not _has_rules(f"{name}-nft-save") else ""


def _has_rules(save: str) -> bool:
    if not find_tool(save):
        return False
    try:
        return any(line.startswith("-A ") or _drops(line) for line in run_tool([save]).splitlines())
    except LabError:
        return False


def _drops(line: str) -> bool:
    return line.startswith(":") and line.split()[1:2] == ["DROP"]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
