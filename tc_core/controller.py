"""A fluent API for Linux traffic control::

    TrafficController("eth0").total("1Gbit") \\
        .traffic_class("db").guaranteed("100Mbit").up_to("200Mbit").priority(1).for_port(5432) \\
        .apply()

A controller builds a policy for one interface (:mod:`tc_core.builder`) and has the methods that act on it. Building
neither reads nor changes the kernel, and raises no errors: :meth:`TrafficController.validate` returns all problems, and
the other methods raise :class:`tc_core.errors.PolicyError` with the same list. ``docs/reference/library.md`` is the
guide.

Without the proxy, packets are classified by their headers and marks only, so there are no methods for names (``sni``,
``host``, ``alpn``). A policy with such criteria can be loaded, explained and saved, but not applied.
"""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Final, Self

from tc_core import statistics
from tc_core.apply import journal
from tc_core.apply.execute import Report
from tc_core.apply.plan import ObservedInterface, observe_interface, plan
from tc_core.builder import ClassBuilder, DefaultBuilder, Draft, given, in_calls
from tc_core.compile.packet_tree import lanes_of
from tc_core.errors import MissingFeatureError
from tc_core.history import History, Standing, this_namespace
from tc_core.kernel import Kernel
from tc_core.probe.capability import Features
from tc_core.statistics import Statistics
from tc_core.trees import Lanes
from traffic_policy.describe import describe
from traffic_policy.errors import PodlaneError, PolicyError, Problem
from traffic_policy.policy import Shaper, TrafficPolicy
from traffic_policy.policy_file import dump_policy, load_policy
from traffic_policy.profiles import profile_named
from traffic_policy.scope import beyond_packets
from traffic_policy.units import Duration, Percentage, Rate

_YAML: Final = frozenset({".yaml", ".yml"})
_JSON: Final = frozenset({".json"})


class TrafficController:
    """The traffic control of one interface.

    ``kernel`` determines the network namespace; by default that of the thread that first calls a method which needs
    it, closed by :meth:`close` or at the end of a ``with`` block. ``history``, if given, records changes under the
    network namespace of the thread that creates the controller; the caller closes it. :class:`HistoryError` is raised
    when that namespace cannot be determined. ``features`` are those of the kernel; probed by default.
    """

    def __init__(
        self,
        interface: str,
        *,
        kernel: Kernel | None = None,
        history: History | None = None,
        features: Features | None = None,
    ) -> None:
        self.interface = interface
        self._draft = Draft()
        self._given_kernel = kernel
        self._own_kernel: Kernel | None = None
        self._history = history
        self._namespace = this_namespace() if history is not None else ""
        self._known_features = features

    @classmethod
    def from_policy(
        cls,
        interface: str,
        policy: TrafficPolicy,
        *,
        kernel: Kernel | None = None,
        history: History | None = None,
        features: Features | None = None,
    ) -> Self:
        """A controller that starts with a policy."""
        made = cls(interface, kernel=kernel, history=history, features=features)
        made._draft = Draft.from_policy(policy)
        return made

    @classmethod
    def load(
        cls,
        interface: str,
        path: Path | str,
        *,
        kernel: Kernel | None = None,
        history: History | None = None,
        features: Features | None = None,
    ) -> Self:
        """A controller that starts with the policy in a YAML or JSON file. Raises :class:`PolicyError`."""
        return cls.from_policy(interface, load_policy(path), kernel=kernel, history=history, features=features)

    @classmethod
    def from_profile(
        cls,
        interface: str,
        name: str,
        *,
        total: Rate | str,
        kernel: Kernel | None = None,
        history: History | None = None,
        features: Features | None = None,
    ) -> Self:
        """A controller that starts with a predefined policy (:func:`traffic_policy.profiles.profiles`).

        Raises :class:`PolicyError` when the profile does not exist or the total is too small for it, and
        :class:`UnitError` when the total is not a rate.
        """
        policy = profile_named(name).policy(total)
        return cls.from_policy(interface, policy, kernel=kernel, history=history, features=features)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the kernel's socket if it was opened here. The state of the interface is unchanged."""
        if self._own_kernel is not None:
            self._own_kernel.close()
            self._own_kernel = None

    # --- the policy ----------------------------------------------------------------------------------------------

    def total(self, rate: Rate | str) -> Self:
        """The bandwidth of the interface, shared by all classes (``"1Gbit"``); key ``total``."""
        self._draft.document["total"] = rate
        return self

    def shaper(self, kind: Shaper | str) -> Self:
        """How the total is shared: one of :class:`traffic_policy.policy.Shaper`, default ``htb``; key
        ``shaper``."""
        self._draft.document["shaper"] = kind
        return self

    def rehearsal(
        self,
        *,
        delay: Duration | str | None = None,
        jitter: Duration | str | None = None,
        loss: Percentage | str | None = None,
        duplicate: Percentage | str | None = None,
        corrupt: Percentage | str | None = None,
    ) -> Self:
        """Emulate a worse network for every class without its own setting (tc-netem(8)); key ``rehearsal``."""
        worse = given(delay=delay, jitter=jitter, loss=loss, duplicate=duplicate, corrupt=corrupt)
        self._draft.document["rehearsal"] = worse
        return self

    def ingress_total(self, rate: Rate | str) -> Self:
        """Limit received traffic: that of classes with receive limits, and of the default class; key ``ingress``."""
        self._draft.document["ingress"] = {"total": rate}
        return self

    def traffic_class(self, name: str) -> ClassBuilder:
        """Begin a class, or continue the class of this name. Classes decide in the order of their creation."""
        document, path = self._draft.class_named(name)
        return ClassBuilder(self, document, path, self._draft.problems)

    def default_class(self) -> DefaultBuilder:
        """Begin or continue the default class; key ``default``."""
        return DefaultBuilder(self, self._draft.default())

    def policy(self) -> TrafficPolicy:
        """The policy built so far. Raises :class:`PolicyError` with all problems."""
        return self._draft.policy()

    def save(self, path: Path | str) -> None:
        """Write the policy to a file, by its suffix as YAML or JSON. :meth:`load` gives an equal policy.

        Raises :class:`PolicyError` for problems of the policy, or of the file.
        """
        target = Path(path)
        suffix = target.suffix.lower()
        policy = self.policy()
        if suffix in _YAML:
            text = dump_policy(policy)
        elif suffix in _JSON:
            text = json.dumps(policy.to_document(), indent=2, ensure_ascii=False) + "\n"
        else:
            problem = Problem("", f"{suffix or 'No suffix'} does not say YAML or JSON.", "Name it .yaml or .json.")
            raise PolicyError([problem], str(path))
        try:
            target.write_text(text, encoding="utf-8")
        except OSError as error:
            reason = error.strerror or str(error)
            raise PolicyError([Problem("", f"Cannot be written: {reason}.", "Name another file.")], str(path)) from None

    # --- asking --------------------------------------------------------------------------------------------------

    def validate(self) -> list[Problem]:
        """All problems of the policy, each with a remedy; empty when the policy is valid and the kernel supports it.

        Without CAP_NET_ADMIN only the policy is checked, not the kernel. The interface and its present qdiscs are not
        checked; :meth:`plan` does that.
        """
        try:
            policy = self.policy()
        except PolicyError as error:
            return list(error.problems)
        if problems := beyond_packets(policy):
            return problems
        if all(feature.errno == errno.EPERM for feature in self._features):
            return []
        try:
            lanes_of(policy, self.interface, self._features)
        except MissingFeatureError as error:
            return [in_calls(Problem("", error.feature, error.remedy))]
        except PodlaneError as error:
            return [Problem("", str(error))]
        return []

    def explain(self) -> str:
        """A description of the policy in plain words. Raises :class:`PolicyError`."""
        return describe(self.policy(), interface=self.interface)

    def plan(self, *, replace: bool = False) -> list[str]:
        """What :meth:`apply` would do now, as tc(8) and ip(8) commands. Raises the same errors."""
        return list(self._intent(replace=replace).commands)

    def statistics(self, over: Duration | str = "1s") -> Statistics:
        """The present rates of each class: reads the counters twice, ``over`` apart.

        Classes have the names of this policy if it is in force, else those of the history, else handles. Raises
        :class:`UnitError`, :class:`InterfaceNotFoundError`, :class:`KernelError`, :class:`HistoryError`.
        """
        known = self._lanes_in_force()
        return statistics.measure(
            self._kernel,
            self.interface,
            Duration.parse(over),
            sending=known.tree.names if known else {},
            receiving=known.ingress.tree.names if known and known.ingress else {},
        )

    # --- acting --------------------------------------------------------------------------------------------------

    def apply(self, *, replace: bool = False) -> Report:
        """Bring the interface to the policy. Idempotent: only what differs is changed.

        ``replace`` allows replacing a foreign root qdisc. Raises :class:`PolicyError`,
        :class:`MissingFeatureError`, :class:`InterfaceNotFoundError`, :class:`ForeignQdiscError`,
        :class:`ForeignLinkError`, :class:`KernelError`, :class:`HistoryError`, and :class:`ApplyError` when the kernel
        refuses a step; the next call continues from there.
        """
        return journal.carry_out(self._kernel, self._history, self._namespace, self._intent(replace=replace))

    def clear(self) -> Report:
        """Remove everything of ours from the interface; foreign objects and this controller's policy stay.

        Raises :class:`InterfaceNotFoundError`, :class:`KernelError`, :class:`HistoryError`, :class:`ApplyError`.
        """
        intent = journal.to_nothing(observe_interface(self._kernel, self.interface), self._standing())
        return journal.carry_out(self._kernel, self._history, self._namespace, intent)

    # --- the kernel ----------------------------------------------------------------------------------------------

    @property
    def _kernel(self) -> Kernel:
        if self._given_kernel is not None:
            return self._given_kernel
        if self._own_kernel is None:
            # A policy can be built without the kernel.
            from tc_core.rtnetlink.kernel import NetlinkKernel

            self._own_kernel = NetlinkKernel()
        return self._own_kernel

    @property
    def _features(self) -> Features:
        if self._known_features is None:
            from tc_core.probe import features

            self._known_features = features.probe()
        return self._known_features

    def _standing(self) -> Standing | None:
        return self._history.standing(self.interface, self._namespace) if self._history is not None else None

    def _intent(self, *, replace: bool) -> journal.Intent:
        policy = self.policy()
        if problems := beyond_packets(policy):
            raise PolicyError(problems)
        seen = observe_interface(self._kernel, self.interface)
        return journal.to_policy(seen, policy, self._features, self._standing(), replace=replace)

    def _lanes_in_force(self) -> Lanes | None:
        """The state in force, if known: this policy, or that of the history."""
        standing = self._standing()
        try:
            seen = observe_interface(self._kernel, self.interface)
        except PodlaneError:
            return None
        for lanes in (self._own_lanes, self._recorded_lanes):
            try:
                known = lanes(seen, standing)
                if known is not None and not plan(seen, known):
                    return known
            except PodlaneError:
                continue  # not in force, or unknown: only the names are missing then
        return None

    def _own_lanes(self, seen: ObservedInterface, standing: Standing | None) -> Lanes:
        return journal.lanes_for(seen, self.policy(), self._features, standing)

    def _recorded_lanes(self, seen: ObservedInterface, standing: Standing | None) -> Lanes | None:
        return journal.recorded_lanes(seen.interface, self._features, standing)
