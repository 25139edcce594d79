"""Tells by mail: SMTP (RFC 5321), encrypted by STARTTLS (RFC 3207) or TLS from the beginning (RFC 8314)."""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Final

from control_plane.alerts.notices import AlertNotice, SentNotices, rfc3339
from control_plane.alerts.reach import PATIENCE, Connect, Reach, failed, one_line, trust_of
from control_plane.domain.alert_book import AlertState
from control_plane.domain.alert_channels import AlertChannel, MailSecurity

_LONGEST_SUBJECT: Final = 150


class _Mailer(smtplib.SMTP):
    """Connects to an address that was checked."""

    def __init__(self, connect: Connect, host: str, port: int, trust: ssl.SSLContext | None) -> None:
        """``trust``: encrypted from the beginning."""
        self._reach = connect
        self._trust = trust
        super().__init__(host, port, timeout=PATIENCE)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        del timeout
        connection = self._reach(host, port)
        return connection if self._trust is None else self._trust.wrap_socket(connection, server_hostname=host)


@dataclass(frozen=True, slots=True)
class MailSender:
    """All alerts in one mail. The secret is the password of the channel's user."""

    reach: Reach

    def send(
        self, tenant: str, name: str, channel: AlertChannel, secret: str, notices: Sequence[AlertNotice]
    ) -> SentNotices:
        """See :class:`~control_plane.alerts.notices.AlertSender`."""
        host, port = channel.mail_server
        if channel.user and not secret:
            return SentNotices(False, f"there is no password for {channel.user}: no file {tenant}.{name}", again=True)
        try:
            trust = None if channel.security is MailSecurity.NONE else trust_of(channel.ca)
            at_once = trust if channel.security is MailSecurity.TLS else None
            with self.reach.connecting() as connect, _Mailer(connect, host, port, at_once) as mailer:
                if channel.security is MailSecurity.STARTTLS:
                    mailer.starttls(context=trust)
                if channel.user:
                    mailer.login(channel.user, secret)
                refused = mailer.send_message(message_of(tenant, channel, notices))
        except smtplib.SMTPResponseException as error:
            # 4yz is for a while, 5yz for good; a password may be put right.
            again = error.smtp_code < 500 or isinstance(error, smtplib.SMTPAuthenticationError)
            return SentNotices(False, f"{host} refused it: {error.smtp_code}", again=again)
        except smtplib.SMTPRecipientsRefused as error:
            codes = sorted({code for code, _ in error.recipients.values()})
            return SentNotices(False, f"{host} takes mail for none of them: {codes}", again=any(c < 500 for c in codes))
        except smtplib.SMTPNotSupportedError:
            return SentNotices(False, f"{host} does not offer what security: {channel.security} or a user needs")
        except OSError as error:
            return failed(host, error)
        if refused:
            return SentNotices(True, f"{host} took it, but not for {', '.join(sorted(refused))}")
        return SentNotices(True, f"{host} took it for {', '.join(channel.to)}")


def message_of(tenant: str, channel: AlertChannel, notices: Sequence[AlertNotice]) -> EmailMessage:
    """The mail."""
    firing = [each for each in notices if each.state is AlertState.FIRING]
    first = (firing or notices)[0]
    count = f"{len(firing)} firing" if firing else f"{len(notices)} over"
    message = EmailMessage()
    message["Subject"] = one_line([f"[{tenant}: {count}] {first.summary}"])[:_LONGEST_SUBJECT]
    message["From"] = channel.sender
    message["To"] = ", ".join(channel.to)
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain=channel.sender.rpartition("@")[2])
    message["Auto-Submitted"] = "auto-generated"
    message.set_content("\n\n".join(map(_paragraph, notices)) + "\n")
    return message


def _paragraph(notice: AlertNotice) -> str:
    over = f" until {rfc3339(notice.ended)} ({notice.reason})" if notice.ended else ""
    told = {key: text for key, text in notice.annotations.items() if key != "summary"}
    lines = [
        f"{notice.state.value.upper()}: {one_line([notice.summary])}",
        f"  since {rfc3339(notice.at)}{over}",
        *(f"  {key}: {one_line([text])}" for key, text in sorted(told.items())),
        "  " + ", ".join(f"{key}={one_line([text])}" for key, text in sorted(notice.labels.items())),
    ]
    return "\n".join(lines)
