"""The mark layout and sticky class ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traffic_policy.errors import PodlaneError
from traffic_policy.marks import DEFAULT_CLASS_ID, DIVERT, MAX_CLASSES, OWN, ClassIds, Mark, class_id_of, class_mark


def test_fields_do_not_overlap_and_print_as_iptables_does() -> None:
    assert str(DIVERT) == "0x1000/0x3000"
    assert str(OWN | class_mark(1)) == "0x1002000/0xff002000"
    with pytest.raises(ValueError, match="overlap"):
        OWN | DIVERT
    with pytest.raises(ValueError, match="does not fit"):
        Mark(0x10, 0x01)


@pytest.mark.parametrize("class_id", [1, 254, 255])
def test_a_class_id_survives_the_mark(class_id: int) -> None:
    assert class_id_of((OWN | class_mark(class_id)).value) == class_id


@pytest.mark.parametrize("class_id", [0, 256, -1])
def test_there_are_no_other_class_ids(class_id: int) -> None:
    with pytest.raises(ValueError, match="class id"):
        class_mark(class_id)


def test_the_same_policy_gets_the_same_ids() -> None:
    assert dict(ClassIds.assign(["a", "b"])) == {"a": 1, "b": 2, "default": 255}
    assert ClassIds.assign(["a", "b"]).name_of(2) == "b"
    assert ClassIds.assign(["a"]).name_of(7) is None


def test_ids_stay_when_classes_come_and_go() -> None:
    before = ClassIds.assign(["a", "b", "c"])
    after = before.evolve(["new", "c", "a"])
    assert (after["a"], after["c"]) == (before["a"], before["c"])
    assert after["new"] not in before.values()


def test_the_mark_holds_254_classes_and_no_more() -> None:
    names = [f"c{i}" for i in range(MAX_CLASSES)]
    ids = ClassIds.assign(names)
    assert sorted(ids.values()) == list(range(1, DEFAULT_CLASS_ID + 1))
    with pytest.raises(PodlaneError, match="Merge"):
        ids.evolve([*names, "one-more"])


def test_a_full_field_reuses_the_id_freed_longest_ago() -> None:
    ids = ClassIds.assign([f"c{i}" for i in range(MAX_CLASSES)])
    first_gone = ids.evolve([f"c{i}" for i in range(1, MAX_CLASSES)])
    both_gone = first_gone.evolve([f"c{i}" for i in range(2, MAX_CLASSES)])
    refilled = both_gone.evolve([*(f"c{i}" for i in range(2, MAX_CLASSES)), "x"])
    assert refilled["x"] == ids["c0"]


@given(st.lists(st.lists(st.sampled_from([f"n{i}" for i in range(300)]), unique=True, max_size=254), max_size=6))
def test_ids_are_always_distinct(generations: list[list[str]]) -> None:
    ids = ClassIds.assign([])
    for names in generations:
        previous, ids = ids, ids.evolve(names)
        assert set(ids) == {*names, "default"}
        assert len(set(ids.values())) == len(ids)
        assert all(ids[name] == previous[name] for name in names if name in previous)
