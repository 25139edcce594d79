"""Rates, byte counts, durations and percentages: one grammar for the whole project.

* A rate is in bits per second: ``100Mbit``, ``1.5 Gbit/s``, ``800kbit``, ``64Kibit``, or a Kubernetes quantity
  (``10M``, ``1Gi``) with the meaning that ``kubernetes.io/egress-bandwidth`` gives it. Letter case of ``bit`` forms
  does not matter (tc(8) writes ``100mbit``). ``bps`` is refused: tc reads it as bytes, people as bits.
* A byte count is ``1500B``, ``32kB`` (1,000), ``64KiB`` (1,024).
* A duration is ``250us``, ``5ms``, ``1s``, ``2m``, ``1h``.
* A percentage is ``1%``, ``0.05%``.

A bare number is never accepted: half of all wrong limits are a forgotten unit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Self

from traffic_policy.errors import UnitError

_SI = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_IEC = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
# Kubernetes quantities are case-sensitive: "m" is milli there, so it must not pass for "M".
_QUANTITY = {prefix: _SI[prefix.lower()] for prefix in "kMGT"} | {prefix.capitalize(): _IEC[prefix] for prefix in _IEC}
# No more digits than any unit needs: Python refuses to write numbers of thousands of digits, and Decimal to hold some.
_NUMBER = r"(?P<number>[0-9]{1,30}(?:\.[0-9]{1,30})?|\.[0-9]{1,30})"
_RATE = re.compile(rf"{_NUMBER}\s*(?P<prefix>[kmgt]i?)?bits?(?:/s|ps)?", re.IGNORECASE)
_RATE_QUANTITY = re.compile(rf"{_NUMBER}(?P<prefix>[kMGT]|[KMGT]i)")
_BYTES_PER_SECOND = re.compile(rf"{_NUMBER}\s*(?P<prefix>[kmgt]i?)?(?:bps|bytes?(?:/s)?|b/s|b)", re.IGNORECASE)
_BYTES = re.compile(rf"{_NUMBER}\s*(?P<prefix>[kmgt]i?)?b(?:ytes?)?", re.IGNORECASE)
_DURATION = re.compile(rf"{_NUMBER}\s*(?P<unit>us|ms|s|m|h)")
_SECONDS_NS = {"us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}

# HTB's 64-bit rates are bytes per second; beyond this a rate is a typing error, not a network.
_MAX_RATE = 10**13


def _scaled(number: str, factor: int, text: str, unit: str) -> int:
    value = Decimal(number) * factor
    if value != value.to_integral_value():
        raise UnitError(f"{text!r} is not a whole number of {unit}. Write it with a smaller unit.")
    return int(value)


def _trim(value: Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass(frozen=True, slots=True, order=True)
class Rate:
    """A data rate in bits per second. Never a bare int, so that bits and bytes cannot be mixed up."""

    bits_per_second: int

    def __post_init__(self) -> None:
        if self.bits_per_second < 0:
            raise UnitError(f"A rate cannot be negative ({self.bits_per_second} bit/s).")

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read a rate such as ``100Mbit``; raises :class:`UnitError` with a remedy for anything else."""
        if isinstance(text, cls):
            return text
        if isinstance(text, bool) or not isinstance(text, str):
            raise UnitError(f"{text!r} has no unit. Write bits per second with a unit, as in {_suggest(text)}.")
        stripped = text.strip()
        if match := _RATE.fullmatch(stripped):
            prefix = (match["prefix"] or "").lower()
            factor = _IEC[prefix] if prefix.endswith("i") else _SI[prefix]
        elif match := _RATE_QUANTITY.fullmatch(stripped):
            factor = _QUANTITY[match["prefix"]]
        elif match := _BYTES_PER_SECOND.fullmatch(stripped):
            prefix = match["prefix"] or ""
            bits = _trim(Decimal(match["number"]) * 8)
            raise UnitError(
                f"{text!r} could mean bits or bytes per second. Write {match['number']}{prefix}bit for bits, "
                f"or {bits}{prefix}bit if you meant bytes."
            )
        elif re.fullmatch(_NUMBER, stripped):
            raise UnitError(f"{text!r} has no unit. Write bits per second with a unit, as in {_suggest(stripped)}.")
        else:
            raise UnitError(f"{text!r} is not a rate. Write a number and a unit, as in 100Mbit, 1.5Gbit or 800kbit.")
        rate = _scaled(match["number"], factor, text, "bits per second")
        if rate > _MAX_RATE:
            raise UnitError(f"{text!r} is more than any link carries. Write at most 10000Gbit.")
        return cls(rate)

    @classmethod
    def from_bytes_per_second(cls, count: int) -> Self:
        """The rate for ``count`` bytes per second, the unit in which the kernel counts."""
        return cls(count * 8)

    @property
    def bytes_per_second(self) -> int:
        """Bytes per second, rounded down: what the kernel is told."""
        return self.bits_per_second // 8

    def bytes_in(self, seconds: float) -> int:
        """How many bytes pass in ``seconds`` at this rate, rounded down."""
        return int(self.bits_per_second * seconds / 8)

    def __str__(self) -> str:
        """The shortest exact form in policy grammar: ``100Mbit``."""
        for suffix, factor in (("Gbit", 10**9), ("Mbit", 10**6), ("kbit", 10**3)):
            if self.bits_per_second >= factor and self.bits_per_second % (factor // 1000) == 0:
                return f"{_trim(Decimal(self.bits_per_second) / factor)}{suffix}"
        return f"{self.bits_per_second}bit"

    @property
    def human(self) -> str:
        """For sentences: ``100 Mbit/s``, at most three significant decimals."""
        for suffix, factor in (("Gbit/s", 10**9), ("Mbit/s", 10**6), ("kbit/s", 10**3)):
            if self.bits_per_second >= factor:
                return f"{_trim(Decimal(f'{self.bits_per_second / factor:.3f}'))} {suffix}"
        return f"{self.bits_per_second} bit/s"


@dataclass(frozen=True, slots=True, order=True)
class ByteCount:
    """An amount of data in bytes."""

    count: int

    def __post_init__(self) -> None:
        if self.count < 0:
            raise UnitError(f"A byte count cannot be negative ({self.count}).")

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read a byte count such as ``64KiB``; raises :class:`UnitError` for anything else."""
        if isinstance(text, cls):
            return text
        if not isinstance(text, str) or not (match := _BYTES.fullmatch(text.strip())):
            raise UnitError(f"{text!r} is not a byte count. Write a number and a unit, as in 1500B, 32kB or 64KiB.")
        prefix = (match["prefix"] or "").lower()
        factor = _IEC[prefix] if prefix.endswith("i") else _SI[prefix]
        return cls(_scaled(match["number"], factor, text, "bytes"))

    def __str__(self) -> str:
        for suffix, factor in (("MiB", 2**20), ("KiB", 2**10), ("MB", 10**6), ("kB", 10**3)):
            if self.count and self.count % factor == 0:
                return f"{self.count // factor}{suffix}"
        return f"{self.count}B"

    @property
    def human(self) -> str:
        """For sentences and tables: ``1.2 MiB``."""
        for suffix, factor in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
            if self.count >= factor:
                return f"{self.count / factor:.1f} {suffix}"
        return f"{self.count} B"


@dataclass(frozen=True, slots=True, order=True)
class Duration:
    """A span of time in nanoseconds (the kernel's own unit for traffic control)."""

    nanoseconds: int

    def __post_init__(self) -> None:
        if self.nanoseconds < 0:
            raise UnitError(f"A duration cannot be negative ({self.nanoseconds} ns).")

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read a duration such as ``500ms``; raises :class:`UnitError` for anything else."""
        if isinstance(text, cls):
            return text
        if not isinstance(text, str) or not (match := _DURATION.fullmatch(text.strip())):
            raise UnitError(f"{text!r} is not a duration. Write a number and a unit, as in 500ms, 1s or 5m.")
        return cls(_scaled(match["number"], _SECONDS_NS[match["unit"]], text, "nanoseconds"))

    @classmethod
    def from_seconds(cls, seconds: float) -> Self:
        return cls(round(seconds * 10**9))

    @property
    def seconds(self) -> float:
        return self.nanoseconds / 10**9

    @property
    def microseconds(self) -> int:
        """Whole microseconds, rounded down."""
        return self.nanoseconds // 1000

    def __str__(self) -> str:
        for suffix in ("h", "m", "s", "ms", "us"):
            if self.nanoseconds and self.nanoseconds % _SECONDS_NS[suffix] == 0:
                return f"{self.nanoseconds // _SECONDS_NS[suffix]}{suffix}"
        return f"{_trim(Decimal(self.nanoseconds) / 1000)}us"


@dataclass(frozen=True, slots=True, order=True)
class Percentage:
    """A share of packets, exact to a ten-thousandth of a percent."""

    parts_per_million: int

    def __post_init__(self) -> None:
        if not 0 <= self.parts_per_million <= 10**6:
            raise UnitError(f"{_trim(Decimal(self.parts_per_million) / 10**4)}% is outside 0% to 100%.")

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read a percentage such as ``0.5%``; raises :class:`UnitError` for anything else."""
        if isinstance(text, cls):
            return text
        if not isinstance(text, str) or not (match := re.fullmatch(rf"{_NUMBER}\s*%", text.strip())):
            raise UnitError(f"{text!r} is not a percentage. Write a number and the sign, as in 1% or 0.05%.")
        return cls(_scaled(match["number"], 10**4, text, "ten-thousandths of a percent"))

    def __str__(self) -> str:
        return f"{_trim(Decimal(self.parts_per_million) / 10**4)}%"


def _suggest(number: object) -> str:
    return f"{number}Mbit" if isinstance(number, int | float | str) and not isinstance(number, bool) else "100Mbit"
