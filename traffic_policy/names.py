"""Host names as they are compared: TLS SNI, HTTP Host and :authority, and the patterns of a policy.

Names compare as lower-case A-labels (RFC 5890) without port and trailing dot, so that ``API.Example.com.:8443`` in a
Host header and ``api.example.com`` in a policy are the same. Underscores, which DNS hosts do not have but Kubernetes
and meshes do (``outbound_.80_._.db``), are let through, and so are hyphens at the edge of a label (``a-.example.com``),
which browsers and servers accept: a name that is merely unusual must still be matched.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import idna

# RFC 1035: 253 visible characters in a name, 63 in a label.
_MAX_NAME = 253
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
_PORT = re.compile(r":\d{0,5}")


class HostNameError(ValueError):
    """A host name cannot be read; the text says why."""


def split_port(text: str) -> str:
    """The host part of ``host[:port]`` (RFC 3986 3.2.2); brackets of an IPv6 literal are removed."""
    if text.startswith("["):
        inside, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not _PORT.fullmatch(rest)):
            raise HostNameError(f"{text!r} has an unfinished [IPv6 literal]")
        return inside
    head, colon, port = text.partition(":")
    if colon and ":" not in port:
        if not _PORT.fullmatch(colon + port):
            raise HostNameError(f"{text!r} has a port that is not a number")
        return head
    return text


@lru_cache(maxsize=4096)
def parse_host(text: str) -> str:
    """The comparable form of a host name or address literal, or :class:`HostNameError` saying what is wrong."""
    name = split_port(text.strip())
    try:
        return ipaddress.ip_address(name.partition("%")[0]).compressed
    except ValueError:
        if text.lstrip().startswith("["):
            raise HostNameError(f"{text!r} has no IPv6 address in its brackets") from None
    name = name.removesuffix(".")
    if not name:
        raise HostNameError("the name is empty")
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise HostNameError(f"{text!r} is not a valid international name: {error}") from None
    name = name.lower()
    if len(name) > _MAX_NAME:
        raise HostNameError(f"{text[:40]!r}... is longer than {_MAX_NAME} characters")
    for label in name.split("."):
        if not label:
            raise HostNameError(f"{text!r} has an empty label (two dots in a row, or one at its start)")
        if not _LABEL.fullmatch(label):
            raise HostNameError(
                f"{text!r} has the label {label!r}, which is not letters, digits, '-' and '_' (at most 63)"
            )
    return name


def normalise_host(text: str) -> str | None:
    """The comparable form of a name seen on the wire; None when it is not a usable name."""
    try:
        return parse_host(text)
    except HostNameError:
        return None


@dataclass(frozen=True, slots=True)
class NameSet:
    """Host-name patterns: exact names, and suffixes that stand for every name below them, at any depth."""

    exact: frozenset[str]
    suffixes: frozenset[str]

    @classmethod
    def from_patterns(cls, patterns: Iterable[str]) -> NameSet:
        """From names and ``*.suffix`` patterns in comparable form."""
        names = tuple(patterns)
        return cls(
            frozenset(n for n in names if not n.startswith("*.")),
            frozenset(n[2:] for n in names if n.startswith("*.")),
        )

    def __contains__(self, name: str) -> bool:
        """Whether a name matches. One set look-up per label of the name, however many patterns there are."""
        return name in self.exact or (bool(self.suffixes) and any(s in self.suffixes for s in parents(name)))

    def covers(self, pattern: str) -> bool:
        """Whether every name that ``pattern`` stands for matches."""
        if not pattern.startswith("*."):
            return pattern in self
        return pattern[2:] in self.suffixes or any(s in self.suffixes for s in parents(pattern[2:]))


def parents(name: str) -> Iterator[str]:
    """The domains above a name, nearest first: ``b.c`` and ``c`` for ``a.b.c``."""
    dot = name.find(".")
    while dot >= 0:
        yield name[dot + 1 :]
        dot = name.find(".", dot + 1)
