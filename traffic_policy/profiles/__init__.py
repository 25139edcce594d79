"""Policies for common needs, as files to use and to learn from.

Each is a policy file that is written for 100 Mbit/s, with its explanations in comments; the first comment line says
what it is for. :meth:`Profile.policy` scales all its rates to another total, rounded to whole kbit/s, so that shares
stay what they are.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

from traffic_policy.errors import PolicyError, Problem
from traffic_policy.policy import MIN_RATE, TrafficPolicy
from traffic_policy.policy_file import parse_policy, policy_from_document
from traffic_policy.units import Rate

_SUFFIX: Final = ".yaml"
_RATES: Final = frozenset({"total", "rate", "ceil"})
"""The keys of a policy that hold rates, wherever they are."""
_STEP: Final = 1000
"""Bits per second: scaled rates are whole kbit/s, which read well and differ by nothing that can be measured."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A policy for a common need. ``summary`` is one line about it, ``text`` the file with its comments."""

    name: str
    summary: str
    text: str

    def policy(self, total: Rate | str | None = None) -> TrafficPolicy:
        """The policy for an interface with this bandwidth; for that of the file when left out.

        Raises :class:`UnitError` when the total is no rate, :class:`PolicyError` when it is too small to be shared.
        """
        written = parse_policy(self.text, source=f"profile {self.name}")
        if total is None:
            return written
        wanted = Rate.parse(total)
        document = _scaled(written.to_document(), wanted, written.total)
        return policy_from_document(document, source=f"profile {self.name}", total=wanted)


@cache
def profiles() -> tuple[Profile, ...]:
    """All profiles, by name."""
    return tuple(sorted(_read(), key=lambda profile: profile.name))


def profile_named(name: str) -> Profile:
    """The profile of this name. Raises :class:`PolicyError`, with those that there are, when there is none."""
    names = [profile.name for profile in profiles()]
    for profile in profiles():
        if profile.name == name:
            return profile
    near = difflib.get_close_matches(str(name).lower(), names, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(names)}."
    raise PolicyError([Problem("", f"There is no profile {name!r}.", hint)])


def _read() -> Iterator[Profile]:
    for entry in resources.files(__name__).iterdir():
        if entry.name.endswith(_SUFFIX):
            text = entry.read_text(encoding="utf-8")
            yield Profile(entry.name.removesuffix(_SUFFIX), text.partition("\n")[0].removeprefix("#").strip(), text)


def _scaled(value: Any, wanted: Rate, written: Rate) -> Any:
    """A part of a policy document with every rate in it multiplied by ``wanted / written``."""
    if isinstance(value, Mapping):
        return {
            key: str(_share(Rate.parse(part), wanted, written)) if key in _RATES else _scaled(part, wanted, written)
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [_scaled(part, wanted, written) for part in value]
    return value


def _share(rate: Rate, wanted: Rate, written: Rate) -> Rate:
    """Rounded down, so that the shares together are never more than the whole."""
    bits = rate.bits_per_second * wanted.bits_per_second // written.bits_per_second
    return max(MIN_RATE, Rate(bits // _STEP * _STEP))
