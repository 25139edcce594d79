"""The annotations that hold a single value which no other package reads: how each is read. Pure.

Each function raises ValueError with a remedy; :mod:`traffic_policy.pod.effective` adds the annotation's name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from traffic_policy.pod.errors import QuantityError
from traffic_policy.pod.quantities import Quantity

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
STEP_ASIDE: Final = "step-aside"
DATAPATHS: Final = ("relay", STEP_ASIDE)
MESH_AUTO: Final = "auto"
MESH_ISTIO: Final = "istio"
MESH_LINKERD: Final = "linkerd"
MESH_NONE: Final = "none"
MESHES: Final = (MESH_AUTO, MESH_ISTIO, MESH_LINKERD, MESH_NONE)
ON_FAILURE: Final = ("open", "closed")

_MOST_CPUS: Final = 1024
"""More than any node has: 500M, say, where 500m was meant."""
_LEAST_MEMORY: Final = 16 * 2**20
"""Bytes; the interpreter with the sidecar's modules does not even start with less."""


@dataclass(frozen=True, slots=True)
class Resources:
    """Requests and limits of the sidecar's container; None: what the injector gives by default."""

    cpu_request: Quantity | None = None
    cpu_limit: Quantity | None = None
    memory_request: Quantity | None = None
    memory_limit: Quantity | None = None


def one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    """A reader for a value out of a few."""

    def parse(text: str) -> str:
        if text.strip() not in choices:
            raise ValueError(f"{text!r} is not one of the values. Write {', '.join(choices[:-1])} or {choices[-1]}.")
        return text.strip()

    return parse


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
