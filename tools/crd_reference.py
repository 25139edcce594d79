"""Prints the page about policies as Kubernetes objects, made from their definitions.

python tools/crd_reference.py > docs/reference/crds.md
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from traffic_policy.cluster.definitions import definitions
from traffic_policy.cluster.kinds import API_VERSION
from traffic_policy.cluster.structural import described

HEADING = f"""\
# Policies as Kubernetes objects

<!-- Made by `python tools/crd_reference.py > docs/reference/crds.md`; a test compares. -->

`{API_VERSION}` has these kinds. The `spec` of the first two is a [policy](policy.md), in the grammar of policy
files, and says for which Pods it is; the criteria of a match are written as lists.
[Write policies as Kubernetes objects](../how-to/traffic-policies.md) shows how they are used.
`kubectl explain tpol.spec.classes.match` prints the same descriptions.

The chart has the definitions in `crds/`: Helm puts them in force when it installs the chart, and neither changes nor
removes them later, so that `helm uninstall` takes no policy away.
`podlane crds | kubectl apply --server-side --force-conflicts -f -` brings them up to date: policies and their status
stay as they are. (What Helm has written belongs to Helm, hence the option.)
`kubectl delete crd -l app.kubernetes.io/part-of=podlane` removes them with all policies.

The API server checks each object by the rules below. There is one version, so nothing is converted. When the grammar
changes so that old objects would mean something else, a second version is served beside it, the injector converts
between the two by a webhook, and the old one goes no sooner than two minor releases later.
"""


def page() -> str:
    """The whole page."""
    lines, seen = [HEADING], set[tuple[str, str]]()
    for each in definitions():
        lines += _kind(each["spec"], seen)
    return "\n".join(lines)


def _kind(spec: Mapping[str, Any], seen: set[tuple[str, str]]) -> Iterator[str]:
    """A section; what has been ``seen`` in the one before is not said again."""
    names, schema = spec["names"], spec["versions"][0]["schema"]["openAPIV3Schema"]
    short = ", ".join(f"`{each}`" for each in names["shortNames"])
    fields = [(path, _type(each), each["description"]) for path, each in described(schema)]
    new = [each for each in fields if (each[0], each[2]) not in seen]
    shared = {path for path, _, _ in fields} & {path for path, _ in seen}
    alike = " It has these fields, and the others of TrafficPolicy." if "spec.total" in shared else ""
    yield f"## {names['kind']}\n"
    about = f"{schema['description']} `kubectl get {names['plural']}`, in short {short}.{alike}"
    yield f"{textwrap.fill(about, 120)}\n"
    yield "| field | | |\n|---|---|---|"
    yield from (f"| `{path}` | {kind} | {text} |" for path, kind, text in new)
    seen |= {(path, text) for path, _, text in fields}
    rules: dict[str, list[str]] = {}
    for path, rule in _rules(schema, ""):
        if (path, rule["message"]) not in seen:
            rules.setdefault(rule["message"], []).append(f"`{path}`")
            seen.add((path, rule["message"]))
    if rules:
        yield "\nWhat the API server refuses, what it says then, and of which fields:\n"
    for message, paths in rules.items():
        yield textwrap.fill(f"* {message} ({', '.join(paths)})", 120, subsequent_indent="  ", break_on_hyphens=False)
    yield ""


def _type(schema: Mapping[str, Any]) -> str:
    if schema.get("x-kubernetes-int-or-string"):
        return "number or text"
    if schema["type"] == "array":
        return f"list, {schema['maxItems']} at most"
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    if "maximum" in schema:
        return f"{schema['minimum']} to {schema['maximum']}"
    return {"object": "mapping", "string": "text", "integer": "number"}[schema["type"]]


def _rules(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    yield from ((path, rule) for rule in schema.get("x-kubernetes-validations", ()))
    for name, each in schema.get("properties", {}).items():
        yield from _rules(each, f"{path}.{name}" if path else name)
    if "items" in schema:
        yield from _rules(schema["items"], f"{path}[]")


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201
