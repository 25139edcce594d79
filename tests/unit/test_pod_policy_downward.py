"""The file of a downward API volume, compared with what Go makes of annotations.

tests/golden/kubernetes/downward.json has annotations and the text that ``FormatMap`` (k8s.io/kubernetes, pkg/fieldpath)
gives for them, written by Go 1.26.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from downward import Volume, format_map
from hypothesis import given
from hypothesis import strategies as st

from traffic_policy.pod.downward import read_annotations
from traffic_policy.pod.errors import DownwardError

WRITTEN_BY_GO: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent.parent / "golden/kubernetes/downward.json").read_text()
)


def test_what_go_wrote_is_read_back() -> None:
    for case in WRITTEN_BY_GO:
        assert read_annotations(case["file"]) == case["annotations"]


def test_the_tests_own_writer_writes_what_go_writes() -> None:
    # Go's tables of printable characters are of another Unicode version for a few that both read the same way.
    assert [format_map(case["annotations"]) for case in WRITTEN_BY_GO if "random" not in case["annotations"]] == [
        case["file"] for case in WRITTEN_BY_GO if "random" not in case["annotations"]
    ]


names = st.from_regex(r"([a-z0-9]([-a-z0-9.]{0,20}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,20}[A-Za-z0-9])?", fullmatch=True)  # fmt: skip
values = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.dictionaries(names, values, max_size=5))
def test_any_annotations_survive_the_way_through_the_file(annotations: dict[str, str]) -> None:
    assert read_annotations(format_map(annotations)) == annotations


@pytest.mark.parametrize(
    ("text", "annotations"),
    [("", {}), ("\n", {}), ('a="b"\n', {"a": "b"}), ('a="b"\n\nc=""', {"a": "b", "c": ""})],
    ids=["empty", "a line break alone", "a line break at the end", "an empty line"],
)
def test_empty_lines_are_passed_over(text: str, annotations: dict[str, str]) -> None:
    assert read_annotations(text) == annotations


def test_bytes_that_were_no_text_become_the_replacement_character() -> None:
    assert read_annotations(r'a="\xff\xc3("') == {"a": "\ufffd\ufffd("}


def test_a_later_line_wins() -> None:
    assert read_annotations('a="1"\na="2"') == {"a": "2"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a=b", 'Line 1 is not key="value"'),
        ('a="b"\n\nb="c', 'Line 3 is not key="value"'),
        ('="b"', 'Line 1 is not key="value"'),
        ('a="b" # c', 'Line 1 is not key="value"'),
        ('a="b"c"', 'Line 1 is not key="value"'),
        ('a="b\\"', 'Line 1 is not key="value"'),
        ('{"a": "b"}', 'Line 1 is not key="value"'),
        ('a="\\q"', r"Line 1 has the unknown escape \q"),
        ('a="\\xg0"', r"Line 1 has the unknown escape \x"),
        ('a="\\u12"', r"Line 1 has the unknown escape \u"),
        ('a="\\ud800"', r"Line 1 names the character \ud800, which there is not"),
        ('a="\\U00110000"', r"Line 1 names the character \U00110000, which there is not"),
    ],
    ids=lambda value: value[:12],
)
def test_another_text_is_refused_by_line(text: str, words: str) -> None:
    with pytest.raises(DownwardError) as error:
        read_annotations(text)
    assert str(error.value).startswith(words)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read = read_annotations(text)
    except DownwardError:
        return
    assert read_annotations(format_map(read)) == read


def test_the_tests_own_volume_exchanges_the_file(tmp_path: Path) -> None:
    volume = Volume(tmp_path / "pod", "annotations", "one")
    first = volume.file.stat().st_ino
    volume.write("two")
    assert volume.file.read_text() == "two"
    assert volume.file.stat().st_ino != first
