"""Tells channels of alerts, again until they have been told, and notes in the log that they were."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Final

from control_plane.alerts.alertmanager import RESEND
from control_plane.alerts.notices import AlertNotice, AlertSender, SentNotices
from control_plane.alerts.secrets import ChannelSecrets, SecretFileError
from control_plane.domain.alert_channels import AlertChannel, ChannelKind
from control_plane.domain.commands import TellAlerts
from control_plane.domain.errors import RefusedError
from control_plane.domain.tenant import Tenant
from control_plane.service import Circumstances, ControlPlane
from control_plane.store.errors import StaleError, StoreError
from daemon.log import Logger

_THREADS: Final = 8
_OF_TENANT: Final = 2
"""Channels of one tenant that are told at the same time: those of others must not wait for who does not answer."""
_AT_ONCE: Final = 100
"""Alerts of one message."""
_FIRST_WAIT: Final = 1.0
_LONGEST_WAIT: Final = 300.0
_BY: Final = "podlane alerts"

log = Logger(spacing=10.0)
_Place = tuple[str, str]
"""Tenant and channel."""


@dataclass(slots=True)
class _Telling:
    """What is known of a channel: when it may be told next, how often it has failed since, whether it is being told."""

    next: float = 0.0
    failures: int = 0
    busy: bool = False
    resent: float = 0.0
    trouble: str = ""


class AlertTeller:
    """What is to be told is in the tenants' states: there is no other queue, and who does not answer costs a number.

    :meth:`look` is called from one thread; channels are told in others.
    """

    def __init__(
        self,
        plane: ControlPlane,
        senders: Mapping[ChannelKind, AlertSender],
        secrets: ChannelSecrets,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._plane = plane
        self._senders = senders
        self._secrets = secrets
        self._clock = clock
        self._tellings: dict[_Place, _Telling] = {}
        self._lock = Lock()
        self._workers = ThreadPoolExecutor(_THREADS, "alerts")

    def look(self, tenant: Tenant) -> None:
        """Have the channels of a tenant told what they do not know."""
        now = self._clock()
        busy = sum(each.busy for place, each in self._tellings.items() if place[0] == tenant.name)
        for name, channel in tenant.alerts.channels.items():
            if busy >= _OF_TENANT:
                return
            telling = self._tellings.setdefault((tenant.name, name), _Telling())
            with self._lock:
                if telling.busy or now < telling.next:
                    continue
            new = [AlertNotice.describe(alert) for alert in tenant.alerts.untold(name, now)][:_AT_ONCE]
            again: list[AlertNotice] = []
            if channel.kind is ChannelKind.ALERTMANAGER and now - telling.resent >= RESEND:
                telling.resent = now
                again = [
                    AlertNotice.describe(alert)
                    for alert in tenant.alerts.firing
                    if alert.told.get(name) == alert.state and not tenant.alerts.silenced(alert.labels, now)
                ]
            if new or again:
                telling.busy = True
                busy += 1
                self._workers.submit(self._tell, tenant.name, name, channel, new, again, telling)

    def try_now(self, tenant: str, name: str, channel: AlertChannel, notice: AlertNotice) -> SentNotices:
        """Tell a channel now, in the caller's thread, and say what came of it."""
        return self._send(tenant, name, channel, [notice])

    def trouble_of(self, tenant: str, name: str) -> str:
        """Why a channel could not be told the last time, as far as this process knows; empty: it could, or was not."""
        telling = self._tellings.get((tenant, name))
        return "" if telling is None else telling.trouble

    def forget(self, tenants: frozenset[str]) -> None:
        """Keep what is known of channels of these tenants alone."""
        for place in [place for place in self._tellings if place[0] not in tenants]:
            del self._tellings[place]

    def close(self) -> None:
        self._workers.shutdown(wait=True, cancel_futures=True)

    def _send(self, tenant: str, name: str, channel: AlertChannel, notices: list[AlertNotice]) -> SentNotices:
        try:
            secret = self._secrets.secret_of(tenant, name)
        except SecretFileError as error:
            return SentNotices(False, str(error), again=True)
        return self._senders[channel.kind].send(tenant, name, channel, secret, notices)

    def _tell(
        self,
        tenant: str,
        name: str,
        channel: AlertChannel,
        new: list[AlertNotice],
        again: list[AlertNotice],
        telling: _Telling,
    ) -> None:
        """Runs in a worker."""
        wait = _LONGEST_WAIT
        try:
            sent = self._send(tenant, name, channel, [*new, *again])
            failures = telling.failures + 1
            wait = 0.0 if sent.sent else min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(failures - 1, 10))
            telling.failures = 0 if sent.sent else failures
            telling.trouble = "" if sent.sent else sent.says
            if not sent.sent:
                log.warning("a channel is not told of alerts", tenant=tenant, channel=name, reason=sent.says)
            if new and (sent.sent or not sent.again):
                states = {each.id: each.state.value for each in new}
                self._note(tenant, TellAlerts(name, states, "" if sent.sent else sent.says))
        finally:
            with self._lock:
                telling.next = self._clock() + wait
                telling.busy = False

    def _note(self, tenant: str, command: TellAlerts) -> None:
        try:
            self._plane.carry_out(tenant, command, Circumstances(_BY))
        except RefusedError as error:
            log.info("alerts were told of a tenant that is no more", tenant=tenant, reason=str(error))
        except (StoreError, StaleError) as error:
            # They are told once more: better twice than never.
            log.warning(
                "that a channel was told cannot be noted", tenant=tenant, channel=command.channel, reason=str(error)
            )
