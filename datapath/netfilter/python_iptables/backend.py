"""The second way to install rules: python-iptables, for systems that have the library of iptables but not its programs.

The library's own parsers (libxtables, by way of python-iptables) turn the options of each rule into what the kernel
takes; libiptc holds one table in memory, and its commit replaces the table in the kernel whole or not at all. Each call
opens the table afresh: a handle is a snapshot, and belongs to the network namespace of the thread that opened it.

What is left out of python-iptables, and why:

* ``Rule.tables``, which opens every table there is to find out whether a target is a chain: filter, nat, raw and
  security would come into being in the Pod, and stay.
* ``Table(name)`` and ``Chain``, which keep one handle per process: another thread's namespace would be changed.
* ``final_check()`` and reading parameters, which send the process's standard output through a pipe for a moment.
  Entries are read by :mod:`datapath.netfilter.python_iptables.xt_decode` instead.
* ``in_interface`` of IPv6 rules: its mask compares one bit of each letter ("lo" matches "nm" as well).
* Its errors. libxtables reports bad input by a function that must not return; python-iptables jumps out of it over the
  interpreter's frames (longjmp). So a rule is checked before libxtables sees it.

The library has global state: one lock guards all of it. /run/xtables.lock keeps other programs from changing the table
between reading it and committing, as iptables itself does.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from datapath.errors import PrivilegeError, RulesetError
from datapath.netfilter.backend import (
    LOAD_EXTENSIONS_REMEDY,
    LOCK_REMEDY,
    LOCK_WAIT,
    NET_ADMIN_REMEDY,
    BackendKind,
    has_net_admin,
    legacy_tables,
)
from datapath.netfilter.fallback import REFUSE, Command, captures, refusal
from datapath.netfilter.parse import Installed, InstalledHook
from datapath.netfilter.python_iptables import xtables_compat
from datapath.netfilter.python_iptables.rules import check, entry_of
from datapath.netfilter.python_iptables.xt_decode import decode
from datapath.netfilter.render import render_rule
from datapath.netfilter.rules import CHAIN_PREFIX, Family, FamilyRules, Rule
from tc_core.errors import MissingFeatureError
from traffic_policy.errors import PodlaneError
from traffic_policy.settings import Datapath, OnFailure

INSTALL_REMEDY: Final = "Install it: pip install 'podlane[python-iptables]'."
LIBRARY_REMEDY: Final = (
    "Install the libraries of iptables (Debian and Ubuntu: libxtables12, libip4tc2, libip6tc2), "
    "and name the folder of their extensions in XTABLES_LIBDIR if it is an unusual one."
)
LEGACY_REMEDY: Final = (
    "python-iptables reaches legacy tables only. Load their kernel modules on the node: "
    "modprobe -a iptable_mangle ip6table_mangle. Or install the iptables programs and use `--iptables restore`."
)
RAW_REMEDY: Final = (
    "The library opens a raw socket, which takes CAP_NET_RAW as well as CAP_NET_ADMIN: add the capability, "
    "or use `--iptables restore` with iptables-nft, which does without."
)
_MANGLE: Final = "mangle"
_FILTER: Final = "filter"
_TRIES: Final = 5
"""Commits before giving up, when a program that ignores the lock changes the table each time in between."""
_LOCK_FILE: Final = "/run/xtables.lock"
"""XT_LOCK_NAME of iptables/xshared.h; the variable XTABLES_LOCKFILE names another one (iptables(8))."""
_LOCK_PAUSE: Final = 0.02
"""Seconds between two attempts to take that lock; flock(2) has no timeout, and iptables holds it for milliseconds."""

_guard = threading.RLock()
"""Held while using python-iptables: libxtables and the jump target of its errors are global."""


@dataclass(slots=True)
class _Library:
    """The modules of python-iptables. ``stride``: of the options of libxtables, once it was looked at."""

    iptc: Any
    tables: dict[Family, Any]
    rules: dict[Family, Any]
    errors: tuple[type[Exception], ...]
    stride: int | None = None

    def ready(self, family: Family) -> None:
        """Fit python-iptables to libxtables, the first time; a table of ``family`` is open."""
        if self.stride is None:
            xtables = self.iptc.xtables
            nfproto = xtables.NFPROTO_IPV4 if family is Family.V4 else xtables.NFPROTO_IPV6
            self.stride = xtables_compat.adapt(xtables, nfproto)


_loaded: _Library | None = None


def _load() -> _Library:
    global _loaded
    with _guard:
        if _loaded is None:
            _loaded = _import()
        return _loaded


def _import() -> _Library:
    try:
        iptc = importlib.import_module("iptc")
    except ImportError:
        raise MissingFeatureError("python-iptables is not installed.", INSTALL_REMEDY) from None
    except Exception as error:  # without its library it fails in many ways, most of them accidental
        reason = "" if isinstance(error, TypeError | AttributeError) else f" ({error})"
        raise MissingFeatureError(f"python-iptables cannot load libxtables{reason}.", LIBRARY_REMEDY) from error
    return _Library(
        iptc,
        {Family.V4: iptc.Table, Family.V6: iptc.Table6},
        {family: _rule_type(base) for family, base in ((Family.V4, iptc.Rule), (Family.V6, iptc.Rule6))},
        # The last two: a value or a parameter that libxtables does not know.
        (iptc.IPTCError, iptc.XTablesError, ValueError, AttributeError),
    )


def _rule_type(base: Any) -> Any:
    """python-iptables' own class, but for opening every table; see the head of this module."""
    return type(base.__name__, (base,), {"tables": ()})


class PythonBackend:
    """python-iptables: legacy tables, both families.

    Raises :class:`~tc_core.errors.MissingFeatureError` when it is not installed, or its library is not.
    """

    def __init__(self) -> None:
        self._library = _load()

    @property
    def kind(self) -> BackendKind:
        """Always PYTHON."""
        return BackendKind.PYTHON

    @property
    def families(self) -> frozenset[Family]:
        """Both: the library serves IPv4 and IPv6."""
        return frozenset(Family)

    def generation(self) -> None:
        """Legacy tables have none."""

    def __str__(self) -> str:
        return "python-iptables"

    @property
    def description(self) -> str:
        """Its version, and that of the library as far as can be told; nothing can before the first use."""
        stride = self._library.stride
        since = stride is not None and xtables_compat.is_since_1_8_11(stride)
        release = "" if stride is None else " (1.8.11 or later)" if since else " (before 1.8.11)"
        iptc = self._library.iptc
        return f"python-iptables {iptc.version.__version__} with {iptc.xtables._lib_xtables._name}{release}"

    def installed(self, family: Family) -> Installed:
        """What the legacy mangle table has of ours. Raises :class:`RulesetError`, :class:`PrivilegeError`."""
        return self._installed(family, _MANGLE)

    def _installed(self, family: Family, name: str) -> Installed:
        tables = legacy_tables(family)
        if tables is not None and name not in tables:
            return Installed()
        with _guard, self._opened(family, name) as table:
            return _observe(table, family)

    def apply(self, rules: FamilyRules, installed: Installed) -> None:  # noqa: ARG002  # looked up again under the lock
        """Turn what is installed into ``rules`` by one commit.

        Raises :class:`PrivilegeError`, or :class:`RulesetError` with what the kernel said and what to do.
        """
        self._write(rules, _MANGLE)

    def _write(self, rules: FamilyRules, name: str) -> None:
        check(rules)
        with _guard, _xtables_lock():
            for tries_left in reversed(range(_TRIES)):
                try:
                    with self._opened(rules.family, name) as table:
                        self._change(table, rules)
                        table.commit()
                except _ChangedMeanwhileError:
                    if not tries_left:
                        raise
                else:
                    return

    def failing(self, rules: FamilyRules, way: OnFailure, datapath: Datapath) -> Command | None:
        """This library in a process of its own, which takes half a second."""
        if not captures(rules):
            return None
        program = (sys.executable, "-P", "-m", "datapath.netfilter.python_iptables.fallback")
        return Command((*program, str(rules.family.value), way.value, datapath.value), "")

    def refuse(self, family: Family, datapath: Datapath) -> None:
        """Put the refusal into the filter table, which may come into being by that. Raises as :meth:`apply`."""
        self._write(refusal(family, datapath), _FILTER)

    def refuses(self, family: Family) -> bool:
        """Whether :meth:`refuse` has been called here. Raises as :meth:`installed`."""
        return REFUSE in self._installed(family, _FILTER).chains

    def lift_refusal(self, family: Family) -> bool:
        """Take the refusal out of the filter table, if it is there. Raises as :meth:`apply`."""
        if not self.refuses(family):
            return False
        self._write(FamilyRules(family), _FILTER)
        return True

    def rehearse(self, rules: FamilyRules) -> None:
        """Make all of ``rules`` in memory, and throw them away."""
        check(rules)
        with _guard, self._opened(rules.family, _MANGLE) as table:
            self._change(table, rules)

    @contextmanager
    def _opened(self, family: Family, name: str) -> Iterator[Any]:
        """A fresh handle of a table of the calling thread's namespace, with the library's errors turned into ours."""
        cls = self._library.tables[family]
        # Not by calling the class: it would hand out the handle of an earlier call, maybe of another namespace.
        table = object.__new__(cls)
        try:
            table._init(name, False)
            with closing(table):
                self._library.ready(family)
                yield table
        except self._library.errors as error:
            raise _explain(family, error) from error

    # --- changing -------------------------------------------------------------------------------------------------

    def _change(self, table: Any, rules: FamilyRules) -> None:
        found = _observe(table, rules.family)
        wanted = [chain.name for chain in rules.chains]
        # Hooks first, then the chains' rules: a referenced chain cannot be deleted. From the last to the first, so that
        # the positions of the remaining ones stay valid.
        for hook in reversed(found.hooks):
            _delete_rule(table, hook.chain, hook.position)
        for name in found.chains:
            table.flush_entries(name)
        for name in found.chains:
            if name not in wanted:
                table.delete_chain(name)
        for name in wanted:
            if name not in found.chains:
                table.create_chain(name)
        for chain in rules.chains:
            for rule in chain.rules:
                table.append_entry(chain.name, self._entry(rule, rules.family))
        for hook_wanted in rules.hooks:
            table.insert_entry(hook_wanted.builtin, self._entry(hook_wanted.rule, rules.family), 0)

    def _entry(self, rule: Rule, family: Family) -> Any:
        return entry_of(rule, family, self._library.rules[family]())


def _delete_rule(table: Any, chain: str, position: int) -> None:
    """Delete by position, from 1: a function of libiptc that python-iptables has no method for. Raises ValueError."""
    if table._iptc.iptc_delete_num_entry(chain.encode(), position - 1, table._handle) != 1:
        raise ValueError(f"can't delete rule {position} of {chain}: {table.strerror()}")


# --- reading -------------------------------------------------------------------------------------------------------


def _observe(table: Any, family: Family) -> Installed:
    chains: dict[str, tuple[Rule | str, ...]] = {}
    hooks: list[InstalledHook] = []
    for name in [chain.name for chain in table.chains]:
        if name.startswith(CHAIN_PREFIX):
            chains[name] = tuple(decode(entry, family, target) for entry, target in _entries(table, name))
            continue
        for position, (entry, target) in enumerate(_entries(table, name), 1):
            if target.startswith(CHAIN_PREFIX):
                rule = decode(entry, family, target)
                words = rule if isinstance(rule, str) else render_rule(rule, family)
                hooks.append(InstalledHook(name, position, words, target))
    return Installed(chains, tuple(hooks))


def _entries(table: Any, chain: str) -> Iterator[tuple[bytes, str]]:
    """The rules of a chain as the kernel has them, each with the name of its target."""
    entry = table.first_rule(chain)
    while entry:
        target = table.get_target(entry) or b""
        yield ctypes.string_at(ctypes.addressof(entry), entry.next_offset), target.decode(errors="replace")
        entry = table.next_rule(entry)


# --- trouble -------------------------------------------------------------------------------------------------------


class _ChangedMeanwhileError(RulesetError):
    """The table is no longer what it was when it was opened (EAGAIN)."""


def _explain(family: Family, error: Exception) -> PodlaneError:
    """What the library said and what to do."""
    said = re.sub(r"\bb(['\"])(.*?)\1", r"\2", str(error))
    detail = f"python-iptables ({family}): {said}"
    lower = said.lower()
    if not has_net_admin():
        return PrivilegeError(f"{detail}. {NET_ADMIN_REMEDY}")
    if "must be root" in lower or "not permitted" in lower:
        return PrivilegeError(f"{detail}. {RAW_REMEDY}")
    if "temporarily unavailable" in lower:
        return _ChangedMeanwhileError(f"{detail}. Another program keeps changing the mangle table. Try again.")
    if "do you need to insmod" in lower or "protocol not supported" in lower:
        return RulesetError(f"{detail}. {LEGACY_REMEDY}")
    if "no chain/target/match" in lower or "can't find" in lower:
        return RulesetError(f"{detail}. {LOAD_EXTENSIONS_REMEDY}")
    return RulesetError(f"{detail}. `podlane check` tells what this kernel can do.")


@contextmanager
def _xtables_lock() -> Iterator[None]:
    """Hold the lock that iptables takes before it changes legacy tables (iptables(8), --wait)."""
    path = os.environ.get("XTABLES_LOCKFILE") or _LOCK_FILE
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RulesetError(f"{path} cannot be opened: {error.strerror}. {LOCK_REMEDY}") from None
    try:
        deadline = time.monotonic() + LOCK_WAIT
        while not _locked(descriptor):
            if time.monotonic() > deadline:
                raise RulesetError(f"Another program has held {path} for {LOCK_WAIT} s. {LOCK_REMEDY}")
            time.sleep(_LOCK_PAUSE)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
