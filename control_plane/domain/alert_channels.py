"""Who is told of alerts, and what keeps them from being told: channels and silences. Without secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any, Final
from urllib.parse import urlsplit

from control_plane.domain.errors import InvalidError

_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[0-9a-fA-F:.]{2,45}")
_MAIL: Final = re.compile(r"[A-Za-z0-9._%+=-]{1,64}@[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,62}")
_LONGEST_URL: Final = 1000
_LONGEST_CA: Final = 65_536
_LONGEST_VALUE: Final = 200
_LONGEST_COMMENT: Final = 500
_LONGEST_SILENCE: Final = 366 * 86_400
_MOST_MATCHERS: Final = 16
_MOST_STARS: Final = 4
_MOST_MAILBOXES: Final = 20


class ChannelKind(StrEnum):
    """How somebody is told."""

    ALERTMANAGER = "alertmanager"
    WEBHOOK = "webhook"
    EMAIL = "email"


class MailSecurity(StrEnum):
    """How mail is encrypted on its way to the server."""

    STARTTLS = "starttls"
    TLS = "tls"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class AlertChannel:
    """``url`` is of an Alertmanager or a webhook. Mail goes from ``sender`` to ``to`` by ``server`` (HOST:PORT), where
    it logs in as ``user``, if there is one. ``ca``: whom to trust instead of public CAs (PEM).

    Its secret (of signatures, a bearer token, a password) is a file of the control plane's, and never part of it.
    """

    kind: ChannelKind
    url: str = ""
    server: str = ""
    sender: str = ""
    to: tuple[str, ...] = ()
    user: str = ""
    security: MailSecurity = MailSecurity.STARTTLS
    ca: str = ""

    def __post_init__(self) -> None:
        """Raises :class:`InvalidError`."""
        if self.ca and (len(self.ca) > _LONGEST_CA or "-----BEGIN CERTIFICATE-----" not in self.ca):
            raise InvalidError("The CA is no certificate in PEM.", "Send one, or none.")
        if self.kind is ChannelKind.EMAIL:
            self._check_mail()
            return
        if self.server or self.sender or self.to or self.user:
            raise InvalidError(f"A channel of the kind {self.kind} has a url alone.", "Leave out what is of mail.")
        if not _is_url(self.url):
            raise InvalidError(
                f"{self.url[:70]!r} is not a URL of a server.", "Write it as https://alerts.example.com/hook"
            )

    def _check_mail(self) -> None:
        if self.url:
            raise InvalidError("Mail has no url.", "Write server: mail.example.com:587.")
        host, port = self.mail_server
        if not _HOST.fullmatch(host) or not 0 < port < 65_536:
            raise InvalidError(f"{self.server[:70]!r} is not a server.", "Write it as mail.example.com:587.")
        if not self.to or len(self.to) > _MOST_MAILBOXES:
            raise InvalidError("Mail has to go to somebody.", f"Name 1 to {_MOST_MAILBOXES} addresses.")
        for mailbox in (self.sender, *self.to):
            if not _MAIL.fullmatch(mailbox):
                raise InvalidError(f"{mailbox[:70]!r} is not an address of mail.", "Write it as ops@example.com.")
        if len(self.user) > _LONGEST_VALUE or not self.user.isprintable():
            raise InvalidError(
                "The user's name is too long, or no text.", f"Write {_LONGEST_VALUE} characters at most."
            )
        if self.user and self.security is MailSecurity.NONE:
            raise InvalidError("The password would go unencrypted.", "Write security: starttls, or no user.")

    @property
    def mail_server(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.server.rpartition(":")
        return host.strip("[]"), int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0

    def to_document(self) -> dict[str, Any]:
        """As it is stored."""
        return {
            **asdict(self), "kind": self.kind.value, "security": self.security.value, "to": list(self.to),
        }  # fmt: skip

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> AlertChannel:
        """The channel that was stored."""
        values = {**document, "kind": ChannelKind(document["kind"]), "security": MailSecurity(document["security"])}
        return cls(**{**values, "to": tuple(document["to"])})


def _is_url(text: str) -> bool:
    """Without user and password: those would be a secret in the log."""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        return False
    return (
        len(text) <= _LONGEST_URL
        and text.isascii()
        and all(character.isprintable() and character != " " for character in text)
        and url.scheme in ("http", "https")
        and _HOST.fullmatch(url.hostname or "") is not None
        and port != 0
        and url.username is None
        and not url.fragment
    )


@dataclass(frozen=True, slots=True)
class AlertMatcher:
    """A label that alerts have, or do not have (``differs``). ``value`` may have ``*`` for any text."""

    name: str
    value: str
    differs: bool = False

    def __post_init__(self) -> None:
        """Raises :class:`InvalidError`."""
        if not _LABEL.fullmatch(self.name):
            raise InvalidError(f"{self.name[:70]!r} is not a label's name.", "Write letters, digits and underscores.")
        if len(self.value) > _LONGEST_VALUE or self.value.count("*") > _MOST_STARS or not self.value.isprintable():
            raise InvalidError(
                f"The value of {self.name} is too long, or has too many *.",
                f"Write {_LONGEST_VALUE} characters with {_MOST_STARS} * at most.",
            )

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an alert with these labels is meant. One without the label has an empty value."""
        # Only * is special.
        pattern = self.value.replace("[", "[[]").replace("?", "[?]")
        return fnmatchcase(labels.get(self.name, ""), pattern) is not self.differs


@dataclass(frozen=True, slots=True)
class AlertSilence:
    """Alerts that all matchers match are told to nobody from ``starts_at`` until ``ends_at`` (Unix seconds)."""

    matchers: tuple[AlertMatcher, ...]
    starts_at: int
    ends_at: int
    comment: str
    author: str = ""

    def __post_init__(self) -> None:
        """Raises :class:`InvalidError`."""
        if not 1 <= len(self.matchers) <= _MOST_MATCHERS:
            raise InvalidError(f"A silence has 1 to {_MOST_MATCHERS} matchers.", "Write alertname=* for all alerts.")
        if not 0 <= self.starts_at < self.ends_at <= self.starts_at + _LONGEST_SILENCE:
            raise InvalidError("A silence ends after it begins, within a year.", "Choose another end.")
        if not self.comment.strip() or len(self.comment) > _LONGEST_COMMENT or not self.comment.isprintable():
            raise InvalidError("Nobody would know why.", f"Write a comment of {_LONGEST_COMMENT} characters at most.")

    def mutes(self, labels: Mapping[str, str], now: float) -> bool:
        """Whether an alert with these labels is told to nobody."""
        return self.starts_at <= now < self.ends_at and self.matches(labels)

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether it is about an alert with these labels, whenever."""
        return all(each.matches(labels) for each in self.matchers)

    def to_document(self) -> dict[str, Any]:
        """As it is stored."""
        return {**asdict(self), "matchers": [asdict(each) for each in self.matchers]}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> AlertSilence:
        """The silence that was stored."""
        return cls(**{**document, "matchers": tuple(AlertMatcher(**each) for each in document["matchers"])})
