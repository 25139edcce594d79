"""Writes the rules of the policy in force, skips unchanged ones, and provides the commands of a fallback.

Everything here blocks (netfilter, sock_diag), as :mod:`datapath.shaping` does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from daemon.log import Logger
from datapath.data_plane_settings import DataPlaneSettings
from datapath.errors import RulesetError
from datapath.netfilter.capture_settings import OWNER_PART, PRIORITY_PART, CaptureSettings
from datapath.netfilter.fallback import Command
from datapath.netfilter.install import Installer
from datapath.netfilter.ruleset import Ruleset, build_ruleset
from datapath.quic_classifier import QuicReader
from datapath.shaping import Shaping
from datapath.sock_diag import Listeners
from tc_core.compile.ingress_classifier import IngressClassifier
from traffic_policy.marks import ClassIds
from traffic_policy.policy import Bound, TrafficPolicy
from traffic_policy.settings import Datapath, OnFailure

log = Logger()

Fallback = Callable[[tuple[Command, ...], ClassIds, OnFailure], None]
"""Called with the commands by which new connections bypass the server, the class ids, and the failure mode."""


class RulesetWriter:
    """Installs rulesets; one equal to the last is not written again."""

    def __init__(
        self, installer: Installer, shaping: Shaping, quic: QuicReader, on_fallback: Fallback | None = None
    ) -> None:
        """``on_fallback`` is called before rules are written, for old and new ones, and after, for the new ones."""
        self.apart: frozenset[int] = frozenset()
        """Ports on which another program listens on loopback than elsewhere; see :mod:`datapath.sock_diag`."""
        self.adopted = False
        """Whether rules of an earlier run were there when the last ones were written. With a relay it is not told."""
        self._installer = installer
        self._shaping = shaping
        self._quic = quic
        self._on_fallback = on_fallback
        self._listeners = Listeners()
        self._written: Ruleset | None = None  # the last ruleset, if it was written without error
        self._lacking: frozenset[str] = frozenset()
        self._in_force: Ruleset | None = None  # what is to be there, written again or not
        self._fallback: tuple[Command, ...] | None = None
        self._fallback_ids: tuple[dict[str, int], tuple[int, ...]] | None = None

    def write(
        self,
        policy: TrafficPolicy,
        settings: DataPlaneSettings,
        *,
        capture: bool = True,
        keep_captured: bool = False,
        keep_inbound: bool = False,
    ) -> None:
        """Install the rules of a policy whose classes the shaping has.

        Without ``capture`` new connections go direct. ``keep_captured`` and ``keep_inbound`` keep the rules that live
        connections need. Raises :class:`RulesetError`, :class:`PrivilegeError`.
        """
        relay = settings.capture.datapath is Datapath.RELAY
        if relay and any(match.needs_content for _, match in policy.rules(Bound.INBOUND)):
            self.apart = self._listeners.apart()
        build = partial(
            build_ruleset,
            policy,
            self._shaping.ids,
            capture=capture,
            keep_captured=keep_captured,
            keep_inbound=keep_inbound,
        )
        ruleset = build(self.capture_settings(settings))
        self._arm(ruleset, settings, replacing=ruleset != self._written)
        if ruleset == self._written:
            return  # not read back, which is slow: forget() asks for that
        self._written = None
        if ruleset != self._in_force:
            self._in_force = None  # one that cannot be written is not missed
        try:
            ruleset = self._install(build, settings)
        except RulesetError:
            if not self._found_lacking():
                raise
            ruleset = self._install(build, settings)
        self._written = self._in_force = ruleset
        self._arm(ruleset, settings)

    def _install(self, build: Callable[[CaptureSettings], Ruleset], settings: DataPlaneSettings) -> Ruleset:
        capture = self.capture_settings(settings)
        if capture.datapath is Datapath.RELAY:
            without = partial(build, replace(capture, quic=False))
            return self._quic.install(self._installer.install, build(capture), without)
        ruleset = build(capture)
        self.adopted = self._installer.install(ruleset).adopted
        return ruleset

    def _found_lacking(self) -> bool:
        """Whether the kernel lacks a part that rules can do without; they do so from now on."""
        found = self._installer.lacking()
        if found <= self._lacking:
            return False
        self._lacking |= found
        log.warning(self.problem)
        return True

    @property
    def problem(self) -> str:
        """What the kernel lacks, and so what is not enforced; empty if nothing."""
        if not self._lacking:
            return ""
        lacking = " and ".join(sorted(self._lacking))
        return f"programs with CAP_NET_RAW can choose their class: this kernel lacks the {lacking} of netfilter"

    def capture_settings(self, settings: DataPlaneSettings) -> CaptureSettings:
        """The settings to build rules with now."""
        captured = settings.captured(
            interface=self._shaping.interface,
            quic=self._quic.available,
            connmark=self._shaping.ingress_classifier is IngressClassifier.CONNMARK,
            apart=self.apart,
        )
        if OWNER_PART in self._lacking:
            captured = replace(captured, own_group=None)
        return replace(captured, resets_priority=PRIORITY_PART not in self._lacking)

    def forget(self) -> None:
        """Forget the last ruleset and what the kernel lacks: the next :meth:`write` compares with what is installed."""
        self._written = None
        self._lacking = frozenset()

    def invalidate(self) -> None:
        """The fallback commands were run: the next :meth:`write` reads everything, like the first one."""
        self._written = self._fallback = None
        self._installer.invalidate()

    def missing_rules(self) -> list[str]:
        """What is missing of the rules as last written. Raises :class:`RulesetError`."""
        return [] if self._in_force is None else self._installer.missing_rules(self._in_force)

    def missing_routes(self) -> list[str]:
        """What is missing of the policy routes as last written. Raises :class:`RulesetError`."""
        return [] if self._in_force is None else self._installer.missing_routes(self._in_force)

    def listeners_changed(self) -> bool:
        """Whether the exempted ports differ from those in the rules."""
        return self._listeners.apart() != self.apart

    def _arm(self, ruleset: Ruleset, settings: DataPlaneSettings, *, replacing: bool = False) -> None:
        """Announce the fallback; while ``replacing``, one that fits both the old and the new ruleset."""
        if self._on_fallback is None:
            return
        ids = self._shaping.ids
        commands = self._installer.failing(ruleset, settings.on_failure, settings.capture.datapath)
        if replacing and self._fallback:
            commands = (*self._fallback, *(each for each in commands if each not in self._fallback))
        said = dict(ids), ids.retired
        if commands != self._fallback or said != self._fallback_ids:
            self._on_fallback(commands, ids, settings.on_failure)
            self._fallback, self._fallback_ids = commands, said
