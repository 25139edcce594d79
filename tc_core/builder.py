"""Builds a policy by method calls: the draft document, its problems, and the builders of its classes.

The document is a policy file as plain data, and only the loader validates it (:mod:`traffic_policy.policy_file`): there
is no second grammar. So nothing is checked during a chain of calls, and everything at its end. What the document cannot
express is recorded separately as a problem: a criterion without values, or one given twice in a match.

Remedies of the loader name keys. :meth:`Draft.policy` translates them to calls: ``as in rate: 10Mbit`` becomes
``as in guaranteed("10Mbit")``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from traffic_policy.errors import PolicyError, Problem
from traffic_policy.policy import DEFAULT_CLASS, Network, Queue, TrafficPolicy, TransportProtocol
from traffic_policy.policy_file import policy_from_document
from traffic_policy.ports import PortRange
from traffic_policy.units import ByteCount, Duration, Percentage, Rate

if TYPE_CHECKING:
    from pathlib import Path

    from tc_core.apply.execute import Report
    from tc_core.statistics import Statistics

Document = dict[str, Any]

_CALLS: Final = tuple(
    (re.compile(pattern), call)
    for pattern, call in (
        (r"match: \[\{sni: \[.*?\]\}\]", "for_port(443)"),
        (r"of what it receives, as in rate: (\w+)", r'of what it receives, as in receives(guaranteed="\1")'),
        (r"raise ingress\.total to", "raise ingress_total to"),
        (r"ingress: \{total: (\w+)\}", r'ingress_total("\1")'),
        (r"rehearsal: \{delay: (\w+)\}", r'rehearsal(delay="\1")'),
        (r"name: (\w+)", r'traffic_class("\1")'),
        (r"rate: ([\d.]+\w+)", r'guaranteed("\1")'),
        (r"total: ([\d.]+\w+)", r'total("\1")'),
        (r"delay: ([\d.]+\w+)", r'delay="\1"'),
        (r"(shaper|queue): ([\w-]+)", r'\1("\2")'),
        (r"protocol: (\w+) or (\w+)", r'for_protocol("\1", "\2")'),
        (r"under the top-level key default", "by default_class()"),
        (r"with the top-level key default", "by default_class()"),
    )
)
"""The loader's examples and the equivalent calls; longer ones first, as they are tried in order."""


@dataclass(slots=True)
class Draft:
    """A policy under construction. ``problems`` are those that its document cannot express."""

    document: Document = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @classmethod
    def from_policy(cls, policy: TrafficPolicy) -> Self:
        """A draft that starts as a copy of a policy."""
        return cls(policy.to_document())

    def class_named(self, name: str) -> tuple[Document, str]:
        """The class of this name, appended if missing, and its path in the policy."""
        classes: list[Document] = self.document.setdefault("classes", [])
        for i, written in enumerate(classes):
            if written["name"] == name:
                return written, f"classes[{i}]"
        classes.append({"name": name, "match": []})
        return classes[-1], f"classes[{len(classes) - 1}]"

    def default(self) -> Document:
        """The default class."""
        begun: Document = self.document.setdefault(DEFAULT_CLASS, {})
        return begun

    def policy(self) -> TrafficPolicy:
        """The policy. Raises :class:`PolicyError` with all problems, with remedies as calls."""
        try:
            policy = policy_from_document(self.document)
        except PolicyError as error:
            # A criterion that could not be written leaves an empty match, for which there already is a problem.
            said = {problem.path.rpartition(".")[0] for problem in self.problems}
            others = [in_calls(problem) for problem in error.problems if problem.path not in said]
            raise PolicyError([*self.problems, *others]) from None
        if self.problems:
            raise PolicyError(self.problems)
        return policy


def in_calls(problem: Problem) -> Problem:
    """The problem with its remedy as calls."""
    message, remedy = problem.message, problem.remedy
    for pattern, call in _CALLS:
        message, remedy = pattern.sub(call, message), pattern.sub(call, remedy)
    return replace(problem, message=message, remedy=remedy)


def given(**values: object) -> Document:
    """The values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


class Controller(Protocol):
    """The methods that continue a chain of calls after a class: :class:`tc_core.controller.TrafficController`."""

    def traffic_class(self, name: str) -> ClassBuilder: ...

    def default_class(self) -> DefaultBuilder: ...

    def policy(self) -> TrafficPolicy: ...

    def validate(self) -> list[Problem]: ...

    def explain(self) -> str: ...

    def plan(self, *, replace: bool = False) -> list[str]: ...

    def apply(self, *, replace: bool = False) -> Report: ...

    def statistics(self, over: Duration | str = "1s") -> Statistics: ...

    def clear(self) -> Report: ...

    def save(self, path: Path | str) -> None: ...


class _Part:
    """A class under construction. The controller's methods are available too, so that the chain of calls continues."""

    def __init__(self, controller: Controller, document: Document) -> None:
        self._controller = controller
        self._document = document

    # --- limits --------------------------------------------------------------------------------------------------

    def guaranteed(self, rate: Rate | str) -> Self:
        """The guaranteed rate under full load of all classes; key ``rate``."""
        self._document["rate"] = rate
        return self

    def up_to(self, rate: Rate | str) -> Self:
        """The maximum rate, reached by borrowing unused bandwidth; key ``ceil``."""
        self._document["ceil"] = rate
        return self

    def priority(self, priority: int) -> Self:
        """The order in which unused bandwidth is lent: 0 before 7; key ``priority``."""
        self._document["priority"] = priority
        return self

    def burst(self, size: ByteCount | str) -> Self:
        """The amount that may be sent at line rate after a pause (``"64KiB"``); key ``burst``."""
        self._document["burst"] = size
        return self

    # --- how packets wait ----------------------------------------------------------------------------------------

    def queue(self, kind: Queue | str) -> Self:
        """The queue of the class: one of :class:`traffic_policy.policy.Queue`; key ``queue``."""
        self._document["queue"] = kind
        return self

    def low_latency(self) -> Self:
        """Keep its queue short, at some cost to flows over long distances; ``queue: low-latency``."""
        return self.queue(Queue.LOW_LATENCY)

    def fair_queuing(self) -> Self:
        """Schedule its flows fairly, so that none waits behind another's packets; ``queue: fair``."""
        return self.queue(Queue.FAIR)

    def rehearsal(
        self,
        *,
        delay: Duration | str | None = None,
        jitter: Duration | str | None = None,
        loss: Percentage | str | None = None,
        duplicate: Percentage | str | None = None,
        corrupt: Percentage | str | None = None,
    ) -> Self:
        """Emulate a worse network for this class, to test programs (tc-netem(8)); key ``rehearsal``."""
        self._document["rehearsal"] = given(delay=delay, jitter=jitter, loss=loss, duplicate=duplicate, corrupt=corrupt)
        return self

    def receives(self, *, guaranteed: Rate | str, up_to: Rate | str | None = None) -> Self:
        """The receive limits of the class, within :meth:`TrafficController.ingress_total`; key ``ingress``."""
        self._document["ingress"] = given(rate=guaranteed, ceil=up_to)
        return self

    # --- back to the policy --------------------------------------------------------------------------------------

    def traffic_class(self, name: str) -> ClassBuilder:
        """:meth:`TrafficController.traffic_class`."""
        return self._controller.traffic_class(name)

    def default_class(self) -> DefaultBuilder:
        """:meth:`TrafficController.default_class`."""
        return self._controller.default_class()

    def policy(self) -> TrafficPolicy:
        """:meth:`TrafficController.policy`."""
        return self._controller.policy()

    def validate(self) -> list[Problem]:
        """:meth:`TrafficController.validate`."""
        return self._controller.validate()

    def explain(self) -> str:
        """:meth:`TrafficController.explain`."""
        return self._controller.explain()

    def plan(self, *, replace: bool = False) -> list[str]:
        """:meth:`TrafficController.plan`."""
        return self._controller.plan(replace=replace)

    def apply(self, *, replace: bool = False) -> Report:
        """:meth:`TrafficController.apply`."""
        return self._controller.apply(replace=replace)

    def statistics(self, over: Duration | str = "1s") -> Statistics:
        """:meth:`TrafficController.statistics`."""
        return self._controller.statistics(over)

    def clear(self) -> Report:
        """:meth:`TrafficController.clear`."""
        return self._controller.clear()

    def save(self, path: Path | str) -> None:
        """:meth:`TrafficController.save`."""
        self._controller.save(path)


class DefaultBuilder(_Part):
    """The default class: all traffic that no other class takes."""


class ClassBuilder(_Part):
    """A class of traffic.

    The criteria of one chain of calls are one match: all of them must hold. The values of one call are alternatives.
    :meth:`also` begins another match, and so does another call for the class; the matches of a class are alternatives.
    A limit given again replaces the earlier one.
    """

    def __init__(self, controller: Controller, document: Document, path: str, problems: list[Problem]) -> None:
        super().__init__(controller, document)
        self._path = path
        self._problems = problems
        self._match: Document | None = None

    def for_port(self, *ports: PortRange | int | str) -> Self:
        """Destination ports and ranges (``443, "8000-8100"``), TCP and UDP; key ``port``."""
        return self._criterion("port", "for_port", "443", *ports)

    def for_application(self, *names: str) -> Self:
        """Services by IANA name (``"ssh", "https"``): their destination ports and protocols; key ``application``."""
        return self._criterion("application", "for_application", '"https"', *names)

    def for_destination(self, *networks: Network | str) -> Self:
        """Destination networks and addresses, IPv4 and IPv6; key ``cidr``."""
        return self._criterion("cidr", "for_destination", '"10.0.0.0/8"', *networks)

    def for_source(self, *networks: Network | str) -> Self:
        """Source networks and addresses, IPv4 and IPv6; key ``source``."""
        return self._criterion("source", "for_source", '"10.0.0.0/8"', *networks)

    def for_protocol(self, *names: TransportProtocol | str) -> Self:
        """``"tcp"``, ``"udp"``, ``"icmp"``; key ``protocol``."""
        return self._criterion("protocol", "for_protocol", '"udp"', *names)

    def for_mark(self, mark: int | str, mask: int | str | None = None) -> Self:
        """Packets marked by another program, under a mask (default 0xffffffff); key ``mark``."""
        value = mark if mask is None else f"{_number(mark)}/{_number(mask)}"
        return self._criterion("mark", "for_mark", "0x10, 0xff", value)

    def also(self) -> Self:
        """Begin another match of the same class."""
        self._begin_match()
        return self

    def _begin_match(self) -> Document:
        self._match = {}
        matches: list[Document] = self._document["match"]
        matches.append(self._match)
        return self._match

    def _criterion(self, key: str, call: str, example: str, *values: object) -> Self:
        match = self._begin_match() if self._match is None else self._match
        path = f"{self._path}.match[{len(self._document['match']) - 1}].{key}"
        if not values:
            self._problems.append(
                Problem(path, f"{call}() names nothing, and must not mean everything.", f"Write {call}({example}).")
            )
        elif key in match:
            self._problems.append(
                Problem(
                    path,
                    f"{call}() was said twice in one match, which could mean either of them or both at once.",
                    f"Give alternatives in one call of {call}(), or begin another match by also().",
                )
            )
        match.setdefault(key, list(values))
        return self


def _number(value: int | str) -> str:
    return hex(value) if isinstance(value, int) else value
