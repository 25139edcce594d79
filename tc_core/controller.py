"""Linux traffic control that reads like a sentence::

    TrafficController("eth0").total("1Gbit") \\
        .traffic_class("db").guaranteed("100Mbit").up_to("200Mbit").priority(1).for_port(5432) \\
        .apply()

A controller holds a policy for one interface while it is being written (:mod:`tc_core.builder`), and knows the verbs
that act on it. Nothing is touched, or even looked at, before a verb asks for it, and nothing wrong raises before one:
:meth:`TrafficController.validate` lists everything that is wrong at once, and the others raise
:class:`tc_core.errors.PolicyError` with the same list. ``docs/reference/library.md`` is the guide.

Packets alone tell their class here, without the proxy, so there are no calls for names (``sni``, ``host``, ``alpn``). A
policy that has such criteria can be loaded, explained and saved, and not applied.
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

    ``kernel`` is the network namespace to act in: when left out, that of the thread which first uses a verb that needs
    it, closed again by :meth:`close` or at the end of a ``with`` block. ``history`` is where changes are written down,
    if anywhere; the caller closes it. It files them under the network namespace of the thread that makes the
    controller; :class:`HistoryError` is raised when that cannot be told. ``features`` is what the kernel can do: tried
    out when left out.
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
        """A controller that begins with a policy."""
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
        """A controller that begins with the policy in a YAML or JSON file. Raises :class:`PolicyError`."""
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
        """A controller that begins with a policy for a common need (:func:`traffic_policy.profiles.profiles`).

        Raises :class:`PolicyError` when there is no such profile or the total is too small for it, and
        :class:`UnitError` when the total is no rate.
        """
        policy = profile_named(name).policy(total)
        return cls.from_policy(interface, policy, kernel=kernel, history=history, features=features)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the kernel, if it was opened here. What is in force stays."""
        if self._own_kernel is not None:
            self._own_kernel.close()
            self._own_kernel = None

    # --- the policy ----------------------------------------------------------------------------------------------

    def total(self, rate: Rate | str) -> Self:
        """The bandwidth of the interface, shared by all classes (``"1Gbit"``); key ``total``."""
        self._draft.document["total"] = rate
        return self

    def shaper(self, kind: Shaper | str) -> Self:
        """How the total is shared: one of :class:`traffic_policy.policy.Shaper`, ``htb`` when left out; key
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
        """A worse network for every class that has none of its own (tc-netem(8)); key ``rehearsal``."""
        worse = given(delay=delay, jitter=jitter, loss=loss, duplicate=duplicate, corrupt=corrupt)
        self._draft.document["rehearsal"] = worse
        return self

    def ingress_total(self, rate: Rate | str) -> Self:
        """Limit what arrives, too: by classes that say what they receive, and by the default class; key ``ingress``."""
        self._draft.document["ingress"] = {"total": rate}
        return self

    def traffic_class(self, name: str) -> ClassBuilder:
        """Describe a class. The same name again goes on with that class; classes decide in the order they came in."""
        document, path = self._draft.class_named(name)
        return ClassBuilder(self, document, path, self._draft.problems)

    def default_class(self) -> DefaultBuilder:
        """Describe the class of everything that no other takes; key ``default``."""
        return DefaultBuilder(self, self._draft.default())

    def policy(self) -> TrafficPolicy:
        """What has been said so far, as a policy. Raises :class:`PolicyError` with everything that is wrong."""
        return self._draft.policy()

    def save(self, path: Path | str) -> None:
        """Write the policy to a file, by its suffix as YAML or JSON. What :meth:`load` reads is equal.

        Raises :class:`PolicyError` when something is wrong with the policy, or with the file.
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
        """Everything that is wrong with the policy, each with its remedy; empty when this kernel can do it.

        The kernel can be asked only with CAP_NET_ADMIN: without it, the policy alone is judged. Whether there is such
        an interface, and whose qdiscs it has, :meth:`plan` tells.
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
        """What the policy means, in plain words. Raises :class:`PolicyError`."""
        return describe(self.policy(), interface=self.interface)

    def plan(self, *, replace: bool = False) -> list[str]:
        """What :meth:`apply` would do now, as tc(8) and ip(8) commands. Raises what it does."""
        return list(self._intent(replace=replace).commands)

    def statistics(self, over: Duration | str = "1s") -> Statistics:
        """What each class sends and receives now: the counters are read twice, ``over`` apart.

        Classes have the names of this policy where it is what is in force, else those that the history knows, else
        handles. Raises :class:`UnitError`, :class:`InterfaceNotFoundError`, :class:`KernelError`,
        :class:`HistoryError`.
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
        """Bring the interface to the policy. Only what differs is changed, so that a second time does nothing.

        ``replace`` takes over from a root qdisc that somebody else made. Raises :class:`PolicyError`,
        :class:`MissingFeatureError`, :class:`InterfaceNotFoundError`, :class:`ForeignQdiscError`,
        :class:`ForeignLinkError`, :class:`KernelError`, :class:`HistoryError`, and :class:`ApplyError` when the kernel
        refuses something half-way; the next call goes on from there.
        """
        return journal.carry_out(self._kernel, self._history, self._namespace, self._intent(replace=replace))

    def clear(self) -> Report:
        """Take away all that is ours on the interface; what others made is left alone. The policy here stays as it is.

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
            # A policy can be written without it.
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
        """What is in force, where that is known: this policy, or what the history has."""
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
                continue  # Not in force then, or not to be known: names are all that is lost.
        return None

    def _own_lanes(self, seen: ObservedInterface, standing: Standing | None) -> Lanes:
        return journal.lanes_for(seen, self.policy(), self._features, standing)

    def _recorded_lanes(self, seen: ObservedInterface, standing: Standing | None) -> Lanes | None:
        return journal.recorded_lanes(seen.interface, self._features, standing)
