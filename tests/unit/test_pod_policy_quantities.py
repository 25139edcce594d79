"""Kubernetes quantities, compared with what Kubernetes itself makes of them.

tests/golden/kubernetes/quantities.json has texts and the answers of ``resource.ParseQuantity`` (k8s.io/apimachinery
v0.37.2) in billionths; null: refused.
"""

from __future__ import annotations

import json
from fractions import Fraction
from math import ceil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traffic_policy.pod.errors import QuantityError
from traffic_policy.pod.quantities import Quantity, bandwidth, bandwidth_text
from traffic_policy.policy import MIN_RATE
from traffic_policy.units import Rate

ANSWERS: list[tuple[str, str | None]] = json.loads(
    (Path(__file__).parent.parent / "golden/kubernetes/quantities.json").read_text()
)


def test_quantities_mean_what_kubernetes_says() -> None:
    accepted = 0
    for text, nano in ANSWERS:
        if nano is None or not any(c.isdigit() for c in text.split("e")[0].split("E")[0]):
            with pytest.raises(QuantityError):
                Quantity.parse(text)
            continue
        accepted += 1
        assert Quantity.parse(text).value == Fraction(int(nano), 10**9), text
    assert accepted > 400


def test_a_quantity_keeps_its_text() -> None:
    assert str(Quantity.parse("1024Ki")) == "1024Ki"
    assert Quantity.parse("1024Ki").value == Quantity.parse("1Mi").value


@pytest.mark.parametrize("text", ["1e9999", "1e-9999", "9" * 65, "1" * 5000, "x" * 10_000], ids=lambda text: text[:8])
def test_what_no_machine_has_is_refused_at_once_and_in_few_words(text: str) -> None:
    with pytest.raises(QuantityError) as error:
        Quantity.parse(text)
    assert len(str(error.value)) < 200


_SUFFIXES = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
numbers = st.tuples(st.integers(0, 10**12), st.integers(0, 10**10 - 1), st.integers(1, 10))


@given(numbers, st.one_of(st.sampled_from(sorted(_SUFFIXES)), st.integers(-12, 12)))
def test_decimal_quantities_are_exact_to_a_billionth_and_rounded_up(
    number: tuple[int, int, int], suffix: str | int
) -> None:
    whole, fraction, digits = number
    exponent = suffix if isinstance(suffix, int) else _SUFFIXES[suffix]
    fraction %= 10**digits
    text = f"{whole}.{fraction:0{digits}}{suffix if isinstance(suffix, str) else f'e{suffix}'}"
    exact = (whole + Fraction(fraction, 10**digits)) * Fraction(10) ** exponent
    value = Quantity.parse(text).value
    assert (value * 10**9).denominator == 1
    assert 0 <= value - exact < Fraction(1, 10**9)


BANDWIDTHS = {
    "10M": 10_000_000,
    "1Gi": 2**30,
    "1500k": 1_500_000,
    "2e6": 2_000_000,
    "0.5G": 500_000_000,
    "100000000": 100_000_000,
    "8001500m": 8_002,
    "8k": 8_000,
    "10T": 10**13,
    "+1M": 1_000_000,
}


@pytest.mark.parametrize("text", BANDWIDTHS)
def test_a_bandwidth_is_in_bits_per_second(text: str) -> None:
    assert bandwidth(text) == Rate(BANDWIDTHS[text])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("10Mbit", "'10Mbit' is not a Kubernetes quantity. Write 10M for 10 Mbit/s."),
        ("1.5 Gbit/s", "'1.5 Gbit/s' is not a Kubernetes quantity. Write 1500M for 1.5 Gbit/s."),
        ("10MB", "'10MB' is not a Kubernetes quantity. Write one such as 10M, 1.5Gi or 500m."),
        ("", "'' is not a Kubernetes quantity."),
        ("500m", "'500m' is thousandths of a bit per second: a quantity's m is milli. Write 500M for Mbit/s."),
        ("10", "'10' is 10 bit/s, too little to carry packets. Write at least 8k, or a suffix, as in 10M for 10 Mbit/s."),
        ("0", "'0' is 0 bit/s, too little"),
        ("7999", "'7999' is 7.999 kbit/s, too little"),
        ("-10M", "'-10M' is less than nothing."),
        ("11T", "'11T' is more than any link carries. Write at most 10T (10 Tbit/s)."),
        ("1e99", "'1e99' is more than any link carries."),
    ],
    ids=lambda value: value.split(" is ")[0],
)  # fmt: skip
def test_a_bandwidth_that_makes_no_sense_says_what_to_write(text: str, words: str) -> None:
    with pytest.raises(QuantityError) as error:
        bandwidth(text)
    assert str(error.value).startswith(words)


@given(st.integers(MIN_RATE.bits_per_second, 10**13))
def test_a_bandwidth_reads_back_from_its_text(bits: int) -> None:
    assert bandwidth(bandwidth_text(Rate(bits))) == Rate(bits)


@given(st.text(max_size=12))
def test_any_text_is_a_bandwidth_or_refused(text: str) -> None:
    try:
        rate = bandwidth(text)
    except QuantityError:
        return
    assert rate.bits_per_second == ceil(Quantity.parse(text).value)
