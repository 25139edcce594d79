"""The backend that runs the iptables programs.

It uses only ``iptables-save`` and ``iptables-restore --noflush``, which are atomic, the same for both implementations,
and include the kernel's compatibility checks.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from datapath.errors import PrivilegeError, RulesetError
from datapath.netfilter.backend import (
    LOAD_EXTENSIONS_REMEDY,
    LOAD_TABLES_REMEDY,
    LOCK_REMEDY,
    LOCK_WAIT,
    NET_ADMIN_REMEDY,
    BackendKind,
    has_net_admin,
    legacy_tables,
)
from datapath.netfilter.fallback import Command, failing_text, without_refusal
from datapath.netfilter.parse import Installed, parse
from datapath.netfilter.render import render, transaction
from datapath.netfilter.rules import Family, FamilyRules
from tc_core.netlink import nftables
from tc_core.netlink.nftables import Generation
from traffic_policy.errors import PodlaneError
from traffic_policy.settings import Datapath, OnFailure

_SBIN: Final = "/usr/local/sbin:/usr/sbin:/sbin"
"""Searched as well: the PATH of ordinary users on Debian lacks these."""
_TIMEOUT: Final = 30.0
"""Timeout of one program run in seconds; includes waiting for the lock of legacy tables."""
_AF: Final = {Family.V4: socket.AF_INET, Family.V6: socket.AF_INET6}
_PREFIX: Final = {Family.V4: "iptables", Family.V6: "ip6tables"}
INSTALL_REMEDY: Final = "Install the package iptables (Debian, Ubuntu, Alpine; iptables-nft on Fedora)."


@dataclass(frozen=True, slots=True)
class Tools:
    """The two programs for one family."""

    save: str
    restore: str


@dataclass(frozen=True, slots=True)
class RestoreBackend:
    """The programs of one implementation of iptables."""

    kind: BackendKind
    tools: Mapping[Family, Tools]

    def __str__(self) -> str:
        return f"iptables-{self.kind}"

    @property
    def description(self) -> str:
        """The implementation and its path."""
        return f"{self} ({self.tools[Family.V4].restore})"

    @property
    def families(self) -> frozenset[Family]:
        """The families whose programs are installed."""
        return frozenset(self.tools)

    def generation(self) -> Generation | None:
        """That of nftables; legacy tables have none."""
        return nftables.generation() if self.kind is BackendKind.NFT else None

    def installed(self, family: Family) -> Installed:
        """Our part of the mangle table. Raises :class:`RulesetError`."""
        return parse(self.read(family), family)

    def apply(self, rules: FamilyRules, installed: Installed) -> None:
        """Turn ``installed`` into ``rules`` by one run of iptables-restore.

        Raises :class:`PrivilegeError`, or :class:`RulesetError` with the message of iptables and a remedy.
        """
        text = transaction(rules, installed)
        self._run(self.tools[rules.family].restore, "--noflush", f"--wait={LOCK_WAIT}", text=text)

    def failing(self, rules: FamilyRules, way: OnFailure, datapath: Datapath) -> Command | None:
        """A run of iptables-restore; see :mod:`datapath.netfilter.fallback`."""
        text = failing_text(rules, way, datapath)
        if text is None:
            return None
        return Command((self.tools[rules.family].restore, "--noflush", f"--wait={LOCK_WAIT}"), text)

    def refuses(self, family: Family) -> bool:
        """Whether the filter table has a refusal of ours. Raises :class:`RulesetError`."""
        return without_refusal(self.read(family, "filter")) is not None

    def lift_refusal(self, family: Family) -> bool:
        """Remove the refusal from the filter table. Raises what :meth:`apply` raises."""
        text = without_refusal(self.read(family, "filter"))
        if text is None:
            return False
        self._run(self.tools[family].restore, "--noflush", f"--wait={LOCK_WAIT}", text=text)
        return True

    def rehearse(self, rules: FamilyRules) -> None:
        """Check the rules with ``iptables-restore --test``."""
        self.read(rules.family)
        text = render(rules)
        self._run(self.tools[rules.family].restore, "--noflush", "--test", f"--wait={LOCK_WAIT}", text=text)

    def read(self, family: Family, table: str = "mangle") -> str:
        """A table as iptables-save text; empty if it does not exist. Raises :class:`RulesetError`."""
        tables = self._tables(family)
        if tables is not None and table not in tables:
            return ""
        return self._run(self.tools[family].save, "-t", table)

    def read_all(self, family: Family) -> str:
        """All existing tables as iptables-save text. Raises :class:`RulesetError`."""
        if self.kind is BackendKind.LEGACY and self._tables(family) == ():
            return ""
        return self._run(self.tools[family].save)

    def _tables(self, family: Family) -> tuple[str, ...] | None:
        """Those that there are, at the cost of one question to the kernel; None if it does not tell."""
        if self.kind is BackendKind.LEGACY:
            return legacy_tables(family)
        return nftables.tables(_AF[family])

    def _run(self, *command: str, text: str | None = None) -> str:
        try:
            done = subprocess.run(
                command,
                input=text,
                stdin=subprocess.DEVNULL if text is None else None,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT,
                check=False,
                # Ctrl-C signals the terminal's whole foreground process group, and must not interrupt the command.
                process_group=0,
            )
        except subprocess.TimeoutExpired:
            raise RulesetError(f"{command[0]} did not end within {_TIMEOUT:g} s. Is another iptables stuck?") from None
        except OSError as error:
            raise RulesetError(f"{command[0]} cannot be run: {error.strerror}. {INSTALL_REMEDY}") from None
        if done.returncode:
            raise _explain(Path(command[0]).name, done.stderr.strip(), text)
        return done.stdout


def _explain(program: str, said: str, text: str | None) -> PodlaneError:
    """An error with the message of iptables, the input line it refers to, and a remedy."""
    detail = said.replace("\n", " ") or "it gave no reason"
    named = re.search(r"\bline:? (\d+)", detail)
    lines = (text or "").splitlines()
    if named and 1 <= int(named[1]) <= len(lines):
        detail = f"{detail} [{lines[int(named[1]) - 1]}]"
    lower = detail.lower()
    if "must be root" in lower or "operation not permitted" in lower or not has_net_admin():
        return PrivilegeError(f"{program}: {detail}. {NET_ADMIN_REMEDY}")
    if "xtables.lock" in lower or "xtables lock" in lower:
        remedy = LOCK_REMEDY
    elif "table does not exist" in lower or "initialize" in lower or "protocol not supported" in lower:
        remedy = LOAD_TABLES_REMEDY
    elif any(hint in lower for hint in ("no chain/target/match", "no such file", "couldn't load", "not supported")):
        remedy = LOAD_EXTENSIONS_REMEDY
    else:
        remedy = "`podlane check` tells what this kernel can do."
    return RulesetError(f"{program}: {detail}. {remedy}")


# --- which there are -----------------------------------------------------------------------------------------------


def installed_programs(search_path: str | None = None) -> dict[BackendKind, RestoreBackend]:
    """The installed implementations in order of preference. ``search_path`` replaces PATH."""
    path = search_path if search_path is not None else f"{os.environ.get('PATH', '')}:{_SBIN}"
    found = {}
    for kind in (BackendKind.NFT, BackendKind.LEGACY):
        tools = {family: pair for family in Family if (pair := _tools(kind, family, path)) is not None}
        if Family.V4 in tools:
            found[kind] = RestoreBackend(kind, tools)
    return found


def _tools(kind: BackendKind, family: Family, path: str) -> Tools | None:
    prefix = _PREFIX[family]
    for infix in (f"-{kind}", ""):
        save = shutil.which(f"{prefix}{infix}-save", path=path)
        restore = shutil.which(f"{prefix}{infix}-restore", path=path)
        if save and restore and (infix or _kind_of(save) is kind):
            return Tools(save, restore)
    return None


def _kind_of(program: str) -> BackendKind | None:
    """The implementation of a plain ``iptables-save``, which prints it after its version."""
    try:
        said = subprocess.run((program, "--version"), capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return BackendKind.NFT if "nf_tables" in said.stdout else BackendKind.LEGACY
