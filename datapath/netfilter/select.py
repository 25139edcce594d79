"""Selects the backend for the mangle tables."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from datapath.errors import PrivilegeError, RulesetError
from datapath.netfilter.backend import (
    NET_ADMIN_REMEDY,
    Backend,
    BackendKind,
    Seal,
    has_net_admin,
    legacy_tables,
    untouched,
)
from datapath.netfilter.restore import INSTALL_REMEDY, RestoreBackend, installed_programs
from datapath.netfilter.rules import Family, FamilyRules
from datapath.netfilter.ruleset import CaptureSettings, build_ruleset
from tc_core.errors import MissingFeatureError
from tc_core.probe.scratch import in_scratch_namespace
from traffic_policy.errors import PodlaneError
from traffic_policy.marks import ClassIds
from traffic_policy.policy import Match, PortRange, TrafficClass, TrafficPolicy
from traffic_policy.settings import IptablesSetting
from traffic_policy.units import Rate

_T = TypeVar("_T")
_PYTHON_REMEDY: Final = "Without them, pip install 'podlane[python-iptables]' and their library do for legacy tables."


def detect_backend(way: IptablesSetting = IptablesSetting.AUTO) -> Backend:
    """The backend to use in the calling thread's network namespace.

    ``restore``: the implementation of the programs that already has rules of ours; else legacy, if there are legacy
    rules; else nft, if the kernel accepts our rules through it; else legacy. ``python``: always python-iptables.
    ``auto``: ``restore`` if the programs are installed, else ``python``. Raises
    :class:`~tc_core.errors.MissingFeatureError` when the backend does not work, :class:`PrivilegeError` when this
    process may not use it, and :class:`RulesetError` when it cannot reach existing rules of ours.
    """
    return BackendChooser(way).choose()


class BackendChooser:
    """Chooses the backend for one network namespace after another; what holds for a whole node is found out once."""

    def __init__(self, way: IptablesSetting = IptablesSetting.AUTO) -> None:
        """``way``: see :func:`detect_backend`."""
        self._way = way
        self._programs = installed_programs()
        self._working: set[BackendKind] = set()
        self.proven: set[str] = set()
        """For the installers of these backends (:class:`~datapath.netfilter.install.Installer`)."""

    def choose(self, seal: Seal | None = None) -> Backend:
        """As :func:`detect_backend`; at next to no cost where the tables are as ``seal`` says."""
        way, programs = self._way, self._programs
        if seal is not None and seal.kind in programs and programs[seal.kind].generation() == seal.generation:
            return programs[seal.kind]
        if not programs and not may_be_python(way):
            remedy = INSTALL_REMEDY if way is IptablesSetting.RESTORE else f"{INSTALL_REMEDY} {_PYTHON_REMEDY}"
            raise MissingFeatureError("The iptables programs are not installed.", remedy)
        if not has_net_admin():
            raise PrivilegeError(f"This process lacks CAP_NET_ADMIN. {NET_ADMIN_REMEDY}")
        by_python = way is IptablesSetting.PYTHON or not programs
        fresh = untouched()
        for holder in () if fresh else holders(programs):
            reached = way is IptablesSetting.RESTORE and holder.kind is not BackendKind.PYTHON
            if way is IptablesSetting.AUTO or reached:
                return holder
            if not by_python or holder.kind is BackendKind.NFT:
                raise RulesetError(
                    f"Rules of an earlier Podlane are in the tables of {holder}, which `--iptables {way}` does not "
                    "reach. Remove them first: podlane sidecar --cleanup."
                )
        if by_python:
            return self._that_works([python_backend()])
        legacy = programs.get(BackendKind.LEGACY)
        if legacy is not None and not fresh and _has_rules(legacy):
            return legacy
        return self._that_works(list(programs.values()))

    def _that_works(self, backends: list[Backend]) -> Backend:
        reasons = []
        for backend in backends:
            reason = None if backend.kind in self._working else why_not(backend)
            if reason is None:
                self._working.add(backend.kind)
                return backend
            reasons.append(reason)
        raise MissingFeatureError("iptables does not work here.", " ".join(reasons))


def holders(programs: Mapping[BackendKind, RestoreBackend] | None = None) -> list[Backend]:
    """Every backend that finds rules of ours, each table once: legacy tables by the programs if installed."""
    programs = installed_programs() if programs is None else programs
    found: list[Backend] = [backend for backend in programs.values() if _holds_ours(backend)]
    if BackendKind.LEGACY not in programs and _left_by_python():
        found.append(python_backend())
    return found


def _holds_ours(backend: Backend) -> bool:
    return any(bool(installed) for installed in _readable(backend, backend.installed))


def has_python_iptables() -> bool:
    """Whether python-iptables is installed; whether it works is another matter."""
    return importlib.util.find_spec("iptc") is not None


def may_be_python(way: IptablesSetting) -> bool:
    """Whether python-iptables is to be used when there are no programs."""
    return way is IptablesSetting.PYTHON or (way is IptablesSetting.AUTO and has_python_iptables())


def python_backend() -> Backend:
    """python-iptables. Raises MissingFeatureError when it or its library is not here."""
    # Its import runs programs and loads libraries: only for those who use it.
    from datapath.netfilter.python_iptables.backend import PythonBackend

    return PythonBackend()


def _left_by_python() -> bool:
    """Whether rules of ours are in legacy tables, where the programs that are installed here cannot see them."""
    if not has_python_iptables() or not any("mangle" in (legacy_tables(family) or ()) for family in Family):
        return False
    try:
        backend = python_backend()
    except MissingFeatureError:
        return False
    return _holds_ours(backend)


def _has_rules(backend: RestoreBackend) -> bool:
    """Whether there is any rule, or a built-in chain that does not accept."""
    lines = [line for text in _readable(backend, backend.read_all) for line in text.splitlines()]
    return any(line.startswith("-A") or (line.startswith(":") and " DROP" in line) for line in lines)


def _readable(backend: Backend, read: Callable[[Family], _T]) -> list[_T]:
    found = []
    for family in backend.families:
        try:
            found.append(read(family))
        except PodlaneError:
            continue
    return found


def why_not(backend: Backend) -> str | None:
    """Why the kernel does not take rules such as ours through this backend; None when it does.

    Found by trying in a scratch namespace, or, where none may be made, by a rehearsal in place.
    """
    rules = sample()
    try:
        try:
            in_scratch_namespace(lambda: backend.apply(rules, backend.installed(Family.V4)))
        except PermissionError:
            backend.rehearse(rules)
    except PodlaneError as error:
        return str(error)
    return None


def sample(settings: CaptureSettings | None = None) -> FamilyRules:
    """IPv4 rules with every match and target that these settings, or the relay, cannot do without."""
    matches = (Match(port=(PortRange(80, 80), PortRange(8000, 8100)), protocol=()), Match(sni=("example.com",)))
    policy = TrafficPolicy(
        total=Rate(1_000_000),
        classes=(TrafficClass(name="sample", rate=Rate(8_000), priority=0, match=matches),),
    )
    return build_ruleset(policy, ClassIds.assign(["sample"]), settings or CaptureSettings(quic=False)).for_family(
        Family.V4
    )
