"""The mark program, executed, against the plain meaning of a set of class ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tc_core.bpf.mark_classifier import classic_program, classic_text, mark_filter
from tc_core.handles import Handle

BASE = 0x10100
CLASS_IDS = st.frozensets(st.integers(min_value=1, max_value=255))


def run_classic(program: tuple[tuple[int, int, int, int], ...], mark: int) -> int:
    """A classic BPF machine with the instructions that the program may use (Documentation/networking/filter.rst)."""
    a = x = at = 0
    memory = [0] * 16
    while True:
        code, jump_true, jump_false, k = program[at]
        at += 1
        match code:
            case 0x20:
                assert k == 0xFFFFF014, "only the mark may be loaded"
                a = mark
            case 0x00:
                a = k
            case 0x60:
                a = memory[k]
            case 0x02:
                memory[k] = a
            case 0x07:
                x = a
            case 0x54:
                a &= k
            case 0x44:
                a |= k
            case 0x74:
                a >>= k
            case 0x7C:
                a >>= x
            case 0x05:
                at += k
            case 0x15:
                at += jump_true if a == k else jump_false
            case 0x16:
                return a
            case 0x06:
                return k
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")


@given(CLASS_IDS, st.integers(min_value=0, max_value=0xFFFFFF))
def test_it_selects_exactly_the_ids(ids: frozenset[int], other_bits: int) -> None:
    program = classic_program(ids, BASE)
    for class_id in range(256):
        expected = BASE | class_id if class_id in ids else 0
        assert run_classic(program, class_id << 24 | other_bits) == expected


@given(CLASS_IDS)
def test_the_size_does_not_depend_on_the_classes(ids: frozenset[int]) -> None:
    assert len(classic_program(ids, BASE)) == len(classic_program(frozenset(), BASE))


@given(CLASS_IDS, CLASS_IDS)
def test_fingerprints_tell_programs_apart(one: frozenset[int], other: frozenset[int]) -> None:
    first, second = mark_filter(Handle(1), one), mark_filter(Handle(1), other)
    assert (first == second) == (one == other)
    assert first.fingerprint.startswith("podlane-")


def test_text_is_what_tc_reads() -> None:
    program = classic_program(frozenset({1}), BASE)
    count, *instructions = classic_text(program).split(",")
    assert int(count) == len(instructions) == len(program)
    assert [tuple(map(int, i.split())) for i in instructions] == list(program)


@pytest.mark.parametrize("class_id", [0, 256, -1], ids=["undecided", "too large", "negative"])
def test_an_id_outside_the_mark_is_refused(class_id: int) -> None:
    with pytest.raises(ValueError, match="outside 1 to 255"):
        classic_program(frozenset({class_id}), BASE)
