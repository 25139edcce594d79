"""Connections to servers that users have named, and never to those that only this machine should reach."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from threading import Timer
from typing import Final
from urllib.parse import urlsplit

from control_plane.alerts.notices import SentNotices
from traffic_policy.errors import ConfigError

PATIENCE: Final = 5.0
"""Seconds for each step of a connection."""
_LONGEST: Final = 15.0
"""Seconds for all of them: who answers a byte now and then would else keep one of few threads for ever."""
_METADATA: Final = tuple(
    ipaddress.ip_network(each) for each in ("100.100.100.200/32", "168.63.129.16/32", "fd00:ec2::/32")
)
"""Of clouds, which give secrets to whoever asks, besides those that are link-local: Alibaba's, Azure's, Amazon's."""

Connect = Callable[[str, int], socket.socket]
"""A connection to a host and a port. Raises :class:`OSError`."""
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class NotReachableError(OSError):
    """We do not connect there."""


@dataclass(frozen=True, slots=True)
class Reach:
    """``allowed``: networks that may be reached in spite of what they are. ``longest``: seconds to tell a channel."""

    allowed: tuple[IpNetwork, ...] = ()
    longest: float = _LONGEST

    @classmethod
    def parse(cls, text: str) -> Reach:
        """Networks with commas between them. Raises :class:`ConfigError`."""
        try:
            return cls(tuple(ipaddress.ip_network(each.strip()) for each in text.split(",") if each.strip()))
        except ValueError as error:
            raise ConfigError(f"--alerts-may-reach: {error}. Write networks, as 127.0.0.0/8,::1/128.") from None

    @contextmanager
    def connecting(self) -> Iterator[Connect]:
        """What connects, as :meth:`connect` does; after ``longest`` seconds all that it has made is cut."""
        copies: list[socket.socket] = []

        def connect(host: str, port: int) -> socket.socket:
            connection = self.connect(host, port)
            # TLS takes a socket over; a copy of it stays ours.
            copies.append(connection.dup())
            return connection

        def cut() -> None:
            for copy in list(copies):
                with suppress(OSError):
                    copy.shutdown(socket.SHUT_RDWR)

        timer = Timer(self.longest, cut)
        timer.daemon = True
        timer.start()
        try:
            yield connect
        finally:
            timer.cancel()
            for copy in copies:
                copy.close()

    def connect(self, host: str, port: int) -> socket.socket:
        """A connection to an address that was checked: who changes what a name means meanwhile gains nothing.

        Raises :class:`OSError`, of which :class:`NotReachableError` is one.
        """
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for *_, place in found:
            self._check(host, ipaddress.ip_address(str(place[0]).partition("%")[0]))
        trouble: OSError | None = None
        for family, kind, protocol, _, place in found:
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(PATIENCE)
                connection.connect(place)
            except OSError as error:
                connection.close()
                trouble = error
            else:
                return connection
        raise trouble or OSError(f"{host} has no address")

    def _check(self, host: str, address: IpAddress) -> None:
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        address = mapped or address
        if any(address in network for network in self.allowed):
            return
        own = address.is_link_local or address.is_loopback or address.is_multicast or address.is_unspecified
        if own or any(address in network for network in _METADATA):
            raise NotReachableError(
                f"{host} is {address}, which is this machine's own, link-local or a cloud's metadata service; "
                "--alerts-may-reach allows it"
            )


class _PlainConnection(http.client.HTTPConnection):
    """To an address that was checked."""

    def __init__(self, connect: Connect, host: str, port: int) -> None:
        super().__init__(host, port, timeout=PATIENCE)
        self._reach = connect

    def connect(self) -> None:
        self.sock = self._reach(self.host, self.port)


class _TlsConnection(http.client.HTTPSConnection):
    """The same by TLS."""

    def __init__(self, connect: Connect, host: str, port: int, trust: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=PATIENCE, context=trust)
        self._reach = connect
        self._trust = trust

    def connect(self) -> None:
        self.sock = self._trust.wrap_socket(self._reach(self.host, self.port), server_hostname=self.host)


def trust_of(ca: str) -> ssl.SSLContext:
    """Public CAs, or those in PEM. Raises :class:`ssl.SSLError` for what is none."""
    return ssl.create_default_context(cadata=ca or None)


def post_json(reach: Reach, url: str, ca: str, body: bytes, headers: Mapping[str, str]) -> SentNotices:
    """POST a body. What the server says besides its status is told to nobody: it may not be the users' to read."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    target = parts.path or "/"
    if parts.query:
        target += f"?{parts.query}"
    try:
        with (
            reach.connecting() as connect,
            closing(
                _TlsConnection(connect, host, parts.port or 443, trust_of(ca))
                if parts.scheme == "https"
                else _PlainConnection(connect, host, parts.port or 80)
            ) as connection,
        ):
            connection.request("POST", target, body, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        return failed(host, error)
    says = f"{host} answered {answer.status} {http.client.responses.get(answer.status, '')}".strip()
    if 200 <= answer.status < 300:
        return SentNotices(True, says)
    return SentNotices(False, says, again=answer.status >= 500 or answer.status in (408, 429))


def failed(host: str, error: Exception) -> SentNotices:
    """Why there was no answer."""
    if isinstance(error, NotReachableError):
        return SentNotices(False, str(error))
    if isinstance(error, ssl.SSLCertVerificationError):
        return SentNotices(False, f"the certificate of {host} is not trusted: {error.verify_message}", again=True)
    told = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return SentNotices(False, f"{host} does not answer: {told}", again=True)


def one_line(texts: Sequence[str]) -> str:
    """Texts as one line: what agents and users have written is printed, and is no more than text."""
    return "; ".join("".join(c if c.isprintable() else " " for c in text) for text in texts)
