"""Documents of the admin server: dataclasses as JSON and back, and their reference page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from daemon.documents.codec import DocumentError, from_json, to_json
from daemon.documents.health import Health
from daemon.documents.reference import reference

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Inner:
    class_: str
    size: int


@dataclass(frozen=True, slots=True)
class Outer:
    seconds: float
    name: str | None
    parts: tuple[Inner, ...]
    by_name: Mapping[str, Inner]
    free: Mapping[str, object]
    extra: Inner | None = None


OUTER = Outer(1.5, None, (Inner("a", 1),), {"b": Inner("b", 2)}, {"x": [None, {"y": 1}]})
WRITTEN: dict[str, Any] = {
    "seconds": 1.5,
    "name": None,
    "parts": [{"class": "a", "size": 1}],
    "by_name": {"b": {"class": "b", "size": 2}},
    "free": {"x": [None, {"y": 1}]},
}


def test_a_document_is_its_keys_in_order_and_comes_back() -> None:
    assert json.dumps(to_json(OUTER)) == json.dumps(WRITTEN)
    assert from_json(Outer, json.loads(json.dumps(WRITTEN))) == OUTER


def test_what_may_be_absent_is_written_where_it_is_there() -> None:
    written = {**WRITTEN, "extra": {"class": "c", "size": 3}}
    full = from_json(Outer, written)
    assert full.extra == Inner("c", 3)
    assert to_json(full) == written
    assert from_json(Outer, {**WRITTEN, "extra": None}) == OUTER


def test_unknown_keys_mean_nothing_and_integers_are_numbers() -> None:
    assert from_json(Outer, {**WRITTEN, "seconds": 2, "later": 1}).seconds == 2.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parts": [{"class": "a"}]}, "lacks 'size'"),
        ({"parts": {}}, "has {} where a list belongs"),
        ({"parts": [[]]}, "has [] where an object belongs"),
        ({"seconds": "1"}, "has '1' where a float belongs"),
        ({"by_name": {"b": {"class": 1, "size": 2}}}, "has 1 where a str belongs"),
        ({"by_name": {"b": {"class": "b", "size": True}}}, "has True where a int belongs"),
        ({"by_name": []}, "has [] where an object belongs"),
    ],
)
def test_another_form_is_told(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DocumentError) as caught:
        from_json(Outer, {**WRITTEN, **changes})
    assert str(caught.value) == words


def test_a_missing_key_is_told() -> None:
    for key in WRITTEN:
        with pytest.raises(DocumentError, match=f"^lacks '{key}'$"):
            from_json(Outer, {name: value for name, value in WRITTEN.items() if name != key})


def test_health_is_a_status_and_a_text() -> None:
    assert (Health().status, Health().text) == (200, "ok")
    assert Health(notes=("a", "b")).text == "ok\na\nb"
    assert (Health(lost=("b", "c"), notes=("a",)).status, Health(lost=("b", "c")).text) == (
        503,
        "missing: b\nmissing: c",
    )
    assert Health((1,), ("b",)).text == "no answer from worker 1\nmissing: b"
    assert (Health((1, 3), notes=("a",)).status, Health((1, 3)).text) == (503, "no answer from worker 1, 3")


def test_the_reference_is_that_of_the_types() -> None:
    page = (ROOT / "docs/reference/admin-api.md").read_text()
    assert page == reference(), "python -m daemon.documents.reference > docs/reference/admin-api.md"
    assert "| `read_at_seconds` | number or null |" in page
