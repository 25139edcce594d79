"""Where each value of a Pod's effective policy comes from. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from traffic_policy.pod.annotations import (
    CLASSES,
    DATAPATH,
    DEFAULT_CLASS,
    DETECTION_TIMEOUT,
    EGRESS,
    EXCLUDE_CIDRS,
    EXCLUDE_INBOUND_CIDRS,
    EXCLUDE_INBOUND_PORTS,
    EXCLUDE_PORTS,
    INGRESS,
    KUBERNETES_EGRESS,
    KUBERNETES_INGRESS,
    MAX_EGRESS,
    MAX_INGRESS,
    ON_FAILURE,
    POLICY,
)
from traffic_policy.pod.composition import BasePolicy
from traffic_policy.pod.effective import PodPolicy, shared_policy_name
from traffic_policy.pod.namespace import NamespaceRules
from traffic_policy.policy import DEFAULT_CLASS as DEFAULT_CLASS_NAME
from traffic_policy.policy_file import parse_document
from traffic_policy.units import Rate

_T = TypeVar("_T", dict[str, Any], list[Any])

_SETTINGS: Final = (
    EXCLUDE_PORTS, EXCLUDE_CIDRS, EXCLUDE_INBOUND_PORTS, EXCLUDE_INBOUND_CIDRS, DETECTION_TIMEOUT, DATAPATH, ON_FAILURE,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Origin:
    """``what``: ``total``, ``ingress total``, ``class NAME``, or a setting. ``source``: who says it, in words."""

    what: str
    value: str
    source: str


def origins(
    own: Mapping[str, str],
    rules: NamespaceRules,
    policy: PodPolicy,
    shared: str | None = None,
    base: BasePolicy | None = None,
) -> tuple[Origin, ...]:
    """The values of a policy that was evaluated from a Pod's ``own`` annotations, what its namespace says, and the text
    of the shared policy that they name, or else ``base``. A sidecar's Pod has the defaults of its namespace among its
    own."""
    return tuple(_Sources(own, rules, shared, base).origins(policy))


class _Sources:
    def __init__(
        self, own: Mapping[str, str], rules: NamespaceRules, shared: str | None, base: BasePolicy | None
    ) -> None:
        self._own = own
        self._rules = rules
        self._annotations = {**rules.missing(own), **own}
        self._base = base if shared_policy_name(self._annotations) is None else None
        self._shared: Mapping[str, Any] = _parsed(shared, dict) if self._base is None else self._base.document

    def origins(self, policy: PodPolicy) -> Iterator[Origin]:
        for each in self._uncapped(policy):
            lowered = (f"; {clamp}" for clamp in policy.clamps if clamp.concerns == each.what)
            yield replace(each, source=each.source + "".join(lowered))

    def _uncapped(self, policy: PodPolicy) -> Iterator[Origin]:
        written = policy.policy
        rules = self._rules
        yield Origin("total", str(written.total), self._total((EGRESS, KUBERNETES_EGRESS), "total", rules.most_sent))
        if written.budget is not None:
            yield Origin("budget of the node", str(written.budget.node), self._in_shared("budget"))
        if (ingress := written.ingress) is not None:
            names = (INGRESS, KUBERNETES_INGRESS)
            yield Origin("ingress total", str(ingress.total), self._total(names, "ingress", rules.most_received))
        named = {each.get("name") for each in _parsed(self._annotations.get(CLASSES), list) if isinstance(each, dict)}
        for each in written.resolved():
            source = self._default() if each.name == DEFAULT_CLASS_NAME else self._class(each.name in named)
            yield Origin(f"class {each.name}", f"{each.rate} to {each.ceil}, priority {each.priority}", source)
        for name in _SETTINGS:
            if name in self._annotations:
                yield Origin(name.partition("/")[2], self._annotations[name].strip(), self._annotation(name))

    def _total(self, names: tuple[str, str], key: str, most: Rate | None) -> str:
        for name in names:
            if name in self._annotations:
                return self._annotation(name)
        limit = MAX_EGRESS if names[0] == EGRESS else MAX_INGRESS
        if most is None:
            return self._in_shared(key)
        if key in self._shared:
            return f"{self._in_shared(key)}, at most {limit} of the namespace ({most})"
        return f"annotation {limit} of the namespace"

    def _class(self, is_own: bool) -> str:
        return self._annotation(CLASSES) if is_own else self._in_shared("classes")

    def _default(self) -> str:
        if DEFAULT_CLASS in self._annotations:
            return self._annotation(DEFAULT_CLASS)
        return self._in_shared("default") if "default" in self._shared else "left by the others"

    def _annotation(self, name: str) -> str:
        return f"annotation {name} of the {'Pod' if name in self._own else 'namespace, for Pods without it'}"

    def _in_shared(self, key: str) -> str:
        if self._base is not None:
            return f"spec.{key} of {self._base.name}" if self._base.name else f"{key} of the control plane's policy"
        by = "Pod" if POLICY in self._own else "namespace"
        return f"{key} of ConfigMap {shared_policy_name(self._annotations)}, which the {by} names"


def _parsed(text: str | None, kind: type[_T]) -> _T:
    """A document of a policy that has been checked, or an empty one."""
    found = None if text is None else parse_document(text)
    return found if isinstance(found, kind) else kind()
