"""The iptables programs: which there are, and running them.

There are two implementations of iptables, "nft" and "legacy", and their rules live in different places of the kernel:
each is blind to the other's. Rules split over both are a trap for whoever looks for them, so Podlane goes where the
namespace's rules already are.

Only ``iptables-save`` and ``iptables-restore --noflush`` are used: atomic, the same for both implementations, and with
the kernel's own compatibility checks. (python-iptables reaches only legacy tables, and not those of every release.)
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from sidecar.errors import PrivilegeError, RulesetError, SidecarError
from sidecar.netfilter.parse import parse
from sidecar.netfilter.rules import Family
from sidecar.netfilter.ruleset import CaptureSettings, Ruleset, build_ruleset
from sidecar.netfilter.text import render
from tc_core.errors import MissingFeatureError
from tc_core.marks import ClassIds
from tc_core.policy import Match, PortRange, TrafficClass, TrafficPolicy
from tc_core.scratch import in_scratch_namespace
from tc_core.units import Rate

_SBIN: Final = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where the programs are even when PATH, as for ordinary users on Debian, does not say so."""
_TIMEOUT: Final = 30.0
"""Seconds for one program run; they take milliseconds, or wait for the lock below."""
_LOCK_WAIT: Final = 10
"""Seconds that legacy iptables may wait for /run/xtables.lock when somebody else is changing rules; nft needs none."""
_PREFIX: Final = {Family.V4: "iptables", Family.V6: "ip6tables"}
INSTALL_REMEDY: Final = "Install the package iptables (Debian, Ubuntu, Alpine; iptables-nft on Fedora)."


NET_ADMIN_REMEDY: Final = "Changing mangle rules takes CAP_NET_ADMIN: run as root, or add the capability."
_CAP_NET_ADMIN: Final = 12
"""Its bit in a capability set (linux/capability.h)."""


class BackendKind(StrEnum):
    """The two implementations of iptables, the preferred one first."""

    NFT = "nft"
    LEGACY = "legacy"


@dataclass(frozen=True, slots=True)
class Tools:
    """The two programs for one family."""

    save: str
    restore: str


@dataclass(frozen=True, slots=True)
class Backend:
    """One implementation of iptables, in the network namespace of whatever thread calls."""

    kind: BackendKind
    tools: Mapping[Family, Tools]

    def __str__(self) -> str:
        return f"iptables-{self.kind}"

    def read(self, family: Family) -> str:
        """The mangle table as iptables-save text; empty when there is none yet. Raises :class:`RulesetError`."""
        if self.kind is BackendKind.LEGACY:
            tables = _legacy_tables(family)
            if tables is not None and "mangle" not in tables:
                # Asking for a legacy table by name would bring it into being.
                return ""
        return self._run(self.tools[family].save, "-t", "mangle")

    def read_all(self, family: Family) -> str:
        """All tables there are as iptables-save text. Raises :class:`RulesetError`."""
        return self._run(self.tools[family].save)

    def write(self, family: Family, transaction: str) -> None:
        """Apply iptables-restore input, whole or not at all.

        Raises :class:`PrivilegeError`, or :class:`RulesetError` with what iptables said and what to do.
        """
        self._run(self.tools[family].restore, "--noflush", f"--wait={_LOCK_WAIT}", text=transaction)

    def test(self, family: Family, transaction: str) -> None:
        """Have the input checked without applying it; finds unknown targets and matches, not every refusal."""
        self._run(self.tools[family].restore, "--noflush", "--test", f"--wait={_LOCK_WAIT}", text=transaction)

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
                # Ctrl-C goes to the terminal's whole foreground process group, and must not end a command halfway.
                process_group=0,
            )
        except subprocess.TimeoutExpired:
            raise RulesetError(f"{command[0]} did not end within {_TIMEOUT:g} s. Is another iptables stuck?") from None
        except OSError as error:
            raise RulesetError(f"{command[0]} cannot be run: {error.strerror}. {INSTALL_REMEDY}") from None
        if done.returncode:
            raise _explain(Path(command[0]).name, done.stderr.strip(), text)
        return done.stdout


def _explain(program: str, said: str, text: str | None) -> SidecarError:
    """What iptables said, with the line of the input it speaks of and what to do."""
    detail = said.replace("\n", " ") or "it gave no reason"
    named = re.search(r"\bline:? (\d+)", detail)
    lines = (text or "").splitlines()
    if named and 1 <= int(named[1]) <= len(lines):
        detail = f"{detail} [{lines[int(named[1]) - 1]}]"
    lower = detail.lower()
    if "must be root" in lower or "operation not permitted" in lower or not has_net_admin():
        return PrivilegeError(f"{program}: {detail}. {NET_ADMIN_REMEDY}")
    if "xtables.lock" in lower or "xtables lock" in lower:
        remedy = "Make /run writable, name another place in XTABLES_LOCKFILE, or stop the program that holds the lock."
    elif "table does not exist" in lower or "initialize" in lower or "protocol not supported" in lower:
        remedy = (
            "Load the kernel modules on the node: modprobe -a nf_tables nft_compat, or iptable_mangle ip6table_mangle."
        )
    elif any(hint in lower for hint in ("no chain/target/match", "no such file", "couldn't load", "not supported")):
        remedy = (
            "The kernel lacks a match or target. Load the modules on the node: "
            "modprobe -a xt_TPROXY xt_mark xt_connmark xt_conntrack xt_multiport."
        )
    else:
        remedy = "`podlane check` tells what this kernel can do."
    return RulesetError(f"{program}: {detail}. {remedy}")


def has_net_admin() -> bool:
    """Whether the calling thread may change network settings. iptables itself does not always say that this is it."""
    status = Path("/proc/thread-self/status").read_text()
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> _CAP_NET_ADMIN & 1)


def _legacy_tables(family: Family) -> tuple[str, ...] | None:
    """The legacy tables in use here; None when only root may know."""
    name = "ip_tables_names" if family is Family.V4 else "ip6_tables_names"
    try:
        return tuple(Path("/proc/thread-self/net", name).read_text().split())
    except FileNotFoundError:
        # The module is not loaded, so nobody has made a table.
        return ()
    except OSError:
        return None


# --- which there are -----------------------------------------------------------------------------------------------


def installed_backends(search_path: str | None = None) -> dict[BackendKind, Backend]:
    """The implementations whose programs are here, the preferred one first. ``search_path``: instead of PATH."""
    path = search_path if search_path is not None else f"{os.environ.get('PATH', '')}:{_SBIN}"
    found = {}
    for kind in BackendKind:
        tools = {family: pair for family in Family if (pair := _tools(kind, family, path)) is not None}
        if Family.V4 in tools:
            found[kind] = Backend(kind, tools)
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
    """Which implementation a plain ``iptables-save`` is: it says so behind its version."""
    try:
        said = subprocess.run((program, "--version"), capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return BackendKind.NFT if "nf_tables" in said.stdout else BackendKind.LEGACY


def detect_backend() -> Backend:
    """The implementation to use in the calling thread's network namespace.

    The one that has rules of ours already; else legacy, if somebody has legacy rules here; else nft if the kernel takes
    our rules through it; else legacy. Raises :class:`~tc_core.errors.MissingFeatureError` when neither works, and
    :class:`PrivilegeError` when this process may not use them.
    """
    found = installed_backends()
    if not found:
        raise MissingFeatureError("The iptables programs are not installed.", INSTALL_REMEDY)
    if not has_net_admin():
        raise PrivilegeError(f"This process lacks CAP_NET_ADMIN. {NET_ADMIN_REMEDY}")
    for backend in found.values():
        if _holds_ours(backend):
            return backend
    legacy = found.get(BackendKind.LEGACY)
    if legacy is not None and _has_rules(legacy):
        return legacy
    reasons = []
    for backend in found.values():
        reason = why_not(backend)
        if reason is None:
            return backend
        reasons.append(f"{backend}: {reason}")
    raise MissingFeatureError("iptables does not work here.", " ".join(reasons))


def _holds_ours(backend: Backend) -> bool:
    return any(parse(text) for text in _readable(backend, backend.read))


def _has_rules(backend: Backend) -> bool:
    """Whether there is any rule, or a built-in chain that does not accept."""
    lines = [line for text in _readable(backend, backend.read_all) for line in text.splitlines()]
    return any(line.startswith("-A") or (line.startswith(":") and " DROP" in line) for line in lines)


def _readable(backend: Backend, read: Callable[[Family], str]) -> list[str]:
    texts = []
    for family in backend.tools:
        try:
            texts.append(read(family))
        except SidecarError:
            continue
    return texts


def why_not(backend: Backend) -> str | None:
    """Why the kernel does not take rules such as ours through this implementation; None when it does.

    Found by trying in a scratch namespace, or, where none may be made, by ``iptables-restore --test`` in place.
    """
    text = render(_sample().of(Family.V4))
    try:
        try:
            in_scratch_namespace(lambda: backend.write(Family.V4, text))
        except PermissionError:
            backend.read(Family.V4)
            backend.test(Family.V4, text)
    except SidecarError as error:
        return str(error)
    return None


def _sample() -> Ruleset:
    """A ruleset that has every match and target we ever use."""
    matches = (Match(port=(PortRange(80, 80), PortRange(8000, 8100)), protocol=()), Match(sni=("example.com",)))
    policy = TrafficPolicy(
        total=Rate(1_000_000),
        classes=(TrafficClass(name="sample", rate=Rate(8_000), priority=0, match=matches),),
    )
    return build_ruleset(policy, ClassIds.assign(["sample"]), CaptureSettings())
