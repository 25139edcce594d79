"""Rates, byte counts, durations, handles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tc_core.handles import ROOT, Handle
from traffic_policy.errors import UnitError
from traffic_policy.units import ByteCount, Duration, Rate


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("100Mbit", 100_000_000),
        ("100mbit", 100_000_000),
        ("1.5 Gbit/s", 1_500_000_000),
        ("800kbit", 800_000),
        ("64Kibit", 65_536),
        ("8000bit", 8_000),
        (" 1Gbit ", 1_000_000_000),
        (".5Mbit", 500_000),
        ("10M", 10_000_000),
        ("1Gi", 2**30),
        ("20mbits", 20_000_000),
    ],
)
def test_rates_are_bits_per_second(text: str, bits: int) -> None:
    assert Rate.parse(text) == Rate(bits)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        (100, "100Mbit"),
        ("100", "100Mbit"),
        (True, "unit"),
        (None, "unit"),
        ("50Mbps", "50Mbit for bits, or 400Mbit"),
        ("1.5MB/s", "1.5Mbit for bits, or 12Mbit"),
        ("10m", "number and a unit"),
        ("fast", "number and a unit"),
        ("-1Mbit", "number and a unit"),
        ("", "number and a unit"),
        ("0.0001kbit", "smaller unit"),
        ("99999999Gbit", "10000Gbit"),
    ],
)
def test_a_rate_that_could_be_misread_is_refused_with_a_remedy(text: object, remedy: str) -> None:
    with pytest.raises(UnitError) as error:
        Rate.parse(text)
    assert remedy in str(error.value)


@given(st.integers(0, 10**13))
def test_a_printed_rate_reads_back_exactly(bits: int) -> None:
    assert Rate.parse(str(Rate(bits))) == Rate(bits)


@given(st.integers(0, 2**45))
def test_a_printed_byte_count_reads_back_exactly(count: int) -> None:
    assert ByteCount.parse(str(ByteCount(count))) == ByteCount(count)


@given(st.integers(0, 10**12).map(lambda us: us * 1000))
def test_a_printed_duration_reads_back_exactly(nanoseconds: int) -> None:
    assert Duration.parse(str(Duration(nanoseconds))) == Duration(nanoseconds)


@pytest.mark.parametrize(("text", "count"), [("1500B", 1500), ("32kB", 32_000), ("64KiB", 65_536), ("1MiB", 2**20)])
def test_byte_counts(text: str, count: int) -> None:
    assert ByteCount.parse(text).count == count


@pytest.mark.parametrize("text", ["64", 64, "64Kibit", "x", None])
def test_byte_counts_need_their_unit(text: object) -> None:
    with pytest.raises(UnitError, match="64KiB"):
        ByteCount.parse(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("1s", 1.0), ("2m", 120.0), ("10us", 1e-5), ("1h", 3600.0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert Duration.parse(text).seconds == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["5", 5, "1 day", None, pytest.param("1" * 200_000 + "s", id="endless")])
def test_durations_need_their_unit(text: object) -> None:
    with pytest.raises(UnitError, match="500ms"):
        Duration.parse(text)


def test_rates_read_aloud() -> None:
    assert Rate(100_000_000).human == "100 Mbit/s"
    assert Rate(1_234_567).human == "1.235 Mbit/s"
    assert Rate(999).human == "999 bit/s"
    assert ByteCount(1536).human == "1.5 KiB"


def test_bytes_in_a_time() -> None:
    assert Rate.parse("8Mbit").bytes_in(0.5) == 500_000
    assert Rate.from_bytes_per_second(1000).bits_per_second == 8000


def test_negative_amounts_do_not_exist() -> None:
    for kind in (Rate, ByteCount, Duration):
        with pytest.raises(UnitError):
            kind(-1)


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_handles_read_back(major: int, minor: int) -> None:
    handle = Handle(major, minor)
    assert Handle.parse(str(handle)) == handle
    assert Handle.from_int(int(handle)) == handle


def test_handles_are_hexadecimal() -> None:
    assert Handle.parse("1:1ff") == Handle(1, 0x1FF)
    assert str(Handle(0x101)) == "101:"
    assert int(ROOT) == 0xFFFFFFFF
    for wrong in ("1", "x:1", "1:10000", ""):
        with pytest.raises(UnitError):
            Handle.parse(wrong)
