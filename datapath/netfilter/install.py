"""Installs a ruleset, verifies it, and removes it completely.

The order ensures that no packet sees a partial ruleset: the policy route is added before any rule marks packets for it,
and removed after the last such rule. Each family's rules change in one transaction. Rules that are already correct are
not touched, so a restarted container adopts those of its predecessor with their counters. Rules that differ, from
another policy or an interrupted removal, are replaced in the same transaction.

Reading rules takes a program for each family, which is nearly all that an installation costs. nftables counts its
transactions, so that what was read once need not be read again while nobody has changed anything.

Ours are: chains named ``PODLANE-*`` in the mangle table, rules elsewhere in it that jump to them, and the policy route,
by its mark. Nothing else is changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from daemon.log import Logger
from datapath.errors import RulesetError
from datapath.netfilter import routes
from datapath.netfilter.backend import Backend, Seal, untouched
from datapath.netfilter.changes import MangleChanges
from datapath.netfilter.fallback import Command
from datapath.netfilter.ipv6 import ipv6_missing
from datapath.netfilter.nfqueue_rules import SAVE, save_rules
from datapath.netfilter.parse import Installed
from datapath.netfilter.render import difference, missing, render, render_route
from datapath.netfilter.rules import Chain, Family, FamilyRules, Rule
from datapath.netfilter.ruleset import CaptureSettings, Ruleset
from datapath.netfilter.select import detect_backend
from tc_core.netlink.nftables import Generation
from traffic_policy.errors import PodlaneError
from traffic_policy.policy import TransportProtocol
from traffic_policy.settings import Datapath, IptablesSetting, OnFailure

__all__ = ["Backend", "InstallReport", "Installer", "IptablesSetting", "detect_backend"]

_DEFAULT_TABLE: Final = CaptureSettings().route_table
_SHOWN: Final = 12
_NOTHING: Final = "nothing"
"""The digest of no rules of ours."""
"""Maximum lines of a difference in an error; the first ones suffice to see the kind of problem."""

log = Logger()


@dataclass(frozen=True, slots=True)
class InstallReport:
    """Result of an installation. ``adopted``: rules of an earlier run existed; ``notes``: what was skipped and why."""

    changed: bool
    adopted: bool
    notes: tuple[str, ...] = ()


class Installer:
    """Installs rulesets, one after the other, in the network namespace of the calling thread.

    Not for concurrent use: the caller ensures that only one Podlane runs in the namespace.
    """

    def __init__(self, backend: Backend, seal: Seal | None = None, proven: set[str] | None = None) -> None:
        """``seal``: :attr:`seal` of an earlier installer of this network namespace.

        ``proven`` are texts of rules that were read back as they were written; installers of several network namespaces
        may share them. Where there were no rules, and only they are written, they are not read back again.
        """
        self.backend = backend
        self.seal: Seal | None = None
        """Of the rules that were installed last; None if the kernel does not tell when others change them."""
        self._earlier = seal
        self._proven = set() if proven is None else proven
        self._seen: tuple[Ruleset, list[Family], Generation] | None = None  # nothing was missing in this generation
        self._tables = {_DEFAULT_TABLE}
        self._installed_before = False

    def install(self, ruleset: Ruleset) -> InstallReport:
        """Put ``ruleset`` in force; writes nothing if it is in force already.

        Raises :class:`RulesetError` (with the difference, if the state read back is not what was written) or
        :class:`PrivilegeError`. After an error each family has either its old or its new rules; :meth:`remove` cleans
        up.
        """
        notes: list[str] = []
        families = list(self._families(notes))
        begun = self.backend.generation()
        digest = _digest(ruleset, families)
        earlier, self._earlier, self.seal = self._earlier, None, None
        # Routes are no matter of nftables.
        plain = not any(ruleset.for_family(family).routes for family in families)
        if plain and earlier is not None and earlier == self._sealed(begun, digest):
            changed, adopted, after = False, True, begun
        else:
            changed, adopted, after = self._install_families(ruleset, families, begun)
        report = InstallReport(changed, adopted and not self._installed_before, tuple(notes))
        self._installed_before = True
        quiet = after is not None and after == self.backend.generation()
        self.seal = self._sealed(after, digest) if quiet else None
        self._seen = (ruleset, families, after) if quiet and after is not None else None
        log.info(
            "mangle rules in place",
            backend=str(self.backend),
            capture=ruleset.capture,
            changed=report.changed,
            adopted=report.adopted,
        )
        for note in notes:
            log.info(note)
        return report

    def changes(self) -> MangleChanges:
        """Tells at little cost whether mangle tables may have changed."""
        return MangleChanges(self.backend.kind)

    def missing_rules(self, ruleset: Ruleset) -> list[str]:
        """What is missing of the chains of ``ruleset`` and the jumps to them. Raises :class:`RulesetError`."""
        families, begun = list(self._families([])), self.backend.generation()
        if begun is not None and self._seen == (ruleset, families, begun):
            return []
        found = [each for family in families for each in missing(ruleset.for_family(family), self.installed(family))]
        # Not asked again: a change since then has a generation of its own.
        self._seen = None if found or begun is None else (ruleset, families, begun)
        return found

    def missing_routes(self, ruleset: Ruleset) -> list[str]:
        """What is missing of the policy routes of ``ruleset``. Raises :class:`RulesetError`."""
        found = []
        for family in self._families([]):
            for route in ruleset.for_family(family).routes:
                there = routes.observe(family, route.table)
                if route not in there.rules:
                    found.append(f"{family} routing rule: {render_route(route, family)}")
                if route.table not in there.tables:
                    found.append(f"{family} route: local default dev lo table {route.table}")
        return list(dict.fromkeys(found))

    def failing(self, ruleset: Ruleset, way: OnFailure, datapath: Datapath) -> tuple[Command, ...]:
        """Commands for any process that make new connections bypass the proxy while ``ruleset`` is in force."""
        commands = (self.backend.failing(ruleset.for_family(family), way, datapath) for family in self._families([]))
        return tuple(command for command in commands if command is not None)

    def refusing(self) -> tuple[Command, ...]:
        """Commands for any process that refuse new connections which the installed rules lead to a proxy.

        Empty for a family that refuses them already; see :meth:`refused`.
        """
        return tuple(
            command
            for family in self._families([], even_disabled=True)
            if (command := self._refusing(family)) is not None
        )

    def refused(self) -> bool:
        """Whether commands of :meth:`refusing` or :meth:`failing` were run and refuse connections."""
        return any(self.backend.refuses(family) for family in self._families([], even_disabled=True))

    def invalidate(self) -> None:
        """Such commands were run: the next :meth:`install` reads everything, like the first one."""
        self._installed_before = False

    def remove(self) -> bool:
        """Remove everything of ours, even if incomplete; returns whether there was anything.

        Both families are cleaned even if one fails; the first error is raised at the end.
        """
        begun = self.backend.generation()
        errors: list[PodlaneError] = []
        if self._nothing():
            if self.seal is not None:  # by which there was nothing at all
                return False
            # Whoever was killed before the first rule may have left a route.
            cleared = [routes.clear(family, (), self._tables) for family in self._families([], even_disabled=True)]
            removed = any(cleared)
        else:
            removed = self._remove_families(errors)
        if errors:
            raise errors[0]
        if not removed and begun is not None and begun == self.backend.generation():
            self.seal = self._sealed(begun, _NOTHING)
        return removed

    def present(self) -> bool:
        """Whether anything of ours is in this namespace."""
        return any(
            bool(self.installed(family)) or bool(routes.observe(family, _DEFAULT_TABLE))
            for family in self._families([], even_disabled=True)
        )

    def has_rule(self, chain: str, rule: Rule) -> bool:
        """Whether any family has this rule in a chain of ours; a policy may concern only one family."""
        if self._nothing():
            return False
        families = self._families([], even_disabled=True)
        return any(rule in self.installed(family).chains.get(chain, ()) for family in families)

    def lacking(self) -> frozenset[str]:
        """Parts of netfilter that rules can do without, and this kernel does not have."""
        from datapath.netfilter.features import lacking  # otherwise only `podlane check` needs it

        return lacking(self.backend)

    def installed(self, family: Family) -> Installed:
        """Our part of one family's mangle table."""
        return self.backend.installed(family)

    def _nothing(self) -> bool:
        """Whether it is known without reading that nothing of ours is here."""
        known = self.seal or self._earlier
        if known is None or known.digest != _NOTHING:
            return untouched()
        if known.generation != self.backend.generation():
            return False
        self.seal = known
        return True

    # --- one family -----------------------------------------------------------------------------------------------

    def _sealed(self, generation: Generation | None, digest: str) -> Seal | None:
        return None if generation is None else Seal(self.backend.kind, generation, digest)

    def _install_families(
        self, ruleset: Ruleset, families: Sequence[Family], begun: Generation | None
    ) -> tuple[bool, bool, Generation | None]:
        """Whether anything was changed, whether there were rules of ours before, and the generation if only we have
        changed anything since ``begun``."""
        changed = leftovers = False
        after = begun
        for family in families:
            rules = ruleset.for_family(family)
            installed = self.installed(family)
            leftovers = leftovers or bool(installed)
            self._tables |= {route.table for route in rules.routes}
            changed = routes.install(family, rules.routes) or changed
            if difference(rules, installed):
                after = after and after.after(1)
                self._write(rules, installed, after)
                changed = True
            changed = routes.clear(family, rules.routes, self._tables) or changed
            # After the rules, which by now lead to a listener.
            if not self._installed_before and self.backend.lift_refusal(family):
                after = after and after.after(1)
                changed = True
        return changed, leftovers, after

    def _write(self, rules: FamilyRules, installed: Installed, after: Generation | None) -> None:
        """``after``: the generation that it makes if nobody else changes anything."""
        self.backend.apply(rules, installed)
        text = render(rules)
        if not installed and text in self._proven and after is not None and after == self.backend.generation():
            return
        self._verify(rules)
        self._proven.add(text)

    def _remove_families(self, errors: list[PodlaneError]) -> bool:
        """Whether anything was removed."""
        removed = False
        for family in self._families([], even_disabled=True):
            try:
                removed = self._remove_family(family) or removed
            except PodlaneError as error:
                errors.append(error)
        return removed

    def _remove_family(self, family: Family) -> bool:
        installed = self.installed(family)
        nothing = FamilyRules(family)
        refusal = self.backend.lift_refusal(family)
        if installed:
            self.backend.apply(nothing, installed)
            self._verify(nothing)
        return routes.clear(family, (), self._tables) or bool(installed) or refusal

    def _refusing(self, family: Family) -> Command | None:
        if self.backend.refuses(family):
            return None
        found = self.installed(family).chains
        chains = (Chain(name, tuple(rule for rule in rules if isinstance(rule, Rule))) for name, rules in found.items())
        aside = set(save_rules((TransportProtocol.TCP,))) & set(found.get(SAVE, ()))
        datapath = Datapath.STEP_ASIDE if aside else Datapath.RELAY
        return self.backend.failing(FamilyRules(family, tuple(chains)), OnFailure.CLOSED, datapath)

    def _verify(self, rules: FamilyRules) -> None:
        lines = difference(rules, self.installed(rules.family))
        if lines:
            more = f"\n  ... {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
            shown = "\n  ".join(lines[:_SHOWN])
            raise RulesetError(
                f"{self.backend} took the {rules.family} rules, but reading them back shows others "
                f"(- missing, + not wanted). Does another program change the mangle table?\n  {shown}{more}"
            )

    def _families(self, notes: list[str], *, even_disabled: bool = False) -> Iterable[Family]:
        """The families available here; adds the reason for each other one to ``notes``."""
        yield Family.V4
        reason = ipv6_missing()
        if Family.V6 not in self.backend.families:
            notes.append(f"IPv6 is left alone: there is no ip6tables-{self.backend.kind}.")
        elif reason is not None and not (even_disabled and self._works(Family.V6)):
            notes.append(f"IPv6 is left alone: {reason}.")
        else:
            yield Family.V6

    def _works(self, family: Family) -> bool:
        try:
            self.backend.installed(family)
            routes.observe(family, _DEFAULT_TABLE)
        except PodlaneError:
            return False
        return True


def _digest(ruleset: Ruleset, families: Sequence[Family]) -> str:
    text = "".join(f"{family}\n{render(ruleset.for_family(family))}" for family in families)
    return hashlib.sha256(text.encode()).hexdigest()
