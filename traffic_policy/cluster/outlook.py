"""What a changed policy would do to the Pods that it is for: which of them would be refused, or get less. Pure.

Compared is what the agents and sidecars of the Pods make of the policies as they are, and as they would be. Pods to
which the change does nothing new are not told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from traffic_policy.cluster.objects import NO_VERDICT, ClusterPolicies, PodLabels, PolicyObject, PolicyVerdict
from traffic_policy.errors import shortened
from traffic_policy.pod.agent import effective_for_agent
from traffic_policy.pod.annotations import (
    EFFECTIVE,
    ENFORCE_LABEL,
    KUBERNETES_EGRESS,
    KUBERNETES_INGRESS,
    OURS,
    POLICY,
    PREFIX,
)
from traffic_policy.pod.effective import AnnotationsError, has_limits, shared_policy_name
from traffic_policy.pod.governed import Governance, governed
from traffic_policy.pod.mode import Mode, namespace_mode, pod_mode
from traffic_policy.pod.namespace import NamespaceRules

MOST_COMPARED: Final = 100
"""Kinds of Pods that are compared: Pods of one Deployment are one kind. Each takes a millisecond or two."""
_NAMED: Final = 3
"""Pods that a sentence names, and reasons that are told of either sort."""
_LONGEST_NAME: Final = 40
_NEWEST: Final = "9999"
"""The creation time of what is being created, where it has none yet."""


@dataclass(frozen=True, slots=True)
class OutlookPod:
    """A Pod with a network of its own; ``annotations`` are those about limits."""

    name: str
    namespace: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    has_sidecar: bool = False


@dataclass(frozen=True, slots=True)
class OutlookNamespace:
    """What a Namespace has of labels, and of annotations about limits."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """``old`` None: it is being created. Both have the same kind, namespace and name."""

    new: PolicyObject
    old: PolicyObject | None = None


@dataclass(frozen=True, slots=True)
class ClusterKnowledge:
    """What is known when a policy changes. ``policies`` may have the changed one, too, as it was; ``shared`` are texts
    of the ConfigMaps that Pods name, by namespace and name: Pods with others are left out. ``whole``: there are no
    further Pods."""

    pods: Sequence[OutlookPod] = ()
    namespaces: Mapping[str, OutlookNamespace] = field(default_factory=dict)
    policies: Sequence[PolicyObject] = ()
    shared: Mapping[tuple[str, str], str | None] = field(default_factory=dict)
    whole: bool = True


@dataclass(frozen=True, slots=True)
class _Fate:
    """What becomes of a Pod: it is refused, or has what it has with some remarks."""

    refusal: str = ""
    notes: tuple[str, ...] = ()


def limits_of(annotations: Mapping[str, str]) -> dict[str, str]:
    """The annotations that matter."""
    others = (KUBERNETES_EGRESS, KUBERNETES_INGRESS)
    return {k: v for k, v in annotations.items() if (k.startswith(PREFIX) and k not in OURS) or k in others}


def outlook(change: PolicyChange, known: ClusterKnowledge, longest: int) -> tuple[str, ...]:
    """Sentences of ``longest`` characters at most about Pods that would be refused, get less than is asked for, or lose
    a class to their annotations; none: nothing of that."""
    return tuple(_Outlook(change, known).sentences(longest))


class _Outlook:
    def __init__(self, change: PolicyChange, known: ClusterKnowledge) -> None:
        new = change.new if change.new.created else replace(change.new, created=_NEWEST)
        key = _key(new)
        others = [each for each in known.policies if _key(each) != key]
        self._new = new
        self._known = known
        self._before = ClusterPolicies([*others, *([change.old] if change.old else [])])
        self._after = ClusterPolicies([*others, new])
        everything = (*self._before.all, new)
        self._asked = frozenset(key for each in everything for key in _labels_asked(each))
        self._verdicts: dict[object, tuple[PolicyVerdict, PolicyVerdict]] = {}
        self._rules: dict[str, NamespaceRules | None] = {}
        self._fates: dict[object, tuple[_Fate, _Fate] | None] = {}
        self._whole = known.whole
        self._refused: dict[str, list[str]] = {}
        self._noted: dict[str, list[str]] = {}

    def sentences(self, longest: int) -> Iterator[str]:
        for pod in self._known.pods:
            self._look_at(pod)
        for pods, refusal in self._commonest(self._refused):
            would = "would be refused it and keep what they have" if len(pods) > 1 else (
                "would be refused it and keeps what it has"
            )  # fmt: skip
            yield _said(f"{_pods(pods)} {would}:", refusal, longest)
        for pods, note in self._commonest(self._noted):
            yield _said(f"In {_pods(pods)}:", note, longest)
        if not self._whole:
            yield f"There are more Pods than were looked at, {len(self._known.pods)}."

    def _commonest(self, found: Mapping[str, list[str]]) -> list[tuple[list[str], str]]:
        ordered = sorted(found.items(), key=lambda each: -len(each[1]))
        return [(pods, text) for text, pods in ordered[:_NAMED]]

    def _look_at(self, pod: OutlookPod) -> None:
        rules = self._rules_of(pod.namespace)
        if rules is None or not (pod.has_sidecar or self._held_by_agent(pod)):
            return
        before, after = self._verdicts_of(pod)
        if after.winner is not self._new and self._new not in after.capping:
            return
        kind = (pod.namespace, pod.has_sidecar, tuple(sorted(pod.annotations.items())), _ids(before), _ids(after))
        if kind not in self._fates:
            if len(self._fates) >= MOST_COMPARED:
                self._whole = False
                return
            then, now = (self._fate(pod, rules, verdict) for verdict in (before, after))
            self._fates[kind] = None if then is None or now is None else (then, now)
        if (fates := self._fates[kind]) is not None:
            self._tell(pod, *fates)

    def _verdicts_of(self, pod: OutlookPod) -> tuple[PolicyVerdict, PolicyVerdict]:
        """Before and after. Those of Pods that differ in nothing that a selector asks for are the same."""
        asked = {key: text for key, text in pod.labels.items() if key in self._asked}
        kind = (pod.namespace, tuple(sorted(asked.items())))
        if kind not in self._verdicts:
            labels = PodLabels(pod.namespace, self._known.namespaces[pod.namespace].labels, asked)
            found = (NO_VERDICT, NO_VERDICT)
            if self._new.is_for(labels):
                found = (self._before.verdict(labels), self._after.verdict(labels))
            self._verdicts[kind] = found
        return self._verdicts[kind]

    def _tell(self, pod: OutlookPod, then: _Fate, now: _Fate) -> None:
        name = pod.name if self._new.namespace else f"{pod.namespace}/{pod.name}"
        if now.refusal and now.refusal != then.refusal:
            self._refused.setdefault(now.refusal, []).append(name)
        for note in now.notes:
            if note not in then.notes:
                self._noted.setdefault(note, []).append(name)

    def _rules_of(self, namespace: str) -> NamespaceRules | None:
        """None: it is not known, or wrong, so that its Pods are refused already."""
        if namespace not in self._rules:
            found = self._known.namespaces.get(namespace)
            try:
                made = None if found is None else NamespaceRules.from_annotations(found.annotations, found.labels)
            except AnnotationsError:
                made = None
            self._rules[namespace] = made
        return self._rules[namespace]

    def _held_by_agent(self, pod: OutlookPod) -> bool:
        """Whether labels let an agent hold it. Where none says anything, agents may, by their default."""
        above = self._known.namespaces[pod.namespace].labels
        try:
            mode = namespace_mode(above)
            if not (above.get(ENFORCE_LABEL) == "true" and mode is Mode.AGENT):
                mode = pod_mode(pod.labels) or mode
        except AnnotationsError:
            return False  # refused already
        return mode in (None, Mode.AGENT)

    def _fate(self, pod: OutlookPod, rules: NamespaceRules, verdict: PolicyVerdict) -> _Fate | None:
        """None: that is not known."""
        annotations = {**rules.missing(pod.annotations), **pod.annotations}
        if verdict.winner is None and not has_limits(annotations):
            return _Fate()  # no caps for those without limits
        shared = None
        if POLICY in annotations and (name := shared_policy_name(annotations)) is not None:
            if (pod.namespace, name) not in self._known.shared:
                return None
            shared = self._known.shared[pod.namespace, name]
        try:
            if pod.has_sidecar:
                said = {EFFECTIVE: Governance.from_verdict(verdict, rules).text()}
                policy = governed(annotations | said, shared=shared)
            else:
                policy = effective_for_agent(annotations, rules, shared=shared, base=verdict.base, caps=verdict.caps)
        except AnnotationsError as error:
            return _Fate(str(error))
        return _Fate(notes=policy.warnings)


def _labels_asked(policy: PolicyObject) -> Iterator[str]:
    """The labels of Pods that its selector asks for."""
    if policy.target is not None:
        yield from policy.target.pod_selector.match_labels
        yield from (each.key for each in policy.target.pod_selector.match_expressions)


def _key(policy: PolicyObject) -> tuple[str, str, str]:
    return policy.kind, policy.namespace, policy.name


def _ids(verdict: PolicyVerdict) -> tuple[int, ...]:
    """The same for verdicts that mean the same to Pods with the same annotations."""
    return (id(verdict.winner), *map(id, verdict.capping))


def _pods(names: Sequence[str]) -> str:
    named = ", ".join(name[:_LONGEST_NAME] for name in names[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"Pod{'s' * (len(names) > 1)} {named}{more}"


def _said(head: str, text: str, longest: int) -> str:
    """A text that is too long keeps its beginning, and the remedy at its end."""
    line = " ".join(text.split())
    return f"{head} {shortened(line, max(longest - len(head) - 6, 20))}"


def shared_policies_named(
    pods: Iterable[OutlookPod], namespaces: Mapping[str, OutlookNamespace]
) -> set[tuple[str, str]]:
    """Namespace and name of the ConfigMaps that Pods name, themselves or by their namespace."""
    found = set()
    for pod in pods:
        above = namespaces.get(pod.namespace)
        annotations = {**({} if above is None else above.annotations), **pod.annotations}
        if (name := shared_policy_name(annotations)) is not None:
            found.add((pod.namespace, name))
    return found
