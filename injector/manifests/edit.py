"""Injection into manifests: YAML or JSON text in, the same text out with the changes of an admission. Pure.

Only the injector's own lines are added and removed; comments, order, quotes and anchors of all other text are kept. The
result is verified: the new text is parsed again, and must be the old data with exactly the planned change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from injector.errors import InjectionError, ManifestError, SharedPolicyError
from injector.manifests.yaml_edit import Edit, Editor, apply
from injector.manifests.yaml_tree import Document, ListNode, MappingNode, YamlNode, read
from injector.pod.defaults import InjectionDefaults
from injector.pod.list_diff import PodChange, changed, injection, removal
from injector.pod.plan import Skip, plan
from injector.pod.pods import annotations_of, has_istio, labels_of, mapping, other_mesh
from injector.pod.workloads import Path, Thing, Workload, has_containers, misplaced, things, workload
from traffic_policy.cluster.kinds import GROUP, KINDS, TRAFFIC_POLICY
from traffic_policy.cluster.label_selector import LabelSelector
from traffic_policy.cluster.objects import PodLabels, PolicyObject, who_wins
from traffic_policy.pod.annotations import INJECT_LABEL, SHARED_POLICY_KEY
from traffic_policy.pod.effective import AnnotationsError
from traffic_policy.pod.namespace import NO_RULES, NamespaceRules

_NodeT = TypeVar("_NodeT", MappingNode, ListNode)
_BOM: Final = "\ufeff"
_CURRENT: Final = "."
"""Stands for the namespace of objects that name none; no namespace has this name."""
NAME_LABEL: Final = "kubernetes.io/metadata.name"
"""The label that each Namespace has with its name."""


@dataclass(frozen=True, slots=True)
class ManifestOutcome:
    """The result for one workload: ``place`` is its document and name, ``action`` the change, followed by details."""

    place: str
    action: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ManifestResult:
    """The new text, equal to the old one if nothing changed, and the changes in it."""

    text: str
    outcomes: tuple[ManifestOutcome, ...]


@dataclass(frozen=True, slots=True)
class _Decision:
    change: PodChange
    action: str
    warnings: tuple[str, ...] = ()


_Decide = Callable[[Workload], _Decision]


def inject_text(
    text: str, defaults: InjectionDefaults, policy: str | None = None, others: Sequence[str] = ()
) -> ManifestResult:
    """Inject into every Pod and template of a manifest. ``policy`` stands for ConfigMaps that the manifest lacks.

    Namespaces decide by their label; without one, all Pods are selected that do not opt out. Where there are
    TrafficPolicies or ClusterTrafficPolicies, Pods get what these say of them, as the webhook would give them; without
    any, nothing is known of policies. Namespaces, ConfigMaps and policies may also be in ``others``, further manifests.
    Raises :class:`ManifestError` with all errors, line by line, in
    annotations, reading or editing.
    """
    surroundings = _Surroundings(policy)
    for other in others:
        with suppress(ManifestError):  # told where that manifest itself is injected
            surroundings.read(read(_lines_of(other)[0]))

    def decide(found: Workload) -> _Decision:
        if surroundings.unwanted(found):
            return _Decision(PodChange(), f"left alone. The label {INJECT_LABEL} of its namespace is not enabled.")
        rules = surroundings.rules(found)
        planned = plan(found.pod, defaults, lambda name: surroundings.shared(found.namespace, name), rules)
        if isinstance(planned, Skip):
            return _Decision(PodChange(), f"left alone. {planned.reason}", tuple(misplaced(found)))
        change = injection(found.pod, planned.items, planned.status, planned.trusted, planned.governance)
        unseen = surroundings.unseen_labels(found)
        warnings = (*planned.warnings, *unseen, *_coming_mesh(found.pod), *misplaced(found))
        return _Decision(change, "injected." if change else "has been injected already.", warnings)

    return _edit(text, decide, surroundings)


def _coming_mesh(pod: Mapping[str, Any]) -> Iterator[str]:
    """A warning about a mesh that asks to be injected into the Pod, and has not been."""
    signs = {**annotations_of(pod), **labels_of(pod)}
    istio = "istio.io/rev" in signs or signs.get("sidecar.istio.io/inject") in ("true", True)
    linkerd = signs.get("linkerd.io/inject") in ("enabled", "ingress")
    if (istio and not has_istio(pod)) or (linkerd and other_mesh(pod) != "Linkerd"):
        name, command = ("Istio", "istioctl kube-inject") if istio else ("Linkerd", "linkerd inject")
        yield (
            f"{name}'s proxy will come into this Pod, and Podlane's container has to stand behind it, or the Pod does "
            f"not start. Inject what `{command}` has written, or leave this Pod to Podlane's webhook."
        )


def uninject_text(text: str) -> ManifestResult:
    """Remove everything injected from a manifest. Raises :class:`ManifestError` if it cannot be read or edited."""

    def decide(found: Workload) -> _Decision:
        change = removal(found.pod)
        return _Decision(change, "uninjected." if change else "left alone. It has not been injected.")

    return _edit(text, decide, _Surroundings(None))


@dataclass(slots=True)
class _Surroundings:
    """The other objects in the manifest that affect the result: labels of namespaces, shared policies, and those of the
    cluster."""

    policy: str | None
    labels: dict[str, Any] = field(default_factory=dict)
    policies: dict[tuple[str, str], Any] = field(default_factory=dict)
    namespaces: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """All labels, by name."""
    cluster: dict[tuple[str, str, str], PolicyObject] = field(default_factory=dict)
    """By kind, namespace and name."""

    def read(self, documents: Sequence[Document]) -> None:
        for document in documents:
            for thing in things(document.data):
                self.learn(thing)

    def learn(self, thing: Thing) -> None:
        if thing.group == GROUP and thing.kind in KINDS:
            found = PolicyObject.from_object(thing.kind, thing.data)
            if thing.kind == TRAFFIC_POLICY:
                found = replace(found, namespace=thing.namespace or _CURRENT)
            self.cluster[thing.kind, found.namespace, thing.name] = found
        elif (thing.group, thing.kind) == ("", "Namespace"):
            self.namespaces[thing.name] = labels_of(thing.data)
            if INJECT_LABEL in labels_of(thing.data):
                self.labels[thing.name] = labels_of(thing.data)[INJECT_LABEL]
        elif (thing.group, thing.kind) == ("", "ConfigMap"):
            data = mapping(thing.data.get("data"))
            self.policies[thing.namespace, thing.name] = data.get(SHARED_POLICY_KEY)

    def unwanted(self, found: Workload) -> bool:
        label = self.labels.get(found.namespace, "enabled")
        return label != "enabled" and labels_of(found.pod).get(INJECT_LABEL) != "true"

    def rules(self, found: Workload) -> NamespaceRules:
        """What policies of the cluster say of a Pod, if there are any."""
        if not self.cluster:
            return NO_RULES
        where = found.namespace or _CURRENT
        above = {**_texts(self.namespaces.get(found.namespace, {})), NAME_LABEL: found.namespace}
        labels = PodLabels(where, above, _texts(labels_of(found.pod)))
        return NamespaceRules(verdict=who_wins(self.cluster.values(), labels))

    def unseen_labels(self, found: Workload) -> Iterator[str]:
        """A warning where labels of a namespace that is not here might decide."""
        if found.namespace in self.namespaces:
            return
        asking = next((each for each in self.cluster.values() if _asks_more(each.namespace_selector)), None)
        if asking is not None:
            whose = f"Namespace {found.namespace}" if found.namespace else "The Pod's Namespace"
            yield f"{whose} is not in the files, so that its labels, for which {asking} asks, are not known. Add it."

    def shared(self, namespace: str, name: str) -> str | None:
        if (namespace, name) in self.policies:
            text = self.policies[namespace, name]
            return text if isinstance(text, str) else None
        if self.policy is not None:
            return self.policy
        raise SharedPolicyError("it is not in the manifest. Give its policy by --policy-file.")


def _asks_more(selector: LabelSelector) -> bool:
    """Whether it asks for other labels than that with a namespace's name."""
    asked = {*selector.match_labels, *(each.key for each in selector.match_expressions)}
    return bool(asked - {NAME_LABEL})


def _texts(labels: Mapping[Any, Any]) -> dict[str, str]:
    return {key: value for key, value in labels.items() if isinstance(key, str) and isinstance(value, str)}


def _edit(text: str, decide: _Decide, surroundings: _Surroundings) -> ManifestResult:
    body, added = _lines_of(text)
    documents = read(body)
    surroundings.read(documents)
    editor, edits = Editor(body), list[Edit]()
    outcomes, problems, expected = list[ManifestOutcome](), list[str](), dict[int, Any]()
    for number, document in enumerate(documents, start=1):
        for thing in things(document.data):
            found = workload(thing)
            if found is None:
                if has_containers(thing):
                    outcomes.append(_unknown(thing, number, document))
                continue
            place = f"document {number} (line {document.line}), {found.name}"
            try:
                decision = decide(found)
                edits += _edits(editor, document, found, decision.change)
            except AnnotationsError as error:
                problems += (f"{place}: {problem}" for problem in error.problems)
            except (InjectionError, ManifestError) as error:
                problems.append(f"{place}: {error}")
            else:
                outcomes.append(ManifestOutcome(place, decision.action, decision.warnings))
                if decision.change:
                    data = expected.get(number, document.data)
                    expected[number] = _replaced(data, found.path, changed(found.pod, decision.change))
    if problems:
        raise ManifestError("\n".join(problems))
    if not edits:
        return ManifestResult(text, tuple(outcomes))
    new = apply(body, edits)
    _verify(new, documents, expected)
    return ManifestResult(text[: len(text) - len(body) + len(added)] + new.removesuffix(added), tuple(outcomes))


def _lines_of(text: str) -> tuple[str, str]:
    """A text that ends with a line break, so that it can be handled as lines, and what was added for that."""
    body = text.removeprefix(_BOM)
    added = "" if body.endswith("\n") else "\n"
    return body + added, added


def _unknown(thing: Thing, number: int, document: Document) -> ManifestOutcome:
    kind = f"{thing.kind}.{thing.group}" if thing.group else thing.kind
    return ManifestOutcome(
        f"document {number} (line {document.line}), {thing.kind}/{thing.name}",
        f"left alone. Podlane does not know where the Pods of {kind} are.",
        ("Leave its Pods to Podlane's webhook, which injects them when they are created.",),
    )


def _edits(editor: Editor, document: Document, found: Workload, change: PodChange) -> Iterator[Edit]:
    if not change:
        return
    yield from _text_edits(editor, document, found, change)
    spec, spec_key = _find(document, (*found.path, "spec"), MappingNode)
    # All added keys go to the same place, in the order of the edits.
    for each in change.lists:
        if each.create or each.drop:
            if spec.get(each.key) is not None:
                yield editor.remove_key(each.key, spec)
            if each.create:
                yield editor.add(each.key, [item for _, item in each.added], spec, spec_key)
        else:
            nodes, key = _find(document, (*found.path, "spec", each.key), ListNode)
            yield from editor.change_list(nodes, each.removed, each.added, key)


def _text_edits(editor: Editor, document: Document, found: Workload, change: PodChange) -> Iterator[Edit]:
    """Those of annotations."""
    if not (texts := change.texts):
        return
    if not isinstance(found.pod.get("metadata"), Mapping):
        raise ManifestError("It has no metadata, where annotations are written. Add it, with the Pod's labels.")
    about, above = _find(document, (*found.path, "metadata"), MappingNode)
    if change.last:
        yield editor.remove_key("annotations", about)
        return
    added = {name: text for name, text in texts.items() if text is not None}
    if "annotations" not in found.pod["metadata"]:
        yield editor.add("annotations", added, about, above)
        return
    annotations, key = _find(document, (*found.path, "metadata", "annotations"), MappingNode)
    yield from (editor.remove_key(name, annotations) for name in texts if annotations.get(name) is not None)
    yield from (editor.add(name, text, annotations, key) for name, text in added.items())


def _find(document: Document, path: Path, kind: type[_NodeT]) -> tuple[_NodeT, YamlNode]:
    """The node at a path, and the key that holds it. No node on the path may be aliased elsewhere."""
    node = key = document.root
    for i, step in enumerate(path):
        if isinstance(node, MappingNode) and isinstance(step, str):
            found = next((pair for pair in reversed(node.pairs) if pair[0].value == step), None)
            if found is None:
                raise _shared(path[: i + 1])
            key, node = found
        elif isinstance(node, ListNode) and isinstance(step, int):
            node = node.items[step]
        if node.alias or node.anchor in document.aliases:
            raise _shared(path[: i + 1])
    if not isinstance(node, kind):
        raise _shared(path)
    return node, key


def _shared(path: Path) -> ManifestError:
    """A node with an anchor and aliases cannot be changed in one place only."""
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")
    return ManifestError(
        f"{where} is shared with other places by an anchor (&, *) or a merge (<<), so a change here would be one "
        "there. Write it out in full."
    )


def _replaced(data: Any, path: Path, pod: Mapping[str, Any]) -> Any:
    """The data with ``pod`` at ``path``; objects off the path are shared with the original."""
    if not path:
        return pod
    step, rest = path[0], path[1:]
    if isinstance(step, int):
        return [_replaced(item, rest, pod) if i == step else item for i, item in enumerate(data)]
    return {**data, step: _replaced(data[step], rest, pod)}


def _verify(text: str, documents: Sequence[Document], expected: Mapping[int, Any]) -> None:
    """Raise :class:`ManifestError` unless the text has the expected content."""
    try:
        found = [document.data for document in read(text)]
        right = len(found) == len(documents) and all(found[number - 1] == data for number, data in expected.items())
    except (ManifestError, RecursionError):
        right = False
    if not right:
        raise ManifestError(
            "The layout of this manifest is beyond what can be edited in place. "
            "Write it as `kubectl create --dry-run=client -o yaml -f FILE` does, and try that."
        )
