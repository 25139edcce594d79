"""One grammar, told five times: the loader, the JSON schema, docs/reference/policy.md, the README, and the calls of the library."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from tc_core.builder import ClassBuilder, DefaultBuilder
from tc_core.controller import TrafficController
from traffic_policy.errors import PolicyError
from traffic_policy.policy import (
    Budget,
    ClassIngress,
    DefaultClass,
    Ingress,
    Match,
    Queue,
    Rehearsal,
    Shaper,
    TrafficClass,
    TrafficPolicy,
)
from traffic_policy.policy_file import policy_from_document
from traffic_policy.profiles import profiles
from traffic_policy.schema import policy_schema, policy_schema_text
from traffic_policy.scope import beyond_packets, beyond_sidecar

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs/reference/policy.md").read_text()
SCHEMA = policy_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
MODELS: Mapping[str, type[BaseModel]] = {
    model.__name__: model for model in (Budget, ClassIngress, DefaultClass, Ingress, Match, Rehearsal, TrafficClass)
}


def keys(*models: type[BaseModel]) -> set[str]:
    return {key for model in models for key in model.model_fields}


def rows(heading: str) -> list[list[str]]:
    """The cells of the table of the reference whose heading begins like this."""
    start = REFERENCE.index(f"\n| {heading} ") + 1
    lines = REFERENCE[start : REFERENCE.index("\n\n", start)].splitlines()[2:]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def first_cells(heading: str) -> set[str]:
    return {name for row in rows(heading) for name in re.findall(r"`([\w-]+)`", row[0])}


# --- the same keys everywhere ------------------------------------------------------------------------------------------


def test_the_schema_has_the_keys_of_the_loader() -> None:
    assert set(SCHEMA["properties"]) == keys(TrafficPolicy)
    objects = {name: part for name, part in SCHEMA["$defs"].items() if part["type"] == "object"}
    assert set(objects) == set(MODELS)
    for name, part in objects.items():
        assert set(part["properties"]) == keys(MODELS[name]), name
        assert part["additionalProperties"] is False
        assert all("description" in key for key in part["properties"].values()), name
    assert SCHEMA["additionalProperties"] is False


def test_the_reference_has_the_keys_of_the_loader() -> None:
    assert first_cells("key") == keys(TrafficPolicy, TrafficClass, DefaultClass, Match)
    assert first_cells("in `rehearsal`") == keys(Rehearsal)
    assert keys(Ingress, ClassIngress) <= first_cells("key"), "and ingress has no other"
    assert first_cells("`shaper` | what it does") - {"shaper"} == set(Shaper)
    assert first_cells("`queue` | how the packets") - {"queue"} == set(Queue)


def test_the_reference_says_where_each_key_belongs() -> None:
    where = {name: row[1].split(", ") for row in rows("key") for name in re.findall(r"`(\w+)`", row[0])}
    for place, model in (("policy", TrafficPolicy), ("class", TrafficClass), ("match", Match)):
        assert {key for key, places in where.items() if place in places} == keys(model), place
    assert keys(DefaultClass) == keys(TrafficClass) - {"name", "match"}, "as the row of default says"


VALUES: Mapping[str, Any] = {
    "mark": "0x1",
    "sni": "a.example",
    "host": "a.example",
    "alpn": "h2",
    "direction": "inbound",
}


def test_the_reference_says_which_keys_only_one_way_of_use_has() -> None:
    only = {name: row[4] for row in rows("key") for name in re.findall(r"`(\w+)`", row[0])}
    for key in keys(Match):
        match = {key: VALUES.get(key, {"port": 1, "application": "ssh", "protocol": "tcp"}.get(key, "10.0.0.0/8"))}
        document = {"total": "1Mbit", "classes": [{"name": "a", "rate": "100kbit", "match": [match]}]}
        policy = policy_from_document(document)
        ways = {"tc": not beyond_packets(policy), "proxy": not beyond_sidecar(policy)}
        assert only[key] == ("" if all(ways.values()) else next(way for way, can in ways.items() if can)), key
    assert beyond_sidecar(policy_from_document({"total": "1Mbit", "shaper": "tbf"}))
    assert beyond_packets(policy_from_document({"total": "1Mbit", "requests": "follow"}))
    assert only["requests"] == "proxy"
    assert (only["ingress"], only["shaper"]) == ("", "other than `htb`: tc")


def test_the_library_has_a_call_for_every_key_that_packets_can_tell() -> None:
    guide = (ROOT / "docs/reference/library.md").read_text()
    start = guide.index("| call | on | key |")
    table = guide[start : guide.index("\n\n", start)].splitlines()[2:]
    told = {key for row in table for key in re.findall(r"`(\w+)`", row.split("|")[3])}
    only_a_proxy_sees = {"sni", "host", "alpn", "direction", "requests", "quic"}
    only_agents_share = {"budget"}
    assert told | {"default"} == keys(TrafficPolicy, TrafficClass, Match) - only_a_proxy_sees - only_agents_share
    for builder in (TrafficController, ClassBuilder, DefaultBuilder):
        parameters = set(inspect.signature(builder.rehearsal).parameters) - {"self"}
        assert parameters == keys(Rehearsal), builder.__name__


def test_the_readme_uses_keys_that_there_are_and_leads_to_the_reference() -> None:
    text = (ROOT / "README.md").read_text()
    assert "(docs/reference/policy.md)" in text
    for document in policies_in(text):
        assert set(document) <= keys(TrafficPolicy)
        for traffic_class in document["classes"]:
            assert set(traffic_class) <= keys(TrafficClass)
            assert all(set(match) <= keys(Match) for match in traffic_class["match"])


# --- the schema --------------------------------------------------------------------------------------------------------


def test_the_published_schema_is_current_and_a_schema() -> None:
    assert (ROOT / "docs/policy.schema.json").read_text() == policy_schema_text(), (
        "podlane tc schema > docs/policy.schema.json"
    )
    assert json.loads(policy_schema_text()) == SCHEMA
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    assert "$schema=docs/policy.schema.json" in REFERENCE
    assert "$id" not in SCHEMA


WRONG = "# wrong.yaml\n"
"""The first line of a policy that is shown for what is wrong with it."""


def policies_in(text: str, *, wrong: bool = False) -> Iterator[dict[str, Any]]:
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        if "apiVersion:" in block:
            continue  # objects of Kubernetes, whose annotations test_pod_policy_docs reads
        document = yaml.safe_load(block)
        if isinstance(document, dict) and "total" in document and block.startswith(WRONG) is wrong:
            yield document


def every_policy() -> Iterator[Any]:
    """All policies that this project shows anybody."""
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for i, document in enumerate(policies_in(path.read_text()), 1):
            yield pytest.param(document, id=f"{path.name} {i}")
    for path in sorted((ROOT / "examples").glob("*.yaml")):
        yield pytest.param(yaml.safe_load(path.read_text()), id=f"examples/{path.name}")
    for profile in profiles():
        yield pytest.param(yaml.safe_load(profile.text), id=f"profile {profile.name}")


EVERY_POLICY = list(every_policy())


@pytest.mark.parametrize("document", EVERY_POLICY)
def test_every_policy_that_is_shown_is_taken_by_the_loader_and_by_the_schema(document: dict[str, Any]) -> None:
    """The seed project published an example that its own validator refused."""
    policy = policy_from_document(document)
    VALIDATOR.validate(document)
    VALIDATOR.validate(policy.to_document())
    assert policy_from_document(policy.to_document()) == policy


def test_a_policy_that_is_shown_as_wrong_is_wrong() -> None:
    for path in sorted((ROOT / "docs").rglob("*.md")):
        for document in policies_in(path.read_text(), wrong=True):
            with pytest.raises(PolicyError):
                policy_from_document(document)


def test_policies_are_shown_in_many_places() -> None:
    places = " ".join(str(parameter.id) for parameter in EVERY_POLICY)
    assert all(place in places for place in ("README.md", "policy.md", "examples", "profile"))


GOOD = {
    "total": "10Mbit",
    "classes": [{"name": "a", "rate": "1Mbit", "match": [{"port": [1]}]}],
    "default": {},
    "ingress": {"total": "1Mbit"},
    "rehearsal": {"delay": "1ms"},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """:data:`GOOD` with another value in one place; ``...`` takes the key away."""
    document: dict[str, Any] = json.loads(json.dumps(GOOD))
    *way, last = (int(part) if part.isdigit() else part for part in path.split("."))
    place: Any = document
    for part in way:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("total", ...),
        ("total", 10),
        ("total", "10"),
        ("total", "10Mbps"),
        ("colour", "red"),
        ("shaper", "hfsc"),
        ("classes", {}),
        ("classes.0", "a"),
        ("classes.0.name", ...),
        ("classes.0.name", 7),
        ("classes.0.rate", 1_000_000),
        ("classes.0.priority", 8),
        ("classes.0.priority", "1"),
        ("classes.0.burst", "64Kbit"),
        ("classes.0.queue", "red"),
        ("classes.0.speed", "1Mbit"),
        ("classes.0.match", ...),
        ("classes.0.match", []),
        ("classes.0.match.0", 443),
        ("classes.0.match.0.ports", [1]),
        ("classes.0.match.0.port", 0),
        ("classes.0.match.0.port", 65536),
        ("classes.0.match.0.port", "http"),
        ("classes.0.match.0.port", 1.5),
        ("classes.0.match.0.cidr", "everywhere"),
        ("classes.0.match.0.source", [{}]),
        ("classes.0.match.0.protocol", "sctp"),
        ("classes.0.match.0.mark", "red"),
        ("classes.0.match.0.mark", -1),
        ("classes.0.match.0.application", 22),
        ("classes.0.match.0.sni", ""),
        ("classes.0.ingress", {}),
        ("default.name", "x"),
        ("default.match", [{"port": 1}]),
        ("ingress", {}),
        ("ingress.rate", "1Mbit"),
        ("rehearsal.loss", 0.5),
        ("rehearsal.loss", "0.5"),
        ("rehearsal.delay", "1 second"),
        ("rehearsal.reorder", "1%"),
    ],
    ids=lambda value: str(value) if value is not ... else "missing",
)
def test_the_schema_refuses_the_structure_that_the_loader_refuses(path: str, value: Any) -> None:
    document = changed(path, value)
    with pytest.raises(PolicyError):
        policy_from_document(document)
    assert not VALIDATOR.is_valid(document)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("total", "1.5 Gbit/s"),
        ("total", "10M"),
        ("classes.0.match", {"port": 1}),
        ("classes.0.match.0.port", 443),
        ("classes.0.match.0.port", "8000-8100"),
        ("classes.0.match.0.protocol", "tcp"),
        ("classes.0.match.0.mark", 16),
        ("classes.0.match.0.mark", "0x10/0xff"),
        ("classes.0.match.0.cidr", "fd00::1"),
        ("classes.0.match.0.application", ["ssh", "https"]),
        ("classes.0.burst", "64KiB"),
        ("classes.0.ceil", None),
        ("default", ...),
        ("rehearsal.jitter", "500us"),
    ],
    ids=lambda value: str(value) if value is not ... else "missing",
)
def test_the_schema_takes_the_forms_that_the_loader_takes(path: str, value: Any) -> None:
    document = changed(path, value)
    if "application" in path:
        del document["classes"][0]["match"][0]["port"]
    policy_from_document(document)
    VALIDATOR.validate(document)
