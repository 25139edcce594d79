"""What docs/reference/annotations.md says is what the code does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from traffic_policy.pod.annotations import ANNOTATIONS, LABELS, PREFIX, SHARED_POLICY_KEY, STATUS
from traffic_policy.pod.composition import MOST_MATCHES
from traffic_policy.pod.effective import MOST_EXCLUDED, AnnotationsError, effective, shared_policy_name
from traffic_policy.units import Rate

TEXT = (Path(__file__).parents[2] / "docs/reference/annotations.md").read_text()


def table(heading: str) -> list[tuple[str, ...]]:
    """The rows of the table whose header starts with ``heading``, without code marks."""
    lines = TEXT.splitlines()
    start = lines.index(next(line for line in lines if line.startswith(f"| {heading} |")))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(tuple(cell.strip().strip("`") for cell in line.strip("|").split(" | ")))
    return rows


def documents() -> Iterator[dict[str, Any]]:
    for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL):
        yield from yaml.safe_load_all(block)


PODS = {d["metadata"]["name"]: d["metadata"]["annotations"] for d in documents() if d["kind"] == "Pod"}
CONFIG_MAPS = {d["metadata"]["name"]: d["data"] for d in documents() if d["kind"] == "ConfigMap"}


def test_the_table_is_the_code() -> None:
    assert tuple(name for name, *_ in table("annotation")) == ANNOTATIONS
    assert {row[0] for row in table("label")} == set(LABELS)
    assert f"`{STATUS}`" in TEXT


def test_the_examples_of_the_reference_can_be_used() -> None:
    said = effective(
        {name: example for name, _, _, example, _ in table("annotation")},
        shared=CONFIG_MAPS["shared-lanes"][SHARED_POLICY_KEY],
    ).policy
    assert said.total == Rate.parse("100Mbit")
    assert said.ingress is not None


@pytest.mark.parametrize("name", sorted(set(PODS) - {"wrong"}))
def test_the_examples_can_be_used(name: str) -> None:
    shared = CONFIG_MAPS[shared_policy_name(PODS[name])][SHARED_POLICY_KEY] if f"{PREFIX}policy" in PODS[name] else None
    assert effective(PODS[name], shared=shared).warnings == ()


def test_the_shared_example_is_what_its_sentence_says() -> None:
    said = effective(PODS["worker"], shared=CONFIG_MAPS["shared-lanes"][SHARED_POLICY_KEY])
    assert said.policy.total == Rate.parse("50Mbit")
    assert [(c.name, str(c.rate)) for c in said.policy.classes] == [("api", "10Mbit"), ("backup", "1Mbit")]


def test_the_mistakes_are_told_in_these_words() -> None:
    with pytest.raises(AnnotationsError) as error:
        effective(PODS["wrong"])
    assert f"```\n{error.value}\n```" in TEXT


def test_the_limits_are_these() -> None:
    assert f"may have {MOST_MATCHES} matches" in TEXT
    assert f"{MOST_EXCLUDED} excluded ranges" in TEXT
