"""Kubernetes quantities: ``10M``, ``1Gi``, ``1500k``, ``2e6``, ``500m``. Pure.

The grammar is that of ``resource.Quantity`` (k8s.io/apimachinery, pkg/api/resource/quantity.go); a test compares this
module with answers of the real one. One thing is stricter: a quantity without any digit ("k", "-") is refused, which
Kubernetes takes for zero although its own grammar has no such form. What is beyond any machine is refused, too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import ceil
from typing import Final, Self

from traffic_policy.errors import PodlaneError, UnitError
from traffic_policy.policy import MIN_RATE
from traffic_policy.units import Rate

_DECIMAL: Final = {
    "n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18,
}  # fmt: skip
"""Powers of ten."""
_BINARY: Final = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
"""Powers of two."""
_FORM: Final = re.compile(
    r"(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))"
    r"(?:(?P<suffix>[KMGTPE]i|[numkMGTPE]?)|[eE](?P<exponent>[+-]?[0-9]{1,3}))"
)
_LONGEST: Final = 64
"""Characters; 2^63 with nano digits has 29."""
_NANO: Final = 10**9
_LARGEST_BINARY: Final = 2**63 - 1
"""Where Kubernetes cuts a quantity with a binary suffix."""
_LARGEST_RATE: Final = Rate.parse("10Tbit")
"""What :meth:`traffic_policy.units.Rate.parse` ends at: beyond it is a typing error, not a network."""
_MOST_CPUS: Final = 1024
"""More than any node has: 500M, say, where 500m was meant."""
_LEAST_MEMORY: Final = 16 * 2**20
"""Bytes; the interpreter with the sidecar's modules does not even start with less."""


class QuantityError(PodlaneError, ValueError):
    """A text is no Kubernetes quantity, or none that makes sense where it stands."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A quantity: its text as written, which Kubernetes reads the same way, and its exact value."""

    text: str
    value: Fraction

    @classmethod
    @lru_cache(maxsize=256)  # reviews of Pods have the same ones again and again, and fractions are slow
    def parse(cls, text: str) -> Self:
        """Read a quantity; raises :class:`QuantityError`. What is finer than a billionth is rounded away from zero."""
        match = _FORM.fullmatch(text) if len(text) <= _LONGEST else None
        if not match:
            raise QuantityError(f"{_shown(text)} is not a Kubernetes quantity. Write one such as 10M, 1.5Gi or 500m.")
        number = Fraction(match["number"].rstrip("."))
        if match["suffix"] in _BINARY:
            value = number * 2 ** _BINARY[match["suffix"]]
            value = min(max(_rounded(value), Fraction(-_LARGEST_BINARY)), Fraction(_LARGEST_BINARY))
        else:
            exponent = int(match["exponent"]) if match["exponent"] else _DECIMAL[match["suffix"]]
            value = _rounded(number * Fraction(10) ** exponent)
        return cls(text, value)

    def __str__(self) -> str:
        return self.text


def _rounded(value: Fraction) -> Fraction:
    """Rounded away from zero to a whole number of billionths, so that a small request never becomes zero."""
    size = Fraction(ceil(abs(value) * _NANO), _NANO)
    return -size if value < 0 else size


def _shown(text: str) -> str:
    return repr(text) if len(text) <= _LONGEST else f"{text[:_LONGEST]!r}..."


def bandwidth(text: str) -> Rate:
    """A quantity in bits per second, rounded up to a whole one, as ``kubernetes.io/egress-bandwidth`` has it.

    Raises :class:`QuantityError`, also for less than packets need and more than links carry.
    """
    try:
        value = Quantity.parse(text).value
    except QuantityError as error:
        raise _not_a_bandwidth(text) or error from None
    if value < 0:
        raise QuantityError(f"{text!r} is less than nothing. Write bits per second, as in 10M for 10 Mbit/s.")
    if value > _LARGEST_RATE.bits_per_second:
        raise QuantityError(f"{text!r} is more than any link carries. Write at most 10T (10 Tbit/s).")
    rate = Rate(ceil(value))
    if rate >= MIN_RATE:
        return rate
    if text.endswith("m"):
        meant = f"{text[:-1]}M"
        raise QuantityError(
            f"{text!r} is thousandths of a bit per second: a quantity's m is milli. Write {meant} for Mbit/s."
        )
    raise QuantityError(
        f"{text!r} is {rate.human}, too little to carry packets. "
        f"Write at least {bandwidth_text(MIN_RATE)}, or a suffix, as in 10M for 10 Mbit/s."
    )


def _not_a_bandwidth(text: str) -> QuantityError | None:
    """For a rate as policies write it, which is no quantity: the quantity."""
    try:
        rate = Rate.parse(text)
    except UnitError:
        return None
    return QuantityError(f"{text!r} is not a Kubernetes quantity. Write {bandwidth_text(rate)} for {rate.human}.")


def bandwidth_text(rate: Rate) -> str:
    """The shortest quantity for a rate: ``10M`` for 10 Mbit/s."""
    bits = rate.bits_per_second
    for suffix in ("G", "M", "k"):
        factor = 10 ** _DECIMAL[suffix]
        if bits and bits % factor == 0:
            return f"{bits // factor}{suffix}"
    return str(bits)


@dataclass(frozen=True, slots=True)
class Resources:
    """Requests and limits of the sidecar's container; None: what the injector gives by default."""

    cpu_request: Quantity | None = None
    cpu_limit: Quantity | None = None
    memory_request: Quantity | None = None
    memory_limit: Quantity | None = None


def parse_cpu(text: str) -> Quantity:
    """CPUs: ``20m``, ``0.5``, ``2``."""
    quantity = _not_negative(text)
    if quantity.value > _MOST_CPUS:
        hint = f"Write {quantity.text[:-1]}m for thousandths of a CPU" if text.strip()[-1:] == "M" else "Write less"
        raise QuantityError(f"{text!r} is {_number(quantity.value)} CPUs, more than any node has. {hint}.")
    return quantity


def parse_memory(text: str) -> Quantity:
    """Bytes: ``64Mi``, ``128M``."""
    quantity = _not_negative(text)
    if quantity.value < _LEAST_MEMORY:
        hint = f"Write {quantity.text[:-1]}Mi" if text.strip()[-1:] == "m" else "Write a suffix, as in 64Mi"
        raise QuantityError(
            f"{text!r} is {_number(quantity.value)} bytes of memory, with which the sidecar cannot start. {hint}."
        )
    return quantity


def _not_negative(text: str) -> Quantity:
    quantity = Quantity.parse(text.strip())
    if quantity.value < 0:
        raise QuantityError(f"{text!r} is less than nothing. Write a number without a sign.")
    return quantity


def _number(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{float(value):g}"
